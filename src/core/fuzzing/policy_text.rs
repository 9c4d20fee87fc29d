//! A policy file, byte by byte: no text makes the reader panic, every mistake has a place in the
//! text, and what is accepted means the same to the compiler and to the reference.

use std::sync::Arc;

use crate::access::{Capability, Verb};
use crate::authorize::reference;
use crate::identity::Identity;
use crate::keyspace::KeyRange;
use crate::policy::{Mode, Policy};

/// Keys that are asked about under each policy, besides the starts of what it holds.
const KEYS: &[&[u8]] = &[
    b"\0",
    b"/",
    b"/a",
    b"/a/b",
    b"/a/b/c",
    b"/registry/x",
    b"/calico/resources/v3/projectcalico.org/nodes/a",
    b"\xff",
];

/// The text.
pub fn run(text: &[u8]) {
    let parsed = Policy::parse("fuzz.yaml", text, 1, None);
    match &parsed {
        Err(findings) => {
            assert!(findings.has_errors(), "refused without a mistake");
            let shown = findings.to_string();
            assert!(
                !shown.is_empty() && !shown.contains(|c: char| c.is_control() && c != '\n'),
                "{shown:?}"
            );
            assert!(findings.to_json().is_array() || findings.to_json().is_object());
        }
        Ok(policy) => accepted(policy),
    }
}

fn accepted(policy: &Policy) {
    assert!(!policy.warnings().has_errors());
    let again = policy.in_mode(2, Some(Mode::Enforce));
    assert_eq!(again.hash, policy.hash);
    assert!(!again.has_shadow());
    for (at, _) in policy.bindings().enumerate().take(8) {
        for key in KEYS {
            for captures in policy.captures_for(at, key).iter().take(2) {
                let holdings = policy.holdings_of_binding(at, captures);
                let rights = holdings.compile();
                for verb in Verb::ALL {
                    assert_eq!(
                        rights.covers(verb, &KeyRange::key(key)).ok(),
                        reference::allows(&holdings, verb, key)
                    );
                }
            }
        }
    }
    for name in ["a", "calico-node:a", "calico-node:a/b", "kube-apiserver", ""] {
        let identity = identity(name);
        let (principal, holdings) = (policy.principal(&identity), policy.holdings(&identity));
        for key in KEYS {
            for verb in Verb::ALL {
                let fast = principal.rights.covers(verb, &KeyRange::key(key)).ok();
                assert_eq!(
                    fast,
                    reference::allows(&holdings, verb, key),
                    "{name} {verb} {}",
                    KeyRange::key(key)
                );
                assert!(
                    fast.is_none_or(|grant| policy.grant(grant).is_some()),
                    "a decision names a grant that there is"
                );
            }
        }
        for &capability in Capability::ALL {
            assert_eq!(
                principal.rights.capability(capability),
                reference::capability(&holdings, capability)
            );
        }
    }
}

fn identity(name: &str) -> Identity {
    Identity {
        ca: "calico".into(),
        common_name: Ok(Arc::from(name)),
        uri_sans: vec![format!("spiffe://cluster.local/{name}")],
        dns_sans: vec![name.to_owned()],
        organizations: vec!["system:nodes".to_owned()],
        distinction: None,
        serial: "01".to_owned(),
        issuer: "CN=calico".to_owned(),
        not_after: i64::MAX,
    }
}
