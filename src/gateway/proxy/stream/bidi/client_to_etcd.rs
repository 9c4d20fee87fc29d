//! The direction from the client to etcd: judges each message, then forwards it or refuses it in
//! its place.

use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;
use etcd_warden_core::authorize::{Denial, Reason};
use etcd_warden_core::keyspace::KeyRange;
use etcd_warden_core::policy::Mode;
use etcd_warden_core::watch_ledger::{Refusal, slots_for};
use etcd_warden_core::wire;
use etcd_warden_core::wire::frame::{self, Frames};
use etcd_warden_core::wire::watch::WatchRequest;
use h2::RecvStream;
use tokio::time::sleep;

use super::BidiStream;
use crate::audit::OwnedAccesses;
use crate::metrics::reason::Limit;
use crate::proxy::budget::Reservation;
use crate::proxy::call::{Admission, limited};
use crate::proxy::limits::{READ_BUFFER, STREAM_WINDOW};
use crate::proxy::live_permit::LivePermit;
use crate::proxy::message_pace::MessagePace;
use crate::proxy::outcome::Abort;
use crate::proxy::reply::{Status, code};
use crate::proxy::request_body::denial_of;
use crate::proxy::stream::{Asked, Request, decide, payload, record};
use crate::proxy::upload::{Unsent, Upload};

/// Limit on the proxy's own messages that wait for the client, and on creates without a response.
/// At the limit, the proxy reads no further requests. So a client that does not read its responses
/// cannot make the proxy hold more.
const MAX_WAITING: usize = 256;

impl BidiStream<'_> {
    /// Forwards messages. Never returns: `etcd_to_client` ends the stream.
    pub(super) async fn client_to_etcd(
        &self,
        body: &mut RecvStream,
        mut send: Option<Upload>,
    ) -> Infallible {
        if let Err(abort) = self.forward_all(body, &mut send).await {
            self.abort.set(Some(abort));
            self.wake_to_client.notify_one();
        }
        std::future::pending().await
    }

    /// Judges and forwards messages until the client ends its side. etcd then ends the stream.
    ///
    /// # Errors
    /// If the stream must end: how.
    async fn forward_all(
        &self,
        body: &mut RecvStream,
        send: &mut Option<Upload>,
    ) -> Result<(), Abort> {
        let mut frames = Frames::new(self.call.shared().config.limits.max_request_bytes);
        let mut hold = Reservation::empty(&self.call.client.share);
        let mut pace = MessagePace::default();
        loop {
            self.send_cancels(send);
            // Forward each complete message.
            let next = frames.next().map_err(|fault| self.malformed_stream(&denial_of(fault)))?;
            if let Some(framed) = next {
                self.forward_one(framed, send).await?;
                pace.after_message().await;
                continue;
            }
            // Charge the bytes that are held to the budget. An incomplete message keeps its whole
            // read buffer alive. While nothing is read, h2 may receive a whole stream window.
            let may_read = self.may_read();
            let piece = if frames.is_empty() { 0 } else { frames.len().max(READ_BUFFER) };
            if !hold.resize(piece.saturating_add(if may_read { 0 } else { STREAM_WINDOW })) {
                if self.is_shadowed() {
                    return Err(Abort::Stop(Status::open_again()));
                }
                self.call.shared().metrics.limit_hit(Limit::HeldBytes);
                return Err(Abort::Stop(Status::too_many_streams()));
            }
            // Read.
            let chunk = tokio::select! {
                biased;
                () = self.wake_to_etcd.notified() => continue,
                chunk = body.data(), if may_read => chunk,
            };
            match chunk {
                Some(Ok(chunk)) => {
                    let _ = body.flow_control().release_capacity(chunk.len());
                    frames.push(chunk);
                }
                Some(Err(_)) => return Err(Abort::ClientGone),
                None if frames.is_empty() => {
                    // Without a stream to etcd, the proxy ends the call with the status that etcd
                    // would send.
                    let Some(send) = send else {
                        return Err(Abort::Stop(Status::new(code::OK, "")));
                    };
                    send.half_close();
                    return Ok(());
                }
                None => return Err(self.malformed_stream(&denial_of(frame::FrameFault::Cut))),
            }
        }
    }

    async fn forward_one(&self, framed: Bytes, send: &mut Option<Upload>) -> Result<(), Abort> {
        let plain = self.call.plain(framed).await;
        let read = plain
            .as_ref()
            .map_err(Denial::clone)
            .and_then(|plain| Ok(Asked::read(self.method, payload(&plain.framed))?));

        // Wait for the rate limit and for etcd's window. All waits come before the decision, so
        // that nothing is written under a policy that is no longer in effect.
        if let Ok(asked) = &read {
            self.until_the_rate_allows(&asked.request).await;
        }
        if let (Some(send), Ok(plain)) = (&mut *send, &plain) {
            send.ready(plain.framed.len()).await;
        }

        // Decide under the current policy.
        let judging = Instant::now();
        let (caller, mut decision) = loop {
            let caller = self.call.client.caller();
            let decision = decide(self.call, &caller, &read).await;
            // The policy may have changed while `decide` asked etcd about a lease.
            if caller.policy.generation == self.call.shared().policy.generation() {
                break (caller, decision);
            }
        };
        if let (Ok(_), Ok(asked), Mode::Enforce) = (&decision, &read, caller.principal.mode)
            && let Request::Watch(WatchRequest::Create(range)) = asked.request
            && let Err(limit) = self.within_limits(range)
        {
            self.call.shared().metrics.limit_hit(limit);
            decision = Err(limited(limit));
        }

        // Record.
        let accesses =
            read.as_ref().map(|asked| OwnedAccesses::from(&asked.accesses)).unwrap_or_default();
        if let Err(full) = record(self.call, &caller, self.method, &decision, accesses, judging) {
            decision = Err(full);
        }

        // Refuse.
        let (framed, asked) = match (&plain, &read) {
            (Ok(plain), Ok(asked)) => (plain.framed.clone(), asked),
            // Prefer the decision's denial: a client without any right must not learn how its
            // message was read.
            (Err(malformed), _) | (_, Err(malformed)) => {
                return Err(self.malformed_stream(decision.as_ref().err().unwrap_or(malformed)));
            }
        };
        let permit = match decision {
            Ok(permit) => LivePermit::new(permit, self.call.client),
            Err(denial) => return self.refuse_one(&asked.request, &denial),
        };
        if self.admission == Admission::Overflow
            && !matches!(asked.request, Request::Watch(WatchRequest::Create(_)))
        {
            // Cancel or progress: an overflow stream has no watches, so there is nothing to do.
            return Ok(());
        }

        // Forward. If there is no upload, the client had no right or no slot when it opened this
        // stream, and now has both. The status makes it open a new stream, which is sent to etcd.
        let Some(send) = send else { return Err(Abort::Stop(Status::open_again())) };
        if let Request::Watch(WatchRequest::Create(range)) = asked.request {
            self.ledger.borrow_mut().create_forwarded(range.into());
        }
        send.write(&permit, framed, false).await.map_err(|unsent| match unsent {
            Unsent::Closed => Abort::Stop(Status::lost()),
            Unsent::Withdrawn | Unsent::Cut => Abort::Stop(Status::open_again()),
        })
    }

    /// Delays a request that cannot be refused in its place (any but a watch create) until the rate
    /// limit permits it. Call it before the decision, because the policy may change meanwhile.
    async fn until_the_rate_allows(&self, request: &Request<'_>) {
        let client = self.call.client;
        while !matches!(request, Request::Watch(WatchRequest::Create(_)))
            && client.caller().principal.mode == Mode::Enforce
            && let Err(wait) = client.quota.try_request()
        {
            sleep(wait).await;
        }
    }

    /// Charges a permitted create to the identity's quota: the rate and the watch slots.
    fn within_limits(&self, range: KeyRange<'_>) -> Result<(), Limit> {
        let quota = &self.call.client.quota;
        // If a request slot is free again, continue: the client is then told to open a new stream.
        if self.admission == Admission::Overflow && quota.requests.try_acquire().is_none() {
            return Err(Limit::RequestsInFlight);
        }
        quota.try_request().map_err(|_| Limit::RequestsPerSecond)?;
        if self.admission == Admission::Regular && !self.slots.try_acquire(slots_for(range)) {
            return Err(Limit::Watches);
        }
        Ok(())
    }

    /// Refuses one message in its place.
    ///
    /// # Errors
    /// The stream must end.
    fn refuse_one(&self, request: &Request<'_>, denial: &Denial) -> Result<(), Abort> {
        match request {
            // A response with TTL 0 would mean that the lease has expired, but that is not known.
            // The client must retry on a new stream.
            Request::KeepAlive(_) if denial.reason == Reason::LeaseUnknown => {
                return Err(self.refused_stream(denial));
            }
            // clientv3 gives up the lease on any other status code.
            Request::KeepAlive(_) if denial.reason == Reason::Limit => {
                return Err(Abort::Stop(Status::too_many_streams()));
            }
            Request::KeepAlive(id) => {
                self.queue(wire::lease::keep_alive_gone(&self.header.borrow(), *id));
            }
            Request::Watch(WatchRequest::Create(_)) => {
                let refusal = match denial.reason {
                    Reason::Limit | Reason::AuditFull => Refusal::TooMany,
                    _ => Refusal::Denied,
                };
                let now = self.ledger.borrow_mut().create_refused(refusal);
                self.slots.shrink_to(self.ledger.borrow().slots());
                if now {
                    self.queue(self.refused_create(refusal));
                }
            }
            // Cancel and progress requests access no key. They are denied only if the client has no
            // binding any more, and then its watches have ended already. clientv3 does not wait for
            // a response to either request.
            Request::Watch(_) => {}
        }
        Ok(())
    }

    /// Ends the stream because of a message that cannot be read. If shadow mode has begun since the
    /// stream was opened, the client is told to open it again, and then it passes through.
    fn malformed_stream(&self, denial: &Denial) -> Abort {
        if self.is_shadowed() {
            Abort::Stop(Status::open_again())
        } else if denial.reason == Reason::Limit {
            // At RESOURCE_EXHAUSTED clientv3 ends all its watches for good.
            Abort::Stop(Status::too_many_streams())
        } else {
            self.refused_stream(denial)
        }
    }

    fn is_shadowed(&self) -> bool {
        self.call.client.caller().principal.mode == Mode::Shadow
    }

    fn may_read(&self) -> bool {
        self.to_client.borrow().len().max(self.ledger.borrow().pending()) < MAX_WAITING
    }

    fn send_cancels(&self, send: &mut Option<Upload>) {
        let Some(send) = send else { return };
        for id in self.to_cancel.take() {
            send.cancel_watch(id);
        }
    }
}
