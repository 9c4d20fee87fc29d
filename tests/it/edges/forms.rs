//! All requests that carry a range of keys.

use etcd_warden_core::access::Verb;
use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::request_op::Request;
use prost::Message as _;

use crate::world::programs;

/// The position of the range in a request.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Range,
    RangeStream,
    DeleteRange,
    Watch,
    /// In a compare.
    Compare,
    /// A Range in the branch that runs when the compares hold.
    Then,
    /// A DeleteRange in the other branch.
    Else,
    /// A Range in a nested Txn.
    Nested,
}

impl Form {
    /// The forms that this etcd knows.
    pub fn all() -> Vec<Form> {
        let mut all = vec![
            Form::Range,
            Form::DeleteRange,
            Form::Watch,
            Form::Compare,
            Form::Then,
            Form::Else,
            Form::Nested,
        ];
        let version = programs().version;
        if (version.major, version.minor) >= (3, 7) {
            all.push(Form::RangeStream);
        }
        all
    }

    pub const fn verb(self) -> Verb {
        match self {
            Form::DeleteRange | Form::Else => Verb::Delete,
            Form::Range
            | Form::RangeStream
            | Form::Watch
            | Form::Compare
            | Form::Then
            | Form::Nested => Verb::Read,
        }
    }

    pub fn request(self, key: &[u8], range_end: &[u8]) -> (Method, Vec<u8>) {
        let (key, range_end) = (key.to_vec(), range_end.to_vec());
        let range = pb::RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            limit: 3,
            ..Default::default()
        };
        let delete = pb::DeleteRangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            prev_kv: false,
        };
        match self {
            Form::Range => (Method::Range, range.encode_to_vec()),
            Form::RangeStream => (Method::RangeStream, range.encode_to_vec()),
            Form::DeleteRange => (Method::DeleteRange, delete.encode_to_vec()),
            Form::Watch => {
                let create = pb::WatchCreateRequest { key, range_end, ..Default::default() };
                let request = pb::WatchRequest {
                    request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
                };
                (Method::Watch, request.encode_to_vec())
            }
            Form::Compare => {
                let compare = pb::Compare {
                    key,
                    range_end,
                    target: pb::compare::CompareTarget::Version.into(),
                    target_union: Some(pb::compare::TargetUnion::Version(1)),
                    ..Default::default()
                };
                (
                    Method::Txn,
                    pb::TxnRequest { compare: vec![compare], ..Default::default() }.encode_to_vec(),
                )
            }
            Form::Then => (
                Method::Txn,
                pb::TxnRequest {
                    success: vec![op(Request::RequestRange(range))],
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            Form::Else => (
                Method::Txn,
                pb::TxnRequest {
                    failure: vec![op(Request::RequestDeleteRange(delete))],
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            Form::Nested => {
                let inner = pb::TxnRequest {
                    failure: vec![op(Request::RequestRange(range))],
                    ..Default::default()
                };
                let outer = pb::TxnRequest {
                    success: vec![op(Request::RequestTxn(inner))],
                    ..Default::default()
                };
                (Method::Txn, outer.encode_to_vec())
            }
        }
    }
}

pub fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}
