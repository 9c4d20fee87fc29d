//! Calls that stay open: what may end them before they end themselves, and how their messages are
//! judged and recorded.

mod dialogue;
mod splitter;

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use etcd_warden_core::access::{Accesses, LeaseUse, Verbs};
use etcd_warden_core::authorize::{Denial, Permit, authorize, check_binding, refuse};
use etcd_warden_core::method::{CallKind, Method};
use etcd_warden_core::wire::frame::{self, FrameFault};
use etcd_warden_core::wire::watch::WatchRequest;
use etcd_warden_core::wire::{self, Malformed};
use h2::server::SendResponse;
use tokio::time::{Duration, sleep};

pub use dialogue::{Seat, serve};

use super::call::Call;
use super::delivery::Undelivered;
use super::encoding::Plain;
use super::intake::{ClientGone, denial_of};
use super::judge::{self, Caller};
use super::record::{Recording, Subject};
use super::relay::{self, Ended};
use super::reply::{self, Status};
use crate::audit::OwnedAccesses;
use crate::metrics::reason::Termination;
use crate::upstream::Class;

/// What one message of a conversation asks for, and what that would touch.
pub struct Asked<'m> {
    /// What it asks for.
    pub request: Request<'m>,
    /// What that would touch.
    pub accesses: Accesses<'m>,
}

/// A message of a conversation.
pub enum Request<'m> {
    /// On a Watch stream.
    Watch(WatchRequest<'m>),
    /// On a LeaseKeepAlive stream: the lease.
    KeepAlive(i64),
}

impl<'m> Asked<'m> {
    /// Reads a message of `method`, one of the two conversations.
    ///
    /// # Errors
    /// The message cannot be judged.
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

/// Judges one message of a conversation that shadow mode has already sent on, and records the
/// verdict.
pub async fn observe(call: &Call<'_>, method: Method, framed: Result<Bytes, FrameFault>) {
    let caller = call.client.caller();
    let judging = Instant::now();
    let plain = match framed {
        Ok(framed) => call.plain(framed).await,
        Err(fault) => Err(denial_of(fault)),
    };
    let read = plain
        .as_ref()
        .map_err(Denial::clone)
        .and_then(|plain| Ok(Asked::read(method, payload(&plain.framed))?));
    let verdict = verdict(call, &caller, &read).await;
    let accesses =
        read.as_ref().map(|asked| OwnedAccesses::from(&asked.accesses)).unwrap_or_default();
    // The message is on its way: a full audit queue is counted there, and changes nothing here.
    let _ = record(call, &caller, method, &verdict, accesses, judging);
}

/// The verdict on one message.
pub(super) async fn verdict(
    call: &Call<'_>,
    caller: &Caller,
    read: &Result<Asked<'_>, Denial>,
) -> Result<Permit, Denial> {
    match read {
        Ok(asked) => {
            judge::verdict(call.client, &caller.principal, call.forwarder().home(), &asked.accesses)
                .await
        }
        Err(denial) => refuse(
            &caller.principal,
            check_binding(&caller.principal).err().unwrap_or_else(|| denial.clone()),
        ),
    }
}

/// Records the verdict on one message of a conversation.
///
/// # Errors
/// The audit has no room, and refuses what it cannot tell.
pub(super) fn record(
    call: &Call<'_>,
    caller: &Rc<Caller>,
    method: Method,
    verdict: &Result<Permit, Denial>,
    accesses: OwnedAccesses,
    judging: Instant,
) -> Result<(), Denial> {
    let subject = Subject::Turn(method, accesses);
    let mut recording =
        Recording::open(call.client, caller.clone(), subject, verdict, judging, judging.elapsed())?;
    // A message of a conversation has no status of its own.
    (recording.member, recording.ended) = (Some(call.forwarder().home()), Ended::Answered(None));
    Ok(())
}

/// A framed message without its frame.
pub(super) fn payload(framed: &[u8]) -> &[u8] {
    framed.get(frame::HEADER..).unwrap_or_default()
}

/// Waits until a call that was allowed once must end: its right is gone, or the connection is
/// ending.
pub async fn stop(call: &Call<'_>, method: Method, held: &Bytes) -> Status {
    let mut changes = call.policy_changes();
    let ends_with_connection =
        matches!(method.call_kind(), CallKind::BlockingUnary | CallKind::ServerStreaming);
    loop {
        tokio::select! {
            biased;
            // A snapshot under way is finished; whoever only waits can wait elsewhere.
            () = call.client.ending.cancelled(), if ends_with_connection => return call.ended_with_connection(),
            // But not when its caller has become nobody.
            () = call.client.over.cancelled() => return call.ended_with_connection(),
            changed = changes.changed() => if changed.is_err() { return Status::draining() },
        }
        let caller = call.client.caller();
        // Shadow mode has passed it on as it came.
        let plain = call.plain(held.clone()).await;
        let verdict = match plain.as_ref().map_err(Denial::clone).and_then(Plain::message) {
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
        if let Err(denial) = verdict {
            call.shared().metrics.terminated(Termination::Policy);
            return Status::of(&denial, call.shared().config.reason_trailer);
        }
    }
}

/// gRPC's health service, answered by the proxy itself: whether any member can be expected to
/// answer.
///
/// # Errors
/// The client left.
pub async fn health(
    call: &Call<'_>,
    method: Method,
    respond: &mut SendResponse<Bytes>,
) -> Result<Ended, ClientGone> {
    let mut out = respond.send_response(reply::head(), false).map_err(|_| ClientGone)?;
    let delivery = call.delivery(Class::Long);
    let mut told = None;
    loop {
        let serving = call.shared().members.any_in_use();
        if told.replace(serving) != Some(serving) {
            match delivery.send(&mut out, health_answer(method, serving)).await {
                Ok(()) => {}
                Err(Undelivered::Gone) => return Err(ClientGone),
                Err(Undelivered::Unread) => return relay::end(&mut out, &delivery.unread()),
            }
        }
        if method != Method::HealthWatch {
            return relay::end(&mut out, &Status::new(reply::code::OK, ""));
        }
        tokio::select! {
            () = sleep(Duration::from_secs(1)) => {}
            () = call.client.ending.cancelled() => return relay::end(&mut out, &call.ended_with_connection()),
            _ = std::future::poll_fn(|cx| out.poll_reset(cx)) => return Err(ClientGone),
        }
    }
}

/// `HealthCheckResponse { status }`: field 1, SERVING = 1, NOT_SERVING = 2
/// (`grpc/health/v1/health.proto`). A list is a `map<string, HealthCheckResponse>` in field 1; etcd
/// 3.5 to 3.7 has one entry in it, for itself as a whole, whose name is empty.
fn health_answer(method: Method, serving: bool) -> Bytes {
    let status = if serving { 1 } else { 2 };
    match method {
        Method::HealthList => frame::encode(&[0x0a, 6, 0x0a, 0, 0x12, 2, 0x08, status]),
        _ => frame::encode(&[0x08, status]),
    }
}

/// Judges a request that touches nothing: whether the caller may hold a stream open at all.
///
/// # Errors
/// In enforce mode, why not.
pub(super) fn may_open(caller: &Caller) -> Result<Permit, Denial> {
    authorize(&caller.principal, &Accesses::default(), &[])
}
