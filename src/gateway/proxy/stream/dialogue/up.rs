//! Client to etcd: every message judged, forwarded or refused in its place.

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

use super::{Closing, Dialogue, Seat};
use crate::audit::OwnedAccesses;
use crate::metrics::reason::Limit;
use crate::proxy::budget::Hold;
use crate::proxy::call::limited;
use crate::proxy::intake::denial_of;
use crate::proxy::live_permit::LivePermit;
use crate::proxy::reply::{Status, code};
use crate::proxy::session::{READ_BUFFER, STREAM_WINDOW};
use crate::proxy::stream::{Asked, Request, payload, record, verdict};
use crate::proxy::upload::{Unsent, Upload};

/// Answers of our own, and creates without an answer, that may wait before we stop listening to the
/// client: who does not read cannot make us hold more.
const MAX_WAITING: usize = 256;

impl Dialogue<'_> {
    /// Client to etcd.
    pub(super) async fn up(
        &self,
        body: &mut RecvStream,
        mut send: Option<Upload>,
    ) -> std::convert::Infallible {
        let closing = self.judge_all(body, &mut send).await;
        self.verdict.set(closing);
        self.wake_down.notify_one();
        std::future::pending().await
    }

    /// Judges and forwards until the client ends its side (`None`: etcd ends the stream) or the
    /// stream must end.
    async fn judge_all(&self, body: &mut RecvStream, send: &mut Option<Upload>) -> Option<Closing> {
        let mut frames = Frames::new(self.call.shared().config.limits.max_request_bytes);
        let mut hold = Hold::none(&self.call.client.share);
        loop {
            self.send_cancels(send);
            match frames.next() {
                Ok(Some(framed)) => {
                    if let Err(closing) = self.judge_one(framed, send).await {
                        return Some(closing);
                    }
                }
                Err(fault) => return Some(self.refused_stream(&denial_of(fault))),
                Ok(None) => {
                    let room = self.has_room();
                    // A piece keeps the buffer that it came in; where nobody listens, a window may
                    // have come.
                    let piece = if frames.is_empty() { 0 } else { frames.len().max(READ_BUFFER) };
                    if !hold.set(piece.saturating_add(if room { 0 } else { STREAM_WINDOW })) {
                        self.call.shared().metrics.limit_hit(Limit::HeldBytes);
                        return Some(Closing::With(Status::too_many_streams()));
                    }
                    let chunk = tokio::select! {
                        biased;
                        () = self.wake_up.notified() => continue,
                        chunk = body.data(), if room => chunk,
                    };
                    match chunk {
                        Some(Ok(chunk)) => {
                            let _ = body.flow_control().release_capacity(chunk.len());
                            frames.push(chunk);
                        }
                        Some(Err(_)) => return Some(Closing::Gone),
                        None if frames.is_empty() => {
                            // Where there is no etcd to end the stream, it ends here, as etcd ends
                            // it.
                            let Some(send) = send else {
                                return Some(Closing::With(Status::new(code::OK, "")));
                            };
                            send.half_close();
                            return None;
                        }
                        None => {
                            return Some(self.refused_stream(&denial_of(frame::FrameFault::Cut)));
                        }
                    }
                }
            }
        }
    }

    async fn judge_one(&self, framed: Bytes, send: &mut Option<Upload>) -> Result<(), Closing> {
        let plain = self.call.plain(framed).await;
        let read = plain
            .as_ref()
            .map_err(Denial::clone)
            .and_then(|plain| Ok(Asked::read(self.method, payload(&plain.framed))?));
        if let Ok(asked) = &read {
            self.until_the_rate_allows(&asked.request).await;
        }
        // All waiting comes before the verdict, so that nothing is written under a policy that is
        // no longer in effect.
        if let (Some(send), Ok(plain)) = (&mut *send, &plain) {
            send.ready(plain.framed.len()).await;
        }
        let judging = Instant::now();
        let (caller, mut verdict) = loop {
            let caller = self.call.client.caller();
            let verdict = verdict(self.call, &caller, &read).await;
            // etcd may have been asked about a lease meanwhile.
            if caller.policy.generation == self.call.shared().policy.generation() {
                break (caller, verdict);
            }
        };
        if let (Ok(_), Ok(asked), Mode::Enforce) = (&verdict, &read, caller.principal.mode)
            && let Request::Watch(WatchRequest::Create(range)) = asked.request
            && let Err(limit) = self.within_limits(range)
        {
            self.call.shared().metrics.limit_hit(limit);
            verdict = Err(limited(limit));
        }
        let accesses =
            read.as_ref().map(|asked| OwnedAccesses::from(&asked.accesses)).unwrap_or_default();
        if let Err(full) = record(self.call, &caller, self.method, &verdict, accesses, judging) {
            verdict = Err(full);
        }
        let (framed, asked) = match (&plain, &read) {
            (Ok(plain), Ok(asked)) => (plain.framed.clone(), asked),
            // Who may not speak at all learns nothing of how its message was read: the verdict says
            // which of the two it is.
            (Err(malformed), _) | (_, Err(malformed)) => {
                return Err(self.refused_stream(verdict.as_ref().err().unwrap_or(malformed)));
            }
        };
        let permit = match verdict {
            Ok(permit) => LivePermit::new(permit, self.call.client),
            Err(denial) => return self.refuse_one(&asked.request, &denial),
        };
        if self.seat == Seat::Standing
            && !matches!(asked.request, Request::Watch(WatchRequest::Create(_)))
        {
            // There is no watch here that it could be about.
            return Ok(());
        }
        // The policy has changed in the caller's favour, or a place has become free: it comes back
        // at once, on a stream that goes to etcd.
        let Some(send) = send else { return Err(Closing::With(Status::open_again())) };
        if let Request::Watch(WatchRequest::Create(range)) = asked.request {
            self.ledger.borrow_mut().create_forwarded(range.into());
        }
        send.write(&permit, framed, false).await.map_err(|unsent| match unsent {
            Unsent::Closed => Closing::With(Status::lost()),
            Unsent::Withdrawn | Unsent::Cut => Closing::With(Status::open_again()),
        })
    }

    /// What cannot be refused in its place waits here, before it is judged: the policy may change
    /// meanwhile.
    async fn until_the_rate_allows(&self, request: &Request<'_>) {
        let client = self.call.client;
        while !matches!(request, Request::Watch(WatchRequest::Create(_)))
            && client.caller().principal.mode == Mode::Enforce
            && let Err(soon) = client.quota.ask()
        {
            sleep(soon).await;
        }
    }

    /// Takes what an allowed create needs of the caller's quota.
    fn within_limits(&self, range: KeyRange<'_>) -> Result<(), Limit> {
        let quota = &self.call.client.quota;
        // Where a place has become free, the client finds it on a new stream.
        if self.seat == Seat::Standing && quota.requests.place().is_none() {
            return Err(Limit::RequestsInFlight);
        }
        quota.ask().map_err(|_| Limit::RequestsPerSecond)?;
        if self.seat == Seat::Taken && !self.places.take(slots_for(range)) {
            return Err(Limit::Watches);
        }
        Ok(())
    }

    /// Refuses one message in its place; the stream goes on, unless the refusal is an end to it.
    fn refuse_one(&self, request: &Request<'_>, denial: &Denial) -> Result<(), Closing> {
        match request {
            // TTL 0 would say that the lease is gone. Nobody knows that: the client is to ask
            // again, on a new stream.
            Request::KeepAlive(_) if denial.reason == Reason::LeaseUnknown => {
                return Err(self.refused_stream(denial));
            }
            // etcd's client gives a lease up after any other code.
            Request::KeepAlive(_) if denial.reason == Reason::Limit => {
                return Err(Closing::With(Status::too_many_streams()));
            }
            Request::KeepAlive(id) => {
                self.tell(wire::lease::keep_alive_gone(&self.header.borrow(), *id))
            }
            Request::Watch(WatchRequest::Create(_)) => {
                let refusal = match denial.reason {
                    Reason::Limit | Reason::AuditFull => Refusal::TooMany,
                    _ => Refusal::Denied,
                };
                let now = self.ledger.borrow_mut().create_refused(refusal);
                self.places.keep(self.ledger.borrow().slots());
                if now {
                    self.tell(self.refused_create(refusal));
                }
            }
            // Cancel and progress touch nothing, so only the caller's standing can have refused
            // them. Its watches have ended with that, and clientv3 does not wait for an
            // answer to either.
            Request::Watch(_) => {}
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.to_client.borrow().len().max(self.ledger.borrow().pending()) < MAX_WAITING
    }

    fn send_cancels(&self, send: &mut Option<Upload>) {
        let Some(send) = send else { return };
        for id in self.to_cancel.take() {
            send.cancel_watch(id);
        }
    }
}
