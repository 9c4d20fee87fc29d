//! Adding and deleting a pod: the CNI plugin and its IPAM, each a process with its own connection.

use std::rc::Rc;

use super::client::{Client, ClientContext, KeySpan, OperationNames};
use super::cluster::{IPAM, Node, handle, old_handle, resource};
use crate::bench::connection::Failure;

const CNI: OperationNames =
    OperationNames { read: "cni read", list: "cni list", write: "cni write", watch: "cni watch" };

/// CNI ADD, with an address from a block of the node (`cni-plugin/pkg/plugin/plugin.go`,
/// `pkg/ipamplugin/ipam_plugin.go`, `lib/ipam/ipam.go`).
///
/// # Errors
/// The first failure. The pod would not start.
pub async fn add(context: &Rc<ClientContext>, node: &Node, pod: u64) -> Result<(), Failure> {
    let plugin = Client::new(context, &node.cni, CNI);
    plugin.get(resource("clusterinformations", "default")).await?;
    // By the prefix of its name, which does not end with a slash.
    plugin.list(&KeySpan::below(node.endpoint_prefix(pod))).await?;
    {
        let ipam = Client::new(context, &node.cni, CNI);
        ipam.get(format!("{IPAM}/config").into_bytes()).await?;
        ipam.list(&KeySpan::below(resource("ipreservations", ""))).await?;
        ipam.get(resource("nodes", &node.name)).await?;
        ipam.list(&KeySpan::below(resource("ippools", ""))).await?;
        ipam.list(&KeySpan::below(node.affinities())).await?;
        let block = ipam.get(node.block_key()).await?.map_or(0, |pair| pair.mod_revision);
        let handle = handle(node, pod);
        let there = ipam.get(handle.clone()).await?.map_or(0, |pair| pair.mod_revision);
        ipam.write_with_retries(&handle, there).await?;
        ipam.write_with_retries(&node.block_key(), block).await?;
    }
    plugin.write_with_retries(&node.endpoint(pod), 0).await.map(drop)
}

/// CNI DEL of a pod that was added.
///
/// # Errors
/// The first failure. Kubelet would retry.
pub async fn delete(context: &Rc<ClientContext>, node: &Node, pod: u64) -> Result<(), Failure> {
    let plugin = Client::new(context, &node.cni, CNI);
    plugin.get(resource("clusterinformations", "default")).await?;
    {
        let ipam = Client::new(context, &node.cni, CNI);
        let handle = handle(node, pod);
        let there = ipam.get(handle.clone()).await?;
        ipam.get(old_handle(pod)).await?;
        ipam.get(format!("{IPAM}/config").into_bytes()).await?;
        let block = ipam.get(node.block_key()).await?.map_or(0, |pair| pair.mod_revision);
        ipam.write_with_retries(&node.block_key(), block).await?;
        if let Some(pair) = there {
            ipam.delete(&handle, pair.mod_revision).await?;
        }
        ipam.get(resource("nodes", &node.name)).await?;
        ipam.list(&KeySpan::below(resource("ippools", ""))).await?;
    }
    match plugin.get(node.endpoint(pod)).await? {
        Some(pair) => plugin.delete(&node.endpoint(pod), pair.mod_revision).await,
        None => {
            let missing = Failure::Wrong(format!(
                "the endpoint of pod {pod} on {} is gone, although no other client deletes it",
                node.name
            ));
            context.recorder.record_event(
                "pod removed",
                context.recorder.now(),
                &Err(missing.clone()),
            );
            Err(missing)
        }
    }
}
