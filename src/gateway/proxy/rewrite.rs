//! The few messages that do not pass unchanged (design: "bytes are not changed", the named
//! exceptions).
//!
//! * The URLs in the answers of MemberList, MemberAdd, MemberRemove, MemberUpdate and
//!   MemberPromote, where an advertised URL is configured: a client that syncs its endpoints must
//!   not walk around the proxy.
//! * The answer of LeaseLeases, for those who may not see the leases of others.
//! * The request of LeaseGrant with id 0: the proxy chooses the id, and with it the owner.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use etcd_warden_core::access::Capability;
use etcd_warden_core::lease_id::Ownership;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::{Mode, Principal};
use etcd_warden_core::wire::{Malformed, cluster, frame, lease, status};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Response};

use super::Shared;
use super::budget::Hold;
use super::delivery::{Delivery, Undelivered};
use super::encoding::Encoding;
use super::forward::{ForwardError, classify};
use super::intake::ClientGone;
use super::relay::{self, Ended};
use super::reply::{self, Status};

/// An answer that is rewritten is held whole; this is far above any list of members or leases.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// How an answer is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Client URLs of members.
    MemberUrls,
    /// Leases of others are left out.
    OwnLeases,
}

impl Rewrite {
    /// The change that this caller's answer needs, if any.
    #[must_use]
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

    /// The changed message.
    ///
    /// # Errors
    /// etcd's answer cannot be read.
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

/// Passes on an answer of one message, changed.
///
/// # Errors
/// The client left.
pub async fn answer(
    respond: &mut SendResponse<Bytes>,
    response: Response<RecvStream>,
    delivery: &Delivery<'_>,
    change: impl FnOnce(&[u8]) -> Result<Vec<u8>, Malformed>,
) -> Result<Ended, ClientGone> {
    let mut whole = match relay::unless_gone(respond, pin!(Whole::read(response, delivery))).await?
    {
        Ok(whole) => whole,
        Err(error) => return Ok(relay::refuse_or_reset(respond, &error)),
    };
    if frame::is_compressed(&whole.body) {
        // To a compressed request that shadow mode has passed on. A message that is not compressed
        // is right in every encoding.
        match delivery.plain(whole.body, Encoding::of(whole.head.headers()), MAX_ANSWER).await {
            Ok(plain) => whole.body = plain.framed,
            Err(denial) => return Ok(unreadable(respond, &denial.to_string())),
        }
    }
    match frame::single(&whole.body, MAX_ANSWER) {
        // An error and nothing else: nothing to change.
        Err(frame::FrameFault::NoMessage) => {}
        Ok(message) => match change(message) {
            Ok(changed) => whole.body = frame::encode(&changed),
            Err(malformed) => return Ok(unreadable(respond, &malformed.to_string())),
        },
        Err(fault) => return Ok(unreadable(respond, &fault.to_string())),
    }
    whole.pass_on(respond, delivery).await
}

/// An answer of etcd's, read to its end before any of it is passed on.
pub struct Whole {
    head: Response<()>,
    body: Bytes,
    trailers: Option<HeaderMap>,
    /// The room that it takes until it was passed on.
    _hold: Hold,
}

impl Whole {
    /// Reads it.
    ///
    /// # Errors
    /// The connection was lost before the end, the answer is far too large, or there is no room for
    /// it.
    pub async fn read(
        response: Response<RecvStream>,
        delivery: &Delivery<'_>,
    ) -> Result<Self, ForwardError> {
        let (parts, body) = response.into_parts();
        let mut hold = delivery.hold(0).map_err(|_| ForwardError::NoRoom)?;
        let (body, trailers) = collect(body, delivery, &mut hold).await?;
        Ok(Self { head: Response::from_parts(parts, ()), body, trailers, _hold: hold })
    }

    /// Whether etcd says that the chosen id of a lease is taken (`ErrGRPCLeaseExist`). Over TLS its
    /// status stands in trailers behind a head of their own, since Go's HTTP server writes it;
    /// in plain text in the head, which is then all there is.
    #[must_use]
    pub fn says_lease_is_taken(&self) -> bool {
        let said = self.trailers.as_ref().unwrap_or(self.head.headers());
        status::code(said) == Some(reply::code::FAILED_PRECONDITION)
            && status::message(said) == b"etcdserver: lease already exists"
    }

    /// Passes it on.
    ///
    /// # Errors
    /// The client left.
    pub async fn pass_on(
        self,
        respond: &mut SendResponse<Bytes>,
        delivery: &Delivery<'_>,
    ) -> Result<Ended, ClientGone> {
        if self.body.is_empty() && self.trailers.is_none() {
            let status = status::code(self.head.headers());
            respond.send_response(self.head, true).map_err(|_| ClientGone)?;
            return Ok(Ended::Answered(status));
        }
        let mut out = respond.send_response(self.head, false).map_err(|_| ClientGone)?;
        if !self.body.is_empty() {
            match delivery.send(&mut out, self.body).await {
                Ok(()) => {}
                Err(Undelivered::Gone) => return Err(ClientGone),
                Err(Undelivered::Unread) => return relay::end(&mut out, &delivery.unread()),
            }
        }
        relay::finish(&mut out, self.trailers)
    }
}

/// The answer that a caller gets whose answer must be changed and cannot be read: rather none than
/// one that tells too much.
fn unreadable(respond: &mut SendResponse<Bytes>, why: &str) -> Ended {
    tracing::error!(why, "cannot read an answer of etcd that must be rewritten");
    let status = Status::new(reply::code::UNAVAILABLE, "etcd-warden: etcd's answer cannot be read");
    status.send(respond);
    Ended::Answered(Some(status.code))
}

async fn collect(
    mut body: RecvStream,
    delivery: &Delivery<'_>,
    hold: &mut Hold,
) -> Result<(Bytes, Option<HeaderMap>), ForwardError> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|error| classify(&error))?;
        if whole.len().saturating_add(chunk.len()) > MAX_ANSWER {
            return Err(ForwardError::Lost);
        }
        delivery
            .hold_more(hold, whole.len().saturating_add(chunk.len()))
            .map_err(|_| ForwardError::NoRoom)?;
        let _ = body.flow_control().release_capacity(chunk.len());
        whole.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.map_err(|error| classify(&error))?;
    Ok((whole.freeze(), trailers))
}

/// A LeaseGrant that names no id, with the id of the caller's that the proxy chose, framed.
#[must_use]
pub fn lease_grant(shared: &Shared, principal: &Principal, ttl: i64) -> Bytes {
    let id = shared.lease_key.mint(&principal.name, salt());
    frame::encode(&lease::encode_grant(ttl, id))
}

fn salt() -> u32 {
    let mut bytes = [0; 4];
    // If the system has no randomness the salt is 0, and an identity gets one lease at a time.
    // Ownership does not rest on the salt.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
