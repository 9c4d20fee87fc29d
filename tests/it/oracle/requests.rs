//! Random requests: every form that a message can have, over the few keys of [`keys`].

use std::fmt;

use etcd_warden_core::method::Method;
use etcd_warden_proto::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};
use pb::compare::TargetUnion;
use pb::request_op::Request as Op;
use prost::Message as _;

use super::dice::Dice;
use super::keys::{self, Range};
use super::probe;

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

    /// The leases that exist and that it would use.
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

    /// Whether etcd dies of it: it keeps a key that it deletes, and the deletion has no end, so
    /// that etcd does not see it.
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
                    deleted.push(delete.key)
                }
                Op::RequestPut(put) if put.ignore_value || put.ignore_lease => kept.push(put.key),
                _ => {}
            }
        }
        deleted.iter().any(|start| kept.iter().any(|key| key >= start))
    }

    /// Whether etcd reads it as nobody means it, or two decoders could read it differently.
    pub fn is_odd(&self) -> bool {
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

/// The field `range_end`, which stands there with no bytes.
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

/// The message as a person reads it.
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

/// What is known of the store, so that requests can be about what is there.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub revision: i64,
    /// The oldest first.
    pub leases: Vec<Lease>,
}

impl Known {
    /// The leases whose ids say that they are this user's.
    pub fn owned(&self, user: &str) -> Vec<i64> {
        self.leases
            .iter()
            .filter(|lease| lease.marked && lease.owner == user)
            .map(|lease| lease.id)
            .collect()
    }
}

/// A lease that is there, and who granted it.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub id: i64,
    pub owner: &'static str,
    /// Its id was left to the server: through the proxy it says whose it is.
    pub marked: bool,
}

/// Any request.
pub fn request(dice: &mut Dice, known: &Known) -> Request {
    match dice.below(100) {
        0..=25 => Request::new(Method::Range, &range(dice, known)),
        26..=47 => Request::new(Method::Put, &put(dice, known)),
        48..=59 => Request::new(Method::DeleteRange, &delete_range(dice)),
        60..=85 => Request::new(Method::Txn, &txn(dice, known, 3)),
        86 => present_but_empty(dice),
        87..=93 => others::lease(dice, known),
        94..=96 => others::election(dice, known),
        _ => others::cluster(dice, known),
    }
}

fn range(dice: &mut Dice, known: &Known) -> pb::RangeRequest {
    let Range { key, end: range_end } = keys::asked(dice);
    let mut revision =
        |rare: usize| if dice.once_in(rare) { dice.around(known.revision, 8) } else { 0 };
    let (at, least_mod, most_mod, least_create, most_create) =
        (revision(5), revision(8), revision(8), revision(8), revision(8));
    pb::RangeRequest {
        key,
        range_end,
        limit: dice.of(&[0, 0, 0, 1, 2, 5]),
        revision: at,
        sort_order: dice.of(&[0, 0, 1, 2]),
        sort_target: dice.number(5),
        serializable: dice.once_in(3),
        keys_only: dice.once_in(5),
        count_only: dice.once_in(5),
        min_mod_revision: least_mod,
        max_mod_revision: most_mod,
        min_create_revision: least_create,
        max_create_revision: most_create,
    }
}

fn put(dice: &mut Dice, known: &Known) -> pb::PutRequest {
    let key = if dice.once_in(40) { Vec::new() } else { keys::key(dice) };
    let ignore_value = dice.once_in(6);
    let value = if ignore_value && !dice.once_in(8) {
        Vec::new()
    } else {
        vec![b'0' + dice.below(4) as u8]
    };
    let ignore_lease = dice.once_in(6);
    let lease =
        if dice.once_in(if ignore_lease { 12 } else { 4 }) { others::id(dice, known) } else { 0 };
    pb::PutRequest { key, value, lease, prev_kv: dice.once_in(3), ignore_value, ignore_lease }
}

fn delete_range(dice: &mut Dice) -> pb::DeleteRangeRequest {
    let Range { key, end: range_end } = keys::asked(dice);
    pb::DeleteRangeRequest { key, range_end, prev_kv: dice.once_in(3) }
}

fn txn(dice: &mut Dice, known: &Known, depth: usize) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: (0..dice.below(3)).map(|_| compare(dice, known)).collect(),
        success: branch(dice, known, depth),
        failure: branch(dice, known, depth),
    }
}

fn branch(dice: &mut Dice, known: &Known, depth: usize) -> Vec<pb::RequestOp> {
    (0..dice.below(3))
        .map(|_| pb::RequestOp { request: Some(operation(dice, known, depth)) })
        .collect()
}

fn operation(dice: &mut Dice, known: &Known, depth: usize) -> Op {
    match dice.below(10) {
        0..=2 => Op::RequestRange(range(dice, known)),
        3..=5 => Op::RequestPut(put(dice, known)),
        6 | 7 => Op::RequestDeleteRange(delete_range(dice)),
        _ if depth > 1 => Op::RequestTxn(txn(dice, known, depth - 1)),
        _ => Op::RequestPut(put(dice, known)),
    }
}

fn compare(dice: &mut Dice, known: &Known) -> pb::Compare {
    let Range { key, end: range_end } = if dice.once_in(4) {
        keys::asked(dice)
    } else {
        Range { key: keys::key(dice), end: Vec::new() }
    };
    let target = dice.number(5);
    // Once in a while the value is of another kind than the target, is not there, or a number that
    // no release of etcd knows.
    let union = if dice.once_in(40) { dice.number(6) } else { target };
    let number = if dice.once_in(2) { 0 } else { dice.around(known.revision, 8) };
    let target_union = match union {
        0 => Some(TargetUnion::Version(dice.number(3).into())),
        1 => Some(TargetUnion::CreateRevision(number)),
        2 => Some(TargetUnion::ModRevision(number)),
        3 => Some(TargetUnion::Value(vec![b'0' + dice.below(4) as u8])),
        4 => Some(TargetUnion::Lease(if dice.once_in(2) { 0 } else { others::id(dice, known) })),
        _ => None,
    };
    let unknown = dice.below(160);
    pb::Compare {
        result: if unknown == 0 { 4 } else { dice.number(4) },
        target: if unknown == 1 { 5 } else { target },
        key,
        range_end,
        target_union,
    }
}

/// A range whose `range_end` stands there with no bytes, as no encoder writes it.
fn present_but_empty(dice: &mut Dice) -> Request {
    let method = dice.of(&[Method::Range, Method::DeleteRange]);
    let mut message =
        pb::DeleteRangeRequest { key: keys::key(dice), ..Default::default() }.encode_to_vec();
    message.extend(EMPTY_RANGE_END);
    Request { method, message }
}
