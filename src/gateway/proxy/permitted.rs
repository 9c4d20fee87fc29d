//! What was allowed is carried out: one answer, one that stays open, or a lease whose id the proxy
//! chooses.

use std::pin::pin;

use etcd_warden_core::method::{CallKind, Method};
use etcd_warden_core::policy::Mode;
use etcd_warden_core::wire::{self, frame};

use super::call::Call;
use super::forward::{ForwardError, Outgoing};
use super::intake::ClientGone;
use super::live_permit::LivePermit;
use super::relay::{self, Cut, Ended};
use super::rewrite::{self, Rewrite, Whole};
use super::stream;
use crate::upstream::Class;
use crate::upstream::members::MemberIndex;
use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::server::SendResponse;

/// The permit was withdrawn before anything was sent under it: the request must be judged again.
#[derive(Clone, Copy, Debug)]
pub struct Withdrawn;

/// The member that a request went to, and how the call ended.
type Carried = Result<(Option<MemberIndex>, Ended), Withdrawn>;

impl Call<'_> {
    /// Carries out what was allowed.
    ///
    /// # Errors
    /// The permit was withdrawn meanwhile.
    pub(super) async fn permitted(
        &self,
        permit: &LivePermit<'_>,
        method: Method,
        outgoing: &Outgoing,
        respond: &mut SendResponse<Bytes>,
    ) -> Carried {
        let enforced = self.caller.principal.mode == Mode::Enforce;
        if enforced
            && method == Method::LeaseGrant
            && let Some(ttl) = unnamed_lease(&outgoing.body)
        {
            return Box::pin(self.lease_grant(permit, outgoing, ttl, respond)).await;
        }
        if method.call_kind() != CallKind::Unary {
            return Box::pin(self.long(permit, method, outgoing, respond)).await;
        }
        let target = Some(self.target(method));
        let exchange = match relay::unless_gone(
            respond,
            pin!(self.forwarder().exchange(permit, outgoing, target)),
        )
        .await
        {
            Err(ClientGone) => return Ok((None, Ended::ClientGone)),
            Ok(Err(error)) => return not_carried_out(&error, respond),
            Ok(Ok(exchange)) => exchange,
        };
        let member = Some(exchange.member);
        let _slot = exchange.slot;
        let delivery = self.delivery(Class::of(method));
        let ended = match Rewrite::of(self.shared(), &self.caller.principal, method) {
            None => relay::answer(respond, exchange.response, &delivery).await,
            Some(rewrite) => {
                let change = |message: &[u8]| {
                    rewrite.apply(self.shared(), &self.caller.principal, method, message)
                };
                Box::pin(rewrite::answer(respond, exchange.response, &delivery, change)).await
            }
        };
        Ok((member, ended.into()))
    }

    /// A call that stays open. It ends when its right or its connection ends, also while etcd has
    /// not begun to answer: a Lock that waits has no head yet.
    async fn long(
        &self,
        permit: &LivePermit<'_>,
        method: Method,
        outgoing: &Outgoing,
        respond: &mut SendResponse<Bytes>,
    ) -> Carried {
        let _open = self.shared().registry.register(self.caller.principal.name.clone(), method);
        let target = self.target(method);
        let mut stop = pin!(async { Cut::With(stream::stop(self, method, &outgoing.body).await) });
        let begun = {
            let exchange = pin!(self.forwarder().exchange(permit, outgoing, Some(target)));
            let exchange = pin!(relay::unless_gone(respond, exchange));
            match select(exchange, stop.as_mut()).await {
                Either::Left((begun, _)) => Ok(begun),
                Either::Right((cut, _)) => Err(cut),
            }
        };
        match begun {
            Err(cut) => Ok((Some(target), cut.instead_of_an_answer(respond))),
            Ok(Err(ClientGone)) => Ok((None, Ended::ClientGone)),
            Ok(Ok(Err(error))) => not_carried_out(&error, respond),
            Ok(Ok(Ok(exchange))) => {
                let _slot = exchange.slot;
                let delivery = self.delivery(Class::of(method));
                Ok((
                    Some(exchange.member),
                    relay::answer_until(respond, exchange.response, &delivery, stop).await.into(),
                ))
            }
        }
    }

    /// A LeaseGrant whose id the proxy chooses; another one if etcd has it already.
    async fn lease_grant(
        &self,
        permit: &LivePermit<'_>,
        asked: &Outgoing,
        ttl: i64,
        respond: &mut SendResponse<Bytes>,
    ) -> Carried {
        let mut outgoing =
            Outgoing::of(Method::LeaseGrant, asked.headers.clone(), Bytes::new(), true);
        let delivery = self.delivery(Class::Unary);
        for last in [false, false, false, false, true] {
            outgoing.body = rewrite::lease_grant(self.shared(), &self.caller.principal, ttl);
            let granted = async {
                let exchange = self.forwarder().exchange(permit, &outgoing, None).await?;
                Ok((exchange.member, Whole::read(exchange.response, &delivery).await?))
            };
            match relay::unless_gone(respond, pin!(granted)).await {
                Err(ClientGone) => return Ok((None, Ended::ClientGone)),
                Ok(Err(error)) => return not_carried_out(&error, respond),
                Ok(Ok((_, whole))) if !last && whole.says_lease_is_taken() => {}
                Ok(Ok((member, whole))) => {
                    return Ok((Some(member), whole.pass_on(respond, &delivery).await.into()));
                }
            }
        }
        Ok((None, Ended::ClientGone))
    }
}

/// There is no answer of etcd's.
fn not_carried_out(error: &ForwardError, respond: &mut SendResponse<Bytes>) -> Carried {
    match error {
        ForwardError::Withdrawn => Err(Withdrawn),
        error => Ok((None, relay::refuse_or_reset(respond, error))),
    }
}

/// The time to live of a LeaseGrant that leaves its id to the server.
fn unnamed_lease(held: &Bytes) -> Option<i64> {
    let grant = wire::lease::grant(frame::single(held, usize::MAX).ok()?).ok()?;
    (grant.id == 0).then_some(grant.ttl)
}
