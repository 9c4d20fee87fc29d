//! Compares `authorize` with the reference model: grants, denials, capabilities and leases. The key
//! space is small, so that the edges of ranges often coincide.

use std::sync::{Arc, LazyLock};

use super::choices::Choices;
use crate::access::{Accesses, Capability, LeaseUse, Verb, Verbs};
use crate::authorize::reference::{self, Lease};
use crate::authorize::{LeaseEvidence, authorize};
use crate::keyspace::{End, KeyRange, OwnedRange, prefix_end};
use crate::policy::compile::{Entitlements, ResolvedRole};
use crate::policy::keyset::{KeySet, Pattern};
use crate::policy::{BindingStatus, GrantId, Mode, Principal};

/// `/` and its neighbours in ASCII.
const LETTERS: &[u8] = b"./0";
const VERBS: &[Verbs] = &[
    Verbs::READ,
    Verbs::CREATE,
    Verbs::UPDATE,
    Verbs::DELETE,
    Verbs::PUT,
    Verbs::WRITE,
    Verbs::ALL,
];
const CAPABILITIES: &[Capability] =
    &[Capability::Lease, Capability::LeaseAdmin, Capability::Status];

/// Every key of up to four letters, its successor, and the end of its prefix.
static KEYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut longest: Vec<Vec<u8>> = vec![Vec::new()];
    let mut all = vec![b"\0".to_vec()];
    for _ in 0..4 {
        longest = longest
            .iter()
            .flat_map(|key| LETTERS.iter().map(|&letter| [key.as_slice(), &[letter]].concat()))
            .collect();
        all.extend(longest.iter().flat_map(|key| {
            [key.clone(), [key.as_slice(), b"\0"].concat(), prefix_end(key).unwrap().into_vec()]
        }));
    }
    all.sort();
    all.dedup();
    all
});

/// Reads roles with grants and denials, the denials of bindings, and then a sequence of requests
/// from `input`. Panics if a decision differs from the reference model's.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let entitlements = entitlements(&mut choices);
    let rights = entitlements.compile();
    for key in KEYS.iter() {
        for verb in Verb::ALL {
            let fast = rights.covers(verb, &KeyRange::key(key)).ok();
            assert_eq!(
                fast,
                reference::allows(&entitlements, verb, key),
                "{verb} {}",
                KeyRange::key(key)
            );
        }
    }
    let mut principal = Principal {
        name: "ca/cn:fuzz".into(),
        binding_status: BindingStatus::Bound,
        mode: Mode::Enforce,
        roles: Arc::default(),
        rights: Arc::new(rights),
        generation: 1,
    };
    for _ in 0..4 {
        request(&mut choices, &entitlements, &mut principal);
        if choices.is_empty() {
            break;
        }
    }
}

fn request(choices: &mut Choices<'_>, entitlements: &Entitlements, principal: &mut Principal) {
    let asked: Vec<(OwnedRange, Verbs)> =
        (0..choices.below(4)).map(|_| (range(choices), choices.one_of(VERBS))).collect();
    let mut accesses = Accesses {
        capability: choices.coin().then(|| choices.one_of(CAPABILITIES)),
        ..Accesses::default()
    };
    asked.iter().for_each(|(range, verbs)| accesses.add_keys(*verbs, range.as_range()));
    for _ in 0..choices.below(3) {
        accesses.add_lease(
            i64::from(choices.byte() % 3),
            choices.one_of(&[
                LeaseUse::Attach,
                LeaseUse::Revoke,
                LeaseUse::KeepAlive,
                LeaseUse::Inspect,
                LeaseUse::Grant,
            ]),
        );
    }
    let known = leases(choices);

    principal.mode = Mode::Enforce;
    let client = Arc::new(principal.clone());
    let evidence: Vec<LeaseEvidence> =
        known.iter().map(|(id, lease)| lease.evidence(*id, &client, &accesses)).collect();
    let fast = authorize(principal, &accesses, &evidence);
    let slow = reference::decide(entitlements, &accesses, &known, &KEYS);
    match (&fast, &slow) {
        (Ok(permit), Ok(grant)) => {
            assert!(permit.would_deny().is_none());
            if exact(entitlements, &asked) {
                assert_eq!(permit.grant(), *grant);
            }
        }
        (Err(denial), Err(refusal)) if exact(entitlements, &asked) => {
            assert!(refusal.matches_denial(denial), "{denial} is not {refusal:?}");
        }
        (Err(_), Err(_)) => {}
        // With inner wildcards, `authorize` may deny a range although each of its keys is allowed.
        // It never allows a range with a denied key.
        (Err(denial), Ok(_)) => {
            assert!(!exact(entitlements, &asked), "{denial}, but the reference allows it");
        }
        (Ok(_), Err(refusal)) => panic!("allowed, but the reference denies: {refusal:?}"),
    }
    // Shadow mode makes the same decision and never denies.
    principal.mode = Mode::Shadow;
    let shadow = authorize(principal, &accesses, &evidence).expect("shadow mode never denies");
    assert_eq!(shadow.would_deny(), fast.as_ref().err());
}

/// True if the compiled rights must give exactly the reference model's result. For a range of
/// several keys and a pattern with an inner wildcard they only approximate it.
fn exact(entitlements: &Entitlements, asked: &[(OwnedRange, Verbs)]) -> bool {
    let pattern = |keys: &KeySet| matches!(keys, KeySet::Pattern(_));
    let has_patterns = entitlements.denied.iter().any(|(keys, _)| pattern(keys))
        || entitlements.roles.iter().any(|role| {
            role.allowed.iter().any(|(keys, ..)| pattern(keys))
                || role.denied.iter().any(|(keys, _)| pattern(keys))
        });
    !has_patterns || asked.iter().all(|(range, _)| range.as_range().end == End::OnlyStart)
}

fn entitlements(choices: &mut Choices<'_>) -> Entitlements {
    let mut grant = 0;
    let mut role = |choices: &mut Choices<'_>| {
        let mut next = || {
            grant += 1;
            GrantId(grant)
        };
        let allowed =
            (0..choices.below(5)).map(|_| (keys(choices), choices.one_of(VERBS), next())).collect();
        let denied =
            (0..choices.below(3)).map(|_| (keys(choices), choices.one_of(VERBS))).collect();
        let capabilities =
            (0..choices.below(3)).map(|_| (choices.one_of(CAPABILITIES), next())).collect();
        ResolvedRole { allowed, denied, capabilities }
    };
    let roles = (0..choices.below(4)).map(|_| role(choices)).collect();
    Entitlements {
        roles,
        denied: (0..choices.below(3)).map(|_| (keys(choices), choices.one_of(VERBS))).collect(),
    }
}

fn keys(choices: &mut Choices<'_>) -> KeySet {
    if choices.below(4) == 3 {
        let (before, behind) = (key(choices, 0, 1), key(choices, 0, 1));
        return KeySet::Pattern(Pattern::new(
            vec![[&before[..], b"/"].concat(), [b"/", &behind[..]].concat()],
            choices.coin(),
        ));
    }
    loop {
        let range = range(choices);
        if !range.as_range().is_empty() {
            return KeySet::Range(range);
        }
    }
}

fn range(choices: &mut Choices<'_>) -> OwnedRange {
    let start = key(choices, 1, 3);
    match choices.below(4) {
        0 => KeyRange::key(&start).into(),
        1 => KeyRange { start: &start, end: End::Before(&prefix_end(&start).unwrap()) }.into(),
        2 => KeyRange { start: &start, end: End::Open }.into(),
        _ => {
            let end = key(choices, 1, 3);
            KeyRange { start: &start, end: End::Before(&end) }.into()
        }
    }
}

fn key(choices: &mut Choices<'_>, shortest: usize, longest: usize) -> Vec<u8> {
    let length = shortest + choices.below(longest - shortest + 1);
    (0..length).map(|_| choices.one_of(LETTERS)).collect()
}

fn leases(choices: &mut Choices<'_>) -> Vec<(i64, Lease)> {
    (1..=2)
        .filter_map(|id| {
            let lease = match choices.below(5) {
                0 => return None,
                1 => Lease::Own,
                2 => Lease::OtherIdentity,
                3 => Lease::Unknown,
                _ => Lease::Attached((0..choices.below(3)).map(|_| key(choices, 1, 3)).collect()),
            };
            Some((id, lease))
        })
        .collect()
}
