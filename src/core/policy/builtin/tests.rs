//! Tests of the role sets: `calico/documented` equals Calico's tables, each set is valid on its
//! own, and the per-node roles give a node only its own keys.

use super::ALL;
use crate::access::{Verb, Verbs};
use crate::identity::Identity;
use crate::keyspace::KeyRange;
use crate::policy::Policy;

const FELIX_1: &str = "/calico/felix/v1/*";
const FELIX_2: &str = "/calico/felix/v2/*";
const IPAM: &str = "/calico/ipam/v2/*";
const EVERYTHING: &str = "/calico/resources/v3/projectcalico.org/*";

/// The tables on the page "Calico key and path prefixes" of Calico's documentation. Each row has a
/// role, the keys that it reads and writes, and the keys that it only reads. A word without a slash
/// is a resource kind below `/calico/resources/v3/projectcalico.org/`.
const TABLES: &[(&str, &[&str], &[&str])] = &[
    (
        "calico-node",
        &[
            FELIX_1,
            FELIX_2,
            IPAM,
            "felixconfigurations",
            "nodes",
            "workloadendpoints",
            "clusterinformations",
            "ippools",
        ],
        &[EVERYTHING],
    ),
    ("felix", &[FELIX_1, FELIX_2], &[EVERYTHING]),
    ("calico-cni", &[IPAM, "workloadendpoints"], &["ippools", "clusterinformations", "nodes"]),
    (
        "calico-kube-controllers",
        &[
            IPAM,
            "profiles",
            "networkpolicies",
            "nodes",
            "clusterinformations",
            "hostendpoints",
            "kubecontrollersconfigurations",
        ],
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
        &[
            "globalnetworkpolicies",
            "globalnetworksets",
            "networkpolicies",
            "networksets",
            "profiles",
        ],
        &[IPAM, EVERYTHING],
    ),
    ("calicoctl-full", &[IPAM, EVERYTHING], &[]),
];

/// A policy that binds every role of a set, so that the policy's checks apply to all of them.
fn policy_of(set: &str, roles: &[String]) -> Policy {
    let text = format!(
        "version: 1\nmode: enforce\ninclude: [{set}]\nbindings:\n  - cn: \"x:{{node}}\"\n    \
         roles: [{}]\n",
        roles.join(", ")
    );
    Policy::parse("policy.yaml", text.as_bytes(), 1, None)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn calico_documented_equals_the_published_tables() {
    let set = super::find("calico/documented").unwrap();
    let names: Vec<String> = TABLES.iter().map(|(role, _, _)| (*role).to_owned()).collect();
    assert_eq!(set.role_names(), names);
    let policy = policy_of(set.name, &names);
    let expand = |key: &str| match key.contains('/') {
        true => key.to_owned(),
        false => format!("/calico/resources/v3/projectcalico.org/{key}/*"),
    };
    for (role, read_write, read_only) in TABLES {
        let rows = read_write
            .iter()
            .map(|key| (expand(key), Verbs::ALL))
            .chain(read_only.iter().map(|key| (expand(key), Verbs::READ)));
        let table: Vec<(String, Verbs)> = rows.collect();
        let grants: Vec<(String, Verbs)> = policy
            .role_grants(role)
            .into_iter()
            .map(|(key, verbs)| (key.to_owned(), verbs))
            .collect();
        assert_eq!(grants.len(), table.len(), "{role}");
        for row in &table {
            assert!(grants.contains(row), "{role}: {row:?} is not in {grants:?}");
        }
    }
}

#[test]
fn every_role_set_is_valid() {
    for set in ALL {
        let roles = set.role_names();
        assert!(!roles.is_empty(), "{}", set.name);
        let warnings = policy_of(set.name, &roles).warnings().to_string();
        assert_eq!(warnings.is_empty(), set.caution.is_empty(), "{warnings}");
    }
}

/// Alternatives have the same role names, so a cluster can switch between them by changing only its
/// `include`. All other sets can be included together.
#[test]
fn sets_that_are_not_alternatives_combine() {
    let alternatives = ["calico/documented", "calico/v3.31", "calico/v3.32"];
    let per_node = ["calico/v3.31-per-node", "calico/v3.32-per-node"];
    for calico in alternatives {
        for node in per_node {
            let text = format!(
                "version: 1\nmode: enforce\ninclude: [{calico}, {node}, kubernetes, etcd-ops]\n\
                 bindings:\n  - {{ cn: x, roles: [calico-node] }}\n"
            );
            Policy::parse("policy.yaml", text.as_bytes(), 1, None)
                .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        }
    }
    assert_eq!(ALL.len(), alternatives.len() + per_node.len() + 2);
}

/// The set for a newer Calico has all grants of the older set, so an operator can change the policy
/// before upgrading Calico.
#[test]
fn a_newer_set_includes_the_older_one() {
    for kind in ["", "-per-node"] {
        let [old, new] = ["calico/v3.31", "calico/v3.32"]
            .map(|name| super::find(&format!("{name}{kind}")).unwrap());
        assert_eq!(old.role_names(), new.role_names());
        let [old, new] = [old, new].map(|set| policy_of(set.name, &set.role_names()));
        let mut more = 0;
        for role in old.role_names() {
            let grants = new.role_grants(role);
            for grant in old.role_grants(role) {
                assert!(grants.contains(&grant), "{role}: {grant:?}");
            }
            more += grants.len() - old.role_grants(role).len();
        }
        assert!(more > 0, "{kind}");
    }
}

/// The verified sets are those for a release of Calico: `calico/v` and the version.
#[test]
fn each_grant_of_the_verified_sets_has_a_reason() {
    for set in ALL.iter().filter(|set| set.name.starts_with("calico/v")) {
        let entries = set.text.matches("        verbs: [").count();
        assert_eq!(set.text.matches("        why: ").count(), entries, "{}", set.name);
        assert!(entries > 5, "{}", set.name);
    }
}

const R: &str = "/calico/resources/v3/projectcalico.org";

/// The keys that a node may change: first with calico/node's certificate, then with the CNI
/// plugin's.
fn node_keys(node: &str) -> [Vec<String>; 2] {
    let doubled = node.replace('-', "--");
    let calico_node_keys = vec![
        format!("{R}/nodes/{node}"),
        format!("{R}/felixconfigurations/node.{node}"),
        format!("/calico/ipam/v2/host/{node}/ipv4/block/10.0.0.0-26"),
        format!("/calico/ipam/v2/handle/vxlan-tunnel-addr-{node}"),
        format!("/calico/felix/v1/host/{node}/endpoint/eth0"),
        format!("/calico/felix/v2/region-x/host/{node}/status"),
    ];
    let cni_keys = vec![
        format!("{R}/workloadendpoints/prod/{doubled}-k8s-web--0-eth0"),
        format!("{R}/workloadendpoints/{node}/{doubled}-k8s-web-eth0"),
        format!("/calico/ipam/v2/host/{node}/ipv6/block/fd00::-122"),
    ];
    [calico_node_keys, cni_keys]
}

#[test]
fn a_node_changes_only_its_own_keys() {
    let long = format!("{}.{}", "n".repeat(63), "m".repeat(63));
    // A label has at most 63 characters, a host name at most 253.
    let label = "n".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "m".repeat(61));
    let almost = &longest[..252];
    #[rustfmt::skip]
    let nodes = [
        "a", "a-b", "a--b", "a-b-c", "b", "n1", "n10", "n1-0", "1n", "10", "1", "0.0",
        "n1.example.org", "n1.example", "example.org", "k8s", "a-k8s", "a-k8s-b", "default", "prod",
        "kube-system", "calico-node", "node", "node.n1", "block", &long, &label, &longest, almost,
    ];
    let binding = "  - { cn: \"calico-node:{node}\", roles: [calico-node-per-node] }\n  \
                   - { cn: \"cni:{node}\", roles: [calico-cni-per-node] }\n";
    for set in ["calico/v3.31-per-node", "calico/v3.32-per-node"] {
        let text = format!("version: 1\nmode: enforce\ninclude: [{set}]\nbindings:\n{binding}");
        let policy = Policy::parse("policy.yaml", text.as_bytes(), 1, None)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        for node in nodes {
            let principals = ["calico-node", "cni"].map(|component| {
                policy.principal(&Identity::named(&format!("{component}:{node}")))
            });
            for other in nodes {
                for (principal, keys) in principals.iter().zip(node_keys(other)) {
                    let changes = |key: &String| {
                        [Verb::Create, Verb::Update].map(|verb| {
                            principal.rights.covers(verb, &KeyRange::key(key.as_bytes())).is_ok()
                        })
                    };
                    for key in keys {
                        assert_eq!(
                            changes(&key),
                            [node == other; 2],
                            "{} on {key}",
                            principal.name
                        );
                    }
                }
            }
            // A node has no rights on another node's endpoints, even in a namespace that has its
            // own name.
            for other in nodes.iter().filter(|other| **other != node) {
                let key = format!(
                    "{R}/workloadendpoints/{node}/{}-k8s-web-eth0",
                    other.replace('-', "--")
                );
                assert!(
                    principals[1]
                        .rights
                        .covers(Verb::Create, &KeyRange::key(key.as_bytes()))
                        .is_err(),
                    "{node} on {key}"
                );
            }
            // calico/node creates tiers at every start. The first node creates all other shared
            // resources; it has a role of its own.
            for (global, created) in [
                ("tiers/default", true),
                ("ippools/default-ipv4-ippool", false),
                ("ippools/default-ipv6-ippool", false),
                ("felixconfigurations/default", false),
                ("bgpconfigurations/default", false),
            ] {
                let key = format!("{R}/{global}");
                let may = Verb::ALL.map(|verb| {
                    principals[0].rights.covers(verb, &KeyRange::key(key.as_bytes())).is_ok()
                });
                assert_eq!(
                    may,
                    Verb::ALL.map(|verb| verb == Verb::Read || (created && verb == Verb::Create)),
                    "{key}"
                );
            }
            for principal in &principals {
                assert!(
                    principal
                        .rights
                        .covers(Verb::Create, &KeyRange::key(b"/calico/ipam/v2/config"))
                        .is_err(),
                    "{}",
                    principal.name
                );
            }
        }
    }
}

/// Calico writes host names in lower case. A certificate with another case, or with a name that is
/// not a valid node name, gets the binding status `BadCapture` and no rights.
#[test]
fn a_name_that_is_not_a_node_name_gets_no_rights() {
    let text = "version: 1\nmode: enforce\ninclude: [calico/v3.31-per-node]\nbindings:\n  \
                - { cn: \"calico-node:{node}\", roles: [calico-node-per-node] }\n";
    let policy = Policy::parse("policy.yaml", text.as_bytes(), 1, None)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let too_long = format!("{0}.{0}.{0}.{1}", "n".repeat(63), "m".repeat(62));
    for node in [
        "Worker-1", "worker_1", "-a", "a-", "a.", ".a", "a..b", "a/b", "a:b", "*", "", "a b",
        "\u{e9}", &too_long,
    ] {
        let principal = policy.principal(&Identity::named(&format!("calico-node:{node}")));
        assert_eq!(principal.binding_status, crate::policy::BindingStatus::BadCapture, "{node:?}");
        for key in node_keys(&node.to_ascii_lowercase()).concat() {
            assert!(
                Verb::ALL.iter().all(|verb| principal
                    .rights
                    .covers(*verb, &KeyRange::key(key.as_bytes()))
                    .is_err()),
                "{key}"
            );
        }
    }
}
