//! Properties of the policy, checked against the reference model. The key space is small enough to
//! check every key.

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::compile::{Entitlements, ResolvedRole};
use super::keyset::{KeySet, Pattern};
use super::{BindingStatus, GrantId, Mode, Principal, Rights};
use crate::access::{Accesses, Capability, LeaseUse, Verb, Verbs};
use crate::authorize::authorize;
use crate::authorize::reference::{self, Lease};
use crate::keyspace::{End, KeyRange, OwnedEnd, OwnedRange};

/// `/` and its neighbours in ASCII, so that edges of ranges often coincide. `/` is listed twice to
/// make it more frequent.
const ALPHABET: &[u8] = b".//0";
const LONGEST: usize = 5;

/// Keys and verbs of grants or denials.
type Rules = Vec<(KeySet, Verbs)>;

/// All keys of the test, sorted: every key up to the maximum length, its successor (`key + "\0"`)
/// and the end of its prefix. So every edge of a generated range is in the list, and there is a
/// listed key between any two edges.
fn universe() -> &'static [Vec<u8>] {
    &UNIVERSE
}

static UNIVERSE: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut keys: Vec<Vec<u8>> = vec![Vec::new()];
    let mut all = Vec::new();
    for _ in 0..LONGEST {
        keys = keys
            .iter()
            .flat_map(|key| b"./0".iter().map(|byte| [key.as_slice(), &[*byte]].concat()))
            .collect();
        all.extend(keys.iter().flat_map(|key| [key.clone(), [key.as_slice(), b"\0"].concat()]));
        all.extend(
            keys.iter().filter_map(|key| crate::keyspace::prefix_end(key)).map(<[u8]>::into_vec),
        );
    }
    all.sort();
    all.dedup();
    all
});

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(ALPHABET), 1..4)
}

fn range() -> impl Strategy<Value = OwnedRange> {
    (key(), prop_oneof![3 => key().prop_map(Some), 1 => Just(None)], 0..4_u8).prop_filter_map(
        "an empty range",
        |(start, end, kind)| {
            let range = match (kind, &end) {
                (0, _) => KeyRange::key(&start),
                (1, _) => {
                    let end = crate::keyspace::prefix_end(&start)?;
                    return Some(OwnedRange { start: start.into(), end: OwnedEnd::Before(end) });
                }
                (_, Some(end)) => KeyRange { start: &start, end: End::Before(end) },
                (_, None) => KeyRange { start: &start, end: End::Open },
            };
            (!range.is_empty()).then(|| range.into())
        },
    )
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let piece = || prop::collection::vec(prop::sample::select(b".0".as_slice()), 0..2);
    (piece(), piece(), any::<bool>()).prop_map(|(before, behind, tail)| {
        Pattern::new(vec![[&before[..], b"/"].concat(), [b"/", &behind[..]].concat()], tail)
    })
}

fn ranges_only() -> BoxedStrategy<KeySet> {
    range().prop_map(KeySet::Range).boxed()
}

fn any_keys() -> BoxedStrategy<KeySet> {
    prop_oneof![4 => range().prop_map(KeySet::Range), 1 => pattern().prop_map(KeySet::Pattern)]
        .boxed()
}

fn verbs() -> impl Strategy<Value = Verbs> {
    prop::sample::select(vec![Verbs::READ, Verbs::CREATE, Verbs::PUT, Verbs::WRITE, Verbs::ALL])
}

fn entitlements(keys: fn() -> BoxedStrategy<KeySet>) -> impl Strategy<Value = Entitlements> {
    let role = (
        prop::collection::vec((keys(), verbs()), 0..5),
        prop::collection::vec((keys(), verbs()), 0..2),
    );
    let denied = prop::collection::vec((keys(), verbs()), 0..2);
    (prop::collection::vec(role, 0..4), denied).prop_map(|(roles, denied)| {
        let mut next = 0;
        let mut grant = || {
            next += 1;
            GrantId(next)
        };
        let held = |(allowed, denied): (Rules, Rules)| ResolvedRole {
            allowed: allowed.into_iter().map(|(keys, verbs)| (keys, verbs, grant())).collect(),
            denied,
            capabilities: vec![(Capability::Lease, grant())],
        };
        Entitlements { roles: roles.into_iter().map(held).collect(), denied }
    })
}

fn principal(rights: Rights) -> Principal {
    Principal {
        name: "ca/cn:test".into(),
        binding_status: BindingStatus::Bound,
        mode: Mode::Enforce,
        roles: Arc::default(),
        rights: Arc::new(rights),
        generation: 1,
    }
}

/// Some leases, sorted by id. A request may also use leases that are not in the list.
fn evidence() -> impl Strategy<Value = Vec<(i64, Lease)>> {
    let attached = prop::collection::vec(key(), 0..3).prop_map(Lease::Attached);
    let others = prop::sample::select(vec![Lease::Own, Lease::OtherIdentity, Lease::Unknown]);
    let leases = prop::collection::btree_map(5..10_i64, prop_oneof![attached, others], 0..5);
    leases.prop_map(|leases| leases.into_iter().collect())
}

/// The capability and the leases of a request.
fn capability_and_leases() -> impl Strategy<Value = (Option<Capability>, Vec<(i64, LeaseUse)>)> {
    let capability = prop::option::weighted(
        0.3,
        prop::sample::select(vec![Capability::Lease, Capability::LeaseAdmin, Capability::Status]),
    );
    let uses = prop::sample::select(vec![
        LeaseUse::Attach,
        LeaseUse::Inspect,
        LeaseUse::Grant,
        LeaseUse::Revoke,
    ]);
    (capability, prop::collection::vec((7..9_i64, uses), 0..3))
}

/// The reference model's result for a range: the grant that allows its start, or the first key that
/// is not allowed.
fn by_every_key(
    entitlements: &Entitlements,
    verb: Verb,
    range: &KeyRange<'_>,
) -> Result<GrantId, Vec<u8>> {
    let start =
        reference::allows(entitlements, verb, range.start).ok_or_else(|| range.start.to_vec())?;
    match universe()
        .iter()
        .filter(|key| range.contains(key))
        .find(|key| reference::allows(entitlements, verb, key).is_none())
    {
        Some(key) => Err(key.clone()),
        None => Ok(start),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn without_grants_everything_is_denied(range in range()) {
        let rights = Entitlements::default().compile();
        for verb in Verb::ALL {
            prop_assert_eq!(rights.covers(verb, &range.as_range()), Err(range.clone()));
        }
        prop_assert!(
            Capability::ALL.iter().all(|capability| rights.capability(*capability).is_none())
        );
    }

    /// Compares decision and grant for every key and verb, with every feature of the language.
    #[test]
    fn compiled_equals_reference(entitlements in entitlements(any_keys)) {
        let rights = entitlements.compile();
        for key in universe() {
            for verb in Verb::ALL {
                let fast = rights.covers(verb, &KeyRange::key(key));
                prop_assert_eq!(
                    fast.ok(),
                    reference::allows(&entitlements, verb, key),
                    "{:?} {}",
                    verb,
                    KeyRange::key(key)
                );
            }
        }
        for &capability in Capability::ALL {
            prop_assert_eq!(
                rights.capability(capability),
                reference::capability(&entitlements, capability)
            );
        }
    }

    /// Compares the whole decision: the grant, or the reason and the first missing key, capability
    /// or lease. If the policy has inner wildcards, each access is to one key;
    /// [`allowed_only_if_every_key_is`] tests ranges with inner wildcards.
    #[test]
    fn compiled_equals_reference_in_decision_and_reason(
        mut entitlements in prop_oneof![entitlements(ranges_only), entitlements(any_keys)],
        admin: bool,
        queried in prop::collection::vec((range(), verbs()), 0..3),
        (capability, leases) in capability_and_leases(),
        known in evidence(),
    ) {
        if let Some(role) = entitlements.roles.first_mut().filter(|_| admin) {
            role.capabilities.push((Capability::LeaseAdmin, GrantId(99)));
        }
        let patterns = |keys: &KeySet| matches!(keys, KeySet::Pattern(_));
        let has_patterns = entitlements.denied.iter().any(|(keys, _)| patterns(keys))
            || entitlements.roles.iter().any(|role| {
                role.allowed.iter().any(|(keys, ..)| patterns(keys))
                    || role.denied.iter().any(|(keys, _)| patterns(keys))
            });
        let mut accesses = Accesses { capability, ..Accesses::default() };
        for (range, verbs) in &queried {
            accesses.add_keys(
                *verbs,
                if has_patterns { KeyRange::key(&range.start) } else { range.as_range() },
            );
        }
        leases.iter().for_each(|&(id, lease_use)| accesses.add_lease(id, lease_use));
        let principal = Arc::new(principal(entitlements.compile()));
        let evidence: Vec<_> =
            known.iter().map(|(id, lease)| lease.evidence(*id, &principal, &accesses)).collect();
        let fast = authorize(&principal, &accesses, &evidence);
        match (fast, reference::decide(&entitlements, &accesses, &known, universe())) {
            (Ok(permit), Ok(grant)) => prop_assert_eq!(permit.grant(), grant),
            (Err(denial), Err(refusal)) => {
                prop_assert!(refusal.matches_denial(&denial), "{denial} is not {refusal:?}");
            }
            (fast, slow) => prop_assert!(false, "{fast:?} is not {slow:?}"),
        }
    }

    /// Without inner wildcards, the compiled rights are exact. A denial names a gap that contains
    /// the first key that is not allowed.
    #[test]
    fn compiled_equals_reference_on_ranges(
        entitlements in entitlements(ranges_only),
        queried in range(),
    ) {
        let rights = entitlements.compile();
        for verb in Verb::ALL {
            match (
                rights.covers(verb, &queried.as_range()),
                by_every_key(&entitlements, verb, &queried.as_range()),
            ) {
                (Ok(fast), Ok(slow)) => prop_assert_eq!(fast, slow),
                (Err(gap), Err(key)) => prop_assert!(
                    gap.as_range().contains(&key),
                    "{} is not in {}",
                    KeyRange::key(&key),
                    gap
                ),
                (fast, slow) => prop_assert!(false, "{queried}: {fast:?} is not {slow:?}"),
            }
        }
    }

    /// With inner wildcards, the compiled rights may deny more than the reference model, but never
    /// allow more.
    #[test]
    fn allowed_only_if_every_key_is(entitlements in entitlements(any_keys), queried in range()) {
        let rights = entitlements.compile();
        for verb in Verb::ALL {
            if let Ok(fast) = rights.covers(verb, &queried.as_range()) {
                prop_assert!(
                    by_every_key(&entitlements, verb, &queried.as_range()).is_ok(),
                    "{}",
                    queried
                );
                let mut granted = entitlements
                    .roles
                    .iter()
                    .flat_map(|role| &role.allowed)
                    .filter(|(keys, _, _)| keys.contains(&queried.start));
                prop_assert!(
                    granted.any(|(_, verbs, grant)| *grant == fast && verbs.contains(verb)),
                    "{} by {:?}",
                    queried,
                    fast
                );
                prop_assert_eq!(
                    rights.covering(verb, &queried.as_range()).first().copied(),
                    Some(fast)
                );
            }
        }
    }

    #[test]
    fn allowed_only_if_every_access_is_covered(
        entitlements in entitlements(any_keys),
        queried in prop::collection::vec((range(), verbs()), 1..4),
    ) {
        let principal = principal(entitlements.compile());
        let mut accesses = Accesses::default();
        for (range, verbs) in &queried {
            accesses.add_keys(*verbs, range.as_range());
        }
        let all = queried.iter().all(|(range, verbs)| {
            verbs.iter().all(|verb| principal.rights.covers(verb, &range.as_range()).is_ok())
        });
        prop_assert_eq!(authorize(&principal, &accesses, &[]).is_ok(), all);
    }

    #[test]
    fn adding_a_grant_never_takes_a_right_away(
        mut entitlements in entitlements(any_keys),
        keys in any_keys(),
        verbs in verbs(),
        role in 0..4_usize,
        queried in range(),
    ) {
        let before = entitlements.compile();
        match entitlements.roles.get_mut(role) {
            Some(role) => role.allowed.push((keys, verbs, GrantId(0))),
            None => entitlements.roles.push(ResolvedRole {
                allowed: vec![(keys, verbs, GrantId(0))],
                ..ResolvedRole::default()
            }),
        }
        let after = entitlements.compile();
        for verb in Verb::ALL {
            prop_assert!(
                before.covers(verb, &queried.as_range()).is_err()
                    || after.covers(verb, &queried.as_range()).is_ok(),
                "{}",
                queried
            );
        }
    }

    #[test]
    fn adding_a_denial_never_grants_a_right(
        mut entitlements in entitlements(any_keys),
        keys in any_keys(),
        verbs in verbs(),
        role in 0..4_usize,
        queried in range(),
    ) {
        let before = entitlements.compile();
        match entitlements.roles.get_mut(role) {
            Some(role) => role.denied.push((keys.clone(), verbs)),
            None => entitlements.denied.push((keys.clone(), verbs)),
        }
        let after = entitlements.compile();
        for verb in Verb::ALL {
            prop_assert!(
                after.covers(verb, &queried.as_range()).is_err()
                    || before.covers(verb, &queried.as_range()).is_ok(),
                "{}",
                queried
            );
        }
    }

    /// A key that a binding denies is never covered, whichever role grants it.
    #[test]
    fn a_denied_key_is_never_covered(entitlements in entitlements(any_keys), queried in range()) {
        let rights = entitlements.compile();
        for verb in Verb::ALL {
            if rights.covers(verb, &queried.as_range()).is_ok() {
                let denied = entitlements.denied.iter().filter(|(_, verbs)| verbs.contains(verb));
                for key in universe().iter().filter(|key| queried.as_range().contains(key)) {
                    prop_assert!(
                        !denied.clone().any(|(keys, _)| keys.contains(key)),
                        "{}",
                        KeyRange::key(key)
                    );
                }
            }
        }
    }

    #[test]
    fn order_and_duplicates_do_not_matter(
        entitlements in entitlements(any_keys),
        queried in range(),
        rotation in 0..4_usize,
    ) {
        let mut other = entitlements.clone();
        for role in &mut other.roles {
            role.allowed.extend(role.allowed.clone());
            role.denied.extend(role.denied.clone());
            role.allowed.reverse();
            role.denied.reverse();
        }
        let roles = other.roles.len().max(1);
        other.roles.rotate_left(rotation % roles);
        other.denied.extend(other.denied.clone());
        let (one, two) = (entitlements.compile(), other.compile());
        for verb in Verb::ALL {
            prop_assert_eq!(
                one.covers(verb, &queried.as_range()),
                two.covers(verb, &queried.as_range())
            );
        }
    }

    #[test]
    fn adjacent_ranges_cover_their_union(mut cuts in prop::collection::btree_set(key(), 2..6)) {
        let first = cuts.pop_first().unwrap();
        let last = cuts.last().unwrap().clone();
        let mut start = first.clone();
        let mut role = ResolvedRole::default();
        for (at, cut) in cuts.iter().enumerate() {
            let range = OwnedRange {
                start: start.clone().into(),
                end: OwnedEnd::Before(cut.clone().into()),
            };
            role.allowed.push((
                KeySet::Range(range),
                Verbs::READ,
                GrantId(u32::try_from(at).unwrap()),
            ));
            start.clone_from(cut);
        }
        let grants = role.allowed.len();
        let rights = Entitlements { roles: vec![role], denied: Vec::new() }.compile();
        let whole = KeyRange { start: &first, end: End::Before(&last) };
        prop_assert_eq!(rights.covers(Verb::Read, &whole), Ok(GrantId(0)));
        prop_assert_eq!(rights.covering(Verb::Read, &whole).len(), grants);
        let beyond = [last.as_slice(), b"\0"].concat();
        let more = KeyRange { start: &first, end: End::Before(&beyond) };
        let missing =
            OwnedRange { start: last.clone().into(), end: OwnedEnd::Before(beyond.clone().into()) };
        prop_assert_eq!(rights.covers(Verb::Read, &more), Err(missing));
    }

    /// `contains` equals the reference model for every key. `covers` is true only if every key of
    /// the range matches. `may_overlap` is true if any does.
    #[test]
    fn a_pattern_matches_as_in_the_reference_model(pattern in pattern(), queried in range()) {
        let entitlements = Entitlements {
            roles: vec![ResolvedRole {
                allowed: vec![(KeySet::Pattern(pattern.clone()), Verbs::READ, GrantId(1))],
                ..ResolvedRole::default()
            }],
            denied: Vec::new(),
        };
        let keys = KeySet::Pattern(pattern.clone());
        let mut touched = false;
        for key in universe() {
            let inside = reference::allows(&entitlements, Verb::Read, key).is_some();
            prop_assert_eq!(keys.contains(key), inside, "{}", KeyRange::key(key));
            touched |= inside && queried.as_range().contains(key);
            prop_assert!(
                inside || !queried.as_range().contains(key) || !pattern.covers(&queried.as_range()),
                "{}",
                queried
            );
        }
        prop_assert!(!touched || keys.may_overlap(&queried.as_range()), "{}", queried);
    }
}

#[test]
fn an_empty_range_needs_the_right_on_its_start() {
    let allowed = vec![(KeySet::Range(KeyRange::key(b"b").into()), Verbs::READ, GrantId(7))];
    let rights = Entitlements {
        roles: vec![ResolvedRole { allowed, ..ResolvedRole::default() }],
        denied: Vec::new(),
    }
    .compile();
    let empty = |start| KeyRange { start, end: End::Before(b"a") };
    assert_eq!(rights.covers(Verb::Read, &empty(b"b")), Ok(GrantId(7)));
    assert!(rights.covers(Verb::Read, &empty(b"c")).is_err());
}

#[test]
fn a_range_from_the_empty_key_starts_at_the_smallest() {
    let whole = vec![(KeySet::Range(KeyRange::WHOLE.into()), Verbs::READ, GrantId(1))];
    let rights = Entitlements {
        roles: vec![ResolvedRole { allowed: whole, ..ResolvedRole::default() }],
        denied: Vec::new(),
    }
    .compile();
    assert!(rights.covers(Verb::Read, &KeyRange { start: b"", end: End::Open }).is_ok());
    assert!(rights.covers(Verb::Read, &KeyRange::WHOLE).is_ok());
    let later = vec![(
        KeySet::Range(KeyRange { start: b"\x01", end: End::Open }.into()),
        Verbs::READ,
        GrantId(1),
    )];
    let rights = Entitlements {
        roles: vec![ResolvedRole { allowed: later, ..ResolvedRole::default() }],
        denied: Vec::new(),
    }
    .compile();
    assert!(rights.covers(Verb::Read, &KeyRange { start: b"", end: End::Open }).is_err());
    assert!(rights.covers(Verb::Read, &KeyRange::WHOLE).is_err());
}
