//! Watch and LeaseKeepAlive under enforcement. Each message is judged when it arrives. A message is
//! refused *in its place*: the client gets a refusal at the position in the response where etcd's
//! own response would be. The stream stays open.

mod client_to_etcd;
mod etcd_to_client;

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

use self::etcd_to_client::Etcd;
use super::may_open;
use crate::metrics::reason::Termination;
use crate::proxy::call::{Admission, Call};
use crate::proxy::forward::{Outgoing, Sent};
use crate::proxy::live_permit::LivePermit;
use crate::proxy::open_streams::Registration;
use crate::proxy::outcome::{Abort, UpstreamError};
use crate::proxy::quota::Slots;
use crate::proxy::relay;
use crate::proxy::reply::Status;
use crate::proxy::request_body::RequestBody;
use crate::upstream::members::MemberIndex;

/// Watches of one stream that are checked against a new policy in one poll.
const RECHECKED_PER_POLL: usize = 128;

/// Serves one bidirectional stream to its end. For a Watch stream in an overflow slot, no stream to
/// etcd is opened, and each create on it is refused in its place.
///
/// A client without any right gets a stream too. Each of its messages is refused in its place, and
/// none is sent to etcd. The reason is clientv3: if a Watch stream ends with PERMISSION_DENIED, it
/// gives up all its watches for good, even if a later policy permits them
/// (`client/v3/watch.go`, `isHaltErr`).
pub async fn serve(
    call: &Call<'_>,
    method: Method,
    headers: HeaderMap,
    mut body: RequestBody,
    respond: &mut SendResponse<Bytes>,
    admission: Admission,
) {
    // Open a stream to etcd, if the client may have one.
    let outgoing = Outgoing::of(method, headers, Bytes::new(), false);
    let (at_etcd, member) = loop {
        let permit = match may_open(&call.client.caller()) {
            Ok(permit) if admission == Admission::Regular => LivePermit::new(permit, call.client),
            _ => break (None, call.forwarder().home()),
        };
        let sending = pin!(async {
            let sending = call.forwarder().send(&permit, &outgoing, None);
            match call.client.ending.run_until_cancelled(sending).await {
                Some(sent) => sent.map_err(Abort::Upstream),
                None => Err(Abort::Stop(call.ended_with_connection())),
            }
        });
        match relay::unless_gone(respond, sending).await {
            Ok(Sent { response, send, member, slot }) => {
                break (Some((response, send, slot)), member);
            }
            // The policy has changed: decide again.
            Err(Abort::Upstream(UpstreamError::Withdrawn)) => {}
            Err(abort) => {
                abort.end_call(respond);
                return;
            }
        }
    };
    // Relay both directions.
    let open = call.shared().open_streams.register(call.caller.principal.name.clone(), method);
    let changes = call.policy_changes();
    let (etcd, send, _slot) = match at_etcd {
        Some((response, send, slot)) => (Etcd::Waiting(response), Some(send), Some(slot)),
        None => (Etcd::Absent, None, None),
    };
    let stream = BidiStream::new(call, method, member, open, admission);
    let client_to_etcd = pin!(stream.client_to_etcd(body.rest(), send));
    let etcd_to_client = pin!(stream.etcd_to_client(etcd, respond, changes));
    // `client_to_etcd` never ends by itself. It leaves its result to `etcd_to_client`, which owns
    // the response.
    match select(client_to_etcd, etcd_to_client).await {
        Either::Left((never, _)) => match never {},
        Either::Right(_) => {}
    }
}

/// Both directions of one stream.
struct BidiStream<'c> {
    call: &'c Call<'c>,
    method: Method,
    member: MemberIndex,
    admission: Admission,
    open: Registration,
    ledger: RefCell<WatchLedger>,
    /// The slots of the identity's watch limit that its watches hold.
    slots: Slots,
    /// The newest response header on this stream, encoded.
    header: RefCell<Vec<u8>>,
    /// The proxy's own messages to the client, framed. They are sent between two messages of etcd.
    to_client: RefCell<VecDeque<Bytes>>,
    /// Ids of watches that etcd must cancel.
    to_cancel: RefCell<VecDeque<i64>>,
    /// Why `client_to_etcd` wants the stream to end.
    abort: Cell<Option<Abort>>,
    wake_to_client: Notify,
    wake_to_etcd: Notify,
}

impl<'c> BidiStream<'c> {
    fn new(
        call: &'c Call<'c>,
        method: Method,
        member: MemberIndex,
        open: Registration,
        admission: Admission,
    ) -> Self {
        let last =
            call.shared().members.at(member).map(|member| member.header()).unwrap_or_default();
        Self {
            call,
            method,
            member,
            admission,
            open,
            ledger: RefCell::default(),
            slots: Slots::none(&call.client.quota.watches),
            header: RefCell::new(last.encode()),
            to_client: RefCell::default(),
            to_cancel: RefCell::default(),
            abort: Cell::new(None),
            wake_to_client: Notify::new(),
            wake_to_etcd: Notify::new(),
        }
    }

    fn refused_stream(&self, denial: &Denial) -> Abort {
        Abort::Stop(Status::of(denial, self.call.shared().config.reason_trailer))
    }

    fn queue(&self, message: Vec<u8>) {
        self.to_client.borrow_mut().push_back(frame::encode(&message));
        self.wake_to_client.notify_one();
    }

    /// Cancels the watches that a new policy no longer permits. The other watches are not affected.
    /// Meanwhile no response from etcd is passed on.
    async fn recheck(&self) {
        self.recheck_part(&[]);
        let ids = self.ledger.borrow().live_ids();
        for part in ids.chunks(RECHECKED_PER_POLL) {
            self.recheck_part(part);
            tokio::task::yield_now().await;
        }
    }

    fn recheck_part(&self, ids: &[i64]) {
        let caller = self.call.client.caller();
        let allowed = |range: &OwnedRange| {
            let mut accesses = Accesses::default();
            accesses.add_keys(Verbs::READ, range.as_range());
            authorize(&caller.principal, &accesses, &[]).is_ok()
        };
        let lost = self.ledger.borrow_mut().recheck(ids, allowed);
        for id in lost {
            let canceled = self.canceled_by_policy(id);
            self.to_client.borrow_mut().push_back(canceled);
        }
        self.count_watches(&self.ledger.borrow());
    }

    /// The response to a refused create.
    fn refused_create(&self, refusal: Refusal) -> Vec<u8> {
        let reason = match refusal {
            Refusal::Denied => wire::watch::PERMISSION_DENIED,
            Refusal::TooMany => wire::watch::TOO_MANY_REQUESTS,
        };
        wire::watch::refused_create(&self.header.borrow(), reason)
    }

    /// Queues the cancellation of a watch at etcd, and returns the framed message for the client.
    fn canceled_by_policy(&self, id: i64) -> Bytes {
        self.call.shared().metrics.terminated(Termination::Policy);
        self.to_cancel.borrow_mut().push_back(id);
        self.wake_to_etcd.notify_one();
        frame::encode(&wire::watch::canceled(&self.header.borrow(), id))
    }

    fn count_watches(&self, ledger: &WatchLedger) {
        self.slots.shrink_to(ledger.slots());
        self.publish_watches(ledger.live());
    }

    fn publish_watches(&self, live: usize) {
        let before = self.open.stream.watches.swap(live, Ordering::Relaxed);
        let gauge = &self.call.shared().metrics.watches;
        match live.checked_sub(before) {
            Some(0) => {}
            Some(more) => gauge.increment(u32::try_from(more).map_or(f64::MAX, f64::from)),
            None => gauge
                .decrement(u32::try_from(before.saturating_sub(live)).map_or(f64::MAX, f64::from)),
        }
    }
}

impl Drop for BidiStream<'_> {
    fn drop(&mut self) {
        self.publish_watches(0);
    }
}
