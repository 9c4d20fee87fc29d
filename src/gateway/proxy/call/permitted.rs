//! Forwards a permitted request whose body is complete: a unary call, a call whose response stays
//! open, or a LeaseGrant whose id the proxy chooses.

use std::pin::pin;

use bytes::Bytes;
use etcd_warden_core::method::{CallKind, Method};
use etcd_warden_core::policy::Mode;
use etcd_warden_core::wire::{self, frame};
use futures_util::future::{Either, select};
use h2::server::SendResponse;

use super::Call;
use crate::proxy::forward::Outgoing;
use crate::proxy::live_permit::LivePermit;
use crate::proxy::outcome::{Abort, UpstreamError};
use crate::proxy::record::Ended;
use crate::proxy::rewrite::{self, Rewrite, Whole};
use crate::proxy::{relay, stream};
use crate::upstream::Class;

/// The permit was withdrawn before etcd had the whole request. The request must be judged again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Withdrawn;

/// Attempts to choose the id of a lease. If etcd already has a lease with the last one, the client
/// gets etcd's error.
const LEASE_IDS: usize = 5;

impl Call<'_> {
    /// Forwards a permitted request and relays the response.
    ///
    /// # Errors
    /// The permit was withdrawn before the whole request was sent. Nothing was sent to the client.
    pub(super) async fn permitted(
        &self,
        permit: &LivePermit<'_>,
        method: Method,
        outgoing: &Outgoing,
        respond: &mut SendResponse<Bytes>,
    ) -> Result<Ended, Withdrawn> {
        if self.caller.principal.mode == Mode::Enforce
            && method == Method::LeaseGrant
            && let Some(ttl) = ttl_without_id(&outgoing.body)
        {
            return Box::pin(self.lease_grant(permit, outgoing, ttl, respond)).await;
        }
        if method.call_kind() != CallKind::Unary {
            return Box::pin(self.open_ended(permit, method, outgoing, respond)).await;
        }
        let target = Some(self.target(method));
        let exchange = match relay::unless_gone(
            respond,
            pin!(self.forwarder().exchange(permit, outgoing, target)),
        )
        .await
        {
            Ok(exchange) => exchange,
            Err(abort) => return no_response(abort, respond),
        };
        let _slot = exchange.slot;
        let delivery = self.delivery(Class::of(method));
        let outcome = match Rewrite::of(self.shared(), &self.caller.principal, method) {
            None => relay::answer(respond, exchange.response, &delivery).await,
            Some(rewrite) => {
                let change = |message: &[u8]| {
                    rewrite.apply(self.shared(), &self.caller.principal, method, message)
                };
                Box::pin(rewrite::answer(respond, exchange.response, &delivery, change)).await
            }
        };
        Ok(Ended { member: Some(exchange.member), outcome })
    }

    /// Forwards a call whose response stays open. The call ends when the client loses the right to
    /// it or when the connection ends. This may be before etcd has sent a response head, as with a
    /// Lock that waits.
    async fn open_ended(
        &self,
        permit: &LivePermit<'_>,
        method: Method,
        outgoing: &Outgoing,
        respond: &mut SendResponse<Bytes>,
    ) -> Result<Ended, Withdrawn> {
        let _open = self.shared().open_streams.register(self.caller.principal.name.clone(), method);
        let target = self.target(method);
        let mut stop =
            pin!(async { Abort::Stop(stream::stop(self, method, &outgoing.body).await) });
        let exchange = {
            let exchange = pin!(self.forwarder().exchange(permit, outgoing, Some(target)));
            let exchange = pin!(relay::unless_gone(respond, exchange));
            match select(exchange, stop.as_mut()).await {
                Either::Left((exchange, _)) => exchange,
                Either::Right((abort, _)) => Err(abort),
            }
        };
        match exchange {
            Ok(exchange) => {
                let _slot = exchange.slot;
                let delivery = self.delivery(Class::of(method));
                let response = exchange.response;
                let outcome = relay::answer_until(respond, response, &delivery, stop).await;
                Ok(Ended { member: Some(exchange.member), outcome })
            }
            Err(abort @ Abort::Stop(_)) => {
                Ok(Ended { member: Some(target), outcome: abort.end_call(respond) })
            }
            Err(abort) => no_response(abort, respond),
        }
    }

    /// Forwards a LeaseGrant with an id that the proxy chooses. If etcd already has a lease with
    /// this id, the proxy chooses another one.
    async fn lease_grant(
        &self,
        permit: &LivePermit<'_>,
        received: &Outgoing,
        ttl: i64,
        respond: &mut SendResponse<Bytes>,
    ) -> Result<Ended, Withdrawn> {
        let mut outgoing =
            Outgoing::of(Method::LeaseGrant, received.headers.clone(), Bytes::new(), true);
        let delivery = self.delivery(Class::Unary);
        let mut ids = LEASE_IDS;
        loop {
            outgoing.body = rewrite::lease_grant(self.shared(), &self.caller.principal, ttl);
            let granted = pin!(async {
                let exchange = self.forwarder().exchange(permit, &outgoing, None).await?;
                Ok::<_, Abort>((exchange.member, Whole::read(exchange.response, &delivery).await?))
            });
            ids = ids.saturating_sub(1);
            match relay::unless_gone(respond, granted).await {
                Ok((_, whole)) if ids > 0 && whole.says_lease_is_taken() => {}
                Ok((member, whole)) => {
                    let outcome = whole.pass_on(respond, &delivery).await;
                    return Ok(Ended { member: Some(member), outcome });
                }
                Err(abort) => return no_response(abort, respond),
            }
        }
    }
}

/// Ends a call for which no response has begun, unless it must be judged again.
fn no_response(abort: Abort, respond: &mut SendResponse<Bytes>) -> Result<Ended, Withdrawn> {
    match abort {
        Abort::Upstream(UpstreamError::Withdrawn) => Err(Withdrawn),
        abort => Ok(Ended { member: None, outcome: abort.end_call(respond) }),
    }
}

/// The time to live in a framed LeaseGrant; `None` if the request chooses the id itself.
fn ttl_without_id(held: &Bytes) -> Option<i64> {
    let grant = wire::lease::grant(frame::single(held, usize::MAX).ok()?).ok()?;
    (grant.id == 0).then_some(grant.ttl)
}
