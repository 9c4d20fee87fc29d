//! Random requests: every form that a message can have, over the few keys of [`keys`].

use std::fmt;

use etcd_warden_core::method::Method;
use etcd_warden_proto::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};
use pb::compare::TargetUnion;
use pb::request_op::Request as Op;
use prost::Message as _;

use super::keys::{self, Range};
use super::probe;
use super::rng::Rng;

pub mod others;

/// One unary request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub message: Vec<u8>,
}

impl Request {
    pub fn new(method: Method, message: &impl prost::Message) -> Self {
        Self { method, message: message.encode_to_vec() }
    }

    /// The existing leases that it would use.
    pub fn leases(&self) -> Vec<i64> {
        let message = &self.message[..];
        match self.method {
            Method::LeaseTimeToLive => {
                vec![pb::LeaseTimeToLiveRequest::decode(message).unwrap().id]
            }
            Method::LeaseRevoke | Method::LeaseKeepAlive => {
                vec![pb::LeaseRevokeRequest::decode(message).unwrap().id]
            }
            Method::Resign | Method::Proclaim => {
                vec![
                    election::ResignRequest::decode(message)
                        .unwrap()
                        .leader
                        .unwrap_or_default()
                        .lease,
                ]
            }
            Method::Lock | Method::Campaign => {
                vec![lock::LockRequest::decode(message).unwrap().lease]
            }
            _ => probe::operation(self).map_or_else(Vec::new, |operation| attached(&operation)),
        }
    }

    /// The name and the key of a call that waits while there is an older key under the name.
    pub fn waits(&self) -> Option<(Range, Vec<u8>)> {
        if !matches!(self.method, Method::Lock | Method::Campaign) {
            return None;
        }
        // The fields of both have the same numbers.
        let lock = lock::LockRequest::decode(&self.message[..]).unwrap();
        let name = [&lock.name[..], b"/"].concat();
        let key = [&name[..], format!("{:x}", lock.lease).as_bytes()].concat();
        Some((keys::prefix(name), key))
    }

    /// True if it crashes etcd: it keeps a key that it deletes, and the deletion has no end, so
    /// etcd does not notice the overlap.
    pub fn is_deadly(&self) -> bool {
        let mut operations: Vec<Op> = probe::operation(self).into_iter().collect();
        let (mut deleted, mut kept) = (Vec::new(), Vec::new());
        while let Some(operation) = operations.pop() {
            match operation {
                Op::RequestTxn(txn) => operations.extend(
                    [txn.success, txn.failure]
                        .concat()
                        .into_iter()
                        .filter_map(|inner| inner.request),
                ),
                Op::RequestDeleteRange(delete) if delete.range_end == b"\0" => {
                    deleted.push(delete.key);
                }
                Op::RequestPut(put) if put.ignore_value || put.ignore_lease => kept.push(put.key),
                _ => {}
            }
        }
        deleted.iter().any(|start| kept.iter().any(|key| key >= start))
    }

    /// True if etcd reads it in an unintended way, or two decoders could read it differently.
    pub fn is_ambiguous(&self) -> bool {
        match probe::operation(self) {
            Some(Op::RequestTxn(txn)) => has_odd_compare(&txn),
            Some(_) => self.message.ends_with(EMPTY_RANGE_END),
            None => false,
        }
    }
}

fn has_odd_compare(txn: &pb::TxnRequest) -> bool {
    let odd = |compare: &pb::Compare| {
        let kind = match compare.target_union {
            Some(TargetUnion::Version(_)) => 0,
            Some(TargetUnion::CreateRevision(_)) => 1,
            Some(TargetUnion::ModRevision(_)) => 2,
            Some(TargetUnion::Value(_)) => 3,
            Some(TargetUnion::Lease(_)) => 4,
            None => -1,
        };
        kind != compare.target || !(0..4).contains(&compare.result)
    };
    let mut operations =
        txn.success.iter().chain(&txn.failure).filter_map(|operation| operation.request.as_ref());
    txn.compare.iter().any(odd)
        || operations
            .any(|operation| matches!(operation, Op::RequestTxn(inner) if has_odd_compare(inner)))
}

/// The field `range_end`, present with no bytes.
const EMPTY_RANGE_END: &[u8] = &[0x12, 0x00];

fn attached(operation: &Op) -> Vec<i64> {
    match operation {
        Op::RequestPut(put) if put.lease != 0 => vec![put.lease],
        Op::RequestTxn(txn) => {
            let operations = txn
                .success
                .iter()
                .chain(&txn.failure)
                .filter_map(|operation| operation.request.as_ref());
            operations.flat_map(attached).collect()
        }
        _ => Vec::new(),
    }
}

/// The message in readable form.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Box<dyn fmt::Debug> = match self.method {
            Method::Range => Box::new(pb::RangeRequest::decode(&self.message[..])),
            Method::Put => Box::new(pb::PutRequest::decode(&self.message[..])),
            Method::DeleteRange => Box::new(pb::DeleteRangeRequest::decode(&self.message[..])),
            Method::Txn => Box::new(pb::TxnRequest::decode(&self.message[..])),
            Method::LeaseGrant => Box::new(pb::LeaseGrantRequest::decode(&self.message[..])),
            Method::LeaseTimeToLive => {
                Box::new(pb::LeaseTimeToLiveRequest::decode(&self.message[..]))
            }
            Method::LeaseRevoke | Method::LeaseKeepAlive => {
                Box::new(pb::LeaseRevokeRequest::decode(&self.message[..]))
            }
            Method::Lock => Box::new(lock::LockRequest::decode(&self.message[..])),
            Method::Campaign => Box::new(election::CampaignRequest::decode(&self.message[..])),
            _ => Box::new(()),
        };
        write!(f, "{} {} {shown:?}", self.method.path(), self.message.escape_ascii())
    }
}

/// The known state of the store, so that requests can refer to it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub revision: i64,
    /// The oldest first.
    pub leases: Vec<Lease>,
}

impl Known {
    /// The leases whose ids carry this user's mark.
    pub fn owned(&self, user: &str) -> Vec<i64> {
        self.leases
            .iter()
            .filter(|lease| lease.marked && lease.owner == user)
            .map(|lease| lease.id)
            .collect()
    }
}

/// An existing lease and the user that created it.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub id: i64,
    pub owner: &'static str,
    /// The server chose its id, so through the proxy it carries its owner's mark.
    pub marked: bool,
}

pub fn request(rng: &mut Rng, known: &Known) -> Request {
    match rng.below(100) {
        0..=25 => Request::new(Method::Range, &range(rng, known)),
        26..=47 => Request::new(Method::Put, &put(rng, known)),
        48..=59 => Request::new(Method::DeleteRange, &delete_range(rng)),
        60..=85 => Request::new(Method::Txn, &txn(rng, known, 3)),
        86 => present_but_empty(rng),
        87..=93 => others::lease(rng, known),
        94..=96 => others::election(rng, known),
        _ => others::cluster(rng, known),
    }
}

fn range(rng: &mut Rng, known: &Known) -> pb::RangeRequest {
    let Range { key, end: range_end } = keys::asked(rng);
    let mut revision =
        |rare: usize| if rng.once_in(rare) { rng.near(known.revision, 8) } else { 0 };
    let (at, least_mod, most_mod, least_create, most_create) =
        (revision(5), revision(8), revision(8), revision(8), revision(8));
    pb::RangeRequest {
        key,
        range_end,
        limit: rng.of(&[0, 0, 0, 1, 2, 5]),
        revision: at,
        sort_order: rng.of(&[0, 0, 1, 2]),
        sort_target: rng.number(5),
        serializable: rng.once_in(3),
        keys_only: rng.once_in(5),
        count_only: rng.once_in(5),
        min_mod_revision: least_mod,
        max_mod_revision: most_mod,
        min_create_revision: least_create,
        max_create_revision: most_create,
    }
}

fn put(rng: &mut Rng, known: &Known) -> pb::PutRequest {
    let key = if rng.once_in(40) { Vec::new() } else { keys::key(rng) };
    let ignore_value = rng.once_in(6);
    let value =
        if ignore_value && !rng.once_in(8) { Vec::new() } else { vec![b'0' + rng.below(4) as u8] };
    let ignore_lease = rng.once_in(6);
    let lease =
        if rng.once_in(if ignore_lease { 12 } else { 4 }) { others::id(rng, known) } else { 0 };
    pb::PutRequest { key, value, lease, prev_kv: rng.once_in(3), ignore_value, ignore_lease }
}

fn delete_range(rng: &mut Rng) -> pb::DeleteRangeRequest {
    let Range { key, end: range_end } = keys::asked(rng);
    pb::DeleteRangeRequest { key, range_end, prev_kv: rng.once_in(3) }
}

fn txn(rng: &mut Rng, known: &Known, depth: usize) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: (0..rng.below(3)).map(|_| compare(rng, known)).collect(),
        success: branch(rng, known, depth),
        failure: branch(rng, known, depth),
    }
}

fn branch(rng: &mut Rng, known: &Known, depth: usize) -> Vec<pb::RequestOp> {
    (0..rng.below(3))
        .map(|_| pb::RequestOp { request: Some(operation(rng, known, depth)) })
        .collect()
}

fn operation(rng: &mut Rng, known: &Known, depth: usize) -> Op {
    match rng.below(10) {
        0..=2 => Op::RequestRange(range(rng, known)),
        3..=5 => Op::RequestPut(put(rng, known)),
        6 | 7 => Op::RequestDeleteRange(delete_range(rng)),
        _ if depth > 1 => Op::RequestTxn(txn(rng, known, depth - 1)),
        _ => Op::RequestPut(put(rng, known)),
    }
}

fn compare(rng: &mut Rng, known: &Known) -> pb::Compare {
    let Range { key, end: range_end } = if rng.once_in(4) {
        keys::asked(rng)
    } else {
        Range { key: keys::key(rng), end: Vec::new() }
    };
    let target = rng.number(5);
    // Rarely the value is of another kind than the target, is missing, or is a number that no
    // release of etcd knows.
    let union = if rng.once_in(40) { rng.number(6) } else { target };
    let number = if rng.once_in(2) { 0 } else { rng.near(known.revision, 8) };
    let target_union = match union {
        0 => Some(TargetUnion::Version(rng.number(3).into())),
        1 => Some(TargetUnion::CreateRevision(number)),
        2 => Some(TargetUnion::ModRevision(number)),
        3 => Some(TargetUnion::Value(vec![b'0' + rng.below(4) as u8])),
        4 => Some(TargetUnion::Lease(if rng.once_in(2) { 0 } else { others::id(rng, known) })),
        _ => None,
    };
    let unknown = rng.below(160);
    pb::Compare {
        result: if unknown == 0 { 4 } else { rng.number(4) },
        target: if unknown == 1 { 5 } else { target },
        key,
        range_end,
        target_union,
    }
}

/// A range whose `range_end` is present with no bytes, which no encoder writes.
fn present_but_empty(rng: &mut Rng) -> Request {
    let method = rng.of(&[Method::Range, Method::DeleteRange]);
    let mut message =
        pb::DeleteRangeRequest { key: keys::key(rng), ..Default::default() }.encode_to_vec();
    message.extend(EMPTY_RANGE_END);
    Request { method, message }
}
