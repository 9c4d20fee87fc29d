//! Property tests. They compare the scan with prost and the reference model, on encoded and on
//! mutated messages, and the guards of Txns with a simulation of etcd.

mod messages;
mod mutation;
mod narrowing;
mod simulation;

use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_warden_proto::etcdserverpb::{self as pb, request_op};
use proptest::prelude::*;
use prost::Message as _;

use super::inspect;
use super::reference::{AccessSet, access_set};
use crate::method::Method;
use crate::wire::Fault;
use messages::{crashes_etcd, request, txn, valid_txn};
use mutation::mutations;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn accepts_encoded_messages_and_reads_them_as_prost_does((method, bytes) in request()) {
        let accesses = inspect(method, &bytes)
            .map_err(|malformed| TestCaseError::fail(malformed.to_string()))?;
        prop_assert_eq!(AccessSet::from(&accesses), access_set(method, &bytes).unwrap());
    }

    #[test]
    fn refuses_a_txn_exactly_if_it_crashes_etcd(txn in txn()) {
        let fault =
            inspect(Method::Txn, &txn.encode_to_vec()).err().map(|malformed| malformed.fault);
        prop_assert_eq!(fault, crashes_etcd(&txn).then_some(Fault::DeletedAndKept));
    }

    /// Nests Txns deeper than the other generators do, as deep as prost can decode.
    #[test]
    fn reads_deeply_nested_txns_as_prost_does(
        txn in valid_txn(),
        around in prop::collection::vec(any::<bool>(), 0..40),
    ) {
        let wrapped = around.into_iter().fold(txn, |inner, success| {
            let branch =
                vec![pb::RequestOp { request: Some(request_op::Request::RequestTxn(inner)) }];
            let (success, failure) =
                if success { (branch, Vec::new()) } else { (Vec::new(), branch) };
            pb::TxnRequest { compare: Vec::new(), success, failure }
        });
        let bytes = wrapped.encode_to_vec();
        prop_assert_eq!(
            AccessSet::from(&inspect(Method::Txn, &bytes).unwrap()),
            access_set(Method::Txn, &bytes).unwrap()
        );
    }

    /// The main guarantee: from every message that the scan accepts, a decoder reads what the scan
    /// has read.
    #[test]
    fn reads_accepted_mutated_messages_as_prost_does(
        (method, bytes) in request(),
        other in request(),
        mutations in mutations(),
    ) {
        let mutated = mutation::apply(&bytes, &other.1, &mutations);
        same_or_refused(method, &mutated)?;
    }

    #[test]
    fn refuses_random_bytes_or_reads_them_as_prost_does(
        at in 0..Method::ALL.len(),
        bytes in prop::collection::vec(prop_oneof![0_u8..0x30, any::<u8>()], 0..24),
    ) {
        same_or_refused(Method::ALL[at], &bytes)?;
    }

    #[test]
    fn refuses_truncated_messages_or_reads_them_as_prost_does(
        (method, bytes) in request(),
        cut: prop::sample::Index,
    ) {
        let cut = cut.index(bytes.len() + 1);
        same_or_refused(method, &bytes[..cut])?;
    }
}

fn same_or_refused(method: Method, bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(accesses) = inspect(method, bytes) {
        // The gateway answers health checks itself and does not read their messages.
        if method.is_health() {
            prop_assert_eq!(AccessSet::from(&accesses), AccessSet::default());
            return Ok(());
        }
        let decoded = access_set(method, bytes)
            .map_err(|error| TestCaseError::fail(format!("{method:?} accepted, prost: {error}")))?;
        prop_assert_eq!(AccessSet::from(&accesses), decoded, "{:?}", method);
    }
    Ok(())
}

/// The properties above would prove nothing if every mutated message were refused.
#[test]
fn accepts_a_fair_share_of_mutated_messages() {
    static ACCEPTED: AtomicUsize = AtomicUsize::new(0);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (request(), request(), mutations());
    runner
        .run(&strategy, |((method, bytes), other, mutations)| {
            let mutated = mutation::apply(&bytes, &other.1, &mutations);
            if mutated != bytes && inspect(method, &mutated).is_ok() {
                ACCEPTED.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
        .unwrap();
    // Out of 256, proptest's default number of cases.
    assert!(ACCEPTED.load(Ordering::Relaxed) >= 20, "{ACCEPTED:?}");
}
