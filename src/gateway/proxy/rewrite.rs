//! Rewrites the few messages that are not passed on unchanged:
//!
//! * The responses of MemberList, MemberAdd, MemberRemove, MemberUpdate and MemberPromote, if an
//!   advertised URL is configured: their client URLs are replaced, so that a client that syncs its
//!   endpoints does not bypass the proxy.
//! * The response of LeaseLeases, for clients that may not see the leases of other identities.
//! * The request of LeaseGrant with id 0: the proxy chooses an id that carries the owner's mark.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use etcd_warden_core::access::Capability;
use etcd_warden_core::lease_id::Ownership;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::{Mode, Principal};
use etcd_warden_core::wire::{Malformed, cluster, frame, lease, status};
use h2::server::SendResponse;
use http::{HeaderMap, Response};

use super::Shared;
use super::budget::Reservation;
use super::delivery::Delivery;
use super::encoding::Encoding;
use super::outcome::{Abort, Outcome, UpstreamError};
use super::relay;
use super::reply::{self, Status};
use super::response_body::ResponseBody;

/// A response to be rewritten is read as a whole. This limit, in bytes, is far above any list of
/// members or leases.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;

/// How a response is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Members get the advertised client URLs.
    MemberUrls,
    /// Leases of other identities are removed.
    OwnLeases,
}

impl Rewrite {
    /// The rewrite that the response to this client needs, if any.
    pub fn of(shared: &Shared, principal: &Principal, method: Method) -> Option<Rewrite> {
        let advertise = &shared.config.advertise;
        match method {
            Method::MemberList
            | Method::MemberAdd
            | Method::MemberRemove
            | Method::MemberUpdate
            | Method::MemberPromote => (advertise.default.is_some()
                || !advertise.by_member.is_empty())
            .then_some(Rewrite::MemberUrls),
            // Shadow mode filters nothing.
            Method::LeaseLeases => (principal.mode == Mode::Enforce
                && principal.rights.capability(Capability::LeaseAdmin).is_none())
            .then_some(Rewrite::OwnLeases),
            _ => None,
        }
    }

    /// Rewrites a message.
    ///
    /// # Errors
    /// The message cannot be read.
    pub fn apply(
        self,
        shared: &Shared,
        principal: &Principal,
        method: Method,
        message: &[u8],
    ) -> Result<Vec<u8>, Malformed> {
        match self {
            Rewrite::MemberUrls => {
                let advertise = &shared.config.advertise;
                cluster::replace_client_urls(method, message, |name| {
                    advertise.by_member.get(name).or(advertise.default.as_ref()).map(String::as_str)
                })
            }
            Rewrite::OwnLeases => lease::retain_leases(message, |id| {
                shared.lease_key.ownership(id, &principal.name) == Ownership::Own
            }),
        }
    }
}

/// Passes on a response of one message after `change` has rewritten it.
pub async fn answer(
    respond: &mut SendResponse<Bytes>,
    response: Response<ResponseBody>,
    delivery: &Delivery<'_>,
    change: impl FnOnce(&[u8]) -> Result<Vec<u8>, Malformed>,
) -> Outcome {
    let whole = match relay::unless_gone(respond, pin!(Whole::read(response, delivery))).await {
        Ok(whole) => whole,
        Err(abort) => return abort.end_call(respond),
    };
    match whole.rewritten(delivery, change).await {
        Ok(whole) => whole.pass_on(respond, delivery).await,
        Err(abort) => abort.end_call(respond),
    }
}

/// A response of etcd, read to its end before any of it is passed on.
pub struct Whole {
    head: Response<()>,
    body: Bytes,
    trailers: Option<HeaderMap>,
    /// The part of the client's budget that the response uses until it was passed on.
    _hold: Reservation,
}

impl Whole {
    /// Reads a response to its end.
    ///
    /// # Errors
    /// The response ended early, it is larger than the limit, or the client has no budget for it.
    pub async fn read(
        response: Response<ResponseBody>,
        delivery: &Delivery<'_>,
    ) -> Result<Self, Abort> {
        let (parts, mut body) = response.into_parts();
        let mut hold = delivery.hold(0)?;
        let mut whole = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            let length = whole.len().saturating_add(chunk.len());
            if length > MAX_RESPONSE {
                return Err(UpstreamError::Lost.into());
            }
            delivery.hold_more(&mut hold, length)?;
            body.release(chunk.len());
            whole.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await?;
        let head = Response::from_parts(parts, ());
        Ok(Self { head, body: whole.freeze(), trailers, _hold: hold })
    }

    /// True if the response is the error that the chosen lease id exists (`ErrGRPCLeaseExist`).
    /// Over TLS, Go's HTTP server sends the status in trailers after a separate head. In plain
    /// text, the status is in the head, and nothing follows.
    pub fn says_lease_is_taken(&self) -> bool {
        let status = self.trailers.as_ref().unwrap_or(self.head.headers());
        status::code(status) == Some(reply::code::FAILED_PRECONDITION)
            && status::message(status) == b"etcdserver: lease already exists"
    }

    async fn rewritten(
        mut self,
        delivery: &Delivery<'_>,
        change: impl FnOnce(&[u8]) -> Result<Vec<u8>, Malformed>,
    ) -> Result<Self, Abort> {
        if frame::is_compressed(&self.body) {
            // Shadow mode forwards a compressed request, and etcd compresses its response too. The
            // rewritten message is not compressed, which is valid under every `grpc-encoding`.
            let encoding = Encoding::of(self.head.headers());
            let plain = delivery.plain(self.body, encoding, MAX_RESPONSE).await;
            self.body = plain.map_err(|denial| unreadable(&denial.to_string()))?.framed;
        }
        match frame::single(&self.body, MAX_RESPONSE) {
            // The response has only an error status, so there is nothing to rewrite.
            Err(frame::FrameFault::NoMessage) => {}
            Ok(message) => {
                let changed = change(message).map_err(|error| unreadable(&error.to_string()))?;
                self.body = frame::encode(&changed);
            }
            Err(fault) => return Err(unreadable(&fault.to_string())),
        }
        Ok(self)
    }

    /// Passes the response on.
    pub async fn pass_on(
        self,
        respond: &mut SendResponse<Bytes>,
        delivery: &Delivery<'_>,
    ) -> Outcome {
        let is_head_alone = self.body.is_empty() && self.trailers.is_none();
        let status = status::code(self.head.headers());
        let mut out = match respond.send_response(self.head, is_head_alone) {
            Ok(_) if is_head_alone => return Outcome::Answered(status),
            Ok(out) => out,
            Err(_) => return Outcome::ClientGone,
        };
        if !self.body.is_empty()
            && let Err(abort) = delivery.send(&mut out, self.body).await
        {
            return abort.end_response(&mut out);
        }
        relay::finish(&mut out, self.trailers)
    }
}

/// Ends a call whose response must be rewritten but cannot be read. The client does not get the
/// response, because without the rewrite it may reveal too much.
fn unreadable(why: &str) -> Abort {
    tracing::error!(why, "cannot read a response of etcd that must be rewritten");
    Abort::Stop(Status::new(
        reply::code::UNAVAILABLE,
        "etcd-warden: the response of etcd cannot be read",
    ))
}

/// A framed LeaseGrant request with an id that the proxy chooses for the client.
#[must_use]
pub fn lease_grant(shared: &Shared, principal: &Principal, ttl: i64) -> Bytes {
    let id = shared.lease_key.mint(&principal.name, salt());
    frame::encode(&lease::encode_grant(ttl, id))
}

fn salt() -> u32 {
    let mut bytes = [0; 4];
    // If the system has no randomness, the salt is 0. An identity can then have only one lease at a
    // time. Ownership does not depend on the salt.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
