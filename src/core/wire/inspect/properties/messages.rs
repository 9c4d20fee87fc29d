//! Generates requests of every method, encoded by prost. They use few keys, so that guards and
//! operations overlap.

use etcd_warden_proto::etcdserverpb::{self as pb, compare, request_op, watch_request};
use etcd_warden_proto::{authpb, v3electionpb as election, v3lockpb as lock};
use proptest::prelude::*;
use prost::Message as _;

use crate::method::Method;

pub(super) fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::sample::select(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]),
        1 => prop::sample::select(
            vec![b"".to_vec(), b"\0".to_vec(), b"a/".to_vec(), b"a\0".to_vec(), vec![0xff; 3]]
        ),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

fn range_end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => Just(Vec::new()), 1 => Just(vec![0]), 3 => key()]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -1_i64..4,
        1 => any::<i64>(),
        1 => prop::sample::select(vec![i64::MIN, i64::MAX]),
    ]
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0), 2 => number()]
}

fn range() -> impl Strategy<Value = pb::RangeRequest> {
    (key(), range_end(), number(), 0..3, 0..5, any::<[bool; 3]>(), any::<[i64; 4]>()).prop_map(
        |(
            key,
            range_end,
            limit,
            sort_order,
            sort_target,
            [serializable, keys_only, count_only],
            [a, b, c, d],
        )| pb::RangeRequest {
            key,
            range_end,
            limit,
            revision: limit,
            sort_order,
            sort_target,
            serializable,
            keys_only,
            count_only,
            min_mod_revision: a,
            max_mod_revision: b,
            min_create_revision: c,
            max_create_revision: d,
        },
    )
}

fn put() -> impl Strategy<Value = pb::PutRequest> {
    (key(), key(), lease(), any::<[bool; 3]>()).prop_map(
        |(key, value, lease, [prev_kv, ignore_value, ignore_lease])| pb::PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete_range() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    (key(), range_end(), any::<bool>())
        .prop_map(|(key, range_end, prev_kv)| pb::DeleteRangeRequest { key, range_end, prev_kv })
}

fn compare() -> impl Strategy<Value = pb::Compare> {
    let range_end = prop_oneof![5 => Just(Vec::new()), 1 => range_end()];
    (key(), range_end, 0..4, 0..5, number(), 0..8).prop_map(
        |(key, range_end, result, target, number, without)| {
            let target_union = match target {
                0 => compare::TargetUnion::Version(number),
                1 => compare::TargetUnion::CreateRevision(number),
                2 => compare::TargetUnion::ModRevision(number),
                3 => compare::TargetUnion::Value(number.to_string().into_bytes()),
                _ => compare::TargetUnion::Lease(number),
            };
            pb::Compare {
                result,
                target,
                key,
                range_end,
                target_union: (without != 0).then_some(target_union),
            }
        },
    )
}

pub(super) fn txn() -> impl Strategy<Value = pb::TxnRequest> {
    let leaf = prop_oneof![
        range().prop_map(request_op::Request::RequestRange),
        put().prop_map(request_op::Request::RequestPut),
        put().prop_map(request_op::Request::RequestPut),
        delete_range().prop_map(request_op::Request::RequestDeleteRange),
    ];
    let operation = leaf.prop_recursive(3, 24, 4, |inner| {
        let branch = prop::collection::vec(
            inner.prop_map(|request| pb::RequestOp { request: Some(request) }),
            0..4,
        );
        (prop::collection::vec(compare(), 0..3), branch.clone(), branch).prop_map(
            |(compare, success, failure)| {
                request_op::Request::RequestTxn(pb::TxnRequest { compare, success, failure })
            },
        )
    });
    let branch = prop::collection::vec(
        operation.prop_map(|request| pb::RequestOp { request: Some(request) }),
        0..5,
    );
    (prop::collection::vec(compare(), 0..3), branch.clone(), branch)
        .prop_map(|(compare, success, failure)| pb::TxnRequest { compare, success, failure })
}

/// A Txn that does not crash etcd. If a generated one would, its `ignore_value` and `ignore_lease`
/// are cleared.
pub(super) fn valid_txn() -> impl Strategy<Value = pb::TxnRequest> {
    txn().prop_map(|mut txn| {
        if crashes_etcd(&txn) {
            each_operation(&mut txn, &mut |operation| {
                if let request_op::Request::RequestPut(put) = operation {
                    (put.ignore_value, put.ignore_lease) = (false, false);
                }
            });
        }
        txn
    })
}

/// Reference implementation of [`Fault::DeletedAndKept`](crate::wire::Fault::DeletedAndKept).
pub(super) fn crashes_etcd(txn: &pb::TxnRequest) -> bool {
    let (mut deleted_from, mut kept) = (Vec::new(), Vec::new());
    each_operation(&mut txn.clone(), &mut |operation| match operation {
        request_op::Request::RequestDeleteRange(delete) if delete.range_end == [0] => {
            deleted_from.push(delete.key.clone());
        }
        request_op::Request::RequestPut(put) if put.ignore_value || put.ignore_lease => {
            kept.push(put.key.clone());
        }
        _ => {}
    });
    kept.iter().any(|key| deleted_from.iter().any(|from| from <= key))
}

fn each_operation(txn: &mut pb::TxnRequest, visit: &mut impl FnMut(&mut request_op::Request)) {
    for operation in txn
        .success
        .iter_mut()
        .chain(&mut txn.failure)
        .filter_map(|operation| operation.request.as_mut())
    {
        visit(operation);
        if let request_op::Request::RequestTxn(nested) = operation {
            each_operation(nested, visit);
        }
    }
}

/// The Txn of libcalico-go and kube-apiserver: one compare and Puts of its key, so that every
/// change of the compare has an effect.
fn guarded() -> impl Strategy<Value = pb::TxnRequest> {
    (compare(), put()).prop_map(|(compare, put)| {
        let put = pb::PutRequest { key: compare.key.clone(), ..put };
        let branch = vec![pb::RequestOp { request: Some(request_op::Request::RequestPut(put)) }];
        pb::TxnRequest { compare: vec![compare], success: branch.clone(), failure: branch }
    })
}

fn watch() -> impl Strategy<Value = pb::WatchRequest> {
    let create =
        (key(), range_end(), number(), any::<[bool; 3]>(), prop::collection::vec(0..2, 0..3))
            .prop_map(|(key, range_end, number, [progress_notify, prev_kv, fragment], filters)| {
                let start_revision = number;
                let create = pb::WatchCreateRequest {
                    key,
                    range_end,
                    start_revision,
                    progress_notify,
                    filters,
                    prev_kv,
                    watch_id: number,
                    fragment,
                };
                watch_request::RequestUnion::CreateRequest(create)
            });
    let cancel = number().prop_map(|watch_id| {
        watch_request::RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })
    });
    let progress = Just(watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    prop::option::weighted(0.9, prop_oneof![4 => create, 1 => cancel, 1 => progress])
        .prop_map(|request_union| pb::WatchRequest { request_union })
}

fn leader() -> impl Strategy<Value = Option<election::LeaderKey>> {
    let leader = (key(), key(), number(), lease())
        .prop_map(|(name, key, rev, lease)| election::LeaderKey { name, key, rev, lease });
    prop::option::weighted(0.9, leader)
}

/// A request of any method. Each strategy is boxed: together they would not fit on the stack of a
/// test's thread.
pub(super) fn request() -> BoxedStrategy<(Method, Vec<u8>)> {
    let small = (0..Method::ALL.len(), number(), key(), "[a-z]{0,5}", any::<bool>()).prop_map(
        |(at, number, bytes, text, flag)| {
            let method = Method::ALL[at];
            (method, small(method, number, bytes, &text, flag))
        },
    );
    let range = (range(), any::<bool>()).prop_map(|(request, stream)| {
        (if stream { Method::RangeStream } else { Method::Range }, request.encode_to_vec())
    });
    let proclaim = (leader(), key()).prop_map(|(leader, value)| {
        (Method::Proclaim, election::ProclaimRequest { leader, value }.encode_to_vec())
    });
    prop_oneof![
        6 => encoded(Method::Txn, valid_txn()),
        4 => encoded(Method::Txn, guarded()),
        2 => range.boxed(),
        2 => encoded(Method::Put, put()),
        1 => encoded(Method::DeleteRange, delete_range()),
        2 => encoded(Method::Watch, watch()),
        2 => proclaim.boxed(),
        1 => encoded(
            Method::Resign,
            leader().prop_map(|leader| election::ResignRequest { leader }),
        ),
        4 => small.boxed(),
    ]
    .boxed()
}

fn encoded<M: prost::Message>(
    method: Method,
    message: impl Strategy<Value = M> + 'static,
) -> BoxedStrategy<(Method, Vec<u8>)> {
    message.prop_map(move |message| (method, message.encode_to_vec())).boxed()
}

fn small(method: Method, number: i64, bytes: Vec<u8>, text: &str, flag: bool) -> Vec<u8> {
    let (id, text) = (number.cast_unsigned(), text.to_owned());
    match method {
        Method::Compact => {
            pb::CompactionRequest { revision: number, physical: flag }.encode_to_vec()
        }
        Method::LeaseGrant => pb::LeaseGrantRequest { ttl: number, id: number }.encode_to_vec(),
        Method::LeaseRevoke => pb::LeaseRevokeRequest { id: number }.encode_to_vec(),
        Method::LeaseKeepAlive => pb::LeaseKeepAliveRequest { id: number }.encode_to_vec(),
        Method::LeaseTimeToLive => {
            pb::LeaseTimeToLiveRequest { id: number, keys: flag }.encode_to_vec()
        }
        Method::MemberAdd => {
            pb::MemberAddRequest { peer_ur_ls: vec![text.clone(), text], is_learner: flag }
                .encode_to_vec()
        }
        Method::MemberRemove => pb::MemberRemoveRequest { id }.encode_to_vec(),
        Method::MemberUpdate => {
            pb::MemberUpdateRequest { id, peer_ur_ls: vec![format!("http://a{text}:1")] }
                .encode_to_vec()
        }
        Method::MemberPromote => pb::MemberPromoteRequest { id }.encode_to_vec(),
        Method::MemberList => pb::MemberListRequest { linearizable: flag }.encode_to_vec(),
        Method::Alarm => {
            pb::AlarmRequest { action: i32::from(flag) * 2, member_id: id, alarm: i32::from(flag) }
                .encode_to_vec()
        }
        Method::HashKV => pb::HashKvRequest { revision: number }.encode_to_vec(),
        Method::MoveLeader => pb::MoveLeaderRequest { target_id: id }.encode_to_vec(),
        Method::Downgrade => {
            pb::DowngradeRequest { action: i32::from(flag), version: text }.encode_to_vec()
        }
        Method::Authenticate => {
            pb::AuthenticateRequest { name: text.clone(), password: text }.encode_to_vec()
        }
        Method::UserAdd => pb::AuthUserAddRequest {
            name: text.clone(),
            password: text.clone(),
            options: flag.then_some(authpb::UserAddOptions { no_password: flag }),
            hashed_password: text,
        }
        .encode_to_vec(),
        Method::UserChangePassword => pb::AuthUserChangePasswordRequest {
            name: text.clone(),
            password: text.clone(),
            hashed_password: text,
        }
        .encode_to_vec(),
        Method::RoleGrantPermission => pb::AuthRoleGrantPermissionRequest {
            name: text,
            perm: flag.then(|| authpb::Permission {
                perm_type: 1,
                key: bytes.clone(),
                range_end: bytes.clone(),
            }),
        }
        .encode_to_vec(),
        Method::RoleRevokePermission => {
            pb::AuthRoleRevokePermissionRequest { role: text, key: bytes.clone(), range_end: bytes }
                .encode_to_vec()
        }
        Method::Lock => lock::LockRequest { name: bytes, lease: number }.encode_to_vec(),
        Method::Unlock => lock::UnlockRequest { key: bytes }.encode_to_vec(),
        Method::Campaign => {
            election::CampaignRequest { name: bytes.clone(), lease: number, value: bytes }
                .encode_to_vec()
        }
        Method::Leader | Method::Observe => election::LeaderRequest { name: bytes }.encode_to_vec(),
        // The remaining methods have a strategy above, one string as field 1, or no field.
        Method::UserGet
        | Method::UserDelete
        | Method::RoleAdd
        | Method::RoleGet
        | Method::RoleDelete => pb::AuthUserGetRequest { name: text }.encode_to_vec(),
        Method::UserGrantRole | Method::UserRevokeRole => {
            pb::AuthUserGrantRoleRequest { user: text.clone(), role: text }.encode_to_vec()
        }
        Method::Txn => pb::TxnRequest::default().encode_to_vec(),
        _ => Vec::new(),
    }
}
