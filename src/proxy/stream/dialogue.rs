//! Watch and LeaseKeepAlive under enforcement: every message is judged as it comes, refusals are answered in their place,
//! and the stream stays up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Response};
use smallvec::SmallVec;
use tokio::sync::{Notify, watch};

use super::splitter::{Fate, Splitter};
use super::{Asked, Request, may_open, payload, record, verdict};
use crate::access::{Accesses, Verbs};
use crate::audit::OwnedAccesses;
use crate::authorize::{Denial, authorize};
use crate::keyspace::OwnedRange;
use crate::method::Method;
use crate::metrics::reason::Termination;
use crate::proxy::call::Call;
use crate::proxy::forward::{Outgoing, Sent, classify};
use crate::proxy::intake::{ClientGone, Intake, denial_of};
use crate::proxy::registry::Registered;
use crate::proxy::relay::{self, Ended};
use crate::proxy::reply::{self, Status};
use crate::upstream::members::MemberIndex;
use crate::watch_ledger::WatchLedger;
use crate::wire::frame::{self, Frames};
use crate::wire::header::ResponseHeader;
use crate::wire::watch::WatchRequest;
use crate::wire::{self, Malformed};

/// Answers of our own, and creates without an answer, that may wait before we stop listening to the client: who does not read
/// cannot make us hold more.
const MAX_WAITING: usize = 256;

/// Serves one conversation to its end.
pub async fn serve(call: &Call<'_>, method: Method, headers: HeaderMap, mut intake: Intake, respond: &mut SendResponse<Bytes>) {
    let permit = match may_open(&call.caller) {
        Ok(permit) => permit,
        Err(denial) => {
            call.refuse(&denial, respond);
            // The refusal stands whether or not the audit has room for its line.
            let _ = record(call, &call.caller, method, &Err(denial), OwnedAccesses::default(), call.begun);
            return;
        }
    };
    let outgoing = Outgoing::of(method, headers, Bytes::new(), false);
    let sent = match relay::unless_gone(respond, call.forwarder().send(&permit, &outgoing, None)).await {
        Err(ClientGone) => return,
        Ok(Err(error)) => {
            relay::refuse_or_reset(respond, &error);
            return;
        }
        Ok(Ok(sent)) => sent,
    };
    let open = call.shared().registry.register(call.caller.principal.name.clone(), method);
    let Sent { response, send, member, place: _place } = sent;
    let changes = call.policy_changes();
    let dialogue = Dialogue::new(call, method, member, open);
    let up = pin!(dialogue.up(intake.rest(), send));
    let down = pin!(dialogue.down(response, respond, changes));
    // `up` never ends by itself: what it finds out it leaves for `down`, which owns the client's side.
    match select(up, down).await {
        Either::Left((never, _)) => match never {},
        Either::Right(_) => {}
    }
}

/// Both directions of one conversation.
struct Dialogue<'c> {
    call: &'c Call<'c>,
    method: Method,
    member: MemberIndex,
    open: Registered,
    ledger: RefCell<WatchLedger>,
    /// The newest response header on this stream, as bytes.
    header: RefCell<Vec<u8>>,
    /// Our own messages to the client, framed; they go out between two of etcd's.
    to_client: RefCell<VecDeque<Bytes>>,
    /// Our own cancel requests to etcd, framed.
    to_etcd: RefCell<VecDeque<Bytes>>,
    /// The client's side is over, and how the stream ends.
    verdict: Cell<Option<Closing>>,
    wake_down: Notify,
    wake_up: Notify,
}

enum Closing {
    Gone,
    With(Status),
}

impl<'c> Dialogue<'c> {
    fn new(call: &'c Call<'c>, method: Method, member: MemberIndex, open: Registered) -> Self {
        let last = call.shared().members.at(member).map(|member| member.header()).unwrap_or_default();
        Self {
            call,
            method,
            member,
            open,
            ledger: RefCell::default(),
            header: RefCell::new(last.encode()),
            to_client: RefCell::default(),
            to_etcd: RefCell::default(),
            verdict: Cell::new(None),
            wake_down: Notify::new(),
            wake_up: Notify::new(),
        }
    }

    /// Client to etcd.
    async fn up(&self, body: &mut RecvStream, mut send: SendStream<Bytes>) -> std::convert::Infallible {
        let closing = self.judge_all(body, &mut send).await;
        self.verdict.set(closing);
        self.wake_down.notify_one();
        std::future::pending().await
    }

    /// Judges and forwards until the client ends its side (`None`: etcd ends the stream) or the stream must end.
    async fn judge_all(&self, body: &mut RecvStream, send: &mut SendStream<Bytes>) -> Option<Closing> {
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
                            let _ = send.send_data(Bytes::new(), true);
                            return None;
                        }
                        None => return Some(self.refused_stream(&denial_of(frame::FrameFault::Cut))),
                    }
                }
            }
        }
    }

    async fn judge_one(&self, framed: Bytes, send: &mut SendStream<Bytes>) -> Result<(), Closing> {
        let caller = self.call.client.caller();
        let judging = Instant::now();
        let read = Asked::read(self.method, payload(&framed)).map_err(Denial::from);
        let mut verdict = verdict(self.call, &caller, &read).await;
        let accesses = read.as_ref().map(|asked| OwnedAccesses::from(&asked.accesses)).unwrap_or_default();
        if let Err(full) = record(self.call, &caller, self.method, &verdict, accesses, judging) {
            verdict = Err(full);
        }
        let asked = read.map_err(|malformed| self.refused_stream(&malformed))?;
        if let Err(denial) = verdict {
            self.refuse_one(&asked.request, &denial);
            return Ok(());
        }
        if let Request::Watch(WatchRequest::Create(range)) = asked.request {
            self.ledger.borrow_mut().forwarded(range.into());
        }
        relay::send(send, framed.clone()).await.map_err(|ClientGone| Closing::With(Status::lost()))
    }

    /// Refuses one message in its place; the stream goes on.
    fn refuse_one(&self, request: &Request<'_>, denial: &Denial) {
        match request {
            Request::KeepAlive(id) => self.tell(wire::lease::keep_alive_gone(&self.header.borrow(), *id)),
            Request::Watch(WatchRequest::Create(_)) => {
                if self.ledger.borrow_mut().refused() {
                    self.tell(wire::watch::refused_create(&self.header.borrow()));
                }
            }
            // Cancel and progress touch nothing, so only the caller's standing can have refused them: it is gone.
            Request::Watch(_) => {
                self.verdict.set(Some(self.refused_stream(denial)));
                self.wake_down.notify_one();
            }
        }
    }

    fn refused_stream(&self, denial: &Denial) -> Closing {
        Closing::With(Status::of(denial, self.call.shared().config.reason_trailer))
    }

    fn tell(&self, message: Vec<u8>) {
        self.to_client.borrow_mut().push_back(frame::encode(&message));
        self.wake_down.notify_one();
    }

    fn has_room(&self) -> bool {
        self.to_client.borrow().len().max(self.ledger.borrow().waiting()) < MAX_WAITING
    }

    async fn send_cancels(&self, send: &mut SendStream<Bytes>) {
        loop {
            let next = self.to_etcd.borrow_mut().pop_front();
            let Some(cancel) = next else { return };
            // If etcd is gone the watch is, too.
            let _ = relay::send(send, cancel).await;
        }
    }

    /// etcd to client.
    async fn down(
        &self,
        response: h2::client::ResponseFuture,
        respond: &mut SendResponse<Bytes>,
        mut changes: watch::Receiver<u64>,
    ) -> Result<Ended, ClientGone> {
        let mut etcd = Etcd::Silent(response);
        let mut client: Option<SendStream<Bytes>> = None;
        let mut splitter = Splitter::default();
        let mut ending = pin!(self.call.client.ending.cancelled());
        let mut pieces = Vec::new();
        loop {
            match self.verdict.take() {
                Some(Closing::Gone) => return Err(ClientGone),
                Some(Closing::With(status)) => return self.close(client, respond, &status),
                None => {}
            }
            if splitter.at_boundary() {
                self.say_own(&mut client, respond).await?;
            }
            let event = tokio::select! {
                biased;
                () = &mut ending => return self.close(client, respond, &self.call.ended_with_connection()),
                changed = changes.changed() => { if changed.is_ok() { self.recheck(); } continue }
                () = self.wake_down.notified() => continue,
                _ = left(client.as_mut(), respond) => return Err(ClientGone),
                event = etcd.next() => event,
            };
            match event {
                Event::Head(answer) if answer.body().is_end_stream() && client.is_none() => {
                    return relay::answer(respond, answer).await;
                }
                Event::Head(answer) => {
                    let (parts, body) = answer.into_parts();
                    if client.is_none() {
                        client = Some(respond.send_response(Response::from_parts(parts, ()), false).map_err(|_| ClientGone)?);
                    }
                    etcd = Etcd::Talking(body);
                }
                Event::Data(chunk) => {
                    let length = chunk.len();
                    let read = splitter.feed(chunk, |seen, length| self.fate(seen, length), &mut pieces);
                    let out = self.head(&mut client, respond)?;
                    for piece in pieces.drain(..) {
                        relay::send(out, piece).await?;
                    }
                    if let Err(malformed) = read {
                        tracing::error!(%malformed, "cannot read a watch answer of etcd");
                        return self.close(client, respond, &Status::lost());
                    }
                    etcd.read(length);
                    // Rooms may have become free, and a doomed watch may have got its id.
                    self.wake_up.notify_one();
                }
                Event::End(trailers) => {
                    return relay::finish(self.head(&mut client, respond)?, trailers);
                }
                Event::Failed(error) => {
                    return match &mut client {
                        Some(out) => relay::fail(out, &classify(&error)),
                        None => Ok(relay::refuse_or_reset(respond, &classify(&error))),
                    };
                }
            }
        }
    }

    /// What becomes of one message of etcd's.
    fn fate(&self, seen: &[u8], length: usize) -> Result<Option<Fate>, Malformed> {
        if self.method != Method::Watch {
            return Ok(Some(Fate { pass: true, after: SmallVec::new() }));
        }
        let Some(head) = wire::watch::response_head(seen, length)? else { return Ok(None) };
        self.saw_header(head.header, head.created);
        let mut ledger = self.ledger.borrow_mut();
        let answer = ledger.answered(&head);
        self.count_watches(ledger.live());
        let mut after = SmallVec::new();
        if let Some(id) = answer.end {
            after.push(self.ended_by_policy(id));
        }
        for _ in 0..answer.refusals {
            after.push(frame::encode(&wire::watch::refused_create(&self.header.borrow())));
        }
        Ok(Some(Fate { pass: answer.pass, after }))
    }

    /// Keeps the newest header for answers of our own; the answer to a create also tells other streams of this member.
    fn saw_header(&self, header: &[u8], created: bool) {
        let mut last = self.header.borrow_mut();
        last.clear();
        last.extend_from_slice(header);
        if created
            && let Ok(header) = ResponseHeader::decode(header)
            && let Some(member) = self.call.shared().members.at(self.member)
        {
            member.saw_header(header);
        }
    }

    /// The policy changed: watches that lost their right end, one by one; the others notice nothing.
    fn recheck(&self) {
        let caller = self.call.client.caller();
        let allowed = |range: &OwnedRange| {
            let mut accesses = Accesses::default();
            accesses.touch(Verbs::READ, range.as_range());
            authorize(&caller.principal, &accesses, &[]).is_ok()
        };
        let lost = self.ledger.borrow_mut().recheck(allowed);
        for id in lost {
            let told = self.ended_by_policy(id);
            self.to_client.borrow_mut().push_back(told);
        }
        self.count_watches(self.ledger.borrow().live());
    }

    /// Asks etcd to cancel a watch, and gives what the client is told.
    fn ended_by_policy(&self, id: i64) -> Bytes {
        self.call.shared().metrics.terminated(Termination::Policy);
        self.to_etcd.borrow_mut().push_back(frame::encode(&wire::watch::cancel_request(id)));
        self.wake_up.notify_one();
        frame::encode(&wire::watch::canceled(&self.header.borrow(), id))
    }

    fn count_watches(&self, live: usize) {
        let before = self.open.entry.watches.swap(live, Ordering::Relaxed);
        let gauge = &self.call.shared().metrics.watches;
        match live.checked_sub(before) {
            Some(0) => {}
            Some(more) => gauge.increment(u32::try_from(more).map_or(f64::MAX, f64::from)),
            None => gauge.decrement(u32::try_from(before.saturating_sub(live)).map_or(f64::MAX, f64::from)),
        }
    }

    /// Sends our own messages, the head first if etcd's has not come.
    async fn say_own(&self, client: &mut Option<SendStream<Bytes>>, respond: &mut SendResponse<Bytes>) -> Result<(), ClientGone> {
        loop {
            let next = self.to_client.borrow_mut().pop_front();
            let Some(message) = next else { return Ok(()) };
            relay::send(self.head(client, respond)?, message).await?;
            self.wake_up.notify_one();
        }
    }

    fn head<'o>(
        &self,
        client: &'o mut Option<SendStream<Bytes>>,
        respond: &mut SendResponse<Bytes>,
    ) -> Result<&'o mut SendStream<Bytes>, ClientGone> {
        match client {
            Some(out) => Ok(out),
            None => Ok(client.insert(respond.send_response(reply::head(), false).map_err(|_| ClientGone)?)),
        }
    }

    fn close(&self, client: Option<SendStream<Bytes>>, respond: &mut SendResponse<Bytes>, status: &Status) -> Result<Ended, ClientGone> {
        match client {
            Some(mut out) => relay::end(&mut out, status),
            None => {
                status.send(respond);
                Ok(Ended::Answered(Some(status.code)))
            }
        }
    }
}

impl Drop for Dialogue<'_> {
    fn drop(&mut self) {
        self.count_watches(0);
    }
}

/// etcd's side of the stream.
enum Etcd {
    /// No head yet.
    Silent(h2::client::ResponseFuture),
    /// Messages.
    Talking(RecvStream),
}

enum Event {
    Head(Response<RecvStream>),
    Data(Bytes),
    End(Option<HeaderMap>),
    Failed(h2::Error),
}

impl Etcd {
    async fn next(&mut self) -> Event {
        match self {
            Etcd::Silent(response) => response.await.map_or_else(Event::Failed, Event::Head),
            Etcd::Talking(body) => match body.data().await {
                Some(Ok(chunk)) => Event::Data(chunk),
                Some(Err(error)) => Event::Failed(error),
                None => body.trailers().await.map_or_else(Event::Failed, Event::End),
            },
        }
    }

    /// These bytes were passed on: etcd may send more.
    fn read(&mut self, length: usize) {
        if let Etcd::Talking(body) = self {
            let _ = body.flow_control().release_capacity(length);
        }
    }
}

/// Waits until the client resets the stream.
async fn left(client: Option<&mut SendStream<Bytes>>, respond: &mut SendResponse<Bytes>) {
    match client {
        Some(out) => drop(std::future::poll_fn(|cx| out.poll_reset(cx)).await),
        None => drop(std::future::poll_fn(|cx| respond.poll_reset(cx)).await),
    }
}
