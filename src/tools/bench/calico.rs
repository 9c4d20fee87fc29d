//! `etcd-warden bench calico`: the load that a Calico cluster puts on etcd, without Typha, as
//! `calico-etcd.yaml` installs it.
//!
//! What each program sends, in which order and over how many connections, is from the source of
//! Calico 3.31 and from what its real programs were seen to send (`docs/calico-access.md`,
//! `it::calico`); numbers that have another source say so where they stand. Values have
//! the size that is asked for, and not Calico's content: neither etcd nor a proxy looks into them.
//!
//! ```text
//!   cluster   names of keys, and what is there before the first node starts
//!   made      the keys that are to be removed again
//!   client    one clientv3 client: a connection, lists, guarded writes
//!   watches   and one stream with all its watches
//!   node      what runs on a node: start-up, tunnel addresses, status, confd, Felix; then its address monitor
//!   cni       one pod that comes, or goes: two processes, a new connection each
//!   central   kube-controllers and calicoctl
//!   life      one thread's share of all that
//!   scene     the threads, from the storm at the start to the end
//! ```

pub mod central;
pub mod client;
pub mod cluster;
pub mod cni;
mod life;
pub mod made;
pub mod node;
pub mod scene;
pub mod watches;
