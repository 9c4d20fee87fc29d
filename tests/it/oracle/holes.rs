//! What an etcd with published holes allows: proof that the oracle sees them.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;

use super::probe;
use super::requests::{Known, Request};
use super::sides::Sides;

/// A published hole of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hole {
    /// What stands in a Txn inside a Txn was not looked at.
    NestedTxn,
    /// A Put inside a Txn showed with `prev_kv` what its caller may not read, or took a lease.
    PutInTxn,
    /// Compact, and more, asked for no right at all.
    Unchecked,
    /// A watch of every later key asked for the right on its first one alone.
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

    /// Which hole let this request through. Asks the judge whether it refuses the same in another
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
        // Each key that `prev_kv` shows is to be readable, and each that a lease holds already is
        // to be writable.
        let mut asked = probe::shown_before(&Op::RequestTxn(txn));
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

    /// Which hole let this watch be made. The judge is asked for a Range of the same keys.
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
