//! Asks the judge about another request without executing anything.
//!
//! etcd checks the rights of both branches of a Txn before it runs one. Without compares it runs
//! the first: an operation in the second is judged and never executed, and a Txn that writes
//! nothing has no revision of its own.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;
use prost::Message as _;

use super::requests::Request;

/// A KV request as an operation of a Txn.
pub fn operation(request: &Request) -> Option<Op> {
    let message = &request.message[..];
    Some(match request.method {
        Method::Range => Op::RequestRange(pb::RangeRequest::decode(message).ok()?),
        Method::Put => Op::RequestPut(pb::PutRequest::decode(message).ok()?),
        Method::DeleteRange => {
            Op::RequestDeleteRange(pb::DeleteRangeRequest::decode(message).ok()?)
        }
        Method::Txn => Op::RequestTxn(pb::TxnRequest::decode(message).ok()?),
        _ => return None,
    })
}

/// A request that needs an operation's rights and does not execute it.
pub fn question(operation: Op) -> Request {
    let failure = vec![pb::RequestOp { request: Some(operation) }];
    Request {
        method: Method::Txn,
        message: pb::TxnRequest { failure, ..Default::default() }.encode_to_vec(),
    }
}

/// True if a key can be in this range.
pub fn holds(key: &[u8], end: &[u8]) -> bool {
    end.is_empty() || end == b"\0" || key < end
}

/// The operation without the parts whose range is empty; `None` if nothing is left.
pub fn without_empty_ranges(operation: Op) -> Option<Op> {
    match operation {
        Op::RequestRange(range) => {
            holds(&range.key, &range.range_end).then_some(Op::RequestRange(range))
        }
        Op::RequestDeleteRange(delete) => {
            holds(&delete.key, &delete.range_end).then_some(Op::RequestDeleteRange(delete))
        }
        Op::RequestPut(put) => Some(Op::RequestPut(put)),
        Op::RequestTxn(mut txn) => {
            txn.compare.retain(|compare| holds(&compare.key, &compare.range_end));
            for branch in [&mut txn.success, &mut txn.failure] {
                let kept = branch
                    .drain(..)
                    .filter_map(|operation| without_empty_ranges(operation.request?));
                *branch =
                    kept.map(|operation| pb::RequestOp { request: Some(operation) }).collect();
            }
            Some(Op::RequestTxn(txn))
        }
    }
}

/// The operation without Puts attached to one of these leases.
pub fn without_leases(operation: Op, leases: &[i64]) -> Op {
    match operation {
        Op::RequestPut(put) if leases.contains(&put.lease) => {
            Op::RequestPut(pb::PutRequest { lease: 0, ..put })
        }
        Op::RequestTxn(mut txn) => {
            for operation in txn.success.iter_mut().chain(&mut txn.failure) {
                operation.request =
                    operation.request.take().map(|operation| without_leases(operation, leases));
            }
            Op::RequestTxn(txn)
        }
        other => other,
    }
}

/// The same operations in one Txn without nesting.
pub fn flat(txn: &pb::TxnRequest) -> pb::TxnRequest {
    let mut all = pb::TxnRequest { compare: txn.compare.clone(), ..Default::default() };
    for operation in txn.success.iter().chain(&txn.failure) {
        match &operation.request {
            Some(Op::RequestTxn(inner)) => {
                let inner = flat(inner);
                all.compare.extend(inner.compare);
                all.failure.extend(inner.failure);
            }
            _ => all.failure.push(operation.clone()),
        }
    }
    all
}

/// The values that `prev_kv` would return, requested as Ranges.
pub fn read_by_prev_kv(operation: &Op) -> Vec<Op> {
    let range = |key: &[u8], range_end: &[u8]| {
        Op::RequestRange(pb::RangeRequest {
            key: key.to_vec(),
            range_end: range_end.to_vec(),
            ..Default::default()
        })
    };
    match operation {
        Op::RequestPut(put) if put.prev_kv => vec![range(&put.key, b"")],
        Op::RequestDeleteRange(delete) if delete.prev_kv => {
            vec![range(&delete.key, &delete.range_end)]
        }
        Op::RequestTxn(txn) => {
            let operations = txn
                .success
                .iter()
                .chain(&txn.failure)
                .filter_map(|operation| operation.request.as_ref());
            operations.flat_map(read_by_prev_kv).collect()
        }
        _ => Vec::new(),
    }
}

/// A request that executes nothing of a flat Txn: its operations are all in the second branch, and
/// its compares become ranges, which need the same right and choose no branch.
pub fn wrapped(flat: pb::TxnRequest) -> Request {
    let asked = flat.compare.into_iter().map(|compare| {
        let range = pb::RangeRequest {
            key: compare.key,
            range_end: compare.range_end,
            ..Default::default()
        };
        pb::RequestOp { request: Some(Op::RequestRange(range)) }
    });
    let failure = asked.chain(flat.failure).collect();
    Request {
        method: Method::Txn,
        message: pb::TxnRequest { failure, ..Default::default() }.encode_to_vec(),
    }
}
