//! What runs once in a cluster.

use std::rc::Rc;
use std::time::Duration;

use super::client::{Client, Keys, Names, Stage};
use super::cluster::{CONTROLLERS, IPAM, TIERS, resource};
use crate::bench::connection::Failure;
use crate::bench::identity::Identity;

const CONTROL: Names = Names {
    read: "controllers read",
    list: "controllers list",
    write: "controllers write",
    watch: "controllers watch",
};
const CALICOCTL: Names = Names {
    read: "calicoctl read",
    list: "calicoctl list",
    write: "calicoctl write",
    watch: "calicoctl watch",
};

/// Between two health checks, each of which begins with EnsureInitialized
/// (`kube-controllers/cmd/kube-controllers/main.go`, `run.go`).
pub const HEALTH_PERIOD: Duration = Duration::from_secs(10);

/// calico/kube-controllers.
pub struct Controllers(Client);

impl Controllers {
    /// Brings it up; its watches run as tasks of this thread.
    ///
    /// # Errors
    /// What failed first.
    pub async fn start(stage: &Rc<Stage>, identity: &Identity) -> Result<Self, Failure> {
        let client = Client::new(stage, identity, CONTROL);
        initialize(&client).await?;
        let own = resource("kubecontrollersconfigurations", "default");
        if client.get(own.clone()).await?.is_none() {
            client.write(&own, 0).await?;
        }
        client.list(&Keys::one(own)).await?;
        // Each controller's first look (policy, namespace and serviceaccount, workloadendpoint,
        // node).
        for kind in ["networkpolicies", "profiles", "workloadendpoints", "nodes"] {
            client.list(&Keys::below(resource(kind, ""))).await?;
        }
        let kinds = CONTROLLERS
            .iter()
            .chain(&["kubecontrollersconfigurations"])
            .map(|kind| Keys::below(resource(kind, "")));
        let blocks = Keys::below(format!("{IPAM}/assignment/").into_bytes());
        let watches = client.list_and_watch(&kinds.chain([blocks]).collect::<Vec<_>>()).await?;
        tokio::task::spawn_local(watches.run(Rc::default()));
        Ok(Self(client))
    }

    /// One health check; its failures are noted.
    pub async fn check(&self) {
        let _ = initialize(&self.0).await;
    }
}

/// EnsureInitialized (`clientv3/client.go`): tries to make the tiers, whether they are there or
/// not.
async fn initialize(client: &Client) -> Result<(), Failure> {
    let cluster = resource("clusterinformations", "default");
    if client.get(cluster.clone()).await?.is_none() {
        client.write(&cluster, 0).await?;
    }
    for tier in TIERS {
        client.write(&resource("tiers", tier), 0).await?;
    }
    Ok(())
}

/// `calicoctl get workloadendpoints --all-namespaces`: a connection of its own; each command reads
/// the version first (`version_mismatch.go`). Its failures are noted.
pub async fn calicoctl(stage: &Rc<Stage>, identity: &Identity) {
    let client = Client::new(stage, identity, CALICOCTL);
    let _ = client.get(resource("clusterinformations", "default")).await;
    let _ = client.list(&Keys::below(resource("workloadendpoints", ""))).await;
}
