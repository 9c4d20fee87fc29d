//! Passthrough for shadow mode: forwards a call in both directions as its bytes arrive, judges its
//! messages at the same time, and records the decisions.

mod unjudged;

use std::pin::pin;
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

use self::unjudged::Unjudged;
use super::call::Call;
use super::forward::{Outgoing, Sent};
use super::live_permit::LivePermit;
use super::message_pace::MessagePace;
use super::outcome::{Abort, Outcome, UpstreamError};
use super::record::{Ended, Recording, Subject};
use super::relay;
use super::reply::Status;
use super::request_body::{RequestBody, Until, denial_of, trailers_denial};
use super::rewrite::{self, Rewrite};
use super::stream;
use super::upload::{Piece, Progress, Unsent, Upload};
use crate::metrics::reason::Limit;
use crate::upstream::Class;
use crate::upstream::pool::Target;

/// Builds the unchanged request for a path that is not a method of etcd. `ends` means that it has
/// no body. `None` if the request has no valid path.
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

/// Forwards a request that was judged before its end arrived: first the held bytes, then the rest
/// as it arrives. If enforcement would refuse the request for its rest, the record has that reason.
pub async fn open(
    call: &Call<'_>,
    permit: &LivePermit<'_>,
    method: Option<Method>,
    outgoing: &Outgoing,
    body: &mut RequestBody,
    respond: &mut SendResponse<Bytes>,
    recording: &mut Recording<'_>,
) {
    let after_a_message = is_whole(&outgoing.body);
    let upload = async |mut send: Upload, progress: &Progress| {
        if outgoing.ends {
            return std::future::pending().await;
        }
        let note = |piece: Piece<'_>| recording.amend(piece.denial().filter(|_| after_a_message));
        send.copy(permit, body.rest(), progress, note).await
    };
    let ended = relay_both_ways(call, permit, method, outgoing, respond, upload).await;
    recording.end(ended);
}

/// Forwards a request whose message arrives slowly. Sends the head to etcd at once, because etcd
/// may respond to the head alone (an exceeded deadline, an unknown encoding). Holds the message
/// until it can be judged.
pub async fn slow(
    call: &Call<'_>,
    method: Method,
    headers: HeaderMap,
    mut body: RequestBody,
    respond: &mut SendResponse<Bytes>,
) {
    // In shadow mode, `authorize` always returns a permit and `record` always a recording.
    let Ok(permit) = authorize(&call.caller.principal, &Accesses::default(), &[]) else { return };
    let permit = LivePermit::new(permit, call.client);
    let record = |held, decision, judging| {
        call.record(Subject::Message(method, held), decision, judging)
            .ok()
            .map(|(_, recording)| recording)
    };
    let mut recording = None;
    let outgoing = Outgoing::of(method, headers, Bytes::new(), false);
    let upload = async |mut send: Upload, progress: &Progress| {
        // Receive the message and judge it.
        let limit = call.shared().config.limits.max_request_bytes;
        if let Err(abort) = body.fill(Until::FirstMessage, limit).await {
            return abort;
        }
        let judging = Instant::now();
        let decision = call.judge(method, body.message(limit)).await;
        // Record and forward it.
        let ends = body.ended();
        let (judged, held) = body.take(&outgoing.headers);
        if !permit.holds() {
            return UpstreamError::Withdrawn.into();
        }
        recording = record(judged, decision, judging);
        let after_a_message = is_whole(&held);
        let written = send.write(&permit, held, ends).await;
        if written != Err(Unsent::Withdrawn) {
            progress.note(ends);
        }
        match written {
            Ok(()) if !ends => {}
            Ok(()) | Err(Unsent::Closed) => return std::future::pending().await,
            Err(Unsent::Withdrawn | Unsent::Cut) => return UpstreamError::Withdrawn.into(),
        }
        // Forward the rest.
        let note = |piece: Piece<'_>| {
            if let Some(recording) = &mut recording {
                recording.amend(piece.denial().filter(|_| after_a_message));
            }
        };
        send.copy(&permit, body.rest(), progress, note).await
    };
    let ended = relay_both_ways(call, &permit, Some(method), &outgoing, respond, upload).await;
    if recording.is_none() && ended.outcome != Outcome::ClientGone {
        // etcd has responded to the head alone. Enforcement would have waited for the rest of the
        // message.
        let cut = check_binding(&call.caller.principal)
            .err()
            .unwrap_or_else(|| denial_of(FrameFault::Cut));
        recording = record(Bytes::new(), refuse(&call.caller.principal, cut), Instant::now());
    }
    if let Some(recording) = &mut recording {
        recording.end(ended);
    }
}

/// True if the held bytes are one whole message. If not, the record already has a denial for that,
/// and the following bytes may belong to the same message.
fn is_whole(held: &[u8]) -> bool {
    frame::only(held, usize::MAX).is_ok()
}

impl Piece<'_> {
    /// The denial that enforcement would give for this piece after the one message of a request.
    fn denial(&self) -> Option<Denial> {
        match self {
            Piece::Data(data) if !data.is_empty() => Some(denial_of(FrameFault::Several)),
            Piece::Trailers => Some(trailers_denial()),
            Piece::Data(_) | Piece::End => None,
        }
    }
}

/// Forwards a bidirectional stream and judges each message of the client at the same time.
pub async fn observed(
    call: &Call<'_>,
    method: Method,
    headers: HeaderMap,
    mut body: RequestBody,
    respond: &mut SendResponse<Bytes>,
) {
    let _open = call.shared().open_streams.register(call.caller.principal.name.clone(), method);
    // In shadow mode, `authorize` always returns a permit.
    let Ok(permit) = authorize(&call.caller.principal, &Accesses::default(), &[]) else { return };
    let permit = LivePermit::new(permit, call.client);
    let unjudged = Unjudged::default();
    let arrived = Notify::new();
    let mut frames = Some(Frames::new(call.shared().config.limits.max_request_bytes));
    // Split what is forwarded into messages.
    let observe = |piece: Piece<'_>| {
        let Some(splitter) = &mut frames else { return };
        // A message is judged later, but as what it was sent as: under shadow mode.
        let caller = call.client.caller();
        let judge_later = |message| {
            if !unjudged.push((caller.clone(), message)) {
                call.shared().metrics.limit_hit(Limit::Unjudged);
            }
        };
        match piece {
            Piece::Data(chunk) => splitter.push(chunk.clone()),
            Piece::Trailers => {}
            Piece::End if splitter.is_empty() => {}
            Piece::End => {
                judge_later(Err(FrameFault::Cut));
                arrived.notify_one();
            }
        }
        loop {
            match splitter.next() {
                Ok(Some(message)) => judge_later(Ok(message)),
                Ok(None) => break,
                // etcd will refuse this message. No later message can be found after it.
                Err(fault) => {
                    judge_later(Err(fault));
                    frames = None;
                    break;
                }
            }
        }
        arrived.notify_one();
    };
    let outgoing = Outgoing::of(method, headers, Bytes::new(), false);
    let upload = async |mut send: Upload, progress: &Progress| {
        send.copy(&permit, body.rest(), progress, observe).await
    };
    let relayed = pin!(relay_both_ways(call, &permit, Some(method), &outgoing, respond, upload));
    // Judge the messages in order. Later ones are forwarded meanwhile.
    let judged = pin!(async {
        let mut pace = MessagePace::default();
        loop {
            // A message stays in the queue until it is judged: the call may end while this waits
            // for etcd to report the keys of a lease.
            match unjudged.first() {
                Some((caller, message)) => {
                    stream::observe(call, &caller, method, message).await;
                    unjudged.remove_first();
                    pace.after_message().await;
                }
                None => arrived.notified().await,
            }
        }
    });
    match select(relayed, judged).await {
        Either::Left(_) => {}
        Either::Right((never, _)) => match never {},
    }
    // The remaining messages were sent too, so judge and record them.
    let mut pace = MessagePace::default();
    while let Some((caller, message)) = unjudged.first() {
        unjudged.remove_first();
        stream::observe(call, &caller, method, message).await;
        pace.after_message().await;
    }
}

/// Sends the head, then the bytes that `upload` writes, and relays the response.
///
/// If the permit is withdrawn, the call ends in any phase: before there is a connection, before
/// etcd has responded, or between two messages. There is one exception: if etcd has the whole of a
/// unary request, its response is still relayed.
async fn relay_both_ways(
    call: &Call<'_>,
    permit: &LivePermit<'_>,
    method: Option<Method>,
    outgoing: &Outgoing,
    respond: &mut SendResponse<Bytes>,
    upload: impl AsyncFnOnce(Upload, &Progress) -> Abort,
) -> Ended {
    let progress = Progress::of(&outgoing.body, outgoing.ends);
    let shape = method.map(Method::call_kind);
    let to = method.map(|method| call.target(method));

    // Send the head. Nothing was written yet, so a withdrawn permit ends a unary request too.
    let sent = {
        let sending = pin!(call.forwarder().send(permit, outgoing, to));
        let sending = pin!(relay::unless_gone(respond, sending));
        match select(sending, pin!(withdrawal(call, permit, shape, &Progress::default()))).await {
            Either::Left((sent, _)) => sent,
            Either::Right((status, _)) => Err(Abort::Stop(status)),
        }
    };
    let Sent { response, send, member, slot: _slot } = match sent {
        Ok(sent) => sent,
        Err(abort) => return Ended { member: None, outcome: abort.end_call(respond) },
    };

    // Forward the request while the response is awaited and relayed.
    let mut abort = pin!(async {
        let upload = pin!(upload(send, &progress));
        match select(upload, pin!(withdrawal(call, permit, shape, &progress))).await {
            Either::Left((Abort::Upstream(UpstreamError::Withdrawn), _)) => {
                Abort::Stop(end_status(call, permit, shape, &progress))
            }
            Either::Left((abort, _)) => abort,
            Either::Right((status, _)) => Abort::Stop(status),
        }
    });

    // Wait for the head of the response.
    let response = {
        let response = pin!(response);
        let response = pin!(relay::unless_gone(respond, response));
        match select(response, abort.as_mut()).await {
            Either::Left((response, _)) => response,
            Either::Right((abort, _)) => Err(abort),
        }
    };

    // Relay the response. Member lists get the proxies' URLs in every mode: with etcd's own URLs,
    // clients would bypass the proxy.
    let outcome = match response {
        Err(abort) => abort.end_call(respond),
        Ok(response) => {
            let delivery = call.delivery(outgoing.class);
            let rewrite = method.and_then(|method| {
                Some((method, Rewrite::of(call.shared(), &call.caller.principal, method)?))
            });
            match rewrite {
                None => relay::answer_until(respond, response, &delivery, abort).await,
                Some((method, rewrite)) => {
                    let change = |message: &[u8]| {
                        rewrite.apply(call.shared(), &call.caller.principal, method, message)
                    };
                    let answer = Box::pin(rewrite::answer(respond, response, &delivery, change));
                    match select(answer, abort).await {
                        Either::Left((outcome, _)) => outcome,
                        Either::Right(_) => Outcome::ClientGone,
                    }
                }
            }
        }
    };
    Ended { member: Some(member), outcome }
}

/// Waits until a passthrough call must end, and returns the status for the client. If etcd has the
/// whole of a unary request, waits forever: the response is expected soon, and without it the
/// client would not know whether the request took effect.
async fn withdrawal(
    call: &Call<'_>,
    permit: &LivePermit<'_>,
    shape: Option<CallKind>,
    progress: &Progress,
) -> Status {
    let unary = shape == Some(CallKind::Unary);
    let may_end = shape != Some(CallKind::BulkStreaming);
    tokio::select! {
        biased;
        // A snapshot may finish, and so may a unary request of which a part was written.
        () = call.client.ending.cancelled(), if may_end => {
            if unary && progress.has_begun() {
                permit.withdrawn().await;
            }
        }
        () = permit.withdrawn() => {}
    }
    if unary && progress.has_ended() {
        return std::future::pending().await;
    }
    end_status(call, permit, shape, progress)
}

/// The status of a passthrough call that must end.
fn end_status(
    call: &Call<'_>,
    permit: &LivePermit<'_>,
    shape: Option<CallKind>,
    progress: &Progress,
) -> Status {
    let status =
        if permit.holds() { call.ended_with_connection() } else { permit.withdrawn_status() };
    match shape {
        // Some bytes were written, perhaps all of them. So etcd may have executed the request.
        Some(CallKind::Unary) if progress.has_begun() => Status::lost(),
        Some(CallKind::Unary) => Status::not_sent(),
        _ => status,
    }
}
