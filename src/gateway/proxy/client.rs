//! One connected client: its identity, its quota and shares, and the end of its connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use etcd_warden_core::identity::Identity;
use etcd_warden_core::policy::Mode;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio_util::sync::CancellationToken;

use super::backpressure::SendQueue;
use super::budget::Share;
use super::forward::Forwarder;
use super::judge::Caller;
use super::lifetime;
use super::quota::Quota;
use super::reply::Status;
use super::worker::Worker;
use crate::metrics::reason::Termination;
use crate::tls::{ClientTrust, HandshakeFailure, VerifiedChain};

/// A client, from the end of the handshake to the end of the connection.
pub struct Client {
    /// The worker that serves the client.
    pub worker: Rc<Worker>,
    /// The identity in the client's certificate.
    pub identity: Arc<Identity>,
    /// The client's address. With the PROXY protocol, the one that the load balancer reports.
    pub peer: SocketAddr,
    /// Sends the client's requests to etcd.
    pub forwarder: Forwarder,
    /// Cancelled when the connection must end. Calls that only wait end; the others may finish.
    pub ending: CancellationToken,
    /// Cancelled when the certificate is no longer accepted. Only calls whose whole request was
    /// sent to etcd may finish.
    pub over: CancellationToken,
    /// The budget for held request bytes, shared by the connections of its identity.
    pub share: Share,
    /// The budget for unread response bytes, shared by the connections of its identity.
    pub unread: Share,
    /// Backpressure from its socket.
    pub send_queue: Rc<SendQueue>,
    /// The limits of its identity, over all workers.
    pub quota: Arc<Quota>,
    caller: RefCell<Rc<Caller>>,
    /// The chain that TLS has verified, leaf first.
    chain: Vec<CertificateDer<'static>>,
    /// Why the connection ends, if not because of a drain.
    end_reason: Cell<Option<Termination>>,
    /// True if [`Client::over`] is cancelled. This is cheaper to check, and each stream does.
    is_over: Cell<bool>,
    /// The number of open calls on this connection.
    calls: Cell<usize>,
}

impl Client {
    /// A client whose handshake has ended.
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
            send_queue: Rc::default(),
            quota,
            caller: RefCell::new(Rc::new(caller)),
            identity,
            peer,
            chain,
            end_reason: Cell::new(None),
            is_over: Cell::new(false),
            calls: Cell::new(0),
            worker,
        }
    }

    /// The client's principal under the policy in effect. This costs one atomic load if the policy
    /// has not changed.
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

    /// Counts a call that was opened, or that has ended.
    pub fn count_call(&self, opened: bool) {
        let calls = self.calls.get();
        self.calls.set(if opened { calls.saturating_add(1) } else { calls.saturating_sub(1) });
    }

    /// Whether several calls are open on this connection.
    pub fn has_several_calls(&self) -> bool {
        self.calls.get() > 1
    }

    /// Why the connection ends.
    pub fn end_reason(&self) -> Termination {
        self.end_reason.get().unwrap_or(Termination::Drain)
    }

    /// Verifies the chain again, and ends the connection if a handshake would fail now.
    pub fn verify_again(&self, trust: &ClientTrust) {
        // In shadow mode a connection may outlive its certificate, but not its revocation or its
        // CA: an expired chain is verified as of its end.
        let end = UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(self.identity.not_after).unwrap_or(0),
        ));
        let shadow = self.caller().principal.mode == Mode::Shadow;
        let time = if shadow { UnixTime::now().min(end) } else { UnixTime::now() };
        let verified = trust.verify_at(&self.chain, time).map_err(HandshakeFailure::code);
        // Two CAs may have exchanged their names in the configuration. Bindings that name a CA
        // would then match another identity.
        let same_ca = |verified: VerifiedChain| {
            if verified.ca == self.identity.ca { Ok(()) } else { Err("another_ca") }
        };
        if let Err(reason) = verified.and_then(same_ca)
            && !self.is_over.get()
        {
            let (peer, identity, serial) =
                (self.peer, &self.caller.borrow().principal.name, &self.identity.serial);
            tracing::warn!(
                %peer, %identity, %serial, reason,
                "client certificate is no longer accepted; closing connection"
            );
            self.end_identity();
        }
    }

    /// The status for a stream that ends because its connection ends.
    pub fn ended_with_connection(&self) -> Status {
        let (reason, status) = match self.end_reason() {
            Termination::Drain => (Termination::Drain, Status::draining()),
            reason => (reason, Status::open_again()),
        };
        self.worker.shared.metrics.terminated(reason);
        status
    }

    /// Ends the connection: the client gets GOAWAY and reconnects.
    pub fn end(&self, reason: Termination) {
        self.end_reason.set(Some(reason));
        self.ending.cancel();
    }

    /// Ends the connection, because its certificate is no longer accepted.
    pub fn end_identity(&self) {
        self.is_over.set(true);
        self.over.cancel();
        self.end(Termination::Identity);
    }

    /// True if the certificate is no longer accepted.
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Counts a stream that the client has reset. The cost is charged where the frame arrives
    /// ([`crate::http2::cost`]).
    pub fn was_reset(&self) {
        self.worker.shared.metrics.http2_resets.increment(1);
    }
}
