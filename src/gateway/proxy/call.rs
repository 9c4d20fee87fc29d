//! One request, from its head to its record.

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
use tokio::time::{Duration, timeout};

use super::Shared;
use super::client::Client;
use super::delivery::Delivery;
use super::encoding::{self, Encoding, GRPC_ENCODING, Plain};
use super::forward::{Forwarder, Outgoing};
use super::intake::{Intake, Until};
use super::judge::{self, Caller};
use super::live_permit::LivePermit;
use super::permitted::Withdrawn;
use super::quota::Place;
use super::record::{Recording, Subject};
use super::relay::Ended;
use super::reply::Status;
use super::stream::Seat;
use super::{head, raw, stream};
use crate::audit::OwnedAccesses;
use crate::metrics::reason::Limit;
use crate::upstream::Class;
use crate::upstream::members::MemberIndex;

/// Shadow mode holds a request for its verdict this long. What has no whole message by then is
/// opened at etcd as it stands.
const SHADOW_HOLDS: Duration = Duration::from_millis(20);

/// Serves one request of a client.
pub async fn serve(
    client: Rc<Client>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    if client.worker.shared.awaits_auth_status.load(Ordering::Acquire) {
        return Status::not_sent().send(&mut respond);
    }
    let begun = Instant::now();
    let caller = client.caller();
    let (parts, body) = request.into_parts();
    let encoding = Encoding::of(&parts.headers);
    let intake = Intake::new(body, encoding, client.share.clone());
    let call = Call { client: &client, caller, begun, encoding };
    let _open = Open::count(&client);
    let method = head::method(&parts);
    let (_place, seat) = match call.place(method.as_ref().ok().copied()) {
        Ok(place) => place,
        Err(limit) => return call.one_too_many(method, &parts, limit, &mut respond),
    };
    if let (Ok(method), Encoding::Unknown, Mode::Enforce) =
        (&method, encoding, call.caller.principal.mode)
    {
        return call.unknown_encoding(*method, &parts.headers, &mut respond);
    }
    // What does not go on ends here: a request may wait for hours, and its head may be large. A
    // method is all there is to a known path.
    let Parts { method: verb, uri, headers, .. } = parts;
    let (headers, uri) =
        (call.metadata(headers), if method.is_ok() { Uri::default() } else { uri });
    match (method, call.caller.principal.mode) {
        (Ok(method), Mode::Enforce) if method.call_kind() == CallKind::BidiStreaming => {
            Box::pin(stream::serve(&call, method, headers, intake, &mut respond, seat)).await;
        }
        (Ok(method), Mode::Shadow) if method.call_kind() == CallKind::BidiStreaming => {
            Box::pin(raw::observed(&call, method, headers, intake, &mut respond)).await;
        }
        // Answered here for every verified client, whatever the policy knows of it: nothing of it
        // reaches etcd.
        (Ok(method), Mode::Enforce) if method.is_health() => {
            let _ = Box::pin(stream::health(&call, method, &mut respond)).await;
        }
        (Ok(method), _) => call.one_message(method, headers, intake, &mut respond).await,
        (Err(denial), _) => {
            Box::pin(call.no_method(denial, verb, &uri, headers, intake, &mut respond)).await
        }
    }
    // A reset of etcd's that was passed on looks the same; it is as rare as a fault of etcd's.
    if let Some(Ok(_)) = poll_fn(|cx| respond.poll_reset(cx)).now_or_never() {
        client.was_reset();
    }
}

/// One call more of a client, until it is dropped: a call whose connection ends is dropped wherever
/// it stands.
struct Open<'c>(&'c Client);

impl<'c> Open<'c> {
    fn count(client: &'c Client) -> Self {
        client.worker.shared.metrics.streams.increment(1.0);
        client.count_call(true);
        Self(client)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.worker.shared.metrics.streams.decrement(1.0);
        self.0.count_call(false);
    }
}

/// The refusal that a limit of the identity is.
#[must_use]
pub fn limited(limit: Limit) -> Denial {
    let text = match limit {
        Limit::RequestsPerSecond => "too many requests per second",
        Limit::Watches => "too many watches",
        _ => "too many requests in flight",
    };
    Denial::new(Reason::Limit, text)
}

/// What is known of a request from its first moment on.
pub struct Call<'c> {
    /// Who makes it.
    pub client: &'c Client,
    /// The policy's word on the caller when the request came.
    pub caller: Rc<Caller>,
    /// When it came.
    pub begun: Instant,
    /// How its messages may be compressed.
    pub encoding: Encoding,
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

    /// The way of an answer back to the client.
    #[must_use]
    pub fn delivery(&self, class: Class) -> Delivery<'_> {
        Delivery::new(self.client, class, self.caller.principal.mode)
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
        self.client.ended_with_connection()
    }

    /// The place that a request has among those of its identity until its answer has ended. Shadow
    /// mode has no limits, and takes none.
    fn place(&self, method: Option<Method>) -> Result<(Option<Place>, Seat), Limit> {
        let quota = &self.client.quota;
        if self.caller.principal.mode == Mode::Shadow {
            return Ok((None, Seat::Taken));
        }
        // The messages of a conversation are counted one by one.
        if method.is_none_or(|method| method.call_kind() != CallKind::BidiStreaming) {
            quota.ask().map_err(|_| Limit::RequestsPerSecond)?;
        }
        if let Some(place) = quota.requests.place() {
            return Ok((Some(place), Seat::Taken));
        }
        // A Watch stream that ends with RESOURCE_EXHAUSTED ends all watches of that clientv3 for
        // good.
        let standing = if method == Some(Method::Watch) { quota.standing.place() } else { None };
        standing.map(|place| (Some(place), Seat::Standing)).ok_or(Limit::RequestsInFlight)
    }

    /// Refuses a request before anything of it was read.
    fn one_too_many(
        &self,
        method: Result<Method, Denial>,
        parts: &Parts,
        limit: Limit,
        respond: &mut SendResponse<Bytes>,
    ) {
        self.shared().metrics.limit_hit(limit);
        let watch = matches!(method, Ok(Method::Watch));
        let subject = match method {
            Ok(method) => Subject::Turn(method, OwnedAccesses::default()),
            Err(_) => Subject::of_path(&parts.uri),
        };
        if let Err(denial) = self.record(subject, Err(limited(limit)), Instant::now()) {
            if watch {
                Status::too_many_streams().send(respond)
            } else {
                self.refuse(&denial, respond)
            }
        }
    }

    /// Refuses a request whose messages are compressed in a way that etcd does not have, as etcd
    /// does: for its head alone.
    fn unknown_encoding(
        &self,
        method: Method,
        headers: &HeaderMap,
        respond: &mut SendResponse<Bytes>,
    ) {
        let principal = &self.caller.principal;
        let verdict =
            refuse(principal, check_binding(principal).err().unwrap_or_else(encoding::unknown));
        match self.record(Subject::Turn(method, OwnedAccesses::default()), verdict, Instant::now())
        {
            Err(denial) if denial.reason == Reason::Compressed => {
                let named =
                    headers.get(GRPC_ENCODING).map(http::HeaderValue::as_bytes).unwrap_or_default();
                Status::no_decompressor(named).send(respond);
            }
            Err(denial) => self.refuse(&denial, respond),
            Ok(_) => {}
        }
    }

    fn metadata(&self, headers: HeaderMap) -> HeaderMap {
        head::forwarded(headers, self.shared().config.client_tokens, self.caller.principal.mode)
    }

    /// A request of one message: held until it can be judged, then forwarded as it is.
    async fn one_message(
        &self,
        method: Method,
        headers: HeaderMap,
        mut intake: Intake,
        respond: &mut SendResponse<Bytes>,
    ) {
        let limit = self.shared().config.limits.max_request_bytes;
        let mut call = Call {
            client: self.client,
            caller: self.caller.clone(),
            begun: self.begun,
            encoding: self.encoding,
        };
        loop {
            let filled = match call.caller.principal.mode {
                Mode::Enforce => tokio::select! {
                    biased;
                    filled = intake.fill(Until::End, limit) => filled,
                    // The connection ends, perhaps because its certificate has: what has not come whole by now comes elsewhere.
                    () = self.client.ending.cancelled() => return Status::not_sent().send(respond),
                },
                Mode::Shadow => {
                    match timeout(SHADOW_HOLDS, intake.fill(Until::FirstMessage, limit)).await {
                        Ok(filled) => filled,
                        Err(_) => {
                            return Box::pin(raw::slow(
                                &call,
                                method,
                                call.metadata(headers),
                                intake,
                                respond,
                            ))
                            .await;
                        }
                    }
                }
            };
            let Ok(filled) = filled else { return };
            // A request may be begun under one policy and ended under another, hours later: the one
            // that counts is in force now.
            let caller = self.client.caller();
            let same = caller.policy.generation == call.caller.policy.generation;
            call.caller = caller;
            if same || filled.is_err() {
                return call.whole_message(method, headers, filled, &mut intake, respond).await;
            }
        }
    }

    /// A request of one message that has come, or is known never to come as one.
    async fn whole_message(
        &self,
        method: Method,
        headers: HeaderMap,
        filled: Result<(), Denial>,
        intake: &mut Intake,
        respond: &mut SendResponse<Bytes>,
    ) {
        if let (Err(denial), Mode::Enforce) = (&filled, self.caller.principal.mode) {
            match denial.reason {
                Reason::TooLarge => self.shared().metrics.limit_hit(Limit::RequestBytes),
                Reason::Limit => self.shared().metrics.limit_hit(Limit::HeldBytes),
                _ => {}
            }
        }
        let judging = Instant::now();
        let limit = self.shared().config.limits.max_request_bytes;
        let verdict = match filled.and_then(|()| intake.message(limit)) {
            Ok(message) => match self.over_limit(method) {
                None => self.judge(method, Ok(message)).await,
                Some(denial) => refuse(&self.caller.principal, denial),
            },
            Err(denial) => self.judge(method, Err(denial)).await,
        };
        let ended = intake.ended();
        let headers = self.metadata(headers);
        let (judged, held) = intake.take(&headers);
        let (permit, mut recording) =
            match self.record(Subject::Message(method, judged), verdict, judging) {
                Ok(permitted) => permitted,
                Err(denial) => return self.refuse(&denial, respond),
            };
        let mut outgoing = Outgoing::of(method, headers, held, ended);
        if ended {
            self.carry_out(&permit, &mut recording, method, &mut outgoing, respond).await;
        } else {
            (recording.member, recording.ended) = Box::pin(raw::open(
                self,
                &permit,
                Some(method),
                &outgoing,
                intake,
                respond,
                &mut recording,
            ))
            .await;
        }
    }

    /// The verdict on a request of one message, or on one that is none.
    ///
    /// # Errors
    /// In enforce mode, why it is refused.
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

    /// Carries out what was allowed. A request that waits (for a connection, for a member that does
    /// not refuse it) while its permit is withdrawn is judged again, as it would be if it came
    /// now.
    async fn carry_out(
        &self,
        permit: &LivePermit<'_>,
        recording: &mut Recording<'_>,
        method: Method,
        outgoing: &mut Outgoing,
        respond: &mut SendResponse<Bytes>,
    ) {
        let carried = self.permitted(permit, method, outgoing, respond).await;
        let Err(Withdrawn) =
            carried.map(|(member, ended)| (recording.member, recording.ended) = (member, ended))
        else {
            return;
        };
        let again = async {
            loop {
                if self.client.is_over() {
                    let status = self.ended_with_connection();
                    status.send(respond);
                    return recording.ended = Ended::Answered(status.code_sent());
                }
                let call = Call {
                    client: self.client,
                    caller: self.client.caller(),
                    begun: self.begun,
                    encoding: self.encoding,
                };
                let plain = call.plain(outgoing.body.clone()).await;
                let verdict = call
                    .judge(method, plain.as_ref().map_err(Denial::clone).and_then(Plain::message))
                    .await;
                let permit = match recording.judged_again(call.caller.clone(), verdict) {
                    Ok(permit) => LivePermit::new(permit, self.client),
                    Err(denial) => return call.refuse(&denial, respond),
                };
                outgoing.headers = call.metadata(std::mem::take(&mut outgoing.headers));
                // Shadow mode would have passed it on as it came.
                let plain = plain.ok().filter(|_| call.caller.principal.mode == Mode::Enforce);
                if let Some(plain) = &plain {
                    outgoing.body = plain.framed.clone();
                }
                if let Ok(carried) = call.permitted(&permit, method, outgoing, respond).await {
                    (recording.member, recording.ended) = carried;
                    return;
                }
            }
        };
        Box::pin(again).await;
    }

    /// A request that names no method of etcd, or is no gRPC: refused, or in shadow mode passed on
    /// untouched.
    async fn no_method(
        &self,
        denial: Denial,
        verb: http::Method,
        uri: &Uri,
        headers: HeaderMap,
        mut intake: Intake,
        respond: &mut SendResponse<Bytes>,
    ) {
        let path = uri.path_and_query().cloned();
        let subject = Subject::of_path(uri);
        let verdict = refuse(
            &self.caller.principal,
            check_binding(&self.caller.principal).err().unwrap_or(denial),
        );
        let (permit, mut recording) = match self.record(subject, verdict, Instant::now()) {
            Ok(permitted) => permitted,
            Err(denial) => return self.refuse(&denial, respond),
        };
        match raw::outgoing(verb, path, self.metadata(headers), intake.ended()) {
            Some(outgoing) => {
                (recording.member, recording.ended) =
                    raw::open(self, &permit, None, &outgoing, &mut intake, respond, &mut recording)
                        .await;
            }
            // A `:path` that is no path cannot be sent on (docs/shadow.md).
            None => {
                self.refuse(&Denial::new(Reason::NotGrpc, "the path cannot be forwarded"), respond)
            }
        }
    }

    /// Opens the record of a verdict. What is refused has one, too, unless it is the audit that has
    /// no room for it.
    ///
    /// # Errors
    /// The refusal, recorded.
    pub fn record(
        &self,
        subject: Subject,
        verdict: Result<Permit, Denial>,
        judging: Instant,
    ) -> Result<(LivePermit<'_>, Recording<'_>), Denial> {
        let mut recording = Recording::open(
            self.client,
            self.caller.clone(),
            subject,
            &verdict,
            self.begun,
            judging.elapsed(),
        )?;
        match verdict {
            Ok(permit) => Ok((LivePermit::new(permit, self.client), recording)),
            Err(denial) => {
                recording.ended = Ended::Answered(Status::of(&denial, false).code_sent());
                Err(denial)
            }
        }
    }

    /// A message of the client's without its compression.
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

    /// Answers a refusal.
    pub fn refuse(&self, denial: &Denial, respond: &mut SendResponse<Bytes>) {
        Status::of(denial, self.shared().config.reason_trailer).send(respond);
    }

    /// The member for a call: the connection's own, but the leader for a call that only the leader
    /// takes.
    #[must_use]
    pub fn target(&self, method: Method) -> MemberIndex {
        let leader =
            if method == Method::MoveLeader { self.shared().members.leader() } else { None };
        leader.unwrap_or_else(|| self.forwarder().home())
    }

    /// Passwords are hashed slowly at etcd: only so many a second. Shadow mode limits nothing.
    fn over_limit(&self, method: Method) -> Option<Denial> {
        let limited = method == Method::Authenticate && self.caller.principal.mode == Mode::Enforce;
        if limited && !self.shared().quotas.may_log_in(&self.client.quota) {
            self.shared().metrics.limit_hit(Limit::Authenticate);
            return Some(Denial::new(Reason::Limit, "too many password logins"));
        }
        None
    }
}
