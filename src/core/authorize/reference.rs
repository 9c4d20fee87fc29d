//! The reference model of the decision. It is simple and slow: it checks every grant for one key at
//! a time. Property tests compare it with the compiled rights, which are fast.

use std::sync::Arc;

use super::{AttachedKeys, Denial, LeaseClaim, LeaseEvidence, Missing, Reason};
use crate::access::{Access, Accesses, Capability, LeaseUse, Verb};
use crate::keyspace::KeyRange;
use crate::policy::compile::{Entitlements, ResolvedRole};
use crate::policy::keyset::KeySet;
use crate::policy::{GrantId, Principal};

/// The grant that allows `verb` on `key`. If there are several: a grant on a plain range comes
/// before a grant that involves a pattern, and then the first one in the policy is taken.
pub fn allows(entitlements: &Entitlements, verb: Verb, key: &[u8]) -> Option<GrantId> {
    if entitlements.denied.iter().any(|(keys, verbs)| verbs.contains(verb) && holds(keys, key)) {
        return None;
    }
    entitlements.roles.iter().flat_map(|role| grants(role, verb, key)).min().map(|(_, grant)| grant)
}

/// The grant of a capability. Denials do not apply to capabilities.
pub fn capability(entitlements: &Entitlements, capability: Capability) -> Option<GrantId> {
    entitlements
        .roles
        .iter()
        .flat_map(|role| &role.capabilities)
        .filter(|(held, _)| *held == capability)
        .map(|(_, grant)| *grant)
        .min()
}

/// The owner and the attached keys of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// The id carries the client's mark.
    Own,
    /// The id carries no mark; these keys are attached.
    Attached(Vec<Vec<u8>>),
    /// The id carries the mark of another identity, and no key is attached.
    OtherIdentity,
    /// etcd did not answer.
    Unknown,
}

impl Lease {
    /// The evidence for `authorize`. Checks the attached keys one by one, up to the first that is
    /// not covered.
    pub fn evidence(
        &self,
        id: i64,
        principal: &Arc<Principal>,
        accesses: &Accesses<'_>,
    ) -> LeaseEvidence {
        let claim = match self {
            Lease::Own => LeaseClaim::Own,
            Lease::OtherIdentity => LeaseClaim::OtherIdentity,
            Lease::Unknown => LeaseClaim::Unknown,
            Lease::Attached(keys) => {
                let mut attached = AttachedKeys::of(principal.clone(), id, accesses);
                let _ = keys.iter().all(|key| attached.check(key));
                attached.claim()
            }
        };
        LeaseEvidence { id, claim }
    }
}

/// The denial of the reference model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferenceDenial {
    /// A capability that is not granted.
    Capability(Capability),
    /// The first key in the order of the accesses on which this verb is not granted.
    Key(Verb, Vec<u8>),
    /// A lease that may not be used, and the reason.
    Lease(Reason, i64),
}

impl ReferenceDenial {
    /// True if `denial` has the same reason and names a range that contains the key, or the same
    /// capability or lease.
    pub fn matches_denial(&self, denial: &Denial) -> bool {
        match (self, denial.reason, &denial.missing) {
            (
                ReferenceDenial::Capability(lacking),
                Reason::CapabilityNotGranted,
                Missing::Capability(named),
            ) => lacking == named,
            (
                ReferenceDenial::Key(lacking, key),
                Reason::KeyNotGranted,
                Missing::Keys { verb, range },
            ) => lacking == verb && range.as_range().contains(key),
            (ReferenceDenial::Lease(lacking, id), reason, Missing::Lease(named)) => {
                *lacking == reason && id == named
            }
            _ => false,
        }
    }
}

/// The whole decision for a client that a binding matches. It checks each key of a range. `keys`
/// stands for the key space: it is sorted, and the ends of all ranges in the entitlements and
/// accesses divide the key space into pieces, each of which contains at least one of `keys`.
///
/// # Errors
/// The first denial.
pub fn decide(
    entitlements: &Entitlements,
    accesses: &Accesses<'_>,
    leases: &[(i64, Lease)],
    keys: &[Vec<u8>],
) -> Result<Option<GrantId>, ReferenceDenial> {
    let mut grants = Vec::new();
    let held = |wanted| capability(entitlements, wanted);
    match accesses.capability {
        None => {}
        // `lease-admin` includes `lease`.
        Some(Capability::Lease) if held(Capability::Lease).is_none() => {
            grants.push(
                held(Capability::LeaseAdmin)
                    .ok_or(ReferenceDenial::Capability(Capability::Lease))?,
            );
        }
        Some(wanted) => grants.push(held(wanted).ok_or(ReferenceDenial::Capability(wanted))?),
    }
    for access in accesses.keys() {
        grants.extend(decide_keys(entitlements, access, keys)?);
    }
    for &(id, lease_use) in &accesses.leases {
        if held(Capability::LeaseAdmin).is_none() {
            decide_lease(entitlements, id, lease_use, accesses, leases)?;
        }
    }
    Ok(grants.first().copied())
}

fn decide_keys(
    entitlements: &Entitlements,
    access: Access<'_>,
    keys: &[Vec<u8>],
) -> Result<Vec<GrantId>, ReferenceDenial> {
    // The smallest key is one zero byte. An empty range needs the right on its start.
    let start = if access.range.start.is_empty() { b"\0" } else { access.range.start };
    let asked = KeyRange { start, end: access.range.end };
    let mut grants = Vec::new();
    for verb in access.verbs.iter() {
        let may = |key: &[u8]| {
            allows(entitlements, verb, key).ok_or_else(|| ReferenceDenial::Key(verb, key.to_vec()))
        };
        grants.push(may(start)?);
        for key in keys.iter().filter(|key| asked.contains(key)) {
            may(key)?;
        }
    }
    Ok(grants)
}

/// Decides whether the client may use a lease for everything that the message does with it.
fn decide_lease(
    entitlements: &Entitlements,
    id: i64,
    lease_use: LeaseUse,
    accesses: &Accesses<'_>,
    leases: &[(i64, Lease)],
) -> Result<(), ReferenceDenial> {
    // Extending the lifetime of a lease needs the capability, even for the client's own lease.
    if !matches!(lease_use, LeaseUse::Inspect | LeaseUse::Revoke)
        && capability(entitlements, Capability::Lease).is_none()
    {
        return Err(ReferenceDenial::Capability(Capability::Lease));
    }
    let known = leases.iter().find(|(of, _)| *of == id).map(|(_, lease)| lease);
    let usable = match known {
        Some(Lease::Own) => true,
        Some(Lease::Unknown) => return Err(ReferenceDenial::Lease(Reason::LeaseUnknown, id)),
        Some(Lease::OtherIdentity) | None => false,
        // The lease belongs to no identity.
        Some(Lease::Attached(keys)) if keys.is_empty() => {
            return capability(entitlements, Capability::Lease)
                .map(drop)
                .ok_or(ReferenceDenial::Capability(Capability::Lease));
        }
        Some(Lease::Attached(keys)) => {
            let uses = || {
                accesses
                    .leases
                    .iter()
                    .filter(|(of, _)| *of == id)
                    .flat_map(|(_, lease_use)| lease_use.verbs_on_attached().iter())
            };
            keys.iter().all(|key| uses().all(|verb| allows(entitlements, verb, key).is_some()))
        }
    };
    if usable { Ok(()) } else { Err(ReferenceDenial::Lease(Reason::LeaseNotOwned, id)) }
}

/// The grants of one role on the key. The flag is true if the grant, or a denial of the role, is a
/// pattern.
fn grants(role: &ResolvedRole, verb: Verb, key: &[u8]) -> Vec<(bool, GrantId)> {
    let denied =
        || role.denied.iter().filter(|(_, verbs)| verbs.contains(verb)).map(|(keys, _)| keys);
    if denied().any(|keys| holds(keys, key)) {
        return Vec::new();
    }
    let guarded = denied().any(|keys| matches!(keys, KeySet::Pattern(_)));
    let allowed =
        role.allowed.iter().filter(|(keys, verbs, _)| verbs.contains(verb) && holds(keys, key));
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

/// Tries every way to split the key into a literal, one or more bytes without `/`, a literal, and
/// so on.
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
