//! A pod comes, or goes: the CNI plugin and its IPAM, each a process with a connection of its own.

use std::rc::Rc;

use super::client::{Client, Keys, Names, Stage};
use super::cluster::{IPAM, Node, handle, old_handle, resource};
use crate::bench::connection::Failure;

const CNI: Names =
    Names { read: "cni read", list: "cni list", write: "cni write", watch: "cni watch" };

/// CNI ADD (`cni-plugin/pkg/plugin/plugin.go`, `pkg/ipamplugin/ipam_plugin.go`,
/// `lib/ipam/ipam.go`), from a block that the node has.
///
/// # Errors
/// What failed first: the pod would not start.
pub async fn add(stage: &Rc<Stage>, node: &Node, pod: u64) -> Result<(), Failure> {
    let plugin = Client::new(stage, &node.cni, CNI);
    plugin.get(resource("clusterinformations", "default")).await?;
    // By the beginning of its name, which sends no slash at the end.
    plugin.list(&Keys::below(node.endpoint_prefix(pod))).await?;
    {
        let ipam = Client::new(stage, &node.cni, CNI);
        ipam.get(format!("{IPAM}/config").into_bytes()).await?;
        ipam.list(&Keys::below(resource("ipreservations", ""))).await?;
        ipam.get(resource("nodes", &node.name)).await?;
        ipam.list(&Keys::below(resource("ippools", ""))).await?;
        ipam.list(&Keys::below(node.affinities())).await?;
        let block = ipam.get(node.block_key()).await?.map_or(0, |pair| pair.mod_revision);
        let handle = handle(node, pod);
        let there = ipam.get(handle.clone()).await?.map_or(0, |pair| pair.mod_revision);
        ipam.write_anyhow(&handle, there).await?;
        ipam.write_anyhow(&node.block_key(), block).await?;
    }
    plugin.write_anyhow(&node.endpoint(pod), 0).await.map(drop)
}

/// CNI DEL, of a pod that was added.
///
/// # Errors
/// What failed first: kubelet would try again.
pub async fn delete(stage: &Rc<Stage>, node: &Node, pod: u64) -> Result<(), Failure> {
    let plugin = Client::new(stage, &node.cni, CNI);
    plugin.get(resource("clusterinformations", "default")).await?;
    {
        let ipam = Client::new(stage, &node.cni, CNI);
        let handle = handle(node, pod);
        let there = ipam.get(handle.clone()).await?;
        ipam.get(old_handle(pod)).await?;
        ipam.get(format!("{IPAM}/config").into_bytes()).await?;
        let block = ipam.get(node.block_key()).await?.map_or(0, |pair| pair.mod_revision);
        ipam.write_anyhow(&node.block_key(), block).await?;
        if let Some(pair) = there {
            ipam.delete(&handle, pair.mod_revision).await?;
        }
        ipam.get(resource("nodes", &node.name)).await?;
        ipam.list(&Keys::below(resource("ippools", ""))).await?;
    }
    match plugin.get(node.endpoint(pod)).await? {
        Some(pair) => plugin.delete(&node.endpoint(pod), pair.mod_revision).await,
        None => {
            let missing = Failure::Wrong(format!(
                "the endpoint of pod {pod} on {} is gone, and nobody else removes it",
                node.name
            ));
            stage.book.observe("pod removed", stage.book.now(), &Err(missing.clone()));
            Err(missing)
        }
    }
}
