//! The role sets: `calico/documented` against Calico's tables as data, and that each set stands on its own.

use std::collections::BTreeSet;

use super::ALL;
use crate::access::Verbs;
use crate::policy::Policy;

const FELIX_1: &str = "/calico/felix/v1/*";
const FELIX_2: &str = "/calico/felix/v2/*";
const IPAM: &str = "/calico/ipam/v2/*";
const EVERYTHING: &str = "/calico/resources/v3/projectcalico.org/*";

/// Role, keys to read and write, keys to read only: the page "Calico key and path prefixes" of the Calico documentation.
/// A word without a slash is a kind under `/calico/resources/v3/projectcalico.org/`.
const TABLES: &[(&str, &[&str], &[&str])] = &[
    (
        "calico-node",
        &[FELIX_1, FELIX_2, IPAM, "felixconfigurations", "nodes", "workloadendpoints", "clusterinformations", "ippools"],
        &[EVERYTHING],
    ),
    ("felix", &[FELIX_1, FELIX_2], &[EVERYTHING]),
    ("calico-cni", &[IPAM, "workloadendpoints"], &["ippools", "clusterinformations", "nodes"]),
    (
        "calico-kube-controllers",
        &[IPAM, "profiles", "networkpolicies", "nodes", "clusterinformations", "hostendpoints", "kubecontrollersconfigurations"],
        &[EVERYTHING],
    ),
    (
        "openstack-neutron-driver",
        &[
            EVERYTHING,
            "/calico/dhcp/v1/*",
            "/calico/dhcp/v2/*",
            "/calico/compaction/v1/*",
            "/calico/openstack/v1/*",
            "/calico/openstack/v2/*",
        ],
        &[FELIX_1, FELIX_2],
    ),
    ("openstack-dhcp-agent", &[], &[EVERYTHING, "/calico/dhcp/v1/*", "/calico/dhcp/v2/*"]),
    ("calicoctl-read-only", &[], &[IPAM, EVERYTHING]),
    (
        "calicoctl-policy-editor",
        &["globalnetworkpolicies", "globalnetworksets", "networkpolicies", "networksets", "profiles"],
        &[IPAM, EVERYTHING],
    ),
    ("calicoctl-full", &[IPAM, EVERYTHING], &[]),
];

/// A policy that binds every role of a set, so that all of it is checked.
fn policy_of(set: &str, roles: &[String]) -> Policy {
    let text = format!("version: 1\nmode: enforce\ninclude: [{set}]\nbindings:\n  - cn: x\n    roles: [{}]\n", roles.join(", "));
    Policy::parse("policy.yaml", text.as_bytes(), 1, None).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn calico_documented_is_the_published_table_rule_for_rule() {
    let set = super::find("calico/documented").unwrap();
    let names: Vec<String> = TABLES.iter().map(|(role, _, _)| (*role).to_owned()).collect();
    assert_eq!(set.role_names(), names);
    let policy = policy_of(set.name, &names);
    let spelled = |key: &str| match key.contains('/') {
        true => key.to_owned(),
        false => format!("/calico/resources/v3/projectcalico.org/{key}/*"),
    };
    for (role, read_write, read_only) in TABLES {
        let rows = read_write.iter().map(|key| (spelled(key), Verbs::ALL)).chain(read_only.iter().map(|key| (spelled(key), Verbs::READ)));
        let table: Vec<(String, Verbs)> = rows.collect();
        let written: Vec<(String, Verbs)> = policy.role_grants(role).into_iter().map(|(key, verbs)| (key.to_owned(), verbs)).collect();
        assert_eq!(written.len(), table.len(), "{role}");
        for row in &table {
            assert!(written.contains(row), "{role}: {row:?} is not in {written:?}");
        }
    }
}

#[test]
fn every_role_set_is_without_mistakes_and_without_a_role_of_another() {
    let mut seen = BTreeSet::new();
    for set in ALL {
        let roles = set.role_names();
        assert!(!roles.is_empty(), "{}", set.name);
        let policy = policy_of(set.name, &roles);
        assert!(policy.warnings().is_empty(), "{}", policy.warnings());
        for role in roles {
            assert!(seen.insert(role.clone()), "{role} is in two role sets");
        }
    }
}
