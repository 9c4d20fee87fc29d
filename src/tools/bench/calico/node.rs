//! The programs of one node, from their start until they are in sync, and after.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::client::{Client, ClientContext, KeySpan, OperationNames, WriteResult};
use super::cluster::{CONFD, FELIX, IPAM, Node, TIERS, resource};
use super::watches::Watches;
use crate::bench::connection::Failure;

const START: OperationNames = OperationNames {
    read: "start read",
    list: "start list",
    write: "start write",
    watch: "start watch",
};
const TUNNEL: OperationNames = OperationNames {
    read: "tunnel read",
    list: "tunnel list",
    write: "tunnel write",
    watch: "tunnel watch",
};
const STATUS: OperationNames = OperationNames {
    read: "status read",
    list: "status list",
    write: "status write",
    watch: "status watch",
};
const CONFD_NAMES: OperationNames = OperationNames {
    read: "confd read",
    list: "confd list",
    write: "confd write",
    watch: "confd watch",
};
const FELIX_NAMES: OperationNames = OperationNames {
    read: "felix read",
    list: "felix list",
    write: "felix write",
    watch: "felix watch",
};
const MONITOR: OperationNames = OperationNames {
    read: "monitor read",
    list: "monitor list",
    write: "monitor write",
    watch: "monitor watch",
};

/// Interval of the address monitor (`node/cmd/calico-node`, monitor-addresses).
pub const MONITOR_PERIOD: Duration = Duration::from_secs(60);

/// Connections that a node keeps open: Felix 2, confd 1, node services 3 (tunnel addresses, status,
/// addresses).
pub const CONNECTIONS: u32 = 6;

/// Watches that a node keeps open: Felix' kinds and blocks, confd's kinds and affinities, pools and
/// its own Node, CalicoNodeStatuses.
pub const WATCHES: usize = FELIX.len() + 1 + CONFD.len() + 1 + 2 + 1;

/// A running node.
pub struct RunningNode {
    /// Its address monitor, whose connection stays open.
    pub monitor: Client,
    /// The revision up to which Felix has seen endpoints.
    pub felix: Rc<Cell<i64>>,
    /// Felix' client for its own reads and writes. Open, but idle.
    _felix: Client,
    /// The clients whose watches run.
    _watching: Vec<Client>,
    node: Node,
}

impl RunningNode {
    /// Starts a node. Its watches run as tasks of this thread.
    ///
    /// # Errors
    /// The first failure. The program in question would exit and be restarted.
    pub async fn start(context: &Rc<ClientContext>, node: &Node) -> Result<Self, Failure> {
        start_up(&Client::new(context, &node.node, START), node).await?;
        // The other programs start together, after start-up (runit's services).
        let client = |names| Client::new(context, &node.node, names);
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
            let kinds = FELIX.iter().map(|kind| KeySpan::below(resource(kind, "")));
            let blocks = KeySpan::below(format!("{IPAM}/assignment/").into_bytes());
            syncer.list_and_watch(&kinds.chain([blocks]).collect::<Vec<_>>()).await
        };
        let statuses = [KeySpan::below(resource("caliconodestatuses", ""))];
        // As in `list_and_watch`: no request is dropped because another one failed.
        let (one, two, three, four) = tokio::join!(
            tunnel_addresses(&tunnel, node),
            status.list_and_watch(&statuses),
            bgp(&confd, node),
            felix_up
        );
        let watches_of_all = [one?, two?, three?, four?];
        monitor.get(resource("nodes", &node.name)).await?;
        let seen = Rc::new(Cell::new(0));
        for watches in watches_of_all {
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

    /// Runs the address monitor once. A failure is recorded.
    pub async fn look(&self) {
        let _ = self.monitor.get(resource("nodes", &self.node.name)).await;
    }
}

/// `calico-node -startup` (`startup.go`; `clientv3/client.go`, EnsureInitialized) in a cluster that
/// was started before, on a connection of its own. Reading `nodes/foo` checks that etcd responds.
async fn start_up(client: &Client, node: &Node) -> Result<(), Failure> {
    let mine = resource("nodes", &node.name);
    client.get(resource("nodes", "foo")).await?;
    client.list(&KeySpan::below(resource("blockaffinities", ""))).await?;
    if client.get(mine.clone()).await?.is_none() {
        client.write(&mine, 0).await?;
    }
    // Checks whether another node has the same address.
    client.list(&KeySpan::below(resource("nodes", ""))).await?;
    client.list(&KeySpan::below(resource("ippools", ""))).await?;
    make(client, resource("clusterinformations", "default")).await?;
    for tier in TIERS {
        client.write(&resource("tiers", tier), 0).await?;
    }
    make(client, resource("felixconfigurations", "default")).await?;
    make(client, resource("felixconfigurations", &format!("node.{}", node.name))).await
}

/// Get, then Create if there is none; another node may be faster.
async fn make(client: &Client, key: Vec<u8>) -> Result<(), Failure> {
    if client.get(key.clone()).await?.is_none() {
        client.write(&key, 0).await?;
    }
    Ok(())
}

/// `-allocate-tunnel-addrs` (`allocateip.go`, `lib/ipam/ipam.go`): claims a block, assigns an
/// address for VXLAN, and writes it to the Node.
async fn tunnel_addresses(client: &Client, node: &Node) -> Result<Watches, Failure> {
    let mine = resource("nodes", &node.name);
    let watches = client
        .list_and_watch(&[KeySpan::below(resource("ippools", "")), KeySpan::one(mine.clone())])
        .await?;
    client.get(mine.clone()).await?;
    let handle = format!("{IPAM}/handle/vxlan-tunnel-addr-{}", node.name).into_bytes();
    if client.get(handle.clone()).await?.is_none() {
        client.get(format!("{IPAM}/config").into_bytes()).await?;
        client.list(&KeySpan::below(resource("ipreservations", ""))).await?;
        client.list(&KeySpan::below(node.affinities())).await?;
        client.list(&KeySpan::below(format!("{IPAM}/assignment/").into_bytes())).await?;
        // Pending affinity, block, confirmed affinity (`ipam_block_reader_writer.go`).
        let pending = match client.write(&node.affinity_key(), 0).await? {
            WriteResult::Written(revision) | WriteResult::Conflict(revision) => revision,
        };
        let block = match client.write(&node.block_key(), 0).await? {
            WriteResult::Written(revision) | WriteResult::Conflict(revision) => revision,
        };
        client.write_with_retries(&node.affinity_key(), pending).await?;
        client.write(&handle, 0).await?;
        client.write_with_retries(&node.block_key(), block).await?;
    }
    let revision = client.get(mine.clone()).await?.map_or(0, |pair| pair.mod_revision);
    client.write_with_retries(&mine, revision).await?;
    Ok(watches)
}

/// confd's lists and watches (`bgpsyncer.go`).
async fn bgp(client: &Client, node: &Node) -> Result<Watches, Failure> {
    client.get(resource("bgpconfigurations", "default")).await?;
    let affinities = KeySpan::below(format!("{IPAM}/host/{}/", node.name).into_bytes());
    let kinds = CONFD.iter().map(|kind| KeySpan::below(resource(kind, "")));
    client.list_and_watch(&kinds.chain([affinities]).collect::<Vec<_>>()).await
}

/// Felix' reads before its syncer starts (`felix/daemon/daemon.go`).
async fn felix_reads(client: &Client, node: &Node) -> Result<(), Failure> {
    client.get(resource("clusterinformations", "default")).await?;
    client.get(resource("felixconfigurations", "default")).await?;
    client.get(resource("felixconfigurations", &format!("node.{}", node.name))).await?;
    client.get(resource("nodes", &node.name)).await?;
    client.list(&KeySpan::below(resource("felixconfigurations", ""))).await?;
    client.list(&KeySpan::below(resource("ippools", ""))).await.map(drop)
}
