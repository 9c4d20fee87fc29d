//! What the judge would say to another request, without anything being done.
//!
//! etcd asks for the rights of both branches of a Txn before it runs one. With no compare it runs the first: an operation in
//! the second is judged and never done, and a Txn that writes nothing has no revision of its own.

use etcd_warden::method::Method;
use etcd_warden::pb::etcdserverpb as pb;
use pb::request_op::Request as Op;
use prost::Message as _;

use super::requests::Request;

/// A KV request as an operation of a Txn.
pub fn operation(request: &Request) -> Option<Op> {
    let message = &request.message[..];
    Some(match request.method {
        Method::Range => Op::RequestRange(pb::RangeRequest::decode(message).ok()?),
        Method::Put => Op::RequestPut(pb::PutRequest::decode(message).ok()?),
        Method::DeleteRange => Op::RequestDeleteRange(pb::DeleteRangeRequest::decode(message).ok()?),
        Method::Txn => Op::RequestTxn(pb::TxnRequest::decode(message).ok()?),
        _ => return None,
    })
}

/// The request that asks for an operation's rights and does not do it.
pub fn question(operation: Op) -> Request {
    let failure = vec![pb::RequestOp { request: Some(operation) }];
    Request { method: Method::Txn, message: pb::TxnRequest { failure, ..Default::default() }.encode_to_vec() }
}

/// The operation without those parts whose range holds no key; nothing when that was all.
pub fn without_empty_ranges(operation: Op) -> Option<Op> {
    let holds = |key: &[u8], end: &[u8]| end.is_empty() || end == b"\0" || key < end;
    match operation {
        Op::RequestRange(range) => holds(&range.key, &range.range_end).then_some(Op::RequestRange(range)),
        Op::RequestDeleteRange(delete) => holds(&delete.key, &delete.range_end).then_some(Op::RequestDeleteRange(delete)),
        Op::RequestPut(put) => Some(Op::RequestPut(put)),
        Op::RequestTxn(mut txn) => {
            txn.compare.retain(|compare| holds(&compare.key, &compare.range_end));
            for branch in [&mut txn.success, &mut txn.failure] {
                let kept = branch.drain(..).filter_map(|operation| without_empty_ranges(operation.request?));
                *branch = kept.map(|operation| pb::RequestOp { request: Some(operation) }).collect();
            }
            Some(Op::RequestTxn(txn))
        }
    }
}
