//! The components that are clients of etcd, with the names and roles that the documented policies
//! give them.

/// Where a component runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On each node, with one certificate per node.
    Node,
    /// Anywhere, with one certificate for the cluster.
    Cluster,
}

/// A component that is a client of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its name for `--component` and for `{component}` in formats.
    pub name: &'static str,
    /// Where it runs.
    pub scope: Scope,
    /// Its common name if one certificate serves the whole cluster.
    pub cluster_name: &'static str,
    /// The role for a certificate per node, or for the only certificate.
    pub role: &'static str,
    /// The role for a certificate that all nodes share.
    pub shared_role: &'static str,
    /// The name of its Secret for `--output secret`.
    pub secret: &'static str,
    /// True if it is part of Calico's `calico-etcd.yaml`, which `--all` selects.
    pub hosted: bool,
}

/// All components. The roles are those of the role sets `calico/v3.31`, `calico/v3.31-per-node`,
/// `kubernetes` and `etcd-ops`.
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

/// All names, separated by commas, for an error message.
#[must_use]
pub fn names() -> String {
    ALL.iter().map(|component| component.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use etcd_warden_core::policy::builtin;

    use super::*;

    #[test]
    fn every_role_is_in_a_built_in_role_set() {
        let roles: Vec<String> =
            builtin::ALL.iter().flat_map(builtin::RoleSet::role_names).collect();
        for component in ALL {
            for role in [component.role, component.shared_role] {
                assert!(roles.iter().any(|known| known == role), "{}: {role}", component.name);
            }
        }
    }

    /// `calico segment` mounts in a manifest what `certs issue --all` makes.
    #[test]
    fn hosted_components_are_those_of_calicos_manifest() {
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
