//! What was allowed is carried out: one answer, one that stays open, or a lease whose id the proxy chooses.

use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::server::SendResponse;
use http::HeaderMap;

use super::call::Call;
use super::forward::Outgoing;
use super::intake::ClientGone;
use super::relay::{self, Ended};
use super::rewrite::{self, Rewrite, Whole};
use super::stream;
use crate::authorize::Permit;
use crate::method::{Method, Shape};
use crate::policy::Mode;
use crate::upstream::Class;
use crate::upstream::members::MemberIndex;
use crate::wire::{self, frame};

impl Call<'_> {
    /// Carries out what was allowed.
    pub(super) async fn permitted(
        &self,
        permit: &Permit,
        method: Method,
        headers: HeaderMap,
        held: Bytes,
        respond: &mut SendResponse<Bytes>,
    ) -> (Option<MemberIndex>, Ended) {
        let enforced = self.caller.principal.mode == Mode::Enforce;
        if enforced
            && method == Method::LeaseGrant
            && let Some(ttl) = unnamed_lease(&held)
        {
            return Box::pin(self.lease_grant(permit, headers, ttl, respond)).await;
        }
        let outgoing = Outgoing::of(method, headers, held, true);
        if method.shape() != Shape::Unary {
            return Box::pin(self.long(permit, method, &outgoing, respond)).await;
        }
        let target = Some(self.target(method));
        let exchange = match relay::unless_gone(respond, pin!(self.forwarder().exchange(permit, &outgoing, target))).await {
            Err(ClientGone) => return (None, Ended::ClientGone),
            Ok(Err(error)) => return (None, relay::refuse_or_reset(respond, &error)),
            Ok(Ok(exchange)) => exchange,
        };
        let member = Some(exchange.member);
        let _place = exchange.place;
        let delivery = self.delivery(Class::of(method));
        let ended = match Rewrite::of(self.shared(), &self.caller.principal, method) {
            None => relay::answer(respond, exchange.response, &delivery).await,
            Some(rewrite) => {
                let change = |message: &[u8]| rewrite.apply(self.shared(), &self.caller.principal, method, message);
                Box::pin(rewrite::answer(respond, exchange.response, &delivery, change)).await
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
            let exchange = pin!(self.forwarder().exchange(permit, outgoing, Some(target)));
            let exchange = pin!(relay::unless_gone(respond, exchange));
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
                let delivery = self.delivery(Class::of(method));
                (Some(exchange.member), relay::answer_until(respond, exchange.response, &delivery, stop).await.into())
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
        let delivery = self.delivery(Class::Unary);
        for last in [false, false, false, false, true] {
            outgoing.body = rewrite::lease_grant(self.shared(), &self.caller.principal, ttl);
            let granted = async {
                let exchange = self.forwarder().exchange(permit, &outgoing, None).await?;
                Ok((exchange.member, Whole::read(exchange.response, &delivery).await?))
            };
            match relay::unless_gone(respond, pin!(granted)).await {
                Err(ClientGone) => return (None, Ended::ClientGone),
                Ok(Err(error)) => return (None, relay::refuse_or_reset(respond, &error)),
                Ok(Ok((_, whole))) if !last && whole.says_lease_is_taken() => {}
                Ok(Ok((member, whole))) => return (Some(member), whole.pass_on(respond, &delivery).await.into()),
            }
        }
        (None, Ended::ClientGone)
    }
}

/// The time to live of a LeaseGrant that leaves its id to the server.
fn unnamed_lease(held: &Bytes) -> Option<i64> {
    let grant = wire::lease::grant(frame::single(held, usize::MAX).ok()?).ok()?;
    (grant.id == 0).then_some(grant.ttl)
}
