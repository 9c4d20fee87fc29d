//! The scan held equal to prost and to the rules, on messages that encoders write and on those that
//! only an attacker does; and the Txn guards held against etcd's way to run a Txn.

mod messages;
mod mutation;
mod narrowing;
mod simulation;

use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_warden_proto::etcdserverpb::{self as pb, request_op};
use proptest::prelude::*;
use prost::Message as _;

use super::inspect;
use super::reference::{Touched, touched};
use crate::method::Method;
use crate::wire::Fault;
use messages::{is_deadly, living_txn, request, txn};
use mutation::mutations;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn what_an_encoder_writes_is_accepted_and_read_as_prost_reads_it((method, bytes) in request()) {
        let accesses = inspect(method, &bytes).map_err(|malformed| TestCaseError::fail(malformed.to_string()))?;
        prop_assert_eq!(Touched::from(&accesses), touched(method, &bytes).unwrap());
    }

    #[test]
    fn a_txn_is_refused_if_etcd_would_die_of_it_and_else_accepted(txn in txn()) {
        let fault = inspect(Method::Txn, &txn.encode_to_vec()).err().map(|malformed| malformed.fault);
        prop_assert_eq!(fault, is_deadly(&txn).then_some(Fault::DeletedAndKept));
    }

    /// Deeper than the generators go, and as deep as prost reads.
    #[test]
    fn a_txn_deep_inside_others_is_read_as_prost_reads_it(txn in living_txn(), around in prop::collection::vec(any::<bool>(), 0..40)) {
        let wrapped = around.into_iter().fold(txn, |inner, success| {
            let branch = vec![pb::RequestOp { request: Some(request_op::Request::RequestTxn(inner)) }];
            let (success, failure) = if success { (branch, Vec::new()) } else { (Vec::new(), branch) };
            pb::TxnRequest { compare: Vec::new(), success, failure }
        });
        let bytes = wrapped.encode_to_vec();
        prop_assert_eq!(Touched::from(&inspect(Method::Txn, &bytes).unwrap()), touched(Method::Txn, &bytes).unwrap());
    }

    /// The promise: whatever bytes are let through, etcd's decoder sees what was judged.
    #[test]
    fn what_is_accepted_is_read_as_prost_reads_it((method, bytes) in request(), other in request(), mutations in mutations()) {
        let mutated = mutation::apply(&bytes, &other.1, &mutations);
        same_or_refused(method, &mutated)?;
    }

    #[test]
    fn bytes_from_nowhere_are_refused_or_read_as_prost_reads_them(at in 0..Method::ALL.len(), bytes in prop::collection::vec(prop_oneof![0_u8..0x30, any::<u8>()], 0..24)) {
        same_or_refused(Method::ALL[at], &bytes)?;
    }

    #[test]
    fn a_message_cut_anywhere_is_refused_or_read_as_prost_reads_it((method, bytes) in request(), cut: prop::sample::Index) {
        let cut = cut.index(bytes.len() + 1);
        same_or_refused(method, &bytes[..cut])?;
    }
}

fn same_or_refused(method: Method, bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(accesses) = inspect(method, bytes) {
        // The proxy answers health checks itself: their message is not read.
        if method.is_health() {
            prop_assert_eq!(Touched::from(&accesses), Touched::default());
            return Ok(());
        }
        let decoded = touched(method, bytes)
            .map_err(|error| TestCaseError::fail(format!("{method:?} accepted, prost: {error}")))?;
        prop_assert_eq!(Touched::from(&accesses), decoded, "{:?}", method);
    }
    Ok(())
}

/// The properties above say nothing if every mutated message is refused.
#[test]
fn a_fair_share_of_mutated_messages_is_accepted() {
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
    // Of 256 (proptest's own number of cases).
    assert!(ACCEPTED.load(Ordering::Relaxed) >= 20, "{ACCEPTED:?}");
}
