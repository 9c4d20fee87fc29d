//! What runs on one node, from its start until it is in sync, and then.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::client::{Client, Keys, Names, Stage, Written};
use super::cluster::{CONFD, FELIX, IPAM, Node, TIERS, resource};
use super::watches::Watches;
use crate::bench::connection::Failure;

const START: Names =
    Names { read: "start read", list: "start list", write: "start write", watch: "start watch" };
const TUNNEL: Names = Names {
    read: "tunnel read",
    list: "tunnel list",
    write: "tunnel write",
    watch: "tunnel watch",
};
const STATUS: Names = Names {
    read: "status read",
    list: "status list",
    write: "status write",
    watch: "status watch",
};
const CONFD_NAMES: Names =
    Names { read: "confd read", list: "confd list", write: "confd write", watch: "confd watch" };
const FELIX_NAMES: Names =
    Names { read: "felix read", list: "felix list", write: "felix write", watch: "felix watch" };
const MONITOR: Names = Names {
    read: "monitor read",
    list: "monitor list",
    write: "monitor write",
    watch: "monitor watch",
};

/// Between two looks of the address monitor (`node/cmd/calico-node`, monitor-addresses).
pub const MONITOR_PERIOD: Duration = Duration::from_secs(60);

/// Connections that a node keeps: Felix 2, confd 1, node-services 3 (tunnel addresses, status,
/// addresses).
pub const CONNECTIONS: u32 = 6;

/// Watches that a node keeps: Felix' kinds and blocks, confd's kinds and affinities, pools and its
/// own Node, CalicoNodeStatuses.
pub const WATCHES: usize = FELIX.len() + 1 + CONFD.len() + 1 + 2 + 1;

/// A node that runs.
pub struct Running {
    /// Its address monitor, whose connection stays.
    pub monitor: Client,
    /// How far Felix has seen the endpoints.
    pub felix: Rc<Cell<i64>>,
    /// Felix' client of its own reads and writes, open and quiet.
    _felix: Client,
    /// Those whose watches run.
    _watching: Vec<Client>,
    node: Node,
}

impl Running {
    /// Brings a node up. Its watches run as tasks of this thread.
    ///
    /// # Errors
    /// What failed first: the program in question would end, and begin again.
    pub async fn start(stage: &Rc<Stage>, node: &Node) -> Result<Self, Failure> {
        start_up(&Client::new(stage, &node.node, START), node).await?;
        // All others are begun together, when start-up is through (runit's services).
        let client = |names| Client::new(stage, &node.node, names);
        let (tunnel, status, confd, syncer, felix, monitor) = (
            client(TUNNEL),
            client(STATUS),
            client(CONFD_NAMES),
            client(FELIX_NAMES),
            client(FELIX_NAMES),
            client(MONITOR),
        );
        let felix_up = async {
            felix_reads(&felix, node).await?;
            let kinds = FELIX.iter().map(|kind| Keys::below(resource(kind, "")));
            let blocks = Keys::below(format!("{IPAM}/assignment/").into_bytes());
            syncer.list_and_watch(&kinds.chain([blocks]).collect::<Vec<_>>()).await
        };
        let statuses = [Keys::below(resource("caliconodestatuses", ""))];
        // As in a list and watch: none is dropped on its way because another failed.
        let (one, two, three, four) = tokio::join!(
            tunnel_addresses(&tunnel, node),
            status.list_and_watch(&statuses),
            bgp(&confd, node),
            felix_up
        );
        let begun = [one?, two?, three?, four?];
        monitor.get(resource("nodes", &node.name)).await?;
        let seen = Rc::new(Cell::new(0));
        for watches in begun {
            let seen = if watches.has_endpoints() { seen.clone() } else { Rc::default() };
            tokio::task::spawn_local(watches.run(seen));
        }
        Ok(Self {
            monitor,
            felix: seen,
            _felix: felix,
            _watching: vec![tunnel, status, confd, syncer],
            node: node.clone(),
        })
    }

    /// One look of the address monitor; its failure is noted.
    pub async fn look(&self) {
        let _ = self.monitor.get(resource("nodes", &self.node.name)).await;
    }
}

/// `calico-node -startup` (`startup.go`; `clientv3/client.go`, EnsureInitialized), the second and
/// each later start of a cluster: one connection, which ends with it. `nodes/foo` is its look
/// whether etcd is there.
async fn start_up(client: &Client, node: &Node) -> Result<(), Failure> {
    let mine = resource("nodes", &node.name);
    client.get(resource("nodes", "foo")).await?;
    client.list(&Keys::below(resource("blockaffinities", ""))).await?;
    if client.get(mine.clone()).await?.is_none() {
        client.write(&mine, 0).await?;
    }
    // Whether another node has the same address.
    client.list(&Keys::below(resource("nodes", ""))).await?;
    client.list(&Keys::below(resource("ippools", ""))).await?;
    make(client, resource("clusterinformations", "default")).await?;
    for tier in TIERS {
        client.write(&resource("tiers", tier), 0).await?;
    }
    make(client, resource("felixconfigurations", "default")).await?;
    make(client, resource("felixconfigurations", &format!("node.{}", node.name))).await
}

/// Get, and Create where there is none; another node may be faster.
async fn make(client: &Client, key: Vec<u8>) -> Result<(), Failure> {
    if client.get(key.clone()).await?.is_none() {
        client.write(&key, 0).await?;
    }
    Ok(())
}

/// `-allocate-tunnel-addrs` (`allocateip.go`, `lib/ipam/ipam.go`): claims a block, takes an address
/// for VXLAN, and writes it to the Node.
async fn tunnel_addresses(client: &Client, node: &Node) -> Result<Watches, Failure> {
    let mine = resource("nodes", &node.name);
    let watches = client
        .list_and_watch(&[Keys::below(resource("ippools", "")), Keys::one(mine.clone())])
        .await?;
    client.get(mine.clone()).await?;
    let handle = format!("{IPAM}/handle/vxlan-tunnel-addr-{}", node.name).into_bytes();
    if client.get(handle.clone()).await?.is_none() {
        client.get(format!("{IPAM}/config").into_bytes()).await?;
        client.list(&Keys::below(resource("ipreservations", ""))).await?;
        client.list(&Keys::below(node.affinities())).await?;
        client.list(&Keys::below(format!("{IPAM}/assignment/").into_bytes())).await?;
        // Pending, the block, confirmed (`ipam_block_reader_writer.go`).
        let pending = match client.write(&node.affinity_key(), 0).await? {
            Written::At(revision) | Written::Not(revision) => revision,
        };
        let block = match client.write(&node.block_key(), 0).await? {
            Written::At(revision) | Written::Not(revision) => revision,
        };
        client.write_anyhow(&node.affinity_key(), pending).await?;
        client.write(&handle, 0).await?;
        client.write_anyhow(&node.block_key(), block).await?;
    }
    let revision = client.get(mine.clone()).await?.map_or(0, |pair| pair.mod_revision);
    client.write_anyhow(&mine, revision).await?;
    Ok(watches)
}

/// confd (`bgpsyncer.go`).
async fn bgp(client: &Client, node: &Node) -> Result<Watches, Failure> {
    client.get(resource("bgpconfigurations", "default")).await?;
    let affinities = Keys::below(format!("{IPAM}/host/{}/", node.name).into_bytes());
    let kinds = CONFD.iter().map(|kind| Keys::below(resource(kind, "")));
    client.list_and_watch(&kinds.chain([affinities]).collect::<Vec<_>>()).await
}

/// What Felix reads before its syncer starts (`felix/daemon/daemon.go`).
async fn felix_reads(client: &Client, node: &Node) -> Result<(), Failure> {
    client.get(resource("clusterinformations", "default")).await?;
    client.get(resource("felixconfigurations", "default")).await?;
    client.get(resource("felixconfigurations", &format!("node.{}", node.name))).await?;
    client.get(resource("nodes", &node.name)).await?;
    client.list(&Keys::below(resource("felixconfigurations", ""))).await?;
    client.list(&Keys::below(resource("ippools", ""))).await.map(drop)
}
