//! What "may this be done to this key" means, in the fewest words: every grant is looked at, one
//! after the other, for one key at a time. The compiled form answers the same, faster; property
//! tests hold the two equal.

use std::sync::Arc;

use super::{AttachedKeys, Denial, LeaseEvidence, LeaseStanding, Missing, Reason};
use crate::access::{Access, Accesses, Capability, LeaseUse, Verb};
use crate::keyspace::KeyRange;
use crate::policy::compile::{Held, Holdings};
use crate::policy::keyset::KeySet;
use crate::policy::{GrantId, Principal};

/// The grant by which `key` may be `verb`ed: of plain ranges the first in the policy's order, then
/// of the others.
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
    holdings
        .roles
        .iter()
        .flat_map(|role| &role.capabilities)
        .filter(|(held, _)| *held == capability)
        .map(|(_, grant)| *grant)
        .min()
}

/// What is known of a lease, keys and all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It carries the caller's mark.
    Own,
    /// These keys are attached to it.
    Attached(Vec<Vec<u8>>),
    /// Marked for another identity, without any key.
    AnotherIdentity,
    /// etcd did not answer.
    Unknown,
}

impl Lease {
    /// The same as the decision wants it: found out key by key, and no further than it takes.
    #[must_use]
    pub fn evidence(
        &self,
        id: i64,
        principal: &Arc<Principal>,
        accesses: &Accesses<'_>,
    ) -> LeaseEvidence {
        let standing = match self {
            Lease::Own => LeaseStanding::Own,
            Lease::AnotherIdentity => LeaseStanding::AnotherIdentity,
            Lease::Unknown => LeaseStanding::Unknown,
            Lease::Attached(keys) => {
                let mut attached = AttachedKeys::of(principal.clone(), id, accesses);
                let _ = keys.iter().all(|key| attached.see(key));
                attached.standing()
            }
        };
        LeaseEvidence { id, standing }
    }
}

/// Why the reference refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A capability that nothing grants.
    Capability(Capability),
    /// The first key, in the order of the accesses, that may not be `verb`ed.
    Key(Verb, Vec<u8>),
    /// A lease that is not to be used, and for which reason.
    Lease(Reason, i64),
}

impl Refusal {
    /// Whether `denial` gives the same reason, and names a range that holds the key or the same
    /// capability or lease.
    #[must_use]
    pub fn is(&self, denial: &Denial) -> bool {
        match (self, denial.reason, &denial.missing) {
            (
                Refusal::Capability(lacking),
                Reason::CapabilityNotGranted,
                Missing::Capability(named),
            ) => lacking == named,
            (Refusal::Key(lacking, key), Reason::KeyNotGranted, Missing::Keys { verb, range }) => {
                lacking == verb && range.as_range().contains(key)
            }
            (Refusal::Lease(lacking, id), reason, Missing::Lease(named)) => {
                *lacking == reason && id == named
            }
            _ => false,
        }
    }
}

/// The whole decision, for a caller that a binding names. Ranges are walked through key by key:
/// `keys` is sorted and holds one key at least of each piece of the key space that the holdings and
/// the accesses tell apart.
///
/// # Errors
/// What is refused first.
pub fn decide(
    holdings: &Holdings,
    accesses: &Accesses<'_>,
    leases: &[(i64, Lease)],
    keys: &[Vec<u8>],
) -> Result<Option<GrantId>, Refusal> {
    let mut grants = Vec::new();
    let held = |wanted| capability(holdings, wanted);
    match accesses.capability {
        None => {}
        // The greater right to leases includes the lesser.
        Some(Capability::Lease) if held(Capability::Lease).is_none() => {
            grants
                .push(held(Capability::LeaseAdmin).ok_or(Refusal::Capability(Capability::Lease))?);
        }
        Some(wanted) => grants.push(held(wanted).ok_or(Refusal::Capability(wanted))?),
    }
    for access in accesses.keys() {
        grants.extend(decide_keys(holdings, access, keys)?);
    }
    for &(id, lease_use) in &accesses.leases {
        if held(Capability::LeaseAdmin).is_none() {
            decide_lease(holdings, id, lease_use, accesses, leases)?;
        }
    }
    Ok(grants.first().copied())
}

fn decide_keys(
    holdings: &Holdings,
    access: Access<'_>,
    keys: &[Vec<u8>],
) -> Result<Vec<GrantId>, Refusal> {
    // The smallest key is one zero byte, and a range that holds no key stands for its first one.
    let start = if access.range.start.is_empty() { b"\0" } else { access.range.start };
    let asked = KeyRange { start, end: access.range.end };
    let mut grants = Vec::new();
    for verb in access.verbs.iter() {
        let may = |key: &[u8]| {
            allows(holdings, verb, key).ok_or_else(|| Refusal::Key(verb, key.to_vec()))
        };
        grants.push(may(start)?);
        for key in keys.iter().filter(|key| asked.contains(key)) {
            may(key)?;
        }
    }
    Ok(grants)
}

/// Whether a lease may be used for all that the message does with it.
fn decide_lease(
    holdings: &Holdings,
    id: i64,
    lease_use: LeaseUse,
    accesses: &Accesses<'_>,
    leases: &[(i64, Lease)],
) -> Result<(), Refusal> {
    // One's own, too, is not kept alive without the right to have any.
    if !matches!(lease_use, LeaseUse::Look | LeaseUse::Revoke)
        && capability(holdings, Capability::Lease).is_none()
    {
        return Err(Refusal::Capability(Capability::Lease));
    }
    let known = leases.iter().find(|(of, _)| *of == id).map(|(_, lease)| lease);
    let usable = match known {
        Some(Lease::Own) => true,
        Some(Lease::Unknown) => return Err(Refusal::Lease(Reason::LeaseUnknown, id)),
        Some(Lease::AnotherIdentity) | None => false,
        // Nobody's yet.
        Some(Lease::Attached(keys)) if keys.is_empty() => {
            return capability(holdings, Capability::Lease)
                .map(drop)
                .ok_or(Refusal::Capability(Capability::Lease));
        }
        Some(Lease::Attached(keys)) => {
            let uses = || {
                accesses
                    .leases
                    .iter()
                    .filter(|(of, _)| *of == id)
                    .flat_map(|(_, lease_use)| lease_use.verbs_on_attached().iter())
            };
            keys.iter().all(|key| uses().all(|verb| allows(holdings, verb, key).is_some()))
        }
    };
    if usable { Ok(()) } else { Err(Refusal::Lease(Reason::LeaseNotOwned, id)) }
}

/// The grants of one role on the key, each with whether it is more than a range.
fn grants(role: &Held, verb: Verb, key: &[u8]) -> Vec<(bool, GrantId)> {
    let denied = || role.denied.iter().filter(|(_, verbs)| verbs.has(verb)).map(|(keys, _)| keys);
    if denied().any(|keys| holds(keys, key)) {
        return Vec::new();
    }
    let guarded = denied().any(|keys| matches!(keys, KeySet::Pattern(_)));
    let allowed =
        role.allowed.iter().filter(|(keys, verbs, _)| verbs.has(verb) && holds(keys, key));
    allowed
        .map(|(keys, _, grant)| (guarded || matches!(keys, KeySet::Pattern(_)), *grant))
        .collect()
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
    segments
        .take_while(|(segment, _)| !segment.contains(&b'/'))
        .any(|(_, after)| matches(others, tail, after))
}
