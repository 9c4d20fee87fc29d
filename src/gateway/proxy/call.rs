//! One call of a client, from its request head to its record.
//!
//! [`serve`] first admits the call (`admission`). The next step depends on the kind of the call:
//! * `unary` holds a request until it is complete and judges it; `permitted` forwards it.
//! * [`stream`] judges each message of a Watch or LeaseKeepAlive stream when it arrives.
//! * [`passthrough`] forwards requests that shadow mode cannot judge before they are sent.

mod admission;
mod permitted;
mod unary;

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use etcd_warden_core::authorize::{Denial, Permit, Reason, check_binding, refuse};
use etcd_warden_core::method::{CallKind, Method};
use etcd_warden_core::policy::Mode;
use futures_util::FutureExt;
use h2::RecvStream;
use h2::server::SendResponse;
use http::request::Parts;
use http::{HeaderMap, Request, Uri};
use tokio::sync::watch;

use super::client::Client;
use super::delivery::Delivery;
use super::encoding::{self, Encoding, Plain};
use super::forward::Forwarder;
use super::judge::{self, Caller};
use super::live_permit::LivePermit;
use super::outcome::Outcome;
use super::record::{Recording, Subject};
use super::reply::Status;
use super::request_body::RequestBody;
use super::{Shared, head, passthrough, stream};
use crate::upstream::Class;
use crate::upstream::members::MemberIndex;
pub use admission::{Admission, limited};

/// Serves one call.
pub async fn serve(
    client: Rc<Client>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    // Shadow mode may run only if etcd's auth is off. Until that is known, no call is judged; the
    // client retries.
    if client.worker.shared.awaits_auth_status.load(Ordering::Acquire) {
        return Status::not_sent().send(&mut respond);
    }
    let begun = Instant::now();
    let caller = client.caller();
    let (parts, body) = request.into_parts();
    let encoding = Encoding::of(&parts.headers);
    let body = RequestBody::new(body, encoding, client.share.clone());
    let call = Call { client: &client, caller, begun, encoding };
    let _open = admission::OpenCall::count(&client);

    // Admission: refuse a call over the identity's limits, or with an encoding that etcd does not
    // support.
    let method = head::method(&parts);
    let (_slot, admission) = match call.admit(method.as_ref().ok().copied()) {
        Ok(admitted) => admitted,
        Err(limit) => return call.refuse_over_limit(method, &parts, limit, &mut respond),
    };
    if let (Ok(method), Encoding::Unknown, Mode::Enforce) =
        (&method, encoding, call.caller.principal.mode)
    {
        return call.refuse_unknown_encoding(*method, &parts.headers, &mut respond);
    }

    // Free the parts of the head that are not forwarded: a request may wait for hours, and its head
    // may be large. The path of a known method is not needed either.
    let Parts { method: verb, uri, headers, .. } = parts;
    let headers = call.metadata(headers);
    let uri = if method.is_ok() { Uri::default() } else { uri };

    // Dispatch.
    match (method, call.caller.principal.mode) {
        (Ok(method), Mode::Enforce) if method.call_kind() == CallKind::BidiStreaming => {
            Box::pin(stream::serve(&call, method, headers, body, &mut respond, admission)).await;
        }
        (Ok(method), Mode::Shadow) if method.call_kind() == CallKind::BidiStreaming => {
            Box::pin(passthrough::observed(&call, method, headers, body, &mut respond)).await;
        }
        // Health checks need no binding, because they never reach etcd.
        (Ok(method), Mode::Enforce) if method.is_health() => {
            Box::pin(stream::health(&call, method, &mut respond)).await;
        }
        (Ok(method), _) => call.unary(method, headers, body, &mut respond).await,
        (Err(denial), _) => {
            Box::pin(call.no_method(denial, verb, &uri, headers, body, &mut respond)).await;
        }
    }

    // This also counts a reset by etcd that the proxy passed on. Such resets are rare.
    if let Some(Ok(_)) = poll_fn(|cx| respond.poll_reset(cx)).now_or_never() {
        client.was_reset();
    }
}

/// A call, as far as its request head describes it.
pub struct Call<'c> {
    /// The client that makes the call.
    pub client: &'c Client,
    /// The client's principal, under the policy that was in effect when the call was judged.
    pub caller: Rc<Caller>,
    /// When the request head arrived.
    pub begun: Instant,
    /// The compression that the messages may have.
    pub encoding: Encoding,
}

impl<'c> Call<'c> {
    /// The same call under the current policy.
    fn current(&self) -> Call<'c> {
        Call { caller: self.client.caller(), ..*self }
    }

    /// The state that all workers share.
    #[must_use]
    pub fn shared(&self) -> &'c Shared {
        &self.client.worker.shared
    }

    /// The forwarder, which sends the client's requests to etcd.
    #[must_use]
    pub fn forwarder(&self) -> &'c Forwarder {
        &self.client.forwarder
    }

    /// The delivery, which sends responses to the client.
    #[must_use]
    pub fn delivery(&self, class: Class) -> Delivery<'_> {
        Delivery::new(self.client, class, self.caller.principal.mode)
    }

    /// A receiver of policy changes. If the policy has changed since this call was judged, the
    /// receiver reports a change immediately.
    #[must_use]
    pub fn policy_changes(&self) -> watch::Receiver<u64> {
        let live = &self.shared().policy;
        let mut changes = live.subscribe();
        if live.generation() != self.caller.policy.generation {
            changes.mark_changed();
        }
        changes
    }

    /// The status of a stream that ends because its connection ends.
    #[must_use]
    pub fn ended_with_connection(&self) -> Status {
        self.client.ended_with_connection()
    }

    /// Selects the metadata that is forwarded.
    fn metadata(&self, headers: HeaderMap) -> HeaderMap {
        head::forwarded(headers, self.shared().config.client_tokens, self.caller.principal.mode)
    }

    /// The member that a call is sent to: the connection's own, or the leader for a method that
    /// only the leader serves.
    #[must_use]
    pub fn target(&self, method: Method) -> MemberIndex {
        let leader =
            if method == Method::MoveLeader { self.shared().members.leader() } else { None };
        leader.unwrap_or_else(|| self.forwarder().home())
    }

    /// Decompresses a message of the client.
    ///
    /// # Errors
    /// See [`encoding::plain`].
    pub async fn plain(&self, framed: Bytes) -> Result<Plain, Denial> {
        encoding::plain(
            framed,
            self.encoding,
            self.shared().config.limits.max_request_bytes,
            &self.client.share,
        )
        .await
    }

    /// Decides on a request. `message` is its message, or the denial for a body that is not exactly
    /// one message.
    ///
    /// # Errors
    /// In enforce mode, the denial.
    pub async fn judge(
        &self,
        method: Method,
        message: Result<&[u8], Denial>,
    ) -> Result<Permit, Denial> {
        let principal = &self.caller.principal;
        match message {
            Ok(message) => {
                judge::message(self.client, principal, self.target(method), method, message).await
            }
            Err(denial) => refuse(principal, check_binding(principal).err().unwrap_or(denial)),
        }
    }

    /// Opens the record of a decision. A denial is recorded too. If the audit queue is full, it has
    /// no audit line and only the metrics count it.
    ///
    /// # Errors
    /// The denial. A permitted message is denied as well if it needs an audit line, the audit queue
    /// is full, and `audit-on-full` is `deny`.
    pub fn record(
        &self,
        subject: Subject,
        decision: Result<Permit, Denial>,
        judging: Instant,
    ) -> Result<(LivePermit<'_>, Recording<'_>), Denial> {
        let mut recording = Recording::open(
            self.client,
            self.caller.clone(),
            subject,
            &decision,
            self.begun,
            judging.elapsed(),
        )?;
        match decision {
            Ok(permit) => Ok((LivePermit::new(permit, self.client), recording)),
            Err(denial) => {
                recording.outcome = Outcome::Answered(Status::of(&denial, false).code_sent());
                Err(denial)
            }
        }
    }

    /// Sends the status of a denial to the client.
    pub fn refuse(&self, denial: &Denial, respond: &mut SendResponse<Bytes>) {
        Status::of(denial, self.shared().config.reason_trailer).send(respond);
    }

    /// Serves a request that is not gRPC, or whose path is not a method of etcd. Enforcement
    /// refuses it; shadow mode forwards it unchanged.
    async fn no_method(
        &self,
        denial: Denial,
        verb: http::Method,
        uri: &Uri,
        headers: HeaderMap,
        mut body: RequestBody,
        respond: &mut SendResponse<Bytes>,
    ) {
        let path = uri.path_and_query().cloned();
        let subject = Subject::of_path(uri);
        let decision = refuse(
            &self.caller.principal,
            check_binding(&self.caller.principal).err().unwrap_or(denial),
        );
        let (permit, mut recording) = match self.record(subject, decision, Instant::now()) {
            Ok(permitted) => permitted,
            Err(denial) => return self.refuse(&denial, respond),
        };
        match passthrough::outgoing(verb, path, headers, body.ended()) {
            Some(outgoing) => {
                let (permit, recording) = (&permit, &mut recording);
                passthrough::open(self, permit, None, &outgoing, &mut body, respond, recording)
                    .await;
            }
            // The `:path` is not a path, so the request cannot be forwarded (docs/shadow.md).
            None => {
                self.refuse(&Denial::new(Reason::NotGrpc, "the path cannot be forwarded"), respond);
            }
        }
    }
}
