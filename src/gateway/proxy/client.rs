//! One client that is connected: who it is, what it may hold, and whether it is to go.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use etcd_warden_core::identity::Identity;
use etcd_warden_core::policy::Mode;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio_util::sync::CancellationToken;

use super::budget::Share;
use super::forward::Forwarder;
use super::judge::Caller;
use super::lifetime;
use super::outbox::Outbox;
use super::quota::Quota;
use super::reply::Status;
use super::worker::Worker;
use crate::metrics::reason::Termination;
use crate::tls::{ClientTrust, HandshakeFailure, VerifiedChain};

/// A client, from the end of the handshake to the end of the connection.
pub struct Client {
    /// The thread that serves it.
    pub worker: Rc<Worker>,
    /// What its certificate says.
    pub identity: Arc<Identity>,
    /// Where it calls from: the balancer's word for it, with PROXY protocol.
    pub peer: SocketAddr,
    /// Its way to etcd.
    pub forwarder: Forwarder,
    /// Cancelled when the connection is to end: what only waits ends, what is under way is
    /// finished.
    pub ending: CancellationToken,
    /// Cancelled when its certificate counts no more: nothing of it goes on but calls that etcd
    /// has already.
    pub over: CancellationToken,
    /// What it may make the worker hold, together with its other connections.
    pub share: Share,
    /// What it may leave unread, together with its other connections.
    pub unread: Share,
    /// What it was sent and has not taken yet.
    pub outbox: Rc<Outbox>,
    /// What it may have at once, together with its other connections on all workers.
    pub quota: Arc<Quota>,
    caller: RefCell<Rc<Caller>>,
    /// As TLS has verified it: the leaf, and what was sent with it.
    chain: Vec<CertificateDer<'static>>,
    /// Why the connection ends, if not because of a drain.
    left: Cell<Option<Termination>>,
    /// As [`Client::over`]: asked for each stream.
    is_over: Cell<bool>,
    /// Its calls that are open on this connection.
    calls: Cell<usize>,
}

impl Client {
    /// A client that `caller` says may be here.
    #[must_use]
    pub fn new(
        worker: Rc<Worker>,
        peer: SocketAddr,
        identity: Arc<Identity>,
        chain: Vec<CertificateDer<'static>>,
        caller: Caller,
        quota: Arc<Quota>,
    ) -> Self {
        Self {
            forwarder: Forwarder::new(worker.pool.clone(), worker.shared.metrics.clone()),
            ending: worker.shared.drain.child_token(),
            over: CancellationToken::new(),
            share: worker.budget.share(&caller.principal.name),
            unread: worker.unread.share(&caller.principal.name),
            outbox: Rc::default(),
            quota,
            caller: RefCell::new(Rc::new(caller)),
            identity,
            peer,
            chain,
            left: Cell::new(None),
            is_over: Cell::new(false),
            calls: Cell::new(0),
            worker,
        }
    }

    /// The caller under the policy that counts now: one load of it unless it has changed.
    #[must_use]
    pub fn caller(&self) -> Rc<Caller> {
        let live = &self.worker.shared.policy;
        if self.caller.borrow().policy.generation != live.generation() {
            let caller = Caller::of(live.current(), &self.identity);
            let enforced = caller.principal.mode == Mode::Enforce;
            *self.caller.borrow_mut() = Rc::new(caller);
            // In shadow mode a connection may outlive its certificate.
            if enforced && !self.is_over() && lifetime::has_ended(self.identity.not_after) {
                self.end_identity();
            }
        }
        self.caller.borrow().clone()
    }

    /// One call more or less is open on its connection.
    pub fn count_call(&self, opened: bool) {
        let calls = self.calls.get();
        self.calls.set(if opened { calls.saturating_add(1) } else { calls.saturating_sub(1) });
    }

    /// Whether it has several calls open on its connection.
    #[must_use]
    pub fn has_several_calls(&self) -> bool {
        self.calls.get() > 1
    }

    /// Why its connection ends.
    #[must_use]
    pub fn why(&self) -> Termination {
        self.left.get().unwrap_or(Termination::Drain)
    }

    /// Asks another judge, and ends the connection if the client would not be let in now.
    pub fn judge_again(&self, trust: &ClientTrust) {
        // In shadow mode a connection may outlive its certificate, but not its revocation or its
        // CA: it is judged as at that end.
        let end = UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(self.identity.not_after).unwrap_or(0),
        ));
        let shadow = self.caller().principal.mode == Mode::Shadow;
        let time = if shadow { UnixTime::now().min(end) } else { UnixTime::now() };
        let verdict = trust.verify_at(&self.chain, time).map_err(HandshakeFailure::code);
        // Two CAs may have changed their names: then bindings would mean somebody else.
        let same_ca = |proved: VerifiedChain| {
            if proved.ca == self.identity.ca { Ok(()) } else { Err("another_ca") }
        };
        if let Err(reason) = verdict.and_then(same_ca)
            && !self.is_over.get()
        {
            let (peer, identity, serial) =
                (self.peer, &self.caller.borrow().principal.name, &self.identity.serial);
            tracing::warn!(%peer, %identity, %serial, reason, "the certificate counts no more: its connection ends");
            self.end_identity();
        }
    }

    /// The connection ends, and a call that stays open with it: what its client is told.
    #[must_use]
    pub fn ended_with_connection(&self) -> Status {
        let (why, status) = match self.why() {
            Termination::Drain => (Termination::Drain, Status::draining()),
            why => (why, Status::open_again()),
        };
        self.worker.shared.metrics.terminated(why);
        status
    }

    /// The connection is to end.
    pub fn end(&self, why: Termination) {
        self.left.set(Some(why));
        self.ending.cancel();
    }

    /// Its certificate counts no more.
    pub fn end_identity(&self) {
        self.is_over.set(true);
        self.over.cancel();
        self.end(Termination::Identity);
    }

    /// Whether its certificate counts no more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// The client has reset a stream. What that costs is counted where its frames come in
    /// ([`crate::http2::cost`]).
    pub fn was_reset(&self) {
        self.worker.shared.metrics.http2_resets.increment(1);
    }
}
