//! Shadow mode's way: whatever came goes on, both ways, as it comes. What can be judged is judged beside it and recorded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::pin;
use std::time::Instant;

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
use super::record::{Recording, Subject};
use super::relay::{self, Ended, Piece};
use super::reply::Status;
use super::rewrite::{self, Rewrite};
use super::stream;
use crate::access::Accesses;
use crate::authorize::{Denial, Permit, authorize, refuse, standing};
use crate::method::{Effect, Method};
use crate::metrics::reason::Limit;
use crate::upstream::Class;
use crate::upstream::members::MemberIndex;
use crate::upstream::pool::Target;
use crate::wire::frame::{self, FrameFault, Frames};

/// Messages of one stream that may wait to be judged; beyond them, recording lags behind and skips.
const UNJUDGED: usize = 1024;

/// A request that names no method, as it came; `ends` with its head or goes on.
#[must_use]
pub fn outgoing(verb: http::Method, path: Option<PathAndQuery>, headers: HeaderMap, ends: bool) -> Option<Outgoing> {
    Some(Outgoing { verb, target: Target::Path(path?), headers, body: Bytes::new(), ends, class: Class::Long, effect: Effect::Writes })
}

/// Relays a request whose client has not ended its side: what was held goes first, the rest follows as it comes. What enforcement
/// would have refused that rest for goes into the record.
pub async fn open(
    call: &Call<'_>,
    permit: &Permit,
    method: Option<Method>,
    outgoing: &Outgoing,
    intake: &mut Intake,
    respond: &mut SendResponse<Bytes>,
    recording: &mut Recording<'_>,
) -> (Option<MemberIndex>, Ended) {
    let after_a_message = is_whole(&outgoing.body);
    let upload = async |mut send| {
        if outgoing.ends {
            return std::future::pending().await;
        }
        let note = |piece: Piece<'_>| recording.amend(piece.denial().filter(|_| after_a_message));
        relay::upload(intake.rest(), &mut send, note).await
    };
    relay_both_ways(call, permit, method, outgoing, respond, upload).await
}

/// Relays a request whose one message is slow to come. etcd sees its head at once, and may answer to that alone (a deadline, an
/// encoding that it does not have); the message is held until it can be judged.
pub async fn slow(call: &Call<'_>, method: Method, headers: HeaderMap, mut intake: Intake, respond: &mut SendResponse<Bytes>) {
    // Shadow mode: always a permit, and always a record.
    let Ok(permit) = authorize(&call.caller.principal, &Accesses::default(), &[]) else { return };
    let record =
        |held, verdict, judging| call.record(Subject::Message(method, held), verdict, judging).ok().map(|(_, recording)| recording);
    let mut recording = None;
    let mut outdated = false;
    let upload = async |mut send: SendStream<Bytes>| {
        let filled = tokio::select! {
            biased;
            filled = intake.fill(Until::FirstMessage, call.shared().config.limits.max_request_bytes) => filled,
            // Nothing of it was sent: it comes back, and is judged.
            _ = stream::shadow_ends(call, true) => {
                outdated = true;
                return ClientGone;
            }
        };
        let Ok(filled) = filled else { return ClientGone };
        let judging = Instant::now();
        let verdict = call.judge(method, filled, &intake).await;
        let held = intake.take();
        let ends = intake.ended();
        recording = record(held.clone(), verdict, judging);
        if ends {
            let _ = send.send_data(held, true);
            return std::future::pending().await;
        }
        let after_a_message = is_whole(&held);
        let _ = relay::send(&mut send, held).await;
        let note = |piece: Piece<'_>| {
            if let Some(recording) = &mut recording {
                recording.amend(piece.denial().filter(|_| after_a_message));
            }
        };
        relay::upload(intake.rest(), &mut send, note).await
    };
    let outgoing = Outgoing::of(method, headers, Bytes::new(), false);
    let (member, ended) = relay_both_ways(call, &permit, Some(method), &outgoing, respond, upload).await;
    if outdated {
        return Status::not_sent().send(respond);
    }
    if recording.is_none() && ended != Ended::ClientGone {
        // etcd has answered to the head alone; enforcement would have waited for the end of the message.
        let cut = standing(&call.caller.principal).err().unwrap_or_else(|| denial_of(FrameFault::Cut));
        recording = record(Bytes::new(), refuse(&call.caller.principal, cut), Instant::now());
    }
    if let Some(recording) = &mut recording {
        (recording.member, recording.ended) = (member, ended);
    }
}

/// Whether what was held is one whole message. If it is not, it was refused for that already, and the rest may belong to it.
fn is_whole(held: &[u8]) -> bool {
    frame::single(held, usize::MAX).is_ok()
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
pub async fn observed(call: &Call<'_>, method: Method, headers: HeaderMap, mut intake: Intake, respond: &mut SendResponse<Bytes>) {
    let _open = call.shared().registry.register(call.caller.principal.name.clone(), method);
    // Shadow mode: always a permit.
    let Ok(permit) = authorize(&call.caller.principal, &Accesses::default(), &[]) else { return };
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
                Ok(Some(message)) if unjudged.borrow().len() < UNJUDGED => unjudged.borrow_mut().push_back(Ok(message)),
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
    let upload = async |mut send| relay::upload(intake.rest(), &mut send, observe).await;
    let relayed = pin!(relay_both_ways(call, &permit, Some(method), &outgoing, respond, upload));
    let judged = pin!(async {
        loop {
            // It stays in the queue until it is judged: the call may end meanwhile, with the question whose a lease is on its way.
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

async fn relay_both_ways(
    call: &Call<'_>,
    permit: &Permit,
    method: Option<Method>,
    outgoing: &Outgoing,
    respond: &mut SendResponse<Bytes>,
    upload: impl AsyncFnOnce(SendStream<Bytes>) -> ClientGone,
) -> (Option<MemberIndex>, Ended) {
    let to = method.map(|method| call.target(method));
    let sent = match relay::unless_gone(respond, pin!(call.forwarder().send(permit, outgoing, to))).await {
        Err(ClientGone) => return (None, Ended::ClientGone),
        Ok(Err(error)) => return (None, relay::refuse_or_reset(respond, &error)),
        Ok(Ok(sent)) => sent,
    };
    let Sent { response, send, member, place: _place } = sent;
    let member = Some(member);
    let upload = pin!(upload(send));
    let download = pin!(async {
        let delivery = call.delivery(outgoing.class);
        match relay::unless_gone(respond, pin!(response)).await? {
            // Member lists show the proxies' URLs in every mode, or their clients would walk around the proxy.
            Ok(response) => match method.and_then(|method| Some((method, Rewrite::of(call.shared(), &call.caller.principal, method)?))) {
                None => relay::answer_until(respond, response, &delivery, stream::enforced(call, method)).await,
                Some((method, rewrite)) => {
                    let change = |message: &[u8]| rewrite.apply(call.shared(), &call.caller.principal, method, message);
                    Box::pin(rewrite::answer(respond, response, &delivery, change)).await
                }
            },
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
