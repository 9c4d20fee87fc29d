//! Shadow mode's way: whatever came goes on, both ways, as it comes. What can be judged is judged
//! beside it and recorded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::time::Instant;

use bytes::Bytes;
use etcd_warden_core::access::Accesses;
use etcd_warden_core::authorize::{Denial, authorize, check_binding, refuse};
use etcd_warden_core::method::{CallKind, Method};
use etcd_warden_core::wire::frame::{self, FrameFault, Frames};
use futures_util::future::{Either, select};
use h2::server::SendResponse;
use http::HeaderMap;
use http::uri::PathAndQuery;
use tokio::sync::Notify;

use super::call::Call;
use super::forward::{ForwardError, Outgoing, Sent, classify};
use super::intake::{ClientGone, Intake, Until, denial_of, trailers_denial};
use super::live_permit::LivePermit;
use super::record::{Recording, Subject};
use super::relay::{self, Cut, Ended};
use super::reply::Status;
use super::rewrite::{self, Rewrite};
use super::stream;
use super::upload::{Piece, Progress, Stopped, Unsent, Upload};
use crate::metrics::reason::Limit;
use crate::upstream::Class;
use crate::upstream::members::MemberIndex;
use crate::upstream::pool::Target;

/// Messages of one stream that may wait to be judged; beyond them, recording lags behind and skips.
const UNJUDGED: usize = 1024;

/// A request that names no method, as it came; `ends` with its head or goes on.
#[must_use]
pub fn outgoing(
    verb: http::Method,
    path: Option<PathAndQuery>,
    headers: HeaderMap,
    ends: bool,
) -> Option<Outgoing> {
    Some(Outgoing {
        verb,
        target: Target::Path(path?),
        headers,
        body: Bytes::new(),
        ends,
        class: Class::Long,
    })
}

/// Relays a request whose client has not ended its side: what was held goes first, the rest follows
/// as it comes. What enforcement would have refused that rest for goes into the record.
pub async fn open(
    call: &Call<'_>,
    permit: &LivePermit<'_>,
    method: Option<Method>,
    outgoing: &Outgoing,
    intake: &mut Intake,
    respond: &mut SendResponse<Bytes>,
    recording: &mut Recording<'_>,
) -> (Option<MemberIndex>, Ended) {
    let after_a_message = is_whole(&outgoing.body);
    let upload = async |mut send: Upload, progress: &Progress| {
        if outgoing.ends {
            return std::future::pending().await;
        }
        let note = |piece: Piece<'_>| recording.amend(piece.denial().filter(|_| after_a_message));
        send.copy(permit, intake.rest(), progress, note).await
    };
    relay_both_ways(call, permit, method, outgoing, respond, upload).await
}

/// Relays a request whose one message is slow to come. etcd sees its head at once, and may answer
/// to that alone (a deadline, an encoding that it does not have); the message is held until it can
/// be judged.
pub async fn slow(
    call: &Call<'_>,
    method: Method,
    headers: HeaderMap,
    mut intake: Intake,
    respond: &mut SendResponse<Bytes>,
) {
    // Shadow mode: always a permit, and always a record.
    let Ok(permit) = authorize(&call.caller.principal, &Accesses::default(), &[]) else { return };
    let permit = LivePermit::new(permit, call.client);
    let record = |held, verdict, judging| {
        call.record(Subject::Message(method, held), verdict, judging)
            .ok()
            .map(|(_, recording)| recording)
    };
    let mut recording = None;
    let outgoing = Outgoing::of(method, headers, Bytes::new(), false);
    let upload = async |mut send: Upload, progress: &Progress| {
        let limit = call.shared().config.limits.max_request_bytes;
        let Ok(filled) = intake.fill(Until::FirstMessage, limit).await else {
            return Stopped::ClientGone;
        };
        let judging = Instant::now();
        let verdict = call.judge(method, filled.and_then(|()| intake.message(limit))).await;
        let ends = intake.ended();
        let (judged, held) = intake.take(&outgoing.headers);
        if !permit.holds() {
            return Stopped::Withdrawn;
        }
        recording = record(judged, verdict, judging);
        let after_a_message = is_whole(&held);
        let written = send.write(&permit, held, ends).await;
        if written != Err(Unsent::Withdrawn) {
            progress.note(ends);
        }
        match written {
            Ok(()) if !ends => {}
            Ok(()) | Err(Unsent::Closed) => return std::future::pending().await,
            Err(Unsent::Withdrawn | Unsent::Cut) => return Stopped::Withdrawn,
        }
        let note = |piece: Piece<'_>| {
            if let Some(recording) = &mut recording {
                recording.amend(piece.denial().filter(|_| after_a_message));
            }
        };
        send.copy(&permit, intake.rest(), progress, note).await
    };
    let (member, ended) =
        relay_both_ways(call, &permit, Some(method), &outgoing, respond, upload).await;
    if recording.is_none() && ended != Ended::ClientGone {
        // etcd has answered to the head alone; enforcement would have waited for the end of the
        // message.
        let cut = check_binding(&call.caller.principal)
            .err()
            .unwrap_or_else(|| denial_of(FrameFault::Cut));
        recording = record(Bytes::new(), refuse(&call.caller.principal, cut), Instant::now());
    }
    if let Some(recording) = &mut recording {
        (recording.member, recording.ended) = (member, ended);
    }
}

/// Whether what was held is one whole message. If it is not, it was refused for that already, and
/// the rest may belong to it.
fn is_whole(held: &[u8]) -> bool {
    frame::only(held, usize::MAX).is_ok()
}

impl Piece<'_> {
    /// What enforcement would have refused a request for, because this follows its one message.
    fn denial(&self) -> Option<Denial> {
        match self {
            Piece::Data(data) if !data.is_empty() => Some(denial_of(FrameFault::Several)),
            Piece::Trailers => Some(trailers_denial()),
            Piece::Data(_) | Piece::End => None,
        }
    }
}

/// Relays a conversation and judges every message of the client's beside it.
pub async fn observed(
    call: &Call<'_>,
    method: Method,
    headers: HeaderMap,
    mut intake: Intake,
    respond: &mut SendResponse<Bytes>,
) {
    let _open = call.shared().registry.register(call.caller.principal.name.clone(), method);
    // Shadow mode: always a permit.
    let Ok(permit) = authorize(&call.caller.principal, &Accesses::default(), &[]) else { return };
    let permit = LivePermit::new(permit, call.client);
    let unjudged = RefCell::new(VecDeque::new());
    let news = Notify::new();
    let mut frames = Some(Frames::new(call.shared().config.limits.max_request_bytes));
    let observe = |piece: Piece<'_>| {
        let Some(splitter) = &mut frames else { return };
        match piece {
            Piece::Data(chunk) => splitter.push(chunk.clone()),
            Piece::Trailers => {}
            Piece::End if splitter.is_empty() => {}
            Piece::End => {
                unjudged.borrow_mut().push_back(Err(FrameFault::Cut));
                news.notify_one();
            }
        }
        loop {
            match splitter.next() {
                Ok(Some(message)) if unjudged.borrow().len() < UNJUDGED => {
                    unjudged.borrow_mut().push_back(Ok(message))
                }
                Ok(Some(_)) => call.shared().metrics.limit_hit(Limit::Unjudged),
                Ok(None) => break,
                // etcd will refuse it; nothing after it can be read.
                Err(fault) => {
                    unjudged.borrow_mut().push_back(Err(fault));
                    frames = None;
                    break;
                }
            }
        }
        news.notify_one();
    };
    let outgoing = Outgoing::of(method, headers, Bytes::new(), false);
    let upload = async |mut send: Upload, progress: &Progress| {
        send.copy(&permit, intake.rest(), progress, observe).await
    };
    let relayed = pin!(relay_both_ways(call, &permit, Some(method), &outgoing, respond, upload));
    let judged = pin!(async {
        loop {
            // It stays in the queue until it is judged: the call may end meanwhile, with the
            // question whose a lease is on its way.
            let next = unjudged.borrow().front().cloned();
            match next {
                Some(message) => {
                    stream::observe(call, method, message).await;
                    unjudged.borrow_mut().pop_front();
                }
                None => news.notified().await,
            }
        }
    });
    match select(relayed, judged).await {
        Either::Left(_) => {}
        Either::Right((never, _)) => match never {},
    }
    // What is still unjudged was sent: it is recorded, too.
    for message in unjudged.take() {
        stream::observe(call, method, message).await;
    }
}

/// Sends the head, then what `upload` writes, and passes on etcd's answer. The permit ends it in
/// every phase: before there is a connection, before etcd has answered, between two messages. Only
/// a unary request that etcd has as a whole is still answered.
async fn relay_both_ways(
    call: &Call<'_>,
    permit: &LivePermit<'_>,
    method: Option<Method>,
    outgoing: &Outgoing,
    respond: &mut SendResponse<Bytes>,
    upload: impl AsyncFnOnce(Upload, &Progress) -> Stopped,
) -> (Option<MemberIndex>, Ended) {
    let progress = Progress::of(&outgoing.body, outgoing.ends);
    let shape = method.map(Method::call_kind);
    let to = method.map(|method| call.target(method));
    let sent = {
        let sending = pin!(call.forwarder().send(permit, outgoing, to));
        let sending = pin!(relay::unless_gone(respond, sending));
        // Nothing was written yet, so that a unary request ends here as well.
        match select(sending, pin!(withdrawal(call, permit, shape, &Progress::default()))).await {
            Either::Left((sent, _)) => answered(sent),
            Either::Right((status, _)) => Err(Cut::With(status)),
        }
    };
    let Sent { response, send, member, slot: _slot } = match sent {
        Ok(sent) => sent,
        Err(cut) => return (None, cut.instead_of_an_answer(respond)),
    };
    let member = Some(member);
    let mut cut = pin!(async {
        match select(
            pin!(upload(send, &progress)),
            pin!(withdrawal(call, permit, shape, &progress)),
        )
        .await
        {
            Either::Left((Stopped::ClientGone, _)) => Cut::Gone,
            Either::Left((Stopped::Withdrawn, _)) => {
                Cut::With(told(call, permit, shape, &progress))
            }
            Either::Right((status, _)) => Cut::With(status),
        }
    });
    let begun = {
        let mut response = response;
        let response = pin!(relay::unless_gone(respond, Pin::new(&mut response)));
        match select(response, cut.as_mut()).await {
            Either::Left((response, _)) => {
                answered(response.map(|response| response.map_err(|error| classify(&error))))
            }
            Either::Right((cut, _)) => Err(cut),
        }
    };
    let ended = match begun {
        Err(cut) => cut.instead_of_an_answer(respond),
        Ok(response) => {
            let delivery = call.delivery(outgoing.class);
            // Member lists show the proxies' URLs in every mode, or their clients would walk around
            // the proxy.
            match method.and_then(|method| {
                Some((method, Rewrite::of(call.shared(), &call.caller.principal, method)?))
            }) {
                None => relay::answer_until(respond, response, &delivery, cut).await.into(),
                Some((method, rewrite)) => {
                    let change = |message: &[u8]| {
                        rewrite.apply(call.shared(), &call.caller.principal, method, message)
                    };
                    match select(
                        Box::pin(rewrite::answer(respond, response, &delivery, change)),
                        cut,
                    )
                    .await
                    {
                        Either::Left((ended, _)) => ended.into(),
                        Either::Right(_) => Ended::ClientGone,
                    }
                }
            }
        }
    };
    (member, ended)
}

/// What etcd did, unless the client left first.
fn answered<T>(by_etcd: Result<Result<T, ForwardError>, ClientGone>) -> Result<T, Cut> {
    by_etcd.map_err(|ClientGone| Cut::Gone)?.map_err(Cut::Failed)
}

/// Waits until a call that passes through must end, and gives what its client is told. A unary
/// request that etcd has as a whole has its one answer soon, and its client must not be left in
/// doubt of what became of it: for that one it waits forever.
async fn withdrawal(
    call: &Call<'_>,
    permit: &LivePermit<'_>,
    shape: Option<CallKind>,
    progress: &Progress,
) -> Status {
    let unary = shape == Some(CallKind::Unary);
    tokio::select! {
        biased;
        // A snapshot under way is finished, and so is a unary request that etcd has begun to get.
        () = call.client.ending.cancelled(), if shape != Some(CallKind::BulkStreaming) => if unary && progress.has_begun() {
            permit.withdrawn().await;
        },
        () = permit.withdrawn() => {}
    }
    if unary && progress.has_ended() {
        return std::future::pending().await;
    }
    told(call, permit, shape, progress)
}

/// What the client of a call that passes through is told when it must end.
fn told(
    call: &Call<'_>,
    permit: &LivePermit<'_>,
    shape: Option<CallKind>,
    progress: &Progress,
) -> Status {
    let status =
        if permit.holds() { call.ended_with_connection() } else { permit.withdrawn_status() };
    match shape {
        // Half a message changes nothing, but its last byte may have been among those that were
        // written.
        Some(CallKind::Unary) if progress.has_begun() => Status::lost(),
        Some(CallKind::Unary) => Status::not_sent(),
        _ => status,
    }
}
