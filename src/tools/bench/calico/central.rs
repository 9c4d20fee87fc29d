//! The programs that run once per cluster: kube-controllers and calicoctl.

use std::rc::Rc;
use std::time::Duration;

use super::client::{Client, ClientContext, KeySpan, OperationNames};
use super::cluster::{CONTROLLERS, IPAM, TIERS, resource};
use crate::bench::connection::Failure;
use crate::bench::identity::Identity;

const CONTROL: OperationNames = OperationNames {
    read: "controllers read",
    list: "controllers list",
    write: "controllers write",
    watch: "controllers watch",
};
const CALICOCTL: OperationNames = OperationNames {
    read: "calicoctl read",
    list: "calicoctl list",
    write: "calicoctl write",
    watch: "calicoctl watch",
};

/// Interval of health checks, each of which begins with EnsureInitialized
/// (`kube-controllers/cmd/kube-controllers/main.go`, `run.go`).
pub const HEALTH_PERIOD: Duration = Duration::from_secs(10);

/// calico/kube-controllers.
pub struct Controllers(Client);

impl Controllers {
    /// Starts it. Its watches run as tasks of this thread.
    ///
    /// # Errors
    /// The first failure.
    pub async fn start(context: &Rc<ClientContext>, identity: &Identity) -> Result<Self, Failure> {
        let client = Client::new(context, identity, CONTROL);
        initialize(&client).await?;
        let own = resource("kubecontrollersconfigurations", "default");
        if client.get(own.clone()).await?.is_none() {
            client.write(&own, 0).await?;
        }
        client.list(&KeySpan::one(own)).await?;
        // The initial list of each controller (policy, namespace and serviceaccount,
        // workloadendpoint, node).
        for kind in ["networkpolicies", "profiles", "workloadendpoints", "nodes"] {
            client.list(&KeySpan::below(resource(kind, ""))).await?;
        }
        let kinds = CONTROLLERS
            .iter()
            .chain(&["kubecontrollersconfigurations"])
            .map(|kind| KeySpan::below(resource(kind, "")));
        let blocks = KeySpan::below(format!("{IPAM}/assignment/").into_bytes());
        let watches = client.list_and_watch(&kinds.chain([blocks]).collect::<Vec<_>>()).await?;
        tokio::task::spawn_local(watches.run(Rc::default()));
        Ok(Self(client))
    }

    /// Sends one health check. Failures are recorded.
    pub async fn check(&self) {
        let _ = initialize(&self.0).await;
    }
}

/// EnsureInitialized (`clientv3/client.go`): creates the tiers without checking whether they exist.
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

/// `calicoctl get workloadendpoints --all-namespaces` on its own connection. Each command reads the
/// version first (`version_mismatch.go`). Failures are recorded.
pub async fn calicoctl(context: &Rc<ClientContext>, identity: &Identity) {
    let client = Client::new(context, identity, CALICOCTL);
    let _ = client.get(resource("clusterinformations", "default")).await;
    let _ = client.list(&KeySpan::below(resource("workloadendpoints", ""))).await;
}
