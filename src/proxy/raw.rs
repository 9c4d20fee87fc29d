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
use crate::authorize::{Denial, Permit, authorize, refuse, standing};
use crate::method::{Effect, Method};
use crate::upstream::Class;
use crate::upstream::members::MemberIndex;
use crate::wire::frame::{self, FrameFault, Frames};

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
    let mut tail = Tail::after(&outgoing.body);
    let upload = async |mut send| {
        if outgoing.ends {
            return std::future::pending().await;
        }
        relay::upload(intake.rest(), &mut send, |piece| tail.note(&piece)).await
    };
    let (member, ended) = relay_both_ways(call, permit, method, outgoing, respond, upload).await;
    (member, ended, tail.denial)
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
    let mut judged = None;
    let mut tail = Tail::default();
    let upload = async |mut send: SendStream<Bytes>| {
        let Ok(filled) = intake.fill(Until::FirstMessage, call.shared().config.limits.max_request_bytes).await else { return ClientGone };
        let judging = Instant::now();
        let verdict = call.judge(method, filled, intake).await;
        let held = intake.take();
        let ends = intake.ended();
        tail = Tail::after(&held);
        judged = Some((held.clone(), verdict, judging.elapsed()));
        if ends {
            let _ = send.send_data(held, true);
            return std::future::pending().await;
        }
        let _ = relay::send(&mut send, held).await;
        relay::upload(intake.rest(), &mut send, |piece| tail.note(&piece)).await
    };
    let outgoing = Outgoing::of(method, headers, Bytes::new(), false);
    let (member, ended) = relay_both_ways(call, &permit, Some(method), &outgoing, respond, upload).await;
    // What is wrong around a message, enforcement would have seen before it looked at the message.
    let around = |denial| refuse(&call.caller.principal, standing(&call.caller.principal).err().unwrap_or(denial));
    let judged = match (judged, ended, tail.denial) {
        (Some((held, _, took)), _, Some(denial)) => Some((held, around(denial), took)),
        (Some(judged), _, None) => Some(judged),
        (None, Ended::ClientGone, _) => None,
        // Enforcement would have waited for the end of the message, and etcd did not.
        (None, Ended::Answered(_), _) => Some((Bytes::new(), around(denial_of(FrameFault::Cut)), Duration::ZERO)),
    };
    (member, ended, judged)
}

/// What follows a first message, and what enforcement would have refused the request for because of it.
#[derive(Default)]
struct Tail {
    after_a_message: bool,
    denial: Option<Denial>,
}

impl Tail {
    /// Behind what was held. If that is no whole message, it was refused for that already, and the rest may belong to it.
    fn after(held: &[u8]) -> Self {
        Self { after_a_message: frame::single(held, usize::MAX).is_ok(), denial: None }
    }

    fn note(&mut self, piece: &Piece<'_>) {
        let denial = match piece {
            Piece::Data(data) if !data.is_empty() => denial_of(FrameFault::Several),
            Piece::Trailers => trailers_denial(),
            Piece::Data(_) | Piece::End => return,
        };
        if self.after_a_message {
            self.denial.get_or_insert(denial);
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
