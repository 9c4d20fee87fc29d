//! Shadow mode's way: whatever came goes on, both ways, as it comes. What can be judged is judged beside it and recorded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::server::SendResponse;
use http::HeaderMap;
use http::uri::PathAndQuery;
use tokio::sync::Notify;

use super::call::Call;
use super::forward::{ForwardError, Outgoing, Sent, classify};
use super::intake::{ClientGone, Intake};
use super::relay::{self, Ended};
use super::stream;
use crate::access::Accesses;
use crate::authorize::{Permit, authorize};
use crate::method::{Effect, Method};
use crate::metrics::reason::Limit;
use crate::upstream::Class;
use crate::upstream::members::MemberIndex;
use crate::wire::frame::Frames;

/// Messages of one stream that may wait to be judged; beyond them, recording lags behind and skips.
const UNJUDGED: usize = 1024;

/// A request that names no method, as it came.
#[must_use]
pub fn outgoing(call: &Call<'_>, verb: http::Method, path: Option<PathAndQuery>, headers: HeaderMap) -> Option<Outgoing> {
    let headers = super::head::forwarded(headers, call.shared().config.client_tokens);
    Some(Outgoing { verb, path: path?, headers, body: Bytes::new(), ends: false, class: Class::Long, effect: Effect::Writes })
}

/// Relays a request whose client has not ended its side: what was held goes first, the rest follows as it comes.
pub async fn open(
    call: &Call<'_>,
    permit: &Permit,
    method: Option<Method>,
    outgoing: &Outgoing,
    intake: &mut Intake,
    respond: &mut SendResponse<Bytes>,
) -> (Option<MemberIndex>, Ended) {
    let ended = intake.ended();
    relay_both_ways(call, permit, method, outgoing, intake, respond, ended, |_| ()).await
}

/// Relays a conversation and judges every message of the client's beside it.
pub async fn observed(call: &Call<'_>, method: Method, headers: HeaderMap, mut intake: Intake, respond: &mut SendResponse<Bytes>) -> Ended {
    let _open = call.shared().registry.register(call.caller.principal.name.clone(), method);
    // Shadow mode: always a permit.
    let Ok(permit) = authorize(&call.caller.principal, &Accesses::default(), &[]) else { return Ended::Answered(None) };
    let unjudged = RefCell::new(VecDeque::new());
    let news = Notify::new();
    let mut frames = Some(Frames::new(call.shared().config.limits.max_request_bytes));
    let observe = |chunk: &Bytes| {
        let Some(splitter) = &mut frames else { return };
        splitter.push(chunk.clone());
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
    let relayed = pin!(relay_both_ways(call, &permit, Some(method), &outgoing, &mut intake, respond, false, observe));
    let judged = pin!(async {
        loop {
            let next = unjudged.borrow_mut().pop_front();
            match next {
                Some(message) => stream::observe(call, method, message).await,
                None => news.notified().await,
            }
        }
    });
    let ended = match select(relayed, judged).await {
        Either::Left(((_, ended), _)) => ended,
        Either::Right((never, _)) => match never {},
    };
    // What is still unjudged was sent: it is recorded, too.
    for message in unjudged.take() {
        stream::observe(call, method, message).await;
    }
    ended
}

#[expect(clippy::too_many_arguments, reason = "one private function behind the two entries above")]
async fn relay_both_ways(
    call: &Call<'_>,
    permit: &Permit,
    method: Option<Method>,
    outgoing: &Outgoing,
    intake: &mut Intake,
    respond: &mut SendResponse<Bytes>,
    client_ended: bool,
    observe: impl FnMut(&Bytes),
) -> (Option<MemberIndex>, Ended) {
    let sent = match relay::unless_gone(respond, call.forwarder().send(permit, outgoing, None)).await {
        Err(ClientGone) => return (None, Ended::ClientGone),
        Ok(Err(error)) => return (None, relay::refuse_or_reset(respond, &error)),
        Ok(Ok(sent)) => sent,
    };
    let Sent { response, mut send, member, place: _place } = sent;
    let member = Some(member);
    let upload = pin!(async {
        if client_ended {
            let _ = send.send_data(Bytes::new(), true);
            std::future::pending().await
        } else {
            relay::upload(intake.rest(), &mut send, observe).await
        }
    });
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
