//! Calls that stay open: [`stop`] waits for the reasons to end one early. Also judges and records
//! the messages of bidirectional streams, and serves gRPC's health service.

mod bidi;
mod splitter;

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use etcd_warden_core::access::{Accesses, LeaseUse, Verbs};
use etcd_warden_core::authorize::{Denial, Permit, authorize, check_binding, refuse};
use etcd_warden_core::method::{CallKind, Method};
use etcd_warden_core::wire::frame::{self, FrameFault};
use etcd_warden_core::wire::watch::WatchRequest;
use etcd_warden_core::wire::{self, Malformed};
use h2::SendStream;
use h2::server::SendResponse;
use tokio::time::{Duration, sleep};

pub use bidi::serve;

use super::call::Call;
use super::encoding::Plain;
use super::judge::{self, Caller};
use super::outcome::{Abort, Outcome};
use super::record::{Ended, Recording, Subject};
use super::reply::{self, Status};
use super::request_body::denial_of;
use crate::audit::OwnedAccesses;
use crate::metrics::reason::Termination;
use crate::upstream::Class;

/// One message of a bidirectional stream, parsed.
pub struct Asked<'m> {
    /// The request in the message.
    pub request: Request<'m>,
    /// The accesses of the request.
    pub accesses: Accesses<'m>,
}

/// The request in a message of a bidirectional stream.
pub enum Request<'m> {
    /// On a Watch stream.
    Watch(WatchRequest<'m>),
    /// On a LeaseKeepAlive stream: the id of the lease.
    KeepAlive(i64),
}

impl<'m> Asked<'m> {
    /// Parses a message of `method`, which is Watch or LeaseKeepAlive.
    ///
    /// # Errors
    /// The message is malformed, so it cannot be judged.
    pub fn read(method: Method, message: &'m [u8]) -> Result<Self, Malformed> {
        let mut accesses = Accesses::default();
        let request = if method == Method::LeaseKeepAlive {
            let id = wire::lease::keep_alive(message)?;
            accesses.add_lease(id, LeaseUse::KeepAlive);
            Request::KeepAlive(id)
        } else {
            let request = wire::watch::request(message)?;
            if let WatchRequest::Create(range) = request {
                accesses.add_keys(Verbs::READ, range);
            }
            Request::Watch(request)
        };
        Ok(Self { request, accesses })
    }
}

/// Judges a message of a bidirectional stream that shadow mode has already forwarded, and records
/// the decision. `caller` is that of the moment at which the message was forwarded.
pub async fn observe(
    call: &Call<'_>,
    caller: &Rc<Caller>,
    method: Method,
    framed: Result<Bytes, FrameFault>,
) {
    let judging = Instant::now();
    let plain = match framed {
        Ok(framed) => call.plain(framed).await,
        Err(fault) => Err(denial_of(fault)),
    };
    let read = plain
        .as_ref()
        .map_err(Denial::clone)
        .and_then(|plain| Ok(Asked::read(method, payload(&plain.framed))?));
    let decision = decide(call, caller, &read).await;
    let accesses =
        read.as_ref().map(|asked| OwnedAccesses::from(&asked.accesses)).unwrap_or_default();
    // The message was sent already, so an error changes nothing. If the audit queue is full, the
    // code that reserves a slot in it counts the loss.
    let _ = record(call, caller, method, &decision, accesses, judging);
}

/// Decides on one message.
pub(super) async fn decide(
    call: &Call<'_>,
    caller: &Caller,
    read: &Result<Asked<'_>, Denial>,
) -> Result<Permit, Denial> {
    match read {
        Ok(asked) => {
            judge::decide(call.client, &caller.principal, call.forwarder().home(), &asked.accesses)
                .await
        }
        Err(denial) => refuse(
            &caller.principal,
            check_binding(&caller.principal).err().unwrap_or_else(|| denial.clone()),
        ),
    }
}

/// Records the decision on one message of a bidirectional stream.
///
/// # Errors
/// The audit queue is full, and `audit-on-full` is `deny`.
pub(super) fn record(
    call: &Call<'_>,
    caller: &Rc<Caller>,
    method: Method,
    decision: &Result<Permit, Denial>,
    accesses: OwnedAccesses,
    judging: Instant,
) -> Result<(), Denial> {
    let subject = Subject::Accesses(method, accesses);
    let mut recording = Recording::open(
        call.client,
        caller.clone(),
        subject,
        decision,
        judging,
        judging.elapsed(),
    )?;
    // A message of a stream has no status of its own.
    recording
        .end(Ended { member: Some(call.forwarder().home()), outcome: Outcome::Answered(None) });
    Ok(())
}

/// A framed message without its frame header.
pub(super) fn payload(framed: &[u8]) -> &[u8] {
    framed.get(frame::HEADER..).unwrap_or_default()
}

/// Waits until a permitted call must end, because the client lost the right to it or because the
/// connection ends. Returns the status for the client. `held` is the framed request, which is
/// judged again after each change of the policy.
pub async fn stop(call: &Call<'_>, method: Method, held: &Bytes) -> Status {
    let mut changes = call.policy_changes();
    let ends_with_connection =
        matches!(method.call_kind(), CallKind::BlockingUnary | CallKind::ServerStreaming);
    loop {
        tokio::select! {
            biased;
            // A client that waits can continue on another connection. A snapshot would have to
            // start again, so it may finish.
            () = call.client.ending.cancelled(), if ends_with_connection => {
                return call.ended_with_connection();
            }
            // When the certificate is no longer accepted, a snapshot ends too.
            () = call.client.over.cancelled() => return call.ended_with_connection(),
            changed = changes.changed() => if changed.is_err() { return Status::draining() },
        }
        let caller = call.client.caller();
        // In shadow mode, `held` may be compressed.
        let plain = call.plain(held.clone()).await;
        let decision = match plain.as_ref().map_err(Denial::clone).and_then(Plain::message) {
            Ok(message) => {
                judge::message(
                    call.client,
                    &caller.principal,
                    call.forwarder().home(),
                    method,
                    message,
                )
                .await
            }
            Err(denial) => refuse(&caller.principal, denial),
        };
        if let Err(denial) = decision {
            call.shared().metrics.terminated(Termination::Policy);
            return Status::of(&denial, call.shared().config.reason_trailer);
        }
    }
}

/// Serves gRPC's health service without etcd: SERVING while at least one member is expected to
/// respond.
pub async fn health(call: &Call<'_>, method: Method, respond: &mut SendResponse<Bytes>) {
    let Ok(mut out) = respond.send_response(reply::head(), false) else { return };
    let Err(abort) = report_health(call, method, &mut out).await;
    abort.end_response(&mut out);
}

async fn report_health(
    call: &Call<'_>,
    method: Method,
    out: &mut SendStream<Bytes>,
) -> Result<Infallible, Abort> {
    let delivery = call.delivery(Class::Long);
    let mut reported = None;
    loop {
        let serving = call.shared().members.any_in_use();
        if reported.replace(serving) != Some(serving) {
            delivery.send(out, health_message(method, serving)).await?;
        }
        if method != Method::HealthWatch {
            return Err(Abort::Stop(Status::new(reply::code::OK, "")));
        }
        tokio::select! {
            () = sleep(Duration::from_secs(1)) => {}
            () = call.client.ending.cancelled() => {
                return Err(Abort::Stop(call.ended_with_connection()));
            }
            _ = std::future::poll_fn(|cx| out.poll_reset(cx)) => return Err(Abort::ClientGone),
        }
    }
}

/// `HealthCheckResponse { status }`: field 1, SERVING = 1, NOT_SERVING = 2
/// (`grpc/health/v1/health.proto`). The response to HealthList has a `map<string,
/// HealthCheckResponse>` in field 1. As in etcd 3.5 to 3.7, its only entry has an empty name: the
/// server as a whole.
fn health_message(method: Method, serving: bool) -> Bytes {
    let status = if serving { 1 } else { 2 };
    match method {
        Method::HealthList => frame::encode(&[0x0a, 6, 0x0a, 0, 0x12, 2, 0x08, status]),
        _ => frame::encode(&[0x08, status]),
    }
}

/// Decides whether the client may open a stream, before any message with an access.
///
/// # Errors
/// In enforce mode, the denial.
pub(super) fn may_open(caller: &Caller) -> Result<Permit, Denial> {
    authorize(&caller.principal, &Accesses::default(), &[])
}
