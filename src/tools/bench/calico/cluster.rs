//! The keys of a Calico cluster.

use crate::bench::identity::Identity;
use crate::bench::keys::HEAD;

/// Prefix of resources (libcalico-go, `backend/model/resource.go`).
pub const R: &str = "/calico/resources/v3/projectcalico.org";
/// Prefix of IPAM data (`model/block.go`, `block_affinity.go`, `ipam_handle.go`).
pub const IPAM: &str = "/calico/ipam/v2";

/// The namespace of all pods.
const NAMESPACE: &str = "bench";

/// The kinds that Felix lists and watches (felix `felixsyncerv1.go`, 3.31), in addition to
/// `assignment/`.
pub const FELIX: [&str; 17] = [
    "clusterinformations",
    "felixconfigurations",
    "globalnetworkpolicies",
    "stagedglobalnetworkpolicies",
    "globalnetworksets",
    "ippools",
    "nodes",
    "profiles",
    "workloadendpoints",
    "networkpolicies",
    "stagednetworkpolicies",
    "stagedkubernetesnetworkpolicies",
    "networksets",
    "tiers",
    "hostendpoints",
    "bgpconfigurations",
    "bgppeers",
];

/// The kinds that confd watches (`bgpsyncer.go`), in addition to the affinities of its node.
pub const CONFD: [&str; 5] = ["ippools", "bgpconfigurations", "nodes", "bgppeers", "bgpfilters"];

/// The kinds of kube-controllers' data feed (`controllers/utils/syncer.go`, before 3.32), in
/// addition to `assignment/`.
pub const CONTROLLERS: [&str; 4] = ["nodes", "clusterinformations", "ippools", "hostendpoints"];

/// The tiers that 3.29 to 3.31 try to create at each start (`clientv3/client.go`,
/// EnsureInitialized).
pub const TIERS: [&str; 3] = ["default", "adminnetworkpolicy", "baselineadminnetworkpolicy"];

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Index of the node.
    pub number: u32,
    /// Its name, as in the certificates.
    pub name: String,
    /// The identity of calico/node.
    pub node: Identity,
    /// The identity of the CNI plugin.
    pub cni: Identity,
}

/// The key of a resource without a namespace; the prefix of the kind if the name is empty.
#[must_use]
pub fn resource(kind: &str, name: &str) -> Vec<u8> {
    format!("{R}/{kind}/{name}").into_bytes()
}

impl Node {
    /// Its block of addresses: a /26, Calico's default. Unique below 2^18 nodes.
    #[must_use]
    pub fn block(&self) -> String {
        let [a, b, c, d] = (0x0a00_0000 | (self.number << 6)).to_be_bytes();
        format!("{a}.{b}.{c}.{d}-26")
    }

    /// The key of its block.
    #[must_use]
    pub fn block_key(&self) -> Vec<u8> {
        format!("{IPAM}/assignment/ipv4/block/{}", self.block()).into_bytes()
    }

    /// The key of its affinity to the block.
    #[must_use]
    pub fn affinity_key(&self) -> Vec<u8> {
        format!("{IPAM}/host/{}/ipv4/block/{}", self.name, self.block()).into_bytes()
    }

    /// The prefix of all its affinities.
    #[must_use]
    pub fn affinities(&self) -> Vec<u8> {
        format!("{IPAM}/host/{}/ipv4/block/", self.name).into_bytes()
    }

    /// The common prefix of a pod's endpoints (`names/workloadendpoint.go`: dashes within a part
    /// are doubled).
    #[must_use]
    pub fn endpoint_prefix(&self, pod: u64) -> Vec<u8> {
        format!(
            "{R}/workloadendpoints/{NAMESPACE}/{}-k8s-pod--{pod}-",
            self.name.replace('-', "--")
        )
        .into_bytes()
    }

    /// The key of a pod's endpoint.
    #[must_use]
    pub fn endpoint(&self, pod: u64) -> Vec<u8> {
        [self.endpoint_prefix(pod), b"eth0".to_vec()].concat()
    }
}

/// The key of the handle of a pod's address. A container id has 64 digits
/// (`cni-plugin/internal/pkg/utils/utils.go`).
#[must_use]
pub fn handle(node: &Node, pod: u64) -> Vec<u8> {
    format!("{IPAM}/handle/k8s-pod-network.{:016x}{pod:048x}", node.number).into_bytes()
}

/// The handle of older releases, which each DEL reads, too (`ipam_plugin.go`).
#[must_use]
pub fn old_handle(pod: u64) -> Vec<u8> {
    format!("{IPAM}/handle/{NAMESPACE}.pod-{pod}").into_bytes()
}

/// A value of this size that contains the time of the write.
#[must_use]
pub fn value(size: usize, written_us: u64) -> Vec<u8> {
    let mut value = format!("etcd-warden-bench {:016x} {written_us:016x} ", 0).into_bytes();
    value.resize(size.max(HEAD), b'c');
    value
}

/// The time at which a value was written, in microseconds of the run.
#[must_use]
pub fn written(value: &[u8]) -> Option<u64> {
    let stamp = value.strip_prefix(b"etcd-warden-bench ")?.get(17..33)?;
    u64::from_str_radix(std::str::from_utf8(stamp).ok()?, 16).ok()
}

/// The keys that exist before the first node starts: those that the first start of a cluster
/// creates, profiles and policies, and the pods of each node. Nodes create their blocks and
/// affinities themselves.
pub fn before(nodes: &[Node], policies: u32, pods: u64) -> impl Iterator<Item = Vec<u8>> {
    let policy = |number| {
        resource("networkpolicies", &format!("{NAMESPACE}/knp.default.policy-{number:05}"))
    };
    let fixed = [
        resource("ippools", "default-ipv4-ippool"),
        resource("felixconfigurations", "default"),
        resource("profiles", &format!("kns.{NAMESPACE}")),
        resource("profiles", &format!("ksa.{NAMESPACE}.default")),
        format!("{IPAM}/config").into_bytes(),
    ];
    let endpoints = nodes.iter().flat_map(move |node| (0..pods).map(move |pod| node.endpoint(pod)));
    fixed.into_iter().chain((0..policies).map(policy)).chain(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32, name: &str) -> Node {
        let anonymous = Identity { name: String::new(), node: None, component: None, tls: None };
        Node { number, name: name.to_owned(), node: anonymous.clone(), cni: anonymous }
    }

    fn text(key: Vec<u8>) -> String {
        String::from_utf8(key).unwrap()
    }

    #[test]
    fn keys_have_the_form_of_calicos_keys() {
        let node = node(5, "ip-10-0-0-1.ec2.internal");
        assert_eq!(text(node.block_key()), "/calico/ipam/v2/assignment/ipv4/block/10.0.1.64-26");
        assert_eq!(
            text(node.affinity_key()),
            "/calico/ipam/v2/host/ip-10-0-0-1.ec2.internal/ipv4/block/10.0.1.64-26"
        );
        assert_eq!(
            text(node.endpoint(7)),
            "/calico/resources/v3/projectcalico.org/workloadendpoints/bench/ip--10--0--0--1.ec2.internal-k8s-pod--7-eth0"
        );
        assert_eq!(
            text(handle(&node, 7)).len(),
            "/calico/ipam/v2/handle/k8s-pod-network.".len() + 64
        );
    }

    #[test]
    fn a_value_contains_its_time() {
        assert_eq!(written(&value(200, 77)), Some(77));
        assert_eq!(value(200, 77).len(), 200);
        assert_eq!(written(b"x"), None);
    }

    #[test]
    fn the_initial_keys_are_unique() {
        let nodes = [node(0, "a"), node(1, "a-b")];
        let keys: Vec<_> = before(&nodes, 10, 3).collect();
        assert_eq!(keys.len(), 5 + 10 + 6);
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), 21);
    }
}
