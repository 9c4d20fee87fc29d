//! Shadow mode's way: whatever came goes on, both ways, as it comes. What can be judged is judged beside it and recorded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::SendStream;
use h2::server::SendResponse;
use http::HeaderMap;
use http::uri::PathAndQuery;
use tokio::sync::Notify;

use super::call::Call;
use super::forward::{ForwardError, Outgoing, Sent, classify};
use super::intake::{ClientGone, Intake, Until, denial_of, trailers_denial};
use super::relay::{self, Ended, Piece};
use super::stream;
use crate::access::Accesses;
use crate::authorize::{Denial, Permit, authorize, refuse};
use crate::method::{Effect, Method};
use crate::upstream::Class;
use crate::upstream::members::MemberIndex;
use crate::wire::frame::{FrameFault, Frames};

/// Messages of one stream that may wait to be judged; beyond them, recording lags behind and skips.
const UNJUDGED: usize = 1024;

/// A request that names no method, as it came; `ends` with its head or goes on.
#[must_use]
pub fn outgoing(verb: http::Method, path: Option<PathAndQuery>, headers: HeaderMap, ends: bool) -> Option<Outgoing> {
    Some(Outgoing { verb, path: path?, headers, body: Bytes::new(), ends, class: Class::Long, effect: Effect::Writes })
}

/// Relays a request whose client has not ended its side: what was held goes first, the rest follows as it comes. Also tells what
/// enforcement would have refused that rest for.
pub async fn open(
    call: &Call<'_>,
    permit: &Permit,
    method: Option<Method>,
    outgoing: &Outgoing,
    intake: &mut Intake,
    respond: &mut SendResponse<Bytes>,
) -> (Option<MemberIndex>, Ended, Option<Denial>) {
    let tail = RefCell::new(None);
    let upload = async |mut send| {
        if outgoing.ends {
            return std::future::pending().await;
        }
        relay::upload(intake.rest(), &mut send, |piece| note_tail(&tail, &piece)).await
    };
    let (member, ended) = relay_both_ways(call, permit, method, outgoing, respond, upload).await;
    (member, ended, tail.into_inner())
}

/// Relays a request whose one message is slow to come. etcd sees its head at once, and may answer to that alone (a deadline, an
/// encoding that it does not have); the message is held until it can be judged. Returns what was held, the verdict, and how long
/// it took to judge: `None` if the client left before it.
pub async fn slow(
    call: &Call<'_>,
    method: Method,
    headers: HeaderMap,
    intake: &mut Intake,
    respond: &mut SendResponse<Bytes>,
) -> (Option<MemberIndex>, Ended, Option<(Bytes, Result<Permit, Denial>, Duration)>) {
    let nothing = (None, Ended::ClientGone, None);
    // Shadow mode: always a permit.
    let Ok(permit) = authorize(&call.caller.principal, &Accesses::default(), &[]) else { return nothing };
    let judged = RefCell::new(None);
    let tail = RefCell::new(None);
    let upload = async |mut send: SendStream<Bytes>| {
        let Ok(filled) = intake.fill(Until::FirstMessage, call.shared().config.limits.max_request_bytes).await else { return ClientGone };
        let judging = Instant::now();
        let verdict = call.judge(method, filled, intake).await;
        let held = intake.take();
        let ends = intake.ended();
        judged.replace(Some((held.clone(), verdict, judging.elapsed())));
        if ends {
            let _ = send.send_data(held, true);
            return std::future::pending().await;
        }
        let _ = relay::send(&mut send, held).await;
        relay::upload(intake.rest(), &mut send, |piece| note_tail(&tail, &piece)).await
    };
    let outgoing = Outgoing::of(method, headers, Bytes::new(), false);
    let (member, ended) = relay_both_ways(call, &permit, Some(method), &outgoing, respond, upload).await;
    let judged = match (judged.into_inner(), ended, tail.into_inner()) {
        (Some((held, Ok(permit), took)), _, Some(denial)) if permit.would_deny().is_none() => {
            Some((held, refuse(&call.caller.principal, denial), took))
        }
        (Some(judged), _, _) => Some(judged),
        (None, Ended::ClientGone, _) => None,
        // Enforcement would have waited for the end of the message, and etcd did not.
        (None, Ended::Answered(_), _) => Some((Bytes::new(), refuse(&call.caller.principal, denial_of(FrameFault::Cut)), Duration::ZERO)),
    };
    (member, ended, judged)
}

/// Notes what enforcement would say of what follows a first message.
fn note_tail(tail: &RefCell<Option<Denial>>, piece: &Piece<'_>) {
    let denial = match piece {
        Piece::Data(data) if data.is_empty() => return,
        Piece::Data(_) => denial_of(FrameFault::Several),
        Piece::Trailers => trailers_denial(),
    };
    tail.borrow_mut().get_or_insert(denial);
}

/// Relays a conversation and judges every message of the client's beside it.
pub async fn observed(call: &Call<'_>, method: Method, headers: HeaderMap, mut intake: Intake, respond: &mut SendResponse<Bytes>) {
    let _open = call.shared().registry.register(call.caller.principal.name.clone(), method);
    // Shadow mode: always a permit.
    let Ok(permit) = authorize(&call.caller.principal, &Accesses::default(), &[]) else { return };
    let unjudged = RefCell::new(VecDeque::new());
    let news = Notify::new();
    let mut frames = Some(Frames::new(call.shared().config.limits.max_request_bytes));
    let observe = |piece: Piece<'_>| {
        let (Some(splitter), Piece::Data(chunk)) = (&mut frames, piece) else { return };
        splitter.push(chunk.clone());
        loop {
            match splitter.next() {
                Ok(Some(message)) if unjudged.borrow().len() < UNJUDGED => unjudged.borrow_mut().push_back(Ok(message)),
                Ok(Some(_)) => call.shared().metrics.limit_hit("unjudged"),
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
    let upload = async |mut send| relay::upload(intake.rest(), &mut send, observe).await;
    let relayed = pin!(relay_both_ways(call, &permit, Some(method), &outgoing, respond, upload));
    let judged = pin!(async {
        loop {
            let next = unjudged.borrow_mut().pop_front();
            match next {
                Some(message) => stream::observe(call, method, message).await,
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

async fn relay_both_ways(
    call: &Call<'_>,
    permit: &Permit,
    method: Option<Method>,
    outgoing: &Outgoing,
    respond: &mut SendResponse<Bytes>,
    upload: impl AsyncFnOnce(SendStream<Bytes>) -> ClientGone,
) -> (Option<MemberIndex>, Ended) {
    let to = method.map(|method| call.target(method));
    let sent = match relay::unless_gone(respond, call.forwarder().send(permit, outgoing, to)).await {
        Err(ClientGone) => return (None, Ended::ClientGone),
        Ok(Err(error)) => return (None, relay::refuse_or_reset(respond, &error)),
        Ok(Ok(sent)) => sent,
    };
    let Sent { response, send, member, place: _place } = sent;
    let member = Some(member);
    let upload = pin!(upload(send));
    let download = pin!(async {
        match relay::unless_gone(respond, response).await? {
            Ok(response) => relay::answer_until(respond, response, stream::enforced(call, method)).await,
            Err(error) => match classify(&error) {
                ForwardError::Reset(reason) => {
                    respond.send_reset(reason);
                    Ok(Ended::Answered(None))
                }
                lost => Ok(relay::refuse_or_reset(respond, &lost)),
            },
        }
    });
    let ended = match select(upload, download).await {
        Either::Left((ClientGone, _)) => Ended::ClientGone,
        Either::Right((ended, _)) => ended.into(),
    };
    (member, ended)
}
