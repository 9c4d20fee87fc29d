//! Attempts with the certificates of node n1, against a cluster of n1 and n2.

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, DeleteOptions, GetOptions,
    LeaseGrantOptions, PutOptions, Txn, TxnOp, WatchOptions,
};

/// One attempt.
pub struct Attempt {
    /// The heading of its group.
    pub about: &'static str,
    pub what: &'static str,
    /// It succeeds even with the per-node roles.
    pub no_key_rule_can_stop: bool,
    act: Act,
}

enum Act {
    /// A plain Put over an existing key.
    Put(&'static str),
    /// An update as in libcalico-go: a Txn guarded by MOD.
    Update(&'static str),
    /// A create as in libcalico-go: a Txn guarded by VERSION = 0.
    Create(&'static str),
    /// The same, where the key was deleted or not created yet.
    First(&'static str),
    Delete(&'static str),
    DeletePrefix(&'static str),
    ReadPrefix(&'static str),
    WatchPrefix(&'static str),
    /// A nested Txn with the Put inside it.
    NestedPut(&'static str),
    RevokeLease,
    ListLeases,
    Compact,
    Snapshot,
    MemberList,
    MemberUpdate,
    Alarm,
    Defragment,
    Hash,
    AddUser,
    Lock(&'static str),
}

const R: &str = "/calico/resources/v3/projectcalico.org/";
/// Another client's lease, with a key.
const LEASE: i64 = 0x7e57;

/// The keys of a cluster of two nodes in etcd. `$R` stands for the resources' prefix.
const KEYS: &[&str] = &[
    "$R/nodes/n1",
    "$R/nodes/n2",
    "$R/felixconfigurations/default",
    "$R/felixconfigurations/node.n1",
    "$R/felixconfigurations/node.n2",
    "$R/bgpconfigurations/default",
    "$R/bgpconfigurations/node.n2",
    "$R/workloadendpoints/prod/n1-k8s-web--0-eth0",
    "$R/workloadendpoints/prod/n2-k8s-web--1-eth0",
    "$R/workloadendpoints/prod/n1--b-k8s-web--2-eth0",
    "$R/globalnetworkpolicies/default.deny-all",
    "$R/networkpolicies/prod/knp.default.allow-web",
    "$R/globalnetworksets/trusted",
    "$R/profiles/kns.prod",
    "$R/tiers/default",
    "$R/ippools/default-ipv4-ippool",
    "$R/ipreservations/reserved",
    "$R/hostendpoints/n2-eth0",
    "$R/clusterinformations/default",
    "$R/kubecontrollersconfigurations/default",
    "$R/caliconodestatuses/n2",
    "/calico/ipam/v2/config",
    "/calico/ipam/v2/assignment/ipv4/block/192.168.1.0-26",
    "/calico/ipam/v2/assignment/ipv4/block/192.168.2.0-26",
    "/calico/ipam/v2/host/n1/ipv4/block/192.168.1.0-26",
    "/calico/ipam/v2/host/n2/ipv4/block/192.168.2.0-26",
    "/calico/ipam/v2/handle/k8s-pod-network.of-a-pod-on-n2",
    "/calico/ipam/v2/handle/vxlan-tunnel-addr-n2",
    "/calico/felix/v1/host/n2/endpoint/eth0",
    "/calico/felix/v2/no-region/host/n2/status",
    "/registry/secrets/prod/password",
    "/registry/pods/prod/web-0",
    "compact_rev_key",
];

const fn stopped(about: &'static str, what: &'static str, act: Act) -> Attempt {
    Attempt { about, what, no_key_rule_can_stop: false, act }
}

const fn open(about: &'static str, what: &'static str, act: Act) -> Attempt {
    Attempt { about, what, no_key_rule_can_stop: true, act }
}

const OTHER: &str = "Another node";
const WORKLOADS: &str = "Other nodes' workloads";
const RULES: &str = "Policies and configuration";
const ADDRESSES: &str = "Addresses";
const KUBERNETES: &str = "Kubernetes";
const ETCD: &str = "etcd itself";

pub const ATTEMPTS: &[Attempt] = &[
    stopped(OTHER, "change its Node, including its addresses and BGP", Act::Update("$R/nodes/n2")),
    stopped(OTHER, "the same by a plain Put", Act::Put("$R/nodes/n2")),
    stopped(OTHER, "the same inside a nested Txn", Act::NestedPut("$R/nodes/n2")),
    stopped(OTHER, "delete its Node", Act::Delete("$R/nodes/n2")),
    stopped(OTHER, "delete all Nodes", Act::DeletePrefix("$R/nodes/")),
    stopped(OTHER, "create a node", Act::Create("$R/nodes/n3")),
    stopped(OTHER, "create a node whose name begins with its own", Act::Create("$R/nodes/n10")),
    stopped(OTHER, "switch its Felix' rules off", Act::Update("$R/felixconfigurations/node.n2")),
    stopped(
        OTHER,
        "delete its Felix' configuration",
        Act::Delete("$R/felixconfigurations/node.n2"),
    ),
    stopped(
        OTHER,
        "create a configuration for another Felix",
        Act::Create("$R/felixconfigurations/node.n3"),
    ),
    stopped(OTHER, "change its BGP configuration", Act::Update("$R/bgpconfigurations/node.n2")),
    stopped(
        OTHER,
        "take its tunnel address",
        Act::Update("/calico/ipam/v2/handle/vxlan-tunnel-addr-n2"),
    ),
    stopped(
        OTHER,
        "report a false status of it",
        Act::Put("/calico/felix/v2/no-region/host/n2/status"),
    ),
    stopped(
        OTHER,
        "report a false status of its interface",
        Act::Put("/calico/felix/v1/host/n2/endpoint/eth0"),
    ),
    stopped(OTHER, "fill in its CalicoNodeStatus", Act::Update("$R/caliconodestatuses/n2")),
    stopped(
        WORKLOADS,
        "change an endpoint, including its labels and profiles",
        Act::Update("$R/workloadendpoints/prod/n2-k8s-web--1-eth0"),
    ),
    stopped(
        WORKLOADS,
        "delete an endpoint",
        Act::Delete("$R/workloadendpoints/prod/n2-k8s-web--1-eth0"),
    ),
    stopped(
        WORKLOADS,
        "create an endpoint",
        Act::Create("$R/workloadendpoints/prod/n2-k8s-evil-eth0"),
    ),
    stopped(
        WORKLOADS,
        "change an endpoint of n1-b",
        Act::Update("$R/workloadendpoints/prod/n1--b-k8s-web--2-eth0"),
    ),
    stopped(
        WORKLOADS,
        "delete all endpoints of a namespace",
        Act::DeletePrefix("$R/workloadendpoints/prod/"),
    ),
    stopped(
        RULES,
        "change a global policy",
        Act::Update("$R/globalnetworkpolicies/default.deny-all"),
    ),
    stopped(
        RULES,
        "create a global policy",
        Act::Create("$R/globalnetworkpolicies/default.allow-all"),
    ),
    stopped(
        RULES,
        "delete a global policy",
        Act::Delete("$R/globalnetworkpolicies/default.deny-all"),
    ),
    stopped(RULES, "delete every policy", Act::DeletePrefix("$R/globalnetworkpolicies/")),
    stopped(
        RULES,
        "change a policy of a namespace",
        Act::Update("$R/networkpolicies/prod/knp.default.allow-web"),
    ),
    stopped(RULES, "change a set of trusted networks", Act::Update("$R/globalnetworksets/trusted")),
    stopped(RULES, "change a namespace's profile", Act::Update("$R/profiles/kns.prod")),
    stopped(RULES, "change the default tier", Act::Update("$R/tiers/default")),
    stopped(RULES, "delete the default tier", Act::Delete("$R/tiers/default")),
    open(RULES, "create the default tier where it is missing", Act::First("$R/tiers/default")),
    stopped(RULES, "create a tier before all others", Act::Create("$R/tiers/mine")),
    stopped(
        RULES,
        "change the defaults of every Felix",
        Act::Update("$R/felixconfigurations/default"),
    ),
    stopped(
        RULES,
        "delete the defaults of every Felix",
        Act::Delete("$R/felixconfigurations/default"),
    ),
    stopped(
        RULES,
        "create the defaults of every Felix where they are missing",
        Act::First("$R/felixconfigurations/default"),
    ),
    stopped(
        RULES,
        "change the BGP configuration of all nodes",
        Act::Update("$R/bgpconfigurations/default"),
    ),
    stopped(
        RULES,
        "create the BGP configuration of all nodes where it is missing",
        Act::First("$R/bgpconfigurations/default"),
    ),
    stopped(RULES, "create a BGP peer", Act::Create("$R/bgppeers/mine")),
    stopped(RULES, "change a host endpoint", Act::Update("$R/hostendpoints/n2-eth0")),
    stopped(
        RULES,
        "change the configuration of kube-controllers",
        Act::Update("$R/kubecontrollersconfigurations/default"),
    ),
    open(RULES, "set the datastore to not ready", Act::Update("$R/clusterinformations/default")),
    stopped(RULES, "delete the cluster's identity", Act::Delete("$R/clusterinformations/default")),
    open(
        RULES,
        "create the cluster's identity where it is missing",
        Act::First("$R/clusterinformations/default"),
    ),
    stopped(RULES, "delete everything of Calico", Act::DeletePrefix("/calico/")),
    stopped(ADDRESSES, "change a pool", Act::Update("$R/ippools/default-ipv4-ippool")),
    stopped(ADDRESSES, "delete a pool", Act::Delete("$R/ippools/default-ipv4-ippool")),
    stopped(ADDRESSES, "create a pool", Act::Create("$R/ippools/mine")),
    stopped(ADDRESSES, "delete a reservation", Act::Delete("$R/ipreservations/reserved")),
    stopped(
        ADDRESSES,
        "take another node's block",
        Act::Update("/calico/ipam/v2/host/n2/ipv4/block/192.168.2.0-26"),
    ),
    stopped(
        ADDRESSES,
        "release another node's block",
        Act::Delete("/calico/ipam/v2/host/n2/ipv4/block/192.168.2.0-26"),
    ),
    stopped(
        ADDRESSES,
        "create the default pools where they are missing",
        Act::First("$R/ippools/default-ipv4-ippool"),
    ),
    stopped(ADDRESSES, "change how addresses are assigned", Act::Update("/calico/ipam/v2/config")),
    stopped(
        ADDRESSES,
        "set how addresses are assigned where it is missing",
        Act::First("/calico/ipam/v2/config"),
    ),
    open(
        ADDRESSES,
        "change assignments in another node's block",
        Act::Update("/calico/ipam/v2/assignment/ipv4/block/192.168.2.0-26"),
    ),
    open(
        ADDRESSES,
        "delete another node's block",
        Act::Delete("/calico/ipam/v2/assignment/ipv4/block/192.168.2.0-26"),
    ),
    open(
        ADDRESSES,
        "change the handle of another node's pod",
        Act::Update("/calico/ipam/v2/handle/k8s-pod-network.of-a-pod-on-n2"),
    ),
    open(
        ADDRESSES,
        "delete the handle of another node's pod",
        Act::Delete("/calico/ipam/v2/handle/k8s-pod-network.of-a-pod-on-n2"),
    ),
    stopped(KUBERNETES, "read Secrets", Act::ReadPrefix("/registry/secrets/")),
    stopped(KUBERNETES, "watch everything", Act::WatchPrefix("/registry/")),
    stopped(KUBERNETES, "change a pod", Act::Put("/registry/pods/prod/web-0")),
    stopped(
        KUBERNETES,
        "make itself an administrator",
        Act::Create("/registry/clusterrolebindings/mine"),
    ),
    stopped(KUBERNETES, "delete everything of Kubernetes", Act::DeletePrefix("/registry/")),
    stopped(KUBERNETES, "disturb its compaction", Act::Put("compact_rev_key")),
    stopped(ETCD, "read every key", Act::ReadPrefix("")),
    stopped(ETCD, "delete every key", Act::DeletePrefix("")),
    stopped(ETCD, "copy the whole database (snapshot)", Act::Snapshot),
    stopped(ETCD, "hold a lock in another client's name", Act::Lock("/registry/locks/")),
    stopped(ETCD, "revoke another client's lease, which deletes its keys", Act::RevokeLease),
    stopped(ETCD, "list all leases", Act::ListLeases),
    stopped(ETCD, "compact the history that others watch", Act::Compact),
    stopped(ETCD, "list the members, and with them the addresses of etcd itself", Act::MemberList),
    stopped(ETCD, "change a member", Act::MemberUpdate),
    stopped(ETCD, "stop all writes (alarm)", Act::Alarm),
    stopped(ETCD, "stop a member (defragmentation)", Act::Defragment),
    stopped(ETCD, "hash the whole database", Act::Hash),
    stopped(ETCD, "create a user", Act::AddUser),
];

fn key(written: &str) -> String {
    written.replace("$R/", R)
}

/// Restores all keys.
pub async fn seed(root: &mut Client) {
    root.delete("", Some(DeleteOptions::new().with_all_keys())).await.unwrap();
    for written in KEYS {
        root.put(key(written), "as it should be", None).await.unwrap();
    }
    let _ = root.lease_revoke(LEASE).await;
    root.lease_grant(3600, Some(LeaseGrantOptions::new().with_id(LEASE))).await.unwrap();
    root.put("/registry/events/e", "with a lease", Some(PutOptions::new().with_lease(LEASE)))
        .await
        .unwrap();
}

impl Attempt {
    /// True if the attempt succeeds.
    pub async fn succeeds(&self, attacker: &mut Client) -> bool {
        let put = |written: &str| TxnOp::put(key(written), "changed", None);
        match self.act {
            Act::Put(written) => attacker.put(key(written), "changed", None).await.is_ok(),
            Act::Update(written) => {
                // The revision is no secret: a reader sees it, and others may guess.
                let seen = attacker
                    .get(key(written), None)
                    .await
                    .ok()
                    .and_then(|seen| Some(seen.kvs().first()?.mod_revision()));
                let guard =
                    Compare::mod_revision(key(written), CompareOp::Equal, seen.unwrap_or(1));
                let txn = Txn::new()
                    .when([guard])
                    .and_then([put(written)])
                    .or_else([TxnOp::get(key(written), None)]);
                attacker.txn(txn).await.is_ok_and(|done| done.succeeded())
            }
            Act::Create(written) | Act::First(written) => {
                let guard = Compare::version(key(written), CompareOp::Equal, 0);
                let txn = Txn::new()
                    .when([guard])
                    .and_then([put(written)])
                    .or_else([TxnOp::get(key(written), None)]);
                attacker.txn(txn).await.is_ok_and(|done| done.succeeded())
            }
            Act::Delete(written) => attacker.delete(key(written), None).await.is_ok(),
            Act::DeletePrefix("") => {
                attacker.delete("", Some(DeleteOptions::new().with_all_keys())).await.is_ok()
            }
            Act::DeletePrefix(written) => attacker
                .delete(key(written), Some(DeleteOptions::new().with_prefix()))
                .await
                .is_ok(),
            Act::ReadPrefix("") => {
                attacker.get("", Some(GetOptions::new().with_all_keys())).await.is_ok()
            }
            Act::ReadPrefix(written) => {
                attacker.get(key(written), Some(GetOptions::new().with_prefix())).await.is_ok()
            }
            Act::WatchPrefix(written) => {
                let Ok(mut stream) = attacker
                    .watch(
                        key(written),
                        Some(WatchOptions::new().with_prefix().with_start_revision(1)),
                    )
                    .await
                else {
                    return false;
                };
                loop {
                    match stream.message().await {
                        Ok(Some(answer)) if answer.canceled() && answer.compact_revision() == 0 => {
                            return false;
                        }
                        Ok(Some(answer)) if answer.created() && !answer.canceled() => return true,
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => return false,
                    }
                }
            }
            Act::NestedPut(written) => attacker
                .txn(Txn::new().and_then([TxnOp::txn(Txn::new().and_then([put(written)]))]))
                .await
                .is_ok(),
            Act::RevokeLease => attacker.lease_revoke(LEASE).await.is_ok(),
            // A list is filtered, not refused: the attempt succeeds if it shows another client's
            // lease.
            Act::ListLeases => attacker
                .leases()
                .await
                .is_ok_and(|list| list.leases().iter().any(|lease| lease.id() == LEASE)),
            Act::Compact => attacker
                .compact(1, None)
                .await
                .map_or_else(|error| !error.to_string().contains("permission denied"), |_| true),
            Act::Snapshot => match attacker.snapshot().await {
                Ok(mut copy) => copy.message().await.is_ok(),
                Err(_) => false,
            },
            Act::MemberList => attacker.member_list().await.is_ok(),
            Act::MemberUpdate => {
                match attacker.member_update(1, vec!["https://127.0.0.1:1".to_owned()]).await {
                    // etcd looks for the member only after it has checked the client's rights.
                    Err(error) => error.to_string().contains("member not found"),
                    Ok(_) => true,
                }
            }
            Act::Alarm => {
                attacker.alarm(AlarmAction::Activate, AlarmType::Nospace, None).await.is_ok()
            }
            Act::Defragment => attacker.defragment().await.is_ok(),
            Act::Hash => attacker.hash().await.is_ok(),
            Act::AddUser => attacker.user_add("attacker", "secret", None).await.is_ok(),
            Act::Lock(written) => attacker.lock(key(written), None).await.is_ok(),
        }
    }

    /// Removes the keys that must be missing.
    pub async fn prepare(&self, root: &mut Client) {
        if let Act::First(written) = self.act {
            root.delete(key(written), None).await.unwrap();
        }
    }

    /// Reverts changes that are not keys.
    pub async fn undo(&self, root: &mut Client) {
        match self.act {
            Act::Alarm => {
                drop(root.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await.unwrap());
            }
            Act::AddUser => drop(root.user_delete("attacker").await),
            _ => {}
        }
    }
}
