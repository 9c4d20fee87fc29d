//! Watch and LeaseKeepAlive under enforcement: every message is judged as it comes, refusals are
//! answered in their place, and the stream stays up.

mod down;
mod up;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use etcd_warden_core::access::{Accesses, Verbs};
use etcd_warden_core::authorize::{Denial, authorize};
use etcd_warden_core::keyspace::OwnedRange;
use etcd_warden_core::method::Method;
use etcd_warden_core::watch_ledger::{Refusal, WatchLedger};
use etcd_warden_core::wire::{self, frame};
use futures_util::future::{Either, select};
use h2::server::SendResponse;
use http::HeaderMap;
use tokio::sync::Notify;

use self::down::Etcd;
use super::may_open;
use crate::metrics::reason::Termination;
use crate::proxy::call::Call;
use crate::proxy::forward::{ForwardError, Outgoing, Sent};
use crate::proxy::intake::{ClientGone, Intake};
use crate::proxy::live_permit::LivePermit;
use crate::proxy::quota::Places;
use crate::proxy::registry::Registered;
use crate::proxy::relay;
use crate::proxy::reply::Status;
use crate::upstream::members::MemberIndex;

/// Serves one conversation to its end. Without a `seat` it is a Watch stream that is one too many:
/// it does not go to etcd, and its creates are refused in their place.
///
/// A caller that may not speak at all has its conversation, too, with every message of it refused
/// in its place and nothing at etcd: a Watch stream that ends with PERMISSION_DENIED ends all
/// watches of that clientv3 for good, also those that it would get after the next reload of the
/// policy (`client/v3/watch.go`, `isHaltErr`).
pub async fn serve(
    call: &Call<'_>,
    method: Method,
    headers: HeaderMap,
    mut intake: Intake,
    respond: &mut SendResponse<Bytes>,
    seat: Seat,
) {
    let outgoing = Outgoing::of(method, headers, Bytes::new(), false);
    let (at_etcd, member) = loop {
        let permit = match may_open(&call.client.caller()) {
            Ok(permit) if seat == Seat::Taken => LivePermit::new(permit, call.client),
            _ => break (None, call.forwarder().home()),
        };
        let sending = pin!(
            call.client.ending.run_until_cancelled(call.forwarder().send(&permit, &outgoing, None))
        );
        let Some(sent) = relay::unless_gone(respond, sending).await.transpose() else {
            return call.ended_with_connection().send(respond);
        };
        match sent {
            Err(ClientGone) => return,
            // The policy has changed: what it says now decides.
            Ok(Err(ForwardError::Withdrawn)) => {}
            Ok(Err(error)) => {
                relay::refuse_or_reset(respond, &error);
                return;
            }
            Ok(Ok(Sent { response, send, member, slot })) => {
                break (Some((response, send, slot)), member);
            }
        }
    };
    let open = call.shared().registry.register(call.caller.principal.name.clone(), method);
    let changes = call.policy_changes();
    let (etcd, send, _place) = match at_etcd {
        Some((response, send, slot)) => (Etcd::Silent(response), Some(send), Some(slot)),
        None => (Etcd::Absent, None, None),
    };
    let dialogue = Dialogue::new(call, method, member, open, seat);
    let up = pin!(dialogue.up(intake.rest(), send));
    let down = pin!(dialogue.down(etcd, respond, changes));
    // `up` never ends by itself: what it finds out it leaves for `down`, which owns the client's
    // side.
    match select(up, down).await {
        Either::Left((never, _)) => match never {},
        Either::Right(_) => {}
    }
}

/// Both directions of one conversation.
struct Dialogue<'c> {
    call: &'c Call<'c>,
    method: Method,
    member: MemberIndex,
    seat: Seat,
    open: Registered,
    ledger: RefCell<WatchLedger>,
    /// What of the caller's quota its watches take.
    places: Places,
    /// The newest response header on this stream, as bytes.
    header: RefCell<Vec<u8>>,
    /// Our own messages to the client, framed; they go out between two of etcd's.
    to_client: RefCell<VecDeque<Bytes>>,
    /// Watches that etcd is to cancel.
    to_cancel: RefCell<VecDeque<i64>>,
    /// The client's side is over, and how the stream ends.
    verdict: Cell<Option<Closing>>,
    wake_down: Notify,
    wake_up: Notify,
}

/// Whether a conversation has a place among the caller's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// It has.
    Taken,
    /// There was none.
    Standing,
}

enum Closing {
    Gone,
    With(Status),
}

impl<'c> Dialogue<'c> {
    fn new(
        call: &'c Call<'c>,
        method: Method,
        member: MemberIndex,
        open: Registered,
        seat: Seat,
    ) -> Self {
        let last =
            call.shared().members.at(member).map(|member| member.header()).unwrap_or_default();
        Self {
            call,
            method,
            member,
            seat,
            open,
            ledger: RefCell::default(),
            places: Places::none(&call.client.quota.watches),
            header: RefCell::new(last.encode()),
            to_client: RefCell::default(),
            to_cancel: RefCell::default(),
            verdict: Cell::new(None),
            wake_down: Notify::new(),
            wake_up: Notify::new(),
        }
    }

    fn refused_stream(&self, denial: &Denial) -> Closing {
        Closing::With(Status::of(denial, self.call.shared().config.reason_trailer))
    }

    fn tell(&self, message: Vec<u8>) {
        self.to_client.borrow_mut().push_back(frame::encode(&message));
        self.wake_down.notify_one();
    }

    /// The policy changed: watches that lost their right end, one by one; the others notice
    /// nothing.
    fn recheck(&self) {
        let caller = self.call.client.caller();
        let allowed = |range: &OwnedRange| {
            let mut accesses = Accesses::default();
            accesses.add_keys(Verbs::READ, range.as_range());
            authorize(&caller.principal, &accesses, &[]).is_ok()
        };
        let lost = self.ledger.borrow_mut().recheck(allowed);
        for id in lost {
            let told = self.ended_by_policy(id);
            self.to_client.borrow_mut().push_back(told);
        }
        self.count_watches(&self.ledger.borrow());
    }

    /// The answer to a create that is refused.
    fn refused_create(&self, refusal: Refusal) -> Vec<u8> {
        let reason = match refusal {
            Refusal::Denied => wire::watch::PERMISSION_DENIED,
            Refusal::TooMany => wire::watch::TOO_MANY_REQUESTS,
        };
        wire::watch::refused_create(&self.header.borrow(), reason)
    }

    /// Asks etcd to cancel a watch, and gives what the client is told.
    fn ended_by_policy(&self, id: i64) -> Bytes {
        self.call.shared().metrics.terminated(Termination::Policy);
        self.to_cancel.borrow_mut().push_back(id);
        self.wake_up.notify_one();
        frame::encode(&wire::watch::canceled(&self.header.borrow(), id))
    }

    fn count_watches(&self, ledger: &WatchLedger) {
        self.places.keep(ledger.slots());
        self.show_watches(ledger.live());
    }

    fn show_watches(&self, live: usize) {
        let before = self.open.entry.watches.swap(live, Ordering::Relaxed);
        let gauge = &self.call.shared().metrics.watches;
        match live.checked_sub(before) {
            Some(0) => {}
            Some(more) => gauge.increment(u32::try_from(more).map_or(f64::MAX, f64::from)),
            None => gauge
                .decrement(u32::try_from(before.saturating_sub(live)).map_or(f64::MAX, f64::from)),
        }
    }
}

impl Drop for Dialogue<'_> {
    fn drop(&mut self) {
        self.show_watches(0);
    }
}
