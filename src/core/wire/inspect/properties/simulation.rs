//! Property test: guards are sound. For any state of the store, the Puts of a Txn create or update
//! only keys for which the scan required that verb.

use std::collections::BTreeMap;

use etcd_warden_proto::etcdserverpb::{self as pb, request_op};
use proptest::prelude::*;
use prost::Message as _;

use super::super::inspect;
use super::super::reference::{AccessSet, Stored, compares, reaches};
use super::messages::{key, valid_txn};
use crate::access::Verb;
use crate::method::Method;

type Store = BTreeMap<Vec<u8>, Stored>;

fn store() -> impl Strategy<Value = Store> {
    let stored = (1_i64..4, 1_i64..4, 1_i64..4, -1_i64..3, 0_i64..3).prop_map(
        |(version, create, modified, lease, value)| Stored {
            version,
            create,
            modified,
            lease,
            value: value.to_string().into_bytes(),
        },
    );
    prop::collection::btree_map(
        key().prop_filter("no key is empty", |key| !key.is_empty()),
        stored,
        0..4,
    )
}

/// The branches that run. As in etcd, this is determined before any write, also for nested Txns
/// (`compareToPath`).
fn path(store: &Store, txn: &pb::TxnRequest) -> Vec<bool> {
    let holds = |compare: &pb::Compare| {
        let mut reached = store
            .iter()
            .filter(|(key, _)| reaches(&compare.key, &compare.range_end, key))
            .map(|(_, stored)| stored)
            .peekable();
        match reached.peek() {
            None => compares(compare, None),
            Some(_) => reached.all(|stored| compares(compare, Some(stored))),
        }
    };
    let succeeded = txn.compare.iter().all(holds);
    let mut out = vec![succeeded];
    for operation in if succeeded { &txn.success } else { &txn.failure } {
        if let Some(request_op::Request::RequestTxn(nested)) = &operation.request {
            out.extend(path(store, nested));
        }
    }
    out
}

/// Runs a Txn like `executeTxn` and records each effect on each key.
fn run(
    store: &mut Store,
    txn: &pb::TxnRequest,
    path: &mut impl Iterator<Item = bool>,
    effects: &mut Vec<(Vec<u8>, Verb)>,
) {
    let succeeded = path.next().unwrap();
    for operation in if succeeded { &txn.success } else { &txn.failure } {
        match operation.request.as_ref().unwrap() {
            request_op::Request::RequestRange(_) => {}
            request_op::Request::RequestPut(put) => {
                let stored = Stored {
                    version: 1,
                    create: 9,
                    modified: 9,
                    lease: put.lease,
                    value: put.value.clone(),
                };
                let before = store.insert(put.key.clone(), stored);
                effects.push((
                    put.key.clone(),
                    if before.is_some() { Verb::Update } else { Verb::Create },
                ));
            }
            request_op::Request::RequestDeleteRange(delete) => {
                store.retain(|key, _| {
                    let deleted = reaches(&delete.key, &delete.range_end, key);
                    if deleted {
                        effects.push((key.clone(), Verb::Delete));
                    }
                    !deleted
                });
            }
            request_op::Request::RequestTxn(nested) => run(store, nested, path, effects),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn a_txn_has_only_the_effects_that_were_checked(txn in valid_txn(), store in store()) {
        let bytes = txn.encode_to_vec();
        let asked = AccessSet::from(&inspect(Method::Txn, &bytes).unwrap());
        let (mut store, path, mut effects) = (store.clone(), path(&store, &txn), Vec::new());
        run(&mut store, &txn, &mut path.into_iter(), &mut effects);
        for (key, verb) in effects {
            let granted = asked
                .keys
                .iter()
                .any(|(from, end, asked)| *asked == verb && reaches(from, end, &key));
            prop_assert!(granted, "{} {:?} was not checked; checked: {:?}", verb, key, asked);
        }
    }
}
