//! etcd, as the proxy sees it: members that are asked now and then how they are, and connections
//! that carry requests to them.
//!
//! ```text
//! members  shared by all workers: which member is well, its last response header, who leads
//! dial     TCP and TLS to a member, for whichever of its addresses answers first
//! pace     how often the connections to a member are pinged
//! control  the proxy's own questions: health, auth status
//! question which keys a lease has, asked because of a client
//! health   what a member can serve, asked in a way that harms no etcd
//! pool     one per worker thread: h2 connections by member and class, one kept open of each, more opened when those are full
//! warm     what keeps that one open
//! release  which etcd this version was written for
//! link     one h2 connection and the task that drives it
//! window   what such a connection was sent and etcd may not have read
//! ```
//!
//! **Isolation.** HTTP/2 ties the windows of all streams of a connection together, so that a few
//! readers who never read could stop everybody else. Here they cannot: the connection window that
//! we give etcd is at least the sum of the stream windows of all streams that a connection may
//! carry (`link::CONNECTION_WINDOW`), so that a stream which is not read stops only itself. Long
//! streams and bulk transfers have connections of their own all the same: etcd's older TLS listener
//! starves watches that share a connection with large reads (etcd #15402).

pub mod control;
pub mod dial;
pub mod health;
pub mod link;
pub mod members;
pub mod pace;
pub mod pool;
pub mod question;
pub mod release;
pub mod warm;
pub mod window;

use etcd_warden_core::method::{Method, Shape};

/// What the proxy's own questions name as their `user-agent`.
const AGENT: &str = concat!("etcd-warden/", env!("CARGO_PKG_VERSION"));

/// Which connections a call goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Calls with one short answer.
    Unary,
    /// Streams that stay.
    Long,
    /// Transfers of unbounded size.
    Bulk,
    /// The proxy's own questions because of a client.
    Own,
}

impl Class {
    /// All classes.
    pub const ALL: [Class; 4] = [Class::Unary, Class::Long, Class::Bulk, Class::Own];

    /// The classes of calls: what clients wait for.
    pub const OF_CALLS: [Class; 3] = [Class::Unary, Class::Long, Class::Bulk];

    /// The class that `method` belongs to.
    #[must_use]
    pub const fn of(method: Method) -> Class {
        match method.shape() {
            Shape::Unary => Class::Unary,
            Shape::Bulk => Class::Bulk,
            Shape::Waiting | Shape::Subscription | Shape::Conversation => Class::Long,
        }
    }

    /// The label in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Class::Unary => "unary",
            Class::Long => "long",
            Class::Bulk => "bulk",
            Class::Own => "own",
        }
    }
}
