//! The etcd cluster: its members, their health, and the connections to them.
//!
//! ```text
//! members        shared by all workers: each member's health, last response header, leadership
//! dial           TCP and TLS to a member, over the first of its addresses that answers
//! link           one h2 connection and the task that drives it
//! window         counts bytes that were sent over a connection and that etcd may not have read
//! ping_interval  the interval between pings on the connections to a member
//! pool           one per worker: connections by member and class, opened on demand
//! warm           keeps one connection per member and class open
//! renewal        replaces connections when the certificates towards etcd change
//! lease_query    asks etcd for the keys of a lease, because of a client's request
//! control        the gateway's own requests, through tonic
//! health         health checks
//! release        the releases of etcd that this version knows
//! ```
//!
//! **Isolation.** The HTTP/2 streams of a connection share its flow-control window. So a few
//! clients that never read could block all others. To prevent this, the window of a connection to
//! etcd is at least the sum of the windows of all streams that it may carry
//! (`link::CONNECTION_WINDOW`). A stream that is not read then blocks only itself. Even so, long
//! streams and bulk transfers have separate connections, because etcd's older TLS listener starves
//! watches that share a connection with large reads (etcd #15402).

pub mod control;
pub(crate) mod dial;
mod health;
pub(crate) mod lease_query;
pub(crate) mod link;
pub mod members;
mod ping_interval;
pub(crate) mod pool;
pub mod release;
mod renewal;
pub(crate) mod warm;
pub mod window;

use etcd_warden_core::method::{CallKind, Method};

/// `user-agent` of the gateway's own requests.
const USER_AGENT: &str = concat!("etcd-warden/", env!("CARGO_PKG_VERSION"));

/// Calls that share connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Calls with one short response.
    Unary,
    /// Streams and calls that stay open.
    Long,
    /// Transfers of unbounded size.
    Bulk,
    /// The gateway's own queries for the keys of a lease.
    Own,
}

impl Class {
    pub(crate) const ALL: [Class; 4] = [Class::Unary, Class::Long, Class::Bulk, Class::Own];

    /// The classes of clients' calls.
    pub(crate) const OF_CALLS: [Class; 3] = [Class::Unary, Class::Long, Class::Bulk];

    pub(crate) const fn of(method: Method) -> Class {
        match method.call_kind() {
            CallKind::Unary => Class::Unary,
            CallKind::BulkStreaming => Class::Bulk,
            CallKind::BlockingUnary | CallKind::ServerStreaming | CallKind::BidiStreaming => {
                Class::Long
            }
        }
    }

    /// The label in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Class::Unary => "unary",
            Class::Long => "long",
            Class::Bulk => "bulk",
            Class::Own => "own",
        }
    }
}
