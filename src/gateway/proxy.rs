//! The request path. Read the files in this order:
//!
//! ```text
//! listener          accepts, limits connections, hands sockets to the workers
//!   pending           sockets whose PROXY header or first byte has not arrived
//!   handshakes        the TLS handshakes in progress, shared by address
//! worker            one thread, one runtime, its own connections to etcd
//! connection        TLS handshake, certificate -> identity -> principal
//!   client            the client's identity, shares and end
//!   connection_set    all clients of a worker, verified again when the trust changes
//! session           HTTP/2: runs the calls of one client in one task
//!   wake_set          polls only the subtasks that were woken
//!   poll_budget       limits the work in one poll of the task
//!   scheduler         shares a worker's time: decides which connection is polled next, by identity
//!   backpressure      reads and sends nothing while the socket is blocked
//!   keepalive         pings, idle time
//!   lifetime          the end of the certificate, the maximum age
//!   rejections        records requests that the HTTP/2 layer rejected
//! quota             the limits of one identity: slots and rate
//! call              one call, from its request head to its record
//!   head              method and metadata
//!   call/admission    slots, rate and encoding, before the body is read
//!   call/unary        one message: receive -> judge -> record -> forward
//!     request_body      held until it can be judged
//!     encoding          compressed messages, decompressed
//!     budget            held bytes, shared by identity
//!   judge             message -> accesses -> decision
//!     lease_lookup      the keys of leases, as evidence
//!       batch             one lookup for all requests that wait for it
//!   call/permitted    forwards permitted requests
//!     live_permit       a permit that can be withdrawn
//!     forward           permit and bytes -> etcd; retries requests that no member has processed
//!     upload            writes the request; each write needs a valid permit
//!   relay             passes the response on, with flow control from end to end
//!     response_body     bytes of the response that have arrived
//!     delivery          bytes that wait for the client, charged to its identity
//!     rewrite           changes a few messages: member URLs, lists of leases, lease ids
//!   stream            Watch and LeaseKeepAlive: judges each message when it arrives
//!     message_pace      limits the messages that are judged in one poll
//!     stream/bidi       both directions of one stream
//!     open_streams      the list for /debug/streams
//!   passthrough       shadow mode's requests that cannot be judged before they are sent
//! outcome           how a call ends
//! reply             the proxy's own statuses; no other file creates one
//! record            metrics and audit log
//! live_policy       the policy in effect
//! limits            sizes that several of these files use
//! ```

pub mod backpressure;
pub mod budget;
pub mod call;
pub mod client;
pub mod connection;
pub mod connection_set;
pub mod delivery;
pub mod encoding;
pub mod forward;
pub mod handshakes;
pub mod head;
pub mod judge;
pub mod keepalive;
pub mod lease_lookup;
pub mod lifetime;
mod limits;
pub mod listener;
pub mod live_permit;
pub mod live_policy;
mod message_pace;
pub mod open_streams;
pub mod outcome;
pub mod passthrough;
pub mod pending;
pub mod poll_budget;
pub mod quota;
pub mod record;
pub mod rejections;
pub mod relay;
pub mod reply;
pub mod request_body;
pub mod response_body;
pub mod rewrite;
pub mod scheduler;
pub mod session;
pub mod stream;
pub mod upload;
pub mod wake_set;
pub mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use etcd_warden_core::lease_id::LeaseKey;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::tls::LiveTls;
use crate::upstream::control::Control;
use crate::upstream::members::Members;
use live_policy::LivePolicy;
use open_streams::OpenStreams;
use quota::Quotas;

/// The state that all workers share.
pub struct Shared {
    /// The effective configuration.
    pub config: Config,
    /// The policy in effect.
    pub policy: LivePolicy,
    /// True until etcd has reported whether its own auth is off, which shadow mode requires. Until
    /// then, every call gets UNAVAILABLE and the client retries. Enforcement instead might refuse a
    /// call for good that shadow mode would forward.
    pub awaits_auth_status: AtomicBool,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The audit log.
    pub audit: Audit,
    /// The key of the marks in lease ids.
    pub lease_key: LeaseKey,
    /// etcd's members.
    pub members: Arc<Members>,
    /// The proxy's own requests to the members.
    pub control: Control,
    /// The certificates in effect, towards clients and towards etcd.
    pub tls: Arc<LiveTls>,
    /// Open streams, for `/debug/streams`.
    pub open_streams: OpenStreams,
    /// The limits of each identity.
    pub quotas: Quotas,
    /// Cancelled when the drain begins. Streams end; other calls may finish.
    pub drain: CancellationToken,
    /// The last request id in the audit log.
    pub request_ids: AtomicU64,
}

impl Shared {
    /// The next request id for the audit log, unique within this process.
    pub fn next_request_id(&self) -> u64 {
        self.request_ids.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use bytes::Bytes;
    use h2::RecvStream;
    use h2::server::SendResponse;
    use http::Request;

    use super::*;
    use client::Client;
    use session::Session;
    use worker::{Accepted, Worker};

    fn call_size<F: Future>(
        _: impl Fn(Rc<Client>, Request<RecvStream>, SendResponse<Bytes>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    fn connection_size<F: Future>(_: impl Fn(Rc<Worker>, Accepted) -> F) -> usize {
        size_of::<F>()
    }

    /// Ten thousand connections need ten thousand of each. (`FuturesUnordered` allocates one call
    /// future more than there are calls.) So rare states are on the heap.
    #[test]
    fn the_futures_of_calls_and_connections_are_small() {
        let sizes = [
            ("call", call_size(call::serve), 4_672),
            ("connection", connection_size(connection::serve), 3_328),
            ("session", size_of::<Session>(), 2_816),
        ];
        for (name, size, max) in sizes {
            assert!(size <= max, "a {name} has {size} bytes, expected at most {max}");
        }
    }
}
