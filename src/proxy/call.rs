//! One request, from its head to its record.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::RecvStream;
use h2::server::SendResponse;
use http::request::Parts;
use http::{HeaderMap, Request};
use tokio::sync::watch;

use super::Shared;
use super::connection::Client;
use super::forward::{Forwarder, Outgoing};
use super::intake::{ClientGone, Intake, Until};
use super::judge::{self, Caller};
use super::record::{Note, Who};
use super::relay::{self, Ended};
use super::reply::Status;
use super::rewrite::{self, Rewrite};
use super::{head, raw, stream};
use crate::audit::OwnedAccesses;
use crate::authorize::{Denial, Permit, Reason, refuse, standing};
use crate::method::{Effect, Method, Shape};
use crate::metrics::reason::{Limit, Termination};
use crate::policy::Mode;
use crate::upstream::members::MemberIndex;
use crate::wire::{self, frame};

/// Serves one request of a client.
pub async fn serve(client: Rc<Client>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let begun = Instant::now();
    let caller = client.caller();
    let (parts, body) = request.into_parts();
    let intake = Intake::new(body, client.worker.budget.clone());
    let call = Call { client: &client, caller, begun };
    let metrics = &client.worker.shared.metrics;
    metrics.streams.increment(1.0);
    let ended = match (head::method(&parts), call.caller.principal.mode) {
        (Ok(method), Mode::Enforce) if method.shape() == Shape::Conversation => {
            Box::pin(stream::serve(&call, method, call.metadata(parts.headers), intake, &mut respond)).await
        }
        (Ok(method), Mode::Shadow) if method.shape() == Shape::Conversation => {
            Box::pin(raw::observed(&call, method, call.metadata(parts.headers), intake, &mut respond)).await
        }
        (Ok(method), _) => call.one_message(method, parts.headers, intake, &mut respond).await,
        (Err(denial), _) => Box::pin(call.no_method(denial, parts, intake, &mut respond)).await,
    };
    if ended == Ended::ClientGone {
        metrics.http2_resets.increment(1);
    }
    metrics.streams.decrement(1.0);
}

/// What is known of a request from its first moment on.
pub struct Call<'c> {
    /// Who makes it.
    pub client: &'c Client,
    /// The policy's word on the caller when the request came.
    pub caller: Rc<Caller>,
    /// When it came.
    pub begun: Instant,
}

impl Call<'_> {
    /// What all workers share.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.client.worker.shared
    }

    /// The client's way to etcd.
    #[must_use]
    pub fn forwarder(&self) -> &Forwarder {
        &self.client.forwarder
    }

    fn who<'a>(&'a self, caller: &'a Caller) -> Who<'a> {
        Who { identity: &self.client.identity, peer: self.client.peer, caller }
    }

    /// Wakes at each change of the policy that came after this request was judged.
    #[must_use]
    pub fn policy_changes(&self) -> watch::Receiver<u64> {
        let live = &self.shared().policy;
        let mut changes = live.subscribe();
        if live.generation() != self.caller.policy.generation {
            changes.mark_changed();
        }
        changes
    }

    /// The connection ends, and a call that stays open with it: what its client is told.
    #[must_use]
    pub fn ended_with_connection(&self) -> Status {
        let drains = self.shared().drain.is_cancelled();
        self.shared().metrics.terminated(if drains { Termination::Drain } else { Termination::Identity });
        Status::draining()
    }

    fn metadata(&self, headers: HeaderMap) -> HeaderMap {
        head::forwarded(headers, self.shared().config.client_tokens)
    }

    /// A request of one message: held until it can be judged, then forwarded as it is.
    async fn one_message(&self, method: Method, headers: HeaderMap, mut intake: Intake, respond: &mut SendResponse<Bytes>) -> Ended {
        let shared = self.shared();
        let principal = &self.caller.principal;
        let limit = shared.config.limits.max_request_bytes;
        let until = if principal.mode == Mode::Enforce { Until::End } else { Until::FirstMessage };
        let Ok(filled) = intake.fill(until, limit).await else { return Ended::ClientGone };
        if let (Err(denial), Mode::Enforce) = (&filled, principal.mode) {
            match denial.reason {
                Reason::TooLarge => shared.metrics.limit_hit(Limit::RequestBytes),
                Reason::Limit => shared.metrics.limit_hit(Limit::HeldBytes),
                _ => {}
            }
        }
        let member = self.target(method);
        let judging = Instant::now();
        let verdict = match filled.and_then(|()| intake.message(limit)) {
            Ok(message) => match self.over_limit(method) {
                None => judge::message(shared, principal, member, method, message).await,
                Some(denial) => refuse(principal, denial),
            },
            Err(denial) => refuse(principal, standing(principal).err().unwrap_or(denial)),
        };
        let held = intake.take();
        let (verdict, note) = self.note(method.effect(), verdict, judging.elapsed());
        let (member, ended) = match verdict {
            Err(denial) => (None, self.refuse(&denial, respond)),
            Ok(permit) => self.permitted(&permit, method, headers, held.clone(), intake, respond).await,
        };
        if let Some(note) = note {
            note.close(shared, &self.client.worker.roles, &self.who(&self.caller), Ok(method), || accesses(method, &held), member, ended);
        }
        ended
    }

    /// Carries out what was allowed.
    async fn permitted(
        &self,
        permit: &Permit,
        method: Method,
        headers: HeaderMap,
        held: Bytes,
        mut intake: Intake,
        respond: &mut SendResponse<Bytes>,
    ) -> (Option<MemberIndex>, Ended) {
        let enforced = self.caller.principal.mode == Mode::Enforce;
        if enforced && matches!(method, Method::HealthCheck | Method::HealthWatch) {
            return (None, stream::health(self, method, respond).await.into());
        }
        let headers = self.metadata(headers);
        if enforced
            && method == Method::LeaseGrant
            && let Some(ttl) = unnamed_lease(&held)
        {
            return self.lease_grant(permit, headers, ttl, respond).await;
        }
        let outgoing = Outgoing::of(method, headers, held, intake.ended());
        if !outgoing.ends {
            return raw::open(self, permit, Some(method), &outgoing, &mut intake, respond).await;
        }
        if method.shape() != Shape::Unary {
            return Box::pin(self.long(permit, method, &outgoing, respond)).await;
        }
        let target = Some(self.target(method));
        let exchange = match relay::unless_gone(respond, self.forwarder().exchange(permit, &outgoing, target)).await {
            Err(ClientGone) => return (None, Ended::ClientGone),
            Ok(Err(error)) => return (None, relay::refuse_or_reset(respond, &error)),
            Ok(Ok(exchange)) => exchange,
        };
        let member = Some(exchange.member);
        let _place = exchange.place;
        let ended = match Rewrite::of(self.shared(), &self.caller.principal, method) {
            None => relay::answer(respond, exchange.response).await,
            Some(rewrite) => {
                let change = |message: &[u8]| rewrite.apply(self.shared(), &self.caller.principal, method, message);
                Box::pin(rewrite::answer(respond, exchange.response, change)).await
            }
        };
        (member, ended.into())
    }

    /// A call that stays open. It ends when its right or its connection ends, also while etcd has not begun to answer: a Lock that
    /// waits has no head yet.
    async fn long(
        &self,
        permit: &Permit,
        method: Method,
        outgoing: &Outgoing,
        respond: &mut SendResponse<Bytes>,
    ) -> (Option<MemberIndex>, Ended) {
        let _open = self.shared().registry.register(self.caller.principal.name.clone(), method);
        let target = self.target(method);
        let mut stop = pin!(stream::stop(self, method, &outgoing.body));
        let begun = {
            let exchange = pin!(relay::unless_gone(respond, self.forwarder().exchange(permit, outgoing, Some(target))));
            match select(exchange, stop.as_mut()).await {
                Either::Left((begun, _)) => Ok(begun),
                Either::Right((status, _)) => Err(status),
            }
        };
        match begun {
            Err(status) => {
                status.send(respond);
                (Some(target), Ended::Answered(Some(status.code)))
            }
            Ok(Err(ClientGone)) => (None, Ended::ClientGone),
            Ok(Ok(Err(error))) => (None, relay::refuse_or_reset(respond, &error)),
            Ok(Ok(Ok(exchange))) => {
                let _place = exchange.place;
                (Some(exchange.member), relay::answer_until(respond, exchange.response, stop).await.into())
            }
        }
    }

    /// A LeaseGrant whose id the proxy chooses; another one if etcd has it already.
    async fn lease_grant(
        &self,
        permit: &Permit,
        headers: HeaderMap,
        ttl: i64,
        respond: &mut SendResponse<Bytes>,
    ) -> (Option<MemberIndex>, Ended) {
        let mut outgoing = Outgoing::of(Method::LeaseGrant, headers, Bytes::new(), true);
        for last in [false, false, false, false, true] {
            outgoing.body = rewrite::lease_grant(self.shared(), &self.caller.principal, ttl);
            match relay::unless_gone(respond, self.forwarder().exchange(permit, &outgoing, None)).await {
                Err(ClientGone) => return (None, Ended::ClientGone),
                Ok(Err(error)) => return (None, relay::refuse_or_reset(respond, &error)),
                Ok(Ok(exchange)) if last || !rewrite::lease_is_taken(&exchange.response) => {
                    return (Some(exchange.member), relay::answer(respond, exchange.response).await.into());
                }
                Ok(Ok(_)) => {}
            }
        }
        (None, Ended::ClientGone)
    }

    /// A request that names no method of etcd, or is no gRPC: refused, or in shadow mode passed on untouched.
    async fn no_method(&self, denial: Denial, parts: Parts, mut intake: Intake, respond: &mut SendResponse<Bytes>) -> Ended {
        let shared = self.shared();
        let path = parts.uri.path_and_query().cloned();
        let text = path.as_ref().map_or("", |path| path.as_str()).as_bytes();
        let verdict = refuse(&self.caller.principal, standing(&self.caller.principal).err().unwrap_or(denial));
        let (verdict, note) = self.note(Effect::Writes, verdict, Duration::ZERO);
        let (member, ended) = match verdict {
            Err(denial) => (None, self.refuse(&denial, respond)),
            Ok(permit) => match raw::outgoing(self, parts.method.clone(), path.clone(), parts.headers) {
                Some(outgoing) => raw::open(self, &permit, None, &outgoing, &mut intake, respond).await,
                // A `:path` that is no path cannot be sent on (docs/shadow.md).
                None => (None, self.refuse(&Denial::new(Reason::NotGrpc, "the path cannot be forwarded"), respond)),
            },
        };
        if let Some(note) = note {
            let text = text.get(..256).unwrap_or(text);
            note.close(shared, &self.client.worker.roles, &self.who(&self.caller), Err(text), OwnedAccesses::default, member, ended);
        }
        ended
    }

    /// Notes a verdict. A verdict that the audit has no room for becomes a refusal, which then has no note.
    fn note(&self, effect: Effect, verdict: Result<Permit, Denial>, judged: Duration) -> (Result<Permit, Denial>, Option<Note>) {
        match Note::of(self.shared(), &self.caller, effect, &verdict, self.begun, judged) {
            Ok(note) => (verdict, Some(note)),
            Err(denial) => {
                self.shared().metrics.limit_hit(Limit::AuditQueue);
                (Err(denial), None)
            }
        }
    }

    /// Answers a refusal.
    pub fn refuse(&self, denial: &Denial, respond: &mut SendResponse<Bytes>) -> Ended {
        let status = Status::of(denial, self.shared().config.reason_trailer);
        status.send(respond);
        Ended::Answered(Some(status.code))
    }

    /// The member for a call: the connection's own, but the leader for a call that only the leader takes.
    fn target(&self, method: Method) -> MemberIndex {
        let leader = if method == Method::MoveLeader { self.shared().members.leader() } else { None };
        leader.unwrap_or_else(|| self.forwarder().home())
    }

    /// Passwords are hashed slowly at etcd: only so many a second. Shadow mode limits nothing.
    fn over_limit(&self, method: Method) -> Option<Denial> {
        let limited = method == Method::Authenticate && self.caller.principal.mode == Mode::Enforce;
        if limited && !self.client.worker.authenticate.take() {
            self.shared().metrics.limit_hit(Limit::Authenticate);
            return Some(Denial::new(Reason::Limit, "too many password logins"));
        }
        None
    }
}

/// What a held message would touch, for its audit line: read once more, because the usual request needs no line.
fn accesses(method: Method, held: &Bytes) -> OwnedAccesses {
    let message = frame::single(held, usize::MAX).unwrap_or_default();
    wire::inspect(method, message).as_ref().map(OwnedAccesses::from).unwrap_or_default()
}

/// The time to live of a LeaseGrant that leaves its id to the server.
fn unnamed_lease(held: &Bytes) -> Option<i64> {
    let grant = wire::lease::grant(frame::single(held, usize::MAX).ok()?).ok()?;
    (grant.id == 0).then_some(grant.ttl)
}
