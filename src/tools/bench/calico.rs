//! `etcd-warden bench calico`: the load that a Calico cluster without Typha puts on etcd, as
//! installed by `calico-etcd.yaml`.
//!
//! The requests of each program, their order and their connections are taken from the source of
//! Calico 3.31 and from recordings of its real programs (`docs/calico-access.md`, `it::calico`).
//! Numbers from other sources name the source. Values have the requested size, but not Calico's
//! content: neither etcd nor a proxy looks at it.
//!
//! ```text
//!   cluster       names of keys, and the keys that exist before the first node starts
//!   created_keys  the keys to delete at the end
//!   client        one clientv3 client: a connection, lists, guarded writes
//!   watches       its Watch stream with all its watches
//!   node          the programs of a node: start-up, tunnel addresses, status, confd, Felix; then
//!                 its address monitor
//!   cni           adding or deleting one pod: two processes, each with a new connection
//!   central       kube-controllers and calicoctl
//!   node_loop     one thread's share of the cluster
//!   run           the threads, from the start of all nodes to the end
//! ```

pub mod central;
pub mod client;
pub mod cluster;
pub mod cni;
mod node_loop;
pub mod created_keys;
pub mod node;
pub mod run;
pub mod watches;
