//! Serves a request of one message: holds it until it can be judged, then forwards it. The response
//! may be one message or a stream.

use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_warden_core::authorize::{Denial, Reason, refuse};
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::Mode;
use h2::server::SendResponse;
use http::HeaderMap;
use tokio::time::timeout;

use super::Call;
use super::permitted::Withdrawn;
use crate::metrics::reason::Limit;
use crate::proxy::encoding::Plain;
use crate::proxy::forward::Outgoing;
use crate::proxy::live_permit::LivePermit;
use crate::proxy::outcome::Outcome;
use crate::proxy::passthrough;
use crate::proxy::record::{Recording, Subject};
use crate::proxy::reply::Status;
use crate::proxy::request_body::{RequestBody, Until};

/// How long shadow mode waits for the whole message of a request, to judge it before it is sent.
/// After this time, the proxy sends the head to etcd and judges the message when it is complete.
const SHADOW_HOLD: Duration = Duration::from_millis(20);

impl Call<'_> {
    /// Serves a request of one message.
    pub(super) async fn unary(
        &self,
        method: Method,
        mut headers: HeaderMap,
        mut body: RequestBody,
        respond: &mut SendResponse<Bytes>,
    ) {
        let limit = self.shared().config.limits.max_request_bytes;
        let mut call = Call { caller: self.caller.clone(), ..*self };
        loop {
            // Receive.
            let filled = match call.caller.principal.mode {
                Mode::Enforce => tokio::select! {
                    biased;
                    filled = body.fill(Until::End, limit) => filled,
                    // The connection ends, perhaps because its certificate expires. The client
                    // retries the request on another connection.
                    () = self.client.ending.cancelled() => {
                        return Status::not_sent().send(respond);
                    }
                },
                Mode::Shadow => {
                    match timeout(SHADOW_HOLD, body.fill(Until::FirstMessage, limit)).await {
                        Ok(filled) => filled,
                        Err(_) => {
                            let slow = passthrough::slow(&call, method, headers, body, respond);
                            return Box::pin(slow).await;
                        }
                    }
                }
            };
            if filled.is_err() {
                return;
            }
            // A slow request may begin under one policy and end under another. The current policy
            // decides. Its mode may differ, and then more of the body may be needed, so loop.
            let caller = self.client.caller();
            let same = caller.policy.generation == call.caller.policy.generation;
            call.caller = caller;
            if !same {
                // Another mode forwards other metadata.
                headers = call.metadata(headers);
            }
            if same || body.refused().is_some() {
                return call.received(method, headers, &mut body, respond).await;
            }
        }
    }

    /// Judges and forwards a request whose message has arrived, or whose body is refused.
    async fn received(
        &self,
        method: Method,
        headers: HeaderMap,
        body: &mut RequestBody,
        respond: &mut SendResponse<Bytes>,
    ) {
        if let (Some(denial), Mode::Enforce) = (body.refused(), self.caller.principal.mode) {
            match denial.reason {
                Reason::TooLarge => self.shared().metrics.limit_hit(Limit::RequestBytes),
                Reason::Limit => self.shared().metrics.limit_hit(Limit::HeldBytes),
                _ => {}
            }
        }
        // Judge.
        let judging = Instant::now();
        let limit = self.shared().config.limits.max_request_bytes;
        let message = body.message(limit);
        let decision = match self.over_login_limit(method, message.is_ok()) {
            None => self.judge(method, message).await,
            Some(denial) => refuse(&self.caller.principal, denial),
        };
        // Record.
        let ended = body.ended();
        let (judged, held) = body.take(&headers);
        let subject = Subject::Message(method, judged);
        let (permit, mut recording) = match self.record(subject, decision, judging) {
            Ok(permitted) => permitted,
            Err(denial) => return self.refuse(&denial, respond),
        };
        // Forward.
        let mut outgoing = Outgoing::of(method, headers, held, ended);
        let recording = &mut recording;
        if ended {
            self.forward(&permit, recording, method, &mut outgoing, respond).await;
        } else {
            let (permit, outgoing, method) = (&permit, &outgoing, Some(method));
            Box::pin(passthrough::open(self, permit, method, outgoing, body, respond, recording))
                .await;
        }
    }

    /// Forwards a permitted request. If the permit is withdrawn while the request waits for a
    /// connection or a member, the request is judged again, as if it had just arrived.
    async fn forward(
        &self,
        permit: &LivePermit<'_>,
        recording: &mut Recording<'_>,
        method: Method,
        outgoing: &mut Outgoing,
        respond: &mut SendResponse<Bytes>,
    ) {
        match self.permitted(permit, method, outgoing, respond).await {
            Ok(ended) => recording.end(ended),
            // Rare, so its future is on the heap: the future of every call stays small.
            Err(Withdrawn) => {
                Box::pin(self.forward_again(recording, method, outgoing, respond)).await;
            }
        }
    }

    async fn forward_again(
        &self,
        recording: &mut Recording<'_>,
        method: Method,
        outgoing: &mut Outgoing,
        respond: &mut SendResponse<Bytes>,
    ) {
        loop {
            if self.client.is_over() {
                let status = self.ended_with_connection();
                status.send(respond);
                recording.outcome = Outcome::Answered(status.code_sent());
                return;
            }
            let call = self.current();
            let plain = call.plain(outgoing.body.clone()).await;
            let message = plain.as_ref().map_err(Denial::clone).and_then(Plain::message);
            let decision = call.judge(method, message).await;
            let permit = match recording.judged_again(call.caller.clone(), decision) {
                Ok(permit) => LivePermit::new(permit, self.client),
                Err(denial) => return call.refuse(&denial, respond),
            };
            // The new policy may have another mode. It forwards other metadata, and enforcement
            // forwards the decompressed message.
            outgoing.headers = call.metadata(std::mem::take(&mut outgoing.headers));
            let plain = plain.ok().filter(|_| call.caller.principal.mode == Mode::Enforce);
            if let Some(plain) = &plain {
                outgoing.body = plain.framed.clone();
            }
            if let Ok(ended) = call.permitted(&permit, method, outgoing, respond).await {
                return recording.end(ended);
            }
        }
    }

    /// Charges a password login to its limit, and returns a denial if the limit is reached. Logins
    /// per second are limited because etcd's password hash is slow. Shadow mode has no limits.
    fn over_login_limit(&self, method: Method, is_message: bool) -> Option<Denial> {
        let limited = is_message
            && method == Method::Authenticate
            && self.caller.principal.mode == Mode::Enforce;
        if limited && !self.shared().quotas.try_login(&self.client.quota) {
            self.shared().metrics.limit_hit(Limit::Authenticate);
            return Some(Denial::new(Reason::Limit, "too many password logins"));
        }
        None
    }
}
