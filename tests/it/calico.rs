//! The real programs of Calico and Kubernetes, each with its own certificate, in front of a proxy
//! that enforces: none of their calls is refused, and they leave the same keys in etcd as without a
//! proxy.
//!
//! The programs change network interfaces, `/var/lib/calico` and `/run`, so the scenario runs in
//! its own namespaces: a test starts this binary again inside `unshare`. Needs root, `unshare` and
//! `ip`; `.ci/run` runs it.

mod apiserver;
pub mod cluster;
mod dataplane;
mod firewall;
mod install_cni;
mod kubelet;
mod manifests;
mod needed;
mod per_node;
pub mod scenario;
mod segmented;
mod static_pod;
mod tutorial;
mod vault;

use std::collections::BTreeSet;
use std::process::Command;

use etcd_warden_gateway::config::{Audit, AuditAllowed, Config};
use serde_json::{Value, json};

use crate::world::World;
use cluster::{Cluster, Programs, Way};

/// Set inside the namespaces: the file that records which test was entered.
const INSIDE: &str = "ETCD_WARDEN_TEST_INSIDE";

/// Runs one test of this module in its own namespaces. Returns true inside them.
pub fn inside(test: &str) -> bool {
    if let Some(entered) = std::env::var_os(INSIDE) {
        std::fs::write(entered, test).unwrap();
        return true;
    }
    // An unknown test name would run no test and pass.
    let entered = tempfile::NamedTempFile::new().unwrap();
    // In its own PID namespace, so that all processes of the test end with it. kube-apiserver needs
    // a default route, calico-node an interface with the node's address.
    let script = "set -e
        mount -t tmpfs none /run; mount -t tmpfs none /var/lib; mkdir /run/netns /var/lib/calico
        ip link set lo up; ip link add host0 type veth peer name host1
        ip address add 10.10.0.1/24 dev host0; ip link set host0 up; ip link set host1 up; ip route add default via 10.10.0.254
        exec \"$0\" \"$@\"";
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--mount-proc",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            script,
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .env(INSIDE, entered.path())
        .status();
    let status = status.unwrap_or_else(|error| {
        panic!("this test needs `unshare` (util-linux), and root: {error}")
    });
    assert!(
        status.success(),
        "{test} failed inside its namespaces (they need root, `ip` of iproute2, and mounts): {status}"
    );
    assert_eq!(
        std::fs::read_to_string(entered.path()).unwrap(),
        test,
        "there is no test of this name"
    );
    false
}

/// All keys except those whose name contains a time.
async fn keys(world: &World) -> BTreeSet<String> {
    let options = etcd_client::GetOptions::new().with_all_keys().with_keys_only();
    let found = world.direct().await.get("", Some(options)).await.unwrap();
    found
        .kvs()
        .iter()
        .map(|kv| kv.key_str().unwrap().to_owned())
        .filter(|key| key.starts_with("/calico/"))
        .collect()
}

/// A pattern of Common Names and the roles of the identities that match it.
type Binding = (&'static str, &'static [&'static str]);

/// Components that do not run on nodes.
const ELSEWHERE: [Binding; 6] = [
    ("kube-apiserver", &["kube-apiserver"]),
    ("kube-controllers", &["calico-kube-controllers", "calico-kube-controllers-compaction"]),
    ("typha", &["calico-typha"]),
    ("calicoctl-ro", &["calicoctl-read-only"]),
    ("calicoctl-editor", &["calicoctl-policy-editor"]),
    ("calicoctl", &["calicoctl-full"]),
];

fn policy(bindings: &[Binding]) -> String {
    let bindings: Vec<Value> =
        bindings.iter().map(|(cn, roles)| json!({ "cn": cn, "roles": roles })).collect();
    let include = ["calico/v3.31", "calico/v3.31-per-node", "kubernetes"];
    json!({ "version": 1, "mode": "enforce", "include": include, "bindings": bindings }).to_string()
}

/// The audit lines of refused calls.
fn refused(audit: &[Value]) -> Vec<String> {
    let denied = |line: &&Value| line["decision"] == "deny";
    audit.iter().filter(denied).map(|line| line.to_string()).collect()
}

/// Runs the scenario through a proxy where components on nodes have these roles. Asserts that no
/// call is refused and that `sets` grant nothing that is not needed.
async fn nothing_is_refused(on_nodes: [Binding; 2], sets: &[&str]) {
    let programs = tokio::task::spawn_blocking(Programs::build).await.unwrap();
    let bindings: Vec<Binding> = on_nodes.into_iter().chain(ELSEWHERE).collect();
    let bare = World::with(&policy(&bindings)).own_etcd().start().await;
    scenario::run(&Cluster::new(&programs, Way::direct(bare.etcd().endpoints()[0].clone()))).await;
    let expected = keys(&bare).await;

    let all = |config: &mut Config| {
        config.audit =
            Audit { allowed: AuditAllowed::All, queue: 1_000_000, ..config.audit.clone() }
    };
    let world = World::with(&policy(&bindings)).own_etcd().config(all).start().await;
    scenario::run(&Cluster::new(&programs, Way::through(&world))).await;
    // A deliberate refusal writes the last audit line, so any earlier refusal must be in the log
    // before it.
    assert!(world.as_("stranger").await.get("/calico/", None).await.is_err());
    world.audited(|line| line.to_string().contains("stranger")).await;
    let audit = world.audit();
    let refused = refused(&audit);
    assert!(refused.len() == 1 && refused[0].contains("stranger"), "{refused:#?}");
    assert_eq!(keys(&world).await, expected);
    assert!(
        expected.iter().any(|key| key.contains("/workloadendpoints/prod/n1-k8s-fixed-eth0")),
        "{expected:?}"
    );
    let wrong = needed::wrong_marks(&audit, &bindings, sets);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "needs root and builds Calico and kube-apiserver, minutes the first time; .ci/run runs it"]
fn the_role_set_refuses_no_call_of_calico() {
    if inside("calico::the_role_set_refuses_no_call_of_calico") {
        let on_nodes =
            [("calico-node:{node}", &["calico-node"] as &[_]), ("cni:{node}", &["calico-cni"])];
        runtime().block_on(nothing_is_refused(on_nodes, &["calico/v3.31", "kubernetes"]));
    }
}

#[test]
#[ignore = "needs root and builds Calico and kube-apiserver, minutes the first time; .ci/run runs it"]
fn the_per_node_roles_refuse_no_call_of_calico() {
    if inside("calico::the_per_node_roles_refuse_no_call_of_calico") {
        let on_nodes = [
            ("calico-node:{node}", &["calico-node-per-node", "calico-first-start"] as &[_]),
            ("cni:{node}", &["calico-cni-per-node", "calico-first-start"]),
        ];
        runtime().block_on(nothing_is_refused(on_nodes, &["calico/v3.31-per-node"]));
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
