//! The path of a request. Read the files in this order:
//!
//! ```text
//! listener    accept, connection cap, PROXY header; hands the socket to a worker thread
//! arrivals    who has yet to say something, and who makes room
//! handshakes  how many are under way at once, the share of each address, and who makes room
//! worker      one thread, one runtime, its own connections to etcd
//! connection  TLS handshake, certificate -> identity -> principal
//! client      who it is, what it may hold, and whether it is to go
//! session     HTTP/2, the calls of one client
//!   part        what of it is polled
//!   turn        how much of it, before others have their turn
//!   rejections  what HTTP/2 refused before a request was there
//!   keepalive   whether it is still there
//!   lifetime    when it is told to go, and when its certificate ends
//!   roll        who is connected, judged again when CAs or revocation lists change
//! rounds      whose turn it is on a worker, by identity
//! quota       what one identity may have at once, and how fast it may ask
//! call        one request: head -> body -> judge -> forward -> record
//!   head        method and metadata
//!   intake      the request's body, held until it can be judged
//!   encoding    compressed messages, unpacked
//!   budget      how much of that is held, and by whom
//!   lease_questions  who may make the proxy ask etcd about leases, and how often
//!     round     one question: each key looked at once for an identity, others in between
//!   judge       bytes -> accesses -> verdict, lease evidence included
//!   permitted   what was allowed is carried out
//!   live_permit a permit, until it is withdrawn
//!   forward     a permit that holds, and bytes -> etcd's answer; retries of what was not sent
//!   upload      the rest of a request, each write under a permit that holds
//!   relay       the answer, passed on with flow control from end to end
//!   inflow      what of it has come from etcd, and waits
//!   delivery    what of it waits for its client, and whether there is room for that
//!   outbox      what one connection was sent and has not taken: until it has, nothing more is sent or read
//!   rewrite     the messages that are changed: member URLs, lists of leases, ids of new leases
//!   stream      Watch and LeaseKeepAlive: every message judged as it comes
//!   raw         shadow mode's way for what cannot be judged before it is sent
//! reply       the only file that makes a status
//! record      metrics and audit
//! ```

pub mod arrivals;
pub mod budget;
pub mod call;
pub mod client;
pub mod connection;
pub mod delivery;
pub mod encoding;
pub mod forward;
pub mod handshakes;
pub mod head;
pub mod inflow;
pub mod intake;
pub mod judge;
pub mod keepalive;
pub mod lease_questions;
pub mod lifetime;
pub mod listener;
pub mod live_permit;
pub mod live_policy;
pub mod outbox;
pub mod part;
pub mod permitted;
pub mod quota;
pub mod raw;
pub mod record;
pub mod registry;
pub mod rejections;
pub mod relay;
pub mod reply;
pub mod rewrite;
pub mod roll;
pub mod rounds;
pub mod session;
pub mod stream;
pub mod turn;
pub mod upload;
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
use quota::Quotas;
use registry::Registry;

/// What all workers share. Everything that changes while the program runs changes behind one of
/// these.
pub struct Shared {
    /// The effective configuration.
    pub config: Config,
    /// The policy that counts now.
    pub policy: LivePolicy,
    /// Whether shadow mode waits for etcd to say that its own auth is off. Until then every call
    /// is answered UNAVAILABLE: enforcement might refuse a client for good that shadow mode
    /// lets through.
    pub awaits_auth_status: AtomicBool,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The audit's queue.
    pub audit: Audit,
    /// The key behind lease ids.
    pub lease_key: LeaseKey,
    /// etcd's members.
    pub members: Arc<Members>,
    /// The proxy's own questions to them.
    pub control: Control,
    /// The certificates that count now, towards clients and towards etcd.
    pub tls: Arc<LiveTls>,
    /// Open streams, for `/debug/streams`.
    pub registry: Registry,
    /// What each identity may have at once.
    pub quotas: Quotas,
    /// Cancelled when the drain begins: connections finish what they have, streams end.
    pub drain: CancellationToken,
    /// The last request id that the audit has seen.
    pub request_ids: AtomicU64,
}

impl Shared {
    /// A number for one audit line, unique within this process.
    #[must_use]
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

    fn of_call<F: Future>(
        _: impl Fn(Rc<Client>, Request<RecvStream>, SendResponse<Bytes>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    fn of_connection<F: Future>(_: impl Fn(Rc<Worker>, Accepted) -> F) -> usize {
        size_of::<F>()
    }

    /// Ten thousand connections have all of these, and one call's more than they have calls
    /// (`FuturesUnordered`'s stub): what is rare in them is on the heap, while it lasts.
    #[test]
    fn what_a_call_and_a_connection_hold_while_they_wait_stays_small() {
        let sizes = [
            ("call", of_call(call::serve), 4_672),
            ("connection", of_connection(connection::serve), 3_328),
            ("session", size_of::<Session>(), 2_816),
        ];
        for (name, size, most) in sizes {
            assert!(size <= most, "a {name} has {size} bytes, and is to have {most} at most");
        }
    }
}
