//! Guards only ever make a Txn ask for less: beside the same Txn without its compares, never for
//! another key or another verb.

use std::collections::BTreeSet;

use etcd_warden_proto::etcdserverpb::{self as pb, request_op};
use proptest::prelude::*;
use prost::Message as _;

use super::super::inspect;
use super::super::reference::Touched;
use super::messages::living_txn;
use crate::access::Verb;
use crate::method::Method;

type Asked = BTreeSet<(Vec<u8>, Vec<u8>, Verb)>;

fn asked(txn: &pb::TxnRequest) -> Asked {
    Touched::from(&inspect(Method::Txn, &txn.encode_to_vec()).unwrap()).keys
}

/// The Txn without any compare, and what the compares alone read.
fn without_compares(txn: &pb::TxnRequest, compared: &mut Asked) -> pb::TxnRequest {
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
    fn guard_narrowing_never_widens(txn in living_txn()) {
        let mut compared = Asked::new();
        let unguarded = asked(&without_compares(&txn, &mut compared));
        let guarded = asked(&txn);
        prop_assert!(guarded.is_subset(&unguarded.union(&compared).cloned().collect()), "{:?} beside {:?}", guarded, unguarded);
        // What is left out is one half of a Put, never both, and nothing of a read or a delete.
        for (key, range_end, verb) in unguarded.difference(&guarded) {
            let other = match verb {
                Verb::Create => Verb::Update,
                Verb::Update => Verb::Create,
                Verb::Read | Verb::Delete => return Err(TestCaseError::fail(format!("{verb} of {key:?} is lost"))),
            };
            prop_assert!(guarded.contains(&(key.clone(), range_end.clone(), other)), "the Put of {:?} asks for nothing", key);
        }
    }
}
