//! Property test: guards only narrow the accesses. A Txn with compares needs no key or verb that
//! the same Txn without compares does not need, except the reads of the compares.

use std::collections::BTreeSet;

use etcd_warden_proto::etcdserverpb::{self as pb, request_op};
use proptest::prelude::*;
use prost::Message as _;

use super::super::inspect;
use super::super::reference::AccessSet;
use super::messages::valid_txn;
use crate::access::Verb;
use crate::method::Method;

type Accessed = BTreeSet<(Vec<u8>, Vec<u8>, Verb)>;

fn accessed(txn: &pb::TxnRequest) -> Accessed {
    AccessSet::from(&inspect(Method::Txn, &txn.encode_to_vec()).unwrap()).keys
}

/// Returns the Txn without compares, and adds the reads of its compares to `compared`.
fn without_compares(txn: &pb::TxnRequest, compared: &mut Accessed) -> pb::TxnRequest {
    compared.extend(
        txn.compare
            .iter()
            .map(|compare| (compare.key.clone(), compare.range_end.clone(), Verb::Read)),
    );
    let mut branch = |operations: &[pb::RequestOp]| {
        let mut bare = |operation: &pb::RequestOp| match &operation.request {
            Some(request_op::Request::RequestTxn(nested)) => pb::RequestOp {
                request: Some(request_op::Request::RequestTxn(without_compares(nested, compared))),
            },
            _ => operation.clone(),
        };
        operations.iter().map(&mut bare).collect::<Vec<_>>()
    };
    let (success, failure) = (branch(&txn.success), branch(&txn.failure));
    pb::TxnRequest { compare: Vec::new(), success, failure }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn guards_never_widen_the_accesses(txn in valid_txn()) {
        let mut compared = Accessed::new();
        let unguarded = accessed(&without_compares(&txn, &mut compared));
        let guarded = accessed(&txn);
        prop_assert!(
            guarded.is_subset(&unguarded.union(&compared).cloned().collect()),
            "{:?} beside {:?}",
            guarded,
            unguarded
        );
        // Of the two verbs of a Put, one may be missing, never both. No read or delete is missing.
        for (key, range_end, verb) in unguarded.difference(&guarded) {
            let other = match verb {
                Verb::Create => Verb::Update,
                Verb::Update => Verb::Create,
                Verb::Read | Verb::Delete => {
                    return Err(TestCaseError::fail(format!("{verb} of {key:?} is missing")));
                }
            };
            prop_assert!(
                guarded.contains(&(key.clone(), range_end.clone(), other)),
                "no verb for the Put of {:?}",
                key
            );
        }
    }
}
