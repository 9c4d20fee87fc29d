//! Cases that the property tests of `policy::tests` do not cover: identities without a binding,
//! shadow mode, and the texts of denials.

use std::sync::Arc;

use etcd_warden_proto::etcdserverpb::{PutRequest, RangeRequest};
use prost::Message as _;

use super::*;
use crate::identity::{Identity, NameRefusal};
use crate::method::Method;
use crate::policy::{Policy, Rights};
use crate::wire::{self, Fault};

fn principal(binding_status: BindingStatus, mode: Mode) -> Principal {
    Principal {
        name: "ca/cn:test".into(),
        binding_status,
        mode,
        roles: Arc::default(),
        rights: Arc::new(Rights::default()),
        generation: 1,
    }
}

fn reads(key: &[u8]) -> Accesses<'_> {
    let mut accesses = Accesses::default();
    accesses.add_keys(Verbs::READ, KeyRange::key(key));
    accesses
}

fn missing_key(key: &[u8]) -> Denial {
    Denial {
        reason: Reason::KeyNotGranted,
        missing: Missing::Keys { verb: Verb::Read, range: KeyRange::key(key).into() },
    }
}

#[test]
fn without_a_binding_even_an_empty_request_is_denied() {
    let nothing = Accesses::default();
    assert!(authorize(&principal(BindingStatus::Bound, Mode::Enforce), &nothing, &[]).is_ok());
    let refused = [
        (BindingStatus::Unbound, Denial::new(Reason::NoBinding, "")),
        (BindingStatus::BadCapture, Denial::new(Reason::BadCapture, "")),
        (
            BindingStatus::Nameless(NameRefusal::Missing),
            Denial::new(Reason::NoIdentity, NameRefusal::Missing.code()),
        ),
    ];
    for (binding_status, denial) in refused {
        assert_eq!(
            authorize(&principal(binding_status, Mode::Enforce), &nothing, &[]).unwrap_err(),
            denial
        );
        let permit = authorize(&principal(binding_status, Mode::Shadow), &nothing, &[]).unwrap();
        assert_eq!(permit.would_deny(), Some(&denial));
    }
}

#[test]
fn shadow_mode_permits_and_keeps_the_denial() {
    let enforced = principal(BindingStatus::Bound, Mode::Enforce);
    let shadow = principal(BindingStatus::Bound, Mode::Shadow);
    assert_eq!(authorize(&enforced, &reads(b"a"), &[]).unwrap_err(), missing_key(b"a"));
    let permit = authorize(&shadow, &reads(b"a"), &[]).unwrap();
    assert_eq!((permit.grant(), permit.would_deny()), (None, Some(&missing_key(b"a"))));
    let unknown = Denial::new(Reason::UnknownMethod, "");
    assert_eq!(refuse(&enforced, unknown.clone()).unwrap_err(), unknown);
    assert_eq!(refuse(&shadow, unknown.clone()).unwrap().would_deny(), Some(&unknown));
    assert_eq!(authorize(&shadow, &Accesses::default(), &[]).unwrap().would_deny(), None);
}

#[test]
fn each_reason_has_a_stable_name() {
    let words = [
        "no_binding",
        "no_identity",
        "bad_capture",
        "key_not_granted",
        "capability_not_granted",
        "lease_not_owned",
        "lease_unknown",
        "malformed_message",
        "unknown_method",
        "not_grpc",
        "compressed",
        "too_large",
        "bad_framing",
        "tokens_stripped",
        "http2",
        "limit",
        "audit_full",
    ];
    assert_eq!(Reason::ALL.map(Reason::code), words);
}

#[test]
fn a_denial_displays_what_is_missing() {
    let malformed = Malformed { field: "PutRequest.key", offset: 3, fault: Fault::WireType };
    let cases = [
        (Denial::new(Reason::NoBinding, ""), "no_binding".to_owned()),
        (Denial::new(Reason::Limit, "too many watches"), "limit: too many watches".to_owned()),
        (missing_key(b"a\n"), "key_not_granted: read a\\x0a".to_owned()),
        (
            Denial {
                reason: Reason::CapabilityNotGranted,
                missing: Missing::Capability(Capability::Compact),
            },
            "capability_not_granted: compact".to_owned(),
        ),
        (
            Denial { reason: Reason::LeaseNotOwned, missing: Missing::Lease(0xab) },
            "lease_not_owned: lease ab".to_owned(),
        ),
        (
            malformed.into(),
            "malformed_message: PutRequest.key at offset 3: group or unknown wire type".to_owned(),
        ),
    ];
    for (denial, text) in cases {
        assert_eq!(denial.to_string(), text);
    }
}

/// The order in which a message names its leases does not matter. Evidence out of order is not
/// found, and never taken for another lease.
#[test]
fn evidence_of_10000_leases_is_found_by_id() {
    let principal = principal(BindingStatus::Bound, Mode::Enforce);
    let mut accesses = Accesses::default();
    (1..=10_000).rev().for_each(|id| accesses.add_lease(id, LeaseUse::Revoke));
    let mut evidence: Vec<LeaseEvidence> =
        (1..=10_000).map(|id| LeaseEvidence { id, claim: LeaseClaim::Own }).collect();
    assert!(authorize(&principal, &accesses, &evidence).is_ok());
    let refused =
        |evidence: &[LeaseEvidence]| authorize(&principal, &accesses, evidence).unwrap_err();
    let not_owned = |id| Denial { reason: Reason::LeaseNotOwned, missing: Missing::Lease(id) };
    evidence[76].claim = LeaseClaim::NotCovered;
    assert_eq!(refused(&evidence), not_owned(77));
    evidence[76].claim = LeaseClaim::Own;
    assert_eq!(refused(&[&evidence[..76], &evidence[77..]].concat()), not_owned(77));
    evidence.reverse();
    assert_eq!(refused(&evidence).reason, Reason::LeaseNotOwned);
}

/// Scan and decision of the usual requests under a thousand grants. The size of the policy causes
/// no allocation.
#[test]
fn allowing_a_usual_request_allocates_nothing() {
    let grants: String = (0..1000)
        .map(|number| format!("      - {{ keys: /k/{number}/*, verbs: [rw] }}\n"))
        .collect();
    let text = format!(
        "version: 1\nmode: enforce\nroles:\n  r:\n    allow:\n{grants}bindings:\n  \
         - {{ cn: node, roles: [r] }}\n"
    );
    let policy = Policy::parse("policy.yaml", text.as_bytes(), 1, None).unwrap();
    let principal = policy.principal(&Identity::named("node"));
    let key = b"/k/500/x".to_vec();
    let range = RangeRequest { key: key.clone(), ..RangeRequest::default() }.encode_to_vec();
    let put = PutRequest { key, value: vec![b'v'; 100], ..PutRequest::default() }.encode_to_vec();
    for (method, message) in [(Method::Range, &range), (Method::Put, &put)] {
        let allocated = allocation_counter::measure(|| {
            let accesses = wire::inspect(method, message).unwrap();
            assert!(authorize(&principal, &accesses, &[]).is_ok());
        });
        assert_eq!(allocated.count_total, 0, "{method:?}");
    }
    // The counter does count an allocation.
    assert_eq!(allocation_counter::measure(|| drop(message_of_some_length())).count_total, 1);
}

fn message_of_some_length() -> Vec<u8> {
    std::hint::black_box(vec![1; 100])
}
