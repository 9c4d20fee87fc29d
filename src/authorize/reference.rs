//! What "may this be done to this key" means, in the fewest words: every grant is looked at, one after the other, for one key at a
//! time. The compiled form answers the same, faster; property tests hold the two equal.

use crate::access::{Capability, Verb};
use crate::policy::GrantId;
use crate::policy::compile::{Held, Holdings};
use crate::policy::keyset::KeySet;

/// The grant by which `key` may be `verb`ed: of plain ranges the first in the policy's order, then of the others.
#[must_use]
pub fn allows(holdings: &Holdings, verb: Verb, key: &[u8]) -> Option<GrantId> {
    if holdings.denied.iter().any(|(keys, verbs)| verbs.has(verb) && holds(keys, key)) {
        return None;
    }
    holdings.roles.iter().flat_map(|role| grants(role, verb, key)).min().map(|(_, grant)| grant)
}

/// The grant of a capability: no denial concerns it.
#[must_use]
pub fn capability(holdings: &Holdings, capability: Capability) -> Option<GrantId> {
    holdings.roles.iter().flat_map(|role| &role.capabilities).filter(|(held, _)| *held == capability).map(|(_, grant)| *grant).min()
}

/// The grants of one role on the key, each with whether it is more than a range.
fn grants(role: &Held, verb: Verb, key: &[u8]) -> Vec<(bool, GrantId)> {
    let denied = || role.denied.iter().filter(|(_, verbs)| verbs.has(verb)).map(|(keys, _)| keys);
    if denied().any(|keys| holds(keys, key)) {
        return Vec::new();
    }
    let guarded = denied().any(|keys| matches!(keys, KeySet::Pattern(_)));
    let allowed = role.allowed.iter().filter(|(keys, verbs, _)| verbs.has(verb) && holds(keys, key));
    allowed.map(|(keys, _, grant)| (guarded || matches!(keys, KeySet::Pattern(_)), *grant)).collect()
}

fn holds(keys: &KeySet, key: &[u8]) -> bool {
    match keys {
        KeySet::Range(range) => range.as_range().contains(key),
        KeySet::Pattern(pattern) => {
            let (literals, tail) = pattern.parts();
            matches(literals, tail, key)
        }
    }
}

/// Tries every way to cut the key: a literal, one or more bytes without `/`, a literal, and so on.
fn matches(literals: &[Box<[u8]>], tail: bool, key: &[u8]) -> bool {
    let Some((literal, others)) = literals.split_first() else { return tail || key.is_empty() };
    let Some(rest) = key.strip_prefix(&**literal) else { return false };
    if others.is_empty() {
        return tail || rest.is_empty();
    }
    let segments = (1..=rest.len()).filter_map(|length| rest.split_at_checked(length));
    segments.take_while(|(segment, _)| !segment.contains(&b'/')).any(|(_, after)| matches(others, tail, after))
}
