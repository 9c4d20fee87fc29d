//! Client to etcd: every message judged, forwarded or refused in its place.

use std::time::Instant;

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::{Closing, Dialogue};
use crate::audit::OwnedAccesses;
use crate::authorize::{Denial, Reason};
use crate::proxy::intake::{ClientGone, denial_of};
use crate::proxy::relay;
use crate::proxy::reply::{Status, code};
use crate::proxy::stream::{Asked, Request, payload, record, verdict};
use crate::wire;
use crate::wire::frame::{self, Frames};
use crate::wire::watch::WatchRequest;

/// Answers of our own, and creates without an answer, that may wait before we stop listening to the client: who does not read
/// cannot make us hold more.
const MAX_WAITING: usize = 256;

impl Dialogue<'_> {
    /// Client to etcd.
    pub(super) async fn up(&self, body: &mut RecvStream, mut send: Option<SendStream<Bytes>>) -> std::convert::Infallible {
        let closing = self.judge_all(body, &mut send).await;
        self.verdict.set(closing);
        self.wake_down.notify_one();
        std::future::pending().await
    }

    /// Judges and forwards until the client ends its side (`None`: etcd ends the stream) or the stream must end.
    async fn judge_all(&self, body: &mut RecvStream, send: &mut Option<SendStream<Bytes>>) -> Option<Closing> {
        let mut frames = Frames::new(self.call.shared().config.limits.max_request_bytes);
        loop {
            self.send_cancels(send).await;
            match frames.next() {
                Ok(Some(framed)) => {
                    if let Err(closing) = self.judge_one(framed, send).await {
                        return Some(closing);
                    }
                }
                Err(fault) => return Some(self.refused_stream(&denial_of(fault))),
                Ok(None) => {
                    let room = self.has_room();
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
                            // Where there is no etcd to end the stream, it ends here, as etcd ends it.
                            let Some(send) = send else { return Some(Closing::With(Status::new(code::OK, ""))) };
                            let _ = send.send_data(Bytes::new(), true);
                            return None;
                        }
                        None => return Some(self.refused_stream(&denial_of(frame::FrameFault::Cut))),
                    }
                }
            }
        }
    }

    async fn judge_one(&self, framed: Bytes, send: &mut Option<SendStream<Bytes>>) -> Result<(), Closing> {
        let caller = self.call.client.caller();
        let judging = Instant::now();
        let read = Asked::read(self.method, payload(&framed)).map_err(Denial::from);
        let mut verdict = verdict(self.call, &caller, &read).await;
        let accesses = read.as_ref().map(|asked| OwnedAccesses::from(&asked.accesses)).unwrap_or_default();
        if let Err(full) = record(self.call, &caller, self.method, &verdict, accesses, judging) {
            verdict = Err(full);
        }
        let asked = match read {
            Ok(asked) => asked,
            // Who may not speak at all learns nothing of how its message was read: the verdict says which of the two it is.
            Err(malformed) => return Err(self.refused_stream(verdict.as_ref().err().unwrap_or(&malformed))),
        };
        if let Err(denial) = verdict {
            return self.refuse_one(&asked.request, &denial);
        }
        // The policy has changed in the caller's favour: it comes back at once, on a stream that goes to etcd.
        let Some(send) = send else { return Err(Closing::With(Status::open_again())) };
        if let Request::Watch(WatchRequest::Create(range)) = asked.request {
            self.ledger.borrow_mut().forwarded(range.into());
        }
        relay::send(send, framed.clone()).await.map_err(|ClientGone| Closing::With(Status::lost()))
    }

    /// Refuses one message in its place; the stream goes on, unless the refusal is an end to it.
    fn refuse_one(&self, request: &Request<'_>, denial: &Denial) -> Result<(), Closing> {
        match request {
            // TTL 0 would say that the lease is gone. Nobody knows that: the client is to ask again, on a new stream.
            Request::KeepAlive(_) if denial.reason == Reason::LeaseUnknown => return Err(self.refused_stream(denial)),
            Request::KeepAlive(id) => self.tell(wire::lease::keep_alive_gone(&self.header.borrow(), *id)),
            Request::Watch(WatchRequest::Create(_)) => {
                if self.ledger.borrow_mut().refused() {
                    self.tell(wire::watch::refused_create(&self.header.borrow()));
                }
            }
            // Cancel and progress touch nothing, so only the caller's standing can have refused them. Its watches have ended with
            // that, and clientv3 does not wait for an answer to either.
            Request::Watch(_) => {}
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.to_client.borrow().len().max(self.ledger.borrow().waiting()) < MAX_WAITING
    }

    async fn send_cancels(&self, send: &mut Option<SendStream<Bytes>>) {
        let Some(send) = send else { return };
        loop {
            let next = self.to_etcd.borrow_mut().pop_front();
            let Some(cancel) = next else { return };
            // If etcd is gone the watch is, too.
            let _ = relay::send(send, cancel).await;
        }
    }
}
