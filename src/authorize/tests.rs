//! What the theorems of `policy::tests` leave out: who may not speak at all, shadow mode, and the words.

use std::sync::Arc;

use super::*;
use crate::identity::NameRefusal;
use crate::policy::Rights;
use crate::wire::Fault;

fn principal(standing: Standing, mode: Mode) -> Principal {
    Principal { name: "ca/cn:test".into(), standing, mode, roles: Arc::default(), rights: Arc::new(Rights::default()), generation: 1 }
}

fn reads(key: &[u8]) -> Accesses<'_> {
    let mut accesses = Accesses::default();
    accesses.touch(Verbs::READ, KeyRange::key(key));
    accesses
}

fn missing_key(key: &[u8]) -> Denial {
    Denial { reason: Reason::KeyNotGranted, missing: Missing::Keys { verb: Verb::Read, range: KeyRange::key(key).into() } }
}

#[test]
fn whom_no_binding_names_may_not_even_touch_nothing() {
    let nothing = Accesses::default();
    assert!(authorize(&principal(Standing::Bound, Mode::Enforce), &nothing, &[]).is_ok());
    let refused = [
        (Standing::Unbound, Denial::new(Reason::NoBinding, "")),
        (Standing::BadCapture, Denial::new(Reason::BadCapture, "")),
        (Standing::Nameless(NameRefusal::Missing), Denial::new(Reason::NoIdentity, NameRefusal::Missing.code())),
    ];
    for (standing, denial) in refused {
        assert_eq!(authorize(&principal(standing, Mode::Enforce), &nothing, &[]).unwrap_err(), denial);
        let permit = authorize(&principal(standing, Mode::Shadow), &nothing, &[]).unwrap();
        assert_eq!(permit.would_deny(), Some(&denial));
    }
}

#[test]
fn shadow_mode_permits_and_remembers_what_it_would_have_refused() {
    let enforced = principal(Standing::Bound, Mode::Enforce);
    let shadow = principal(Standing::Bound, Mode::Shadow);
    assert_eq!(authorize(&enforced, &reads(b"a"), &[]).unwrap_err(), missing_key(b"a"));
    let permit = authorize(&shadow, &reads(b"a"), &[]).unwrap();
    assert_eq!((permit.grant(), permit.would_deny()), (None, Some(&missing_key(b"a"))));
    let unknown = Denial::new(Reason::UnknownMethod, "");
    assert_eq!(refuse(&enforced, unknown.clone()).unwrap_err(), unknown);
    assert_eq!(refuse(&shadow, unknown.clone()).unwrap().would_deny(), Some(&unknown));
    assert_eq!(authorize(&shadow, &Accesses::default(), &[]).unwrap().would_deny(), None);
}

#[test]
fn each_reason_has_its_word() {
    let words = [
        "no-binding",
        "no-identity",
        "bad-capture",
        "key-not-granted",
        "capability-not-granted",
        "lease-not-owned",
        "lease-unknown",
        "malformed-message",
        "unknown-method",
        "not-grpc",
        "compressed",
        "too-large",
        "bad-framing",
        "tokens-stripped",
        "limit",
        "audit-full",
    ];
    assert_eq!(Reason::ALL.map(Reason::code), words);
}

#[test]
fn a_refusal_says_what_is_missing() {
    let malformed = Malformed { field: "PutRequest.key", offset: 3, fault: Fault::WireType };
    let cases = [
        (Denial::new(Reason::NoBinding, ""), "no-binding".to_owned()),
        (Denial::new(Reason::Limit, "too many watches"), "limit: too many watches".to_owned()),
        (missing_key(b"a\n"), "key-not-granted: read a\\x0a".to_owned()),
        (
            Denial { reason: Reason::CapabilityNotGranted, missing: Missing::Capability(Capability::Compact) },
            "capability-not-granted: compact".to_owned(),
        ),
        (Denial { reason: Reason::LeaseNotOwned, missing: Missing::Lease(0xab) }, "lease-not-owned: lease ab".to_owned()),
        (malformed.into(), "malformed-message: PutRequest.key at offset 3: group or unknown wire type".to_owned()),
    ];
    for (denial, text) in cases {
        assert_eq!(denial.to_string(), text);
    }
}
