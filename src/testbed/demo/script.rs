//! The calls of each component. Calico's documentation lists nine components and the keys that each
//! may read and write ("Calico key and path prefixes"). The calls are typical for these components,
//! or attempts of an attacker with their certificates.

use super::call::{
    Call::{self, Compact, Delete, Get, Put, Snapshot, Watch},
    Keys::{One, Prefix},
};
use CallResult::{Allowed, Refused};

/// The result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CallResult {
    /// etcd responded.
    Allowed,
    /// `etcdserver: permission denied`.
    Refused,
}

/// A component of Calico.
#[derive(Debug)]
pub(super) struct Component {
    /// Its name in Calico's documentation.
    pub(super) name: &'static str,
    /// The common name of its certificate.
    pub(super) common_name: &'static str,
    /// Its role in `calico/documented`; `None` for a client without a binding.
    pub(super) role: Option<&'static str>,
    /// Its calls with the expected results.
    pub(super) calls: &'static [(CallResult, Call)],
}

/// The initial keys in etcd. `$R` stands for [`super::call::R`].
pub(super) const SEED: &[&str] = &[
    "$R/clusterinformations/default",
    "$R/felixconfigurations/default",
    "$R/globalnetworkpolicies/default.deny-all",
    "$R/ippools/default-ipv4-ippool",
    "$R/ipreservations/office",
    "$R/networkpolicies/default/knp.default.web",
    "$R/nodes/worker-1",
    "$R/nodes/worker-2",
    "$R/profiles/kns.default",
    "$R/tiers/default",
    "/calico/dhcp/v1/subnet/10.0.0.0-24",
    "/calico/ipam/v2/config",
    "/registry/secrets/default/token",
];

/// The nine documented components, and a client without a binding.
pub(super) const COMPONENTS: &[Component] = &[
    Component {
        name: "calico/node",
        common_name: "calico-node",
        role: Some("calico-node"),
        calls: &[
            (Allowed, Put("$R/nodes/worker-1")),
            (Allowed, Get(Prefix("$R/globalnetworkpolicies/"))),
            (Allowed, Watch(Prefix("$R/networkpolicies/"))),
            (Refused, Put("$R/globalnetworkpolicies/default.allow-all")),
            (Refused, Get(Prefix("/registry/secrets/"))),
            (Refused, Compact(1)),
        ],
    },
    Component {
        name: "Felix stand-alone",
        common_name: "felix",
        role: Some("felix"),
        calls: &[
            (Allowed, Put("/calico/felix/v2/no-region/host/worker-1/status")),
            (Allowed, Get(One("$R/felixconfigurations/default"))),
            (Refused, Put("$R/felixconfigurations/default")),
            (Refused, Watch(Prefix("/calico/"))),
        ],
    },
    Component {
        name: "CNI plugin",
        common_name: "calico-cni",
        role: Some("calico-cni"),
        calls: &[
            (Allowed, Put("$R/workloadendpoints/default/worker--1-k8s-web--0-eth0")),
            (Allowed, Get(Prefix("$R/ippools/"))),
            (Allowed, Delete(One("/calico/ipam/v2/handle/k8s-pod-network.0f3a"))),
            (Refused, Get(Prefix("$R/ipreservations/"))),
            (Refused, Delete(One("$R/nodes/worker-2"))),
        ],
    },
    Component {
        name: "calico/kube-controllers",
        common_name: "calico-kube-controllers",
        role: Some("calico-kube-controllers"),
        calls: &[
            (Allowed, Put("$R/profiles/kns.default")),
            (Allowed, Delete(One("$R/networkpolicies/default/knp.default.web"))),
            (Refused, Delete(Prefix("$R/tiers/"))),
            (Refused, Compact(2)),
        ],
    },
    Component {
        name: "OpenStack driver for Neutron",
        common_name: "neutron",
        role: Some("openstack-neutron-driver"),
        calls: &[
            (Allowed, Put("/calico/dhcp/v1/subnet/10.0.0.0-24")),
            (Allowed, Put("$R/workloadendpoints/project/worker--1-openstack-vm-tap0")),
            (Refused, Put("/calico/felix/v2/no-region/host/worker-1/status")),
            (Refused, Get(Prefix("/calico/ipam/v2/"))),
        ],
    },
    Component {
        name: "OpenStack DHCP agent",
        common_name: "dhcp-agent",
        role: Some("openstack-dhcp-agent"),
        calls: &[
            (Allowed, Get(Prefix("/calico/dhcp/v1/subnet"))),
            (Refused, Put("/calico/dhcp/v1/subnet/10.0.0.0-24")),
            (Refused, Get(Prefix("/calico/dhcp/v"))),
        ],
    },
    Component {
        name: "calicoctl, read-only",
        common_name: "calicoctl-read-only",
        role: Some("calicoctl-read-only"),
        calls: &[
            (Allowed, Get(Prefix("$R/"))),
            (Allowed, Get(One("/calico/ipam/v2/config"))),
            (Refused, Delete(One("$R/ippools/default-ipv4-ippool"))),
            (Refused, Get(Prefix("/calico/"))),
        ],
    },
    Component {
        name: "calicoctl, policy editor",
        common_name: "calicoctl-policy-editor",
        role: Some("calicoctl-policy-editor"),
        calls: &[
            (Allowed, Put("$R/globalnetworkpolicies/default.deny-egress")),
            (Allowed, Get(Prefix("$R/ippools/"))),
            (Refused, Put("$R/ippools/default-ipv4-ippool")),
            (Refused, Delete(Prefix("$R/"))),
        ],
    },
    Component {
        name: "calicoctl, full",
        common_name: "calicoctl-full",
        role: Some("calicoctl-full"),
        calls: &[
            (Allowed, Delete(One("$R/nodes/worker-2"))),
            (Allowed, Put("/calico/ipam/v2/config")),
            (Refused, Get(Prefix("/registry/"))),
            (Refused, Snapshot),
        ],
    },
    Component {
        name: "a certificate of the same CA without a binding",
        common_name: "stranger",
        role: None,
        calls: &[(Refused, Get(One("$R/nodes/worker-1")))],
    },
];

/// The policy of the demo.
pub(super) fn policy() -> String {
    use std::fmt::Write as _;

    let mut policy =
        String::from("version: 1\nmode: enforce\ninclude: [calico/documented]\nbindings:\n");
    for component in COMPONENTS {
        if let Some(role) = component.role {
            // Writing to a String cannot fail.
            let _ = write!(policy, "  - cn: {}\n    roles: [{role}]\n", component.common_name);
        }
    }
    policy
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_documented_role_has_an_allowed_and_a_refused_call() {
        let documented = COMPONENTS.iter().filter(|component| component.role.is_some());
        for component in documented.clone() {
            for result in [Allowed, Refused] {
                assert!(
                    component.calls.iter().any(|(expected, _)| *expected == result),
                    "{}: {result:?}",
                    component.name
                );
            }
        }
        let roles: BTreeSet<_> = documented.map(|component| component.role).collect();
        assert_eq!(roles.len(), 9);
    }

    #[test]
    fn every_component_has_a_certificate_of_its_own() {
        let names: BTreeSet<_> = COMPONENTS.iter().map(|component| component.common_name).collect();
        assert_eq!(names.len(), COMPONENTS.len());
    }
}
