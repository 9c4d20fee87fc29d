//! A policy file: no text makes the parser panic, every error has a position, and the compiled
//! policy equals the reference model.

use std::sync::Arc;

use crate::access::{Capability, Verb};
use crate::authorize::reference;
use crate::identity::Identity;
use crate::keyspace::KeyRange;
use crate::policy::{Mode, Policy};

/// Keys that are checked under each policy.
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

/// Input: the text of a policy.
pub fn run(text: &[u8]) {
    let parsed = Policy::parse("fuzz.yaml", text, 1, None);
    match &parsed {
        Err(findings) => {
            assert!(findings.has_errors(), "refused without an error");
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
                let entitlements = policy.entitlements_of_binding(at, captures);
                let rights = entitlements.compile();
                for verb in Verb::ALL {
                    assert_eq!(
                        rights.covers(verb, &KeyRange::key(key)).ok(),
                        reference::allows(&entitlements, verb, key)
                    );
                }
            }
        }
    }
    for name in ["a", "calico-node:a", "calico-node:a/b", "kube-apiserver", ""] {
        let identity = identity(name);
        let (principal, entitlements) =
            (policy.principal(&identity), policy.entitlements(&identity));
        for key in KEYS {
            for verb in Verb::ALL {
                let fast = principal.rights.covers(verb, &KeyRange::key(key)).ok();
                assert_eq!(
                    fast,
                    reference::allows(&entitlements, verb, key),
                    "{name} {verb} {}",
                    KeyRange::key(key)
                );
                assert!(
                    fast.is_none_or(|grant| policy.grant(grant).is_some()),
                    "the grant of a decision does not exist"
                );
            }
        }
        for &capability in Capability::ALL {
            assert_eq!(
                principal.rights.capability(capability),
                reference::capability(&entitlements, capability)
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
