//! The components that speak to etcd, and the names that the policies of this project's documents
//! know them by.

/// Where a component runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On each node, with a certificate of its own there.
    Node,
    /// Somewhere, with one certificate for the cluster.
    Cluster,
}

/// One component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// What `--component` calls it, and `{component}` stands for.
    pub name: &'static str,
    /// Where it runs.
    pub scope: Scope,
    /// Its Common Name when one certificate serves the whole cluster.
    pub cluster_name: &'static str,
    /// The role for its certificate per node, or for its only one.
    pub role: &'static str,
    /// The role for a certificate that all nodes share.
    pub shared_role: &'static str,
    /// The Secret that `--output secret` makes.
    pub secret: &'static str,
    /// Whether Calico's `calico-etcd.yaml` runs it: `--all` means these.
    pub hosted: bool,
}

/// All components. `calico/v3.31` and `calico/v3.31-per-node`, `kubernetes` and `etcd-ops` have the roles.
#[rustfmt::skip]
pub const ALL: &[Component] = &[
    node("calico-node", "calico-node", "calico-node-per-node", "calico-node", "calico-etcd-node", true),
    node("cni", "calico-cni", "calico-cni-per-node", "calico-cni", "calico-etcd-cni", true),
    cluster("calico-kube-controllers", "calico-kube-controllers", "calico-etcd-kube-controllers", true),
    node("felix", "felix", "felix-per-node", "felix", "calico-etcd-felix", false),
    cluster("calico-typha", "calico-typha", "calico-etcd-typha", false),
    cluster("calicoctl-read-only", "calicoctl-read-only", "calico-etcd-calicoctl-read-only", false),
    cluster("calicoctl-policy-editor", "calicoctl-policy-editor", "calico-etcd-calicoctl-policy-editor", false),
    cluster("calicoctl-full", "calicoctl-full", "calico-etcd-calicoctl-full", false),
    cluster("neutron", "openstack-neutron-driver", "calico-etcd-neutron", false),
    cluster("dhcp-agent", "openstack-dhcp-agent", "calico-etcd-dhcp-agent", false),
    cluster("kube-apiserver", "kube-apiserver", "etcd-kube-apiserver", false),
    cluster("etcd-backup", "etcd-backup", "etcd-backup", false),
    cluster("etcd-defragment", "etcd-defragment", "etcd-defragment", false),
    cluster("etcd-monitor", "etcd-monitor", "etcd-monitor", false),
    cluster("etcd-alarm", "etcd-alarm", "etcd-alarm", false),
];

const fn node(
    name: &'static str,
    cluster_name: &'static str,
    role: &'static str,
    shared_role: &'static str,
    secret: &'static str,
    hosted: bool,
) -> Component {
    Component { name, scope: Scope::Node, cluster_name, role, shared_role, secret, hosted }
}

const fn cluster(
    name: &'static str,
    role: &'static str,
    secret: &'static str,
    hosted: bool,
) -> Component {
    Component {
        name,
        scope: Scope::Cluster,
        cluster_name: name,
        role,
        shared_role: role,
        secret,
        hosted,
    }
}

/// The component of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Component> {
    ALL.iter().find(|component| component.name == name)
}

/// Their names, for a sentence.
#[must_use]
pub fn names() -> String {
    ALL.iter().map(|component| component.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use etcd_warden_core::policy::builtin;

    use super::*;

    #[test]
    fn each_components_roles_are_in_the_role_sets() {
        let roles: Vec<String> =
            builtin::ALL.iter().flat_map(builtin::RoleSet::role_names).collect();
        for component in ALL {
            for role in [component.role, component.shared_role] {
                assert!(roles.iter().any(|known| known == role), "{}: {role}", component.name);
            }
        }
    }

    /// What `calico segment` puts into a manifest is what `certs issue --all` makes.
    #[test]
    fn hosted_components_are_those_of_the_manifest() {
        use crate::calico;
        let hosted: Vec<&Component> = ALL.iter().filter(|component| component.hosted).collect();
        assert_eq!(hosted.len(), calico::ALL.len());
        for (own, theirs) in hosted.into_iter().zip(calico::ALL) {
            let names = (own.name, own.secret, own.cluster_name, own.scope == Scope::Node);
            assert_eq!(
                names,
                (theirs.name(), theirs.secret(), theirs.common_name(), theirs.is_on_nodes())
            );
        }
    }

    #[test]
    fn names_are_unique() {
        for names in
            [ALL.iter().map(|c| c.name).collect::<Vec<_>>(), ALL.iter().map(|c| c.secret).collect()]
        {
            let unique: std::collections::BTreeSet<_> = names.iter().collect();
            assert_eq!(unique.len(), names.len());
        }
    }
}
