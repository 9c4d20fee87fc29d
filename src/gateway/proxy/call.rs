//! One call of a client, from its head to its record.
//!
//! [`serve`] is the whole story: admission ([`admission`]), then by the kind of the call either
//! [`unary`] (held, judged, forwarded by [`permitted`]), or [`stream`] (each message judged as it
//! arrives), or [`passthrough`] (shadow mode's requests that cannot be judged before they are
//! sent).

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
    // Not yet known whether shadow mode may run: nothing is judged, and the client tries again.
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

    // Admission: the identity's limits, and an encoding that etcd does not have.
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

    // Drop what is not forwarded, because a request may wait for hours and its head may be large.
    // A known path is dropped, too: the method stands for it.
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
        // Any verified client gets an answer, with or without a binding: nothing reaches etcd.
        (Ok(method), Mode::Enforce) if method.is_health() => {
            Box::pin(stream::health(&call, method, &mut respond)).await;
        }
        (Ok(method), _) => call.unary(method, headers, body, &mut respond).await,
        (Err(denial), _) => {
            Box::pin(call.no_method(denial, verb, &uri, headers, body, &mut respond)).await;
        }
    }

    // A reset of etcd's that was passed on is counted as well. It is as rare as an etcd error.
    if let Some(Ok(_)) = poll_fn(|cx| respond.poll_reset(cx)).now_or_never() {
        client.was_reset();
    }
}

/// What is known of a call from its beginning.
pub struct Call<'c> {
    /// The client that makes it.
    pub client: &'c Client,
    /// The client under the policy that was in effect when the call was judged.
    pub caller: Rc<Caller>,
    /// When its head arrived.
    pub begun: Instant,
    /// The compression that its messages may have.
    pub encoding: Encoding,
}

impl<'c> Call<'c> {
    /// The same call under the policy that is in effect now.
    fn current(&self) -> Call<'c> {
        Call { caller: self.client.caller(), ..*self }
    }

    /// What all workers share.
    #[must_use]
    pub fn shared(&self) -> &'c Shared {
        &self.client.worker.shared
    }

    /// Sends the client's requests to etcd.
    #[must_use]
    pub fn forwarder(&self) -> &'c Forwarder {
        &self.client.forwarder
    }

    /// Sends responses to the client.
    #[must_use]
    pub fn delivery(&self, class: Class) -> Delivery<'_> {
        Delivery::new(self.client, class, self.caller.principal.mode)
    }

    /// Reports each change of the policy since this call was judged.
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

    /// The metadata that is forwarded.
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

    /// Decides on a request of one message, or on a body that is not one message.
    ///
    /// # Errors
    /// In enforce mode, why it is denied.
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

    /// Opens the record of a decision. A denial is recorded, too, except where the audit queue has
    /// no room for it.
    ///
    /// # Errors
    /// The denial, recorded.
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

    /// Sends the refusal for a denial.
    pub fn refuse(&self, denial: &Denial, respond: &mut SendResponse<Bytes>) {
        Status::of(denial, self.shared().config.reason_trailer).send(respond);
    }

    /// Serves a request that is not gRPC, or whose path is no method of etcd: refused, or in shadow
    /// mode forwarded unchanged.
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
            // A `:path` that is not a path cannot be forwarded (docs/shadow.md).
            None => {
                self.refuse(&Denial::new(Reason::NotGrpc, "the path cannot be forwarded"), respond);
            }
        }
    }
}
