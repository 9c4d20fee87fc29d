//! The published holes of an etcd: proof that the oracle finds them.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;

use super::probe;
use super::requests::{Known, Request};
use super::sides::Sides;

/// A published hole of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hole {
    /// Operations of a nested Txn were not checked.
    NestedTxn,
    /// A Put inside a Txn returned with `prev_kv` a value that its client may not read, or used a
    /// lease.
    PutInTxn,
    /// Compact and others needed no right.
    Unchecked,
    /// A watch of every later key needed the right on the first one only.
    WatchToTheEnd,
}

impl Hole {
    /// Its published name.
    pub fn id(self) -> &'static str {
        match self {
            Hole::NestedTxn => "CVE-2026-33343",
            Hole::PutInTxn => "CVE-2026-44283",
            Hole::Unchecked => "CVE-2026-33413",
            Hole::WatchToTheEnd => "GHSA-xg4h-6gfc-h4m8",
        }
    }

    /// The hole that let this request pass. Asks the judge whether it refuses the same in another
    /// form.
    pub async fn of(
        sides: &mut Sides,
        user: &str,
        request: &Request,
        known: &Known,
    ) -> Option<Self> {
        match request.method {
            Method::Compact
            | Method::Alarm
            | Method::LeaseRevoke
            | Method::LeaseKeepAlive
            | Method::LeaseTimeToLive
            | Method::LeaseLeases => {
                return Some(Hole::Unchecked);
            }
            _ => {}
        }
        let Op::RequestTxn(txn) = probe::operation(request)? else { return None };
        let flat = probe::flat(&txn);
        let mut operations = txn.success.iter().chain(&txn.failure);
        let nested =
            operations.any(|operation| matches!(operation.request, Some(Op::RequestTxn(_))));
        if nested && !sides.judge_allows(user, &probe::wrapped(flat), known).await {
            return Some(Hole::NestedTxn);
        }
        // Each key that `prev_kv` returns must be readable, and each key that a lease already holds
        // must be writable.
        let mut asked = probe::read_by_prev_kv(&Op::RequestTxn(txn));
        for lease in request.leases() {
            let keys = sides.attached(lease).await;
            asked.extend(
                keys.into_iter()
                    .map(|key| Op::RequestPut(pb::PutRequest { key, ..Default::default() })),
            );
        }
        for operation in asked {
            if !sides.judge_allows(user, &probe::question(operation), known).await {
                return Some(Hole::PutInTxn);
            }
        }
        None
    }

    /// The hole that allowed this watch. The judge is asked for a Range of the same keys.
    pub async fn of_watch(
        sides: &mut Sides,
        user: &str,
        create: &pb::WatchCreateRequest,
        known: &Known,
    ) -> Option<Self> {
        let range = pb::RangeRequest {
            key: create.key.clone(),
            range_end: create.range_end.clone(),
            ..Default::default()
        };
        let readable =
            sides.judge_allows(user, &probe::question(Op::RequestRange(range)), known).await;
        (create.range_end == b"\0" && !readable).then_some(Hole::WatchToTheEnd)
    }
}
