//! The authorization decision. Only this module creates a [`Permit`], and a message is forwarded
//! only with a permit.

#[cfg(any(test, feature = "model"))]
pub(crate) mod reference;

use std::fmt;
use std::sync::Arc;

use crate::access::{Accesses, Capability, LeaseUse, Verb, Verbs};
use crate::keyspace::{KeyRange, OwnedRange};
use crate::policy::{BindingStatus, GrantId, Mode, Principal, Rights};
use crate::wire::Malformed;

/// Proof that one message may be forwarded. It has no public constructor. Only [`authorize`] and,
/// for shadow mode, [`refuse`] create it.
#[derive(Debug)]
#[must_use = "a permit exists to forward a message"]
pub struct Permit {
    grant: Option<GrantId>,
    would_deny: Option<Box<Denial>>,
    mode: Mode,
    generation: u64,
}

impl Permit {
    /// The grant that allowed the first access. `None` if the message has no accesses or is allowed
    /// only because the client owns its leases.
    pub fn grant(&self) -> Option<GrantId> {
        self.grant
    }

    /// The denial that shadow mode ignored; `None` if the policy allows the message.
    pub fn would_deny(&self) -> Option<&Denial> {
        self.would_deny.as_deref()
    }

    /// The mode of the principal when the permit was created. In shadow mode a permit proves
    /// nothing about rights.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The policy generation of the permit. The permit is not valid under any other generation.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    fn of(principal: &Principal, grant: Option<GrantId>, would_deny: Option<Box<Denial>>) -> Self {
        Permit { grant, would_deny, mode: principal.mode, generation: principal.generation }
    }
}

/// The decision about a message, as audit lines and metrics report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Allowed by the policy.
    Allow,
    /// Refused.
    Deny,
    /// Forwarded by shadow mode; enforcement would deny it.
    WouldDeny,
}

impl Decision {
    /// Every decision.
    pub const ALL: [Decision; 3] = [Decision::Allow, Decision::Deny, Decision::WouldDeny];

    /// The stable name in audit lines and metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Decision::Allow => "allow",
            Decision::Deny => "deny",
            Decision::WouldDeny => "would_deny",
        }
    }
}

/// Why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The reason, from a closed list.
    pub reason: Reason,
    /// The details: the missing right or the fault.
    pub missing: Missing,
}

/// The reason of a denial: a closed list with stable names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No binding matches the identity.
    NoBinding,
    /// The certificate has no usable name. [`Missing::Text`] has the
    /// [`NameRefusal`](crate::identity::NameRefusal) code.
    NoIdentity,
    /// A captured value is not a DNS-1123 subdomain.
    BadCapture,
    /// A verb is not granted on some part of a key range.
    KeyNotGranted,
    /// The capability is not granted.
    CapabilityNotGranted,
    /// The lease belongs to another identity.
    LeaseNotOwned,
    /// The owner of the lease cannot be determined: etcd did not report the attached keys.
    LeaseUnknown,
    /// The message cannot be decoded unambiguously.
    MalformedMessage,
    /// The path is not a method of etcd.
    UnknownMethod,
    /// The request is not gRPC (HTTP method, content type).
    NotGrpc,
    /// `grpc-encoding` names a compression other than gzip, the only one that etcd supports.
    Compressed,
    /// The message is larger than the limit.
    TooLarge,
    /// The body is not exactly one complete message (truncated, several, none, trailers after it).
    BadFraming,
    /// The method is `Authenticate`, but the gateway removes tokens from client requests, so the
    /// client could not use the token.
    TokensStripped,
    /// The HTTP/2 layer refused the request before or while it was read.
    Http2,
    /// A limit of the process or of the identity is reached.
    Limit,
    /// The audit queue is full and `audit-on-full` is `deny`.
    AuditFull,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 17] = [
        Reason::NoBinding,
        Reason::NoIdentity,
        Reason::BadCapture,
        Reason::KeyNotGranted,
        Reason::CapabilityNotGranted,
        Reason::LeaseNotOwned,
        Reason::LeaseUnknown,
        Reason::MalformedMessage,
        Reason::UnknownMethod,
        Reason::NotGrpc,
        Reason::Compressed,
        Reason::TooLarge,
        Reason::BadFraming,
        Reason::TokensStripped,
        Reason::Http2,
        Reason::Limit,
        Reason::AuditFull,
    ];

    /// The stable name.
    pub const fn code(self) -> &'static str {
        match self {
            Reason::NoBinding => "no_binding",
            Reason::NoIdentity => "no_identity",
            Reason::BadCapture => "bad_capture",
            Reason::KeyNotGranted => "key_not_granted",
            Reason::CapabilityNotGranted => "capability_not_granted",
            Reason::LeaseNotOwned => "lease_not_owned",
            Reason::LeaseUnknown => "lease_unknown",
            Reason::MalformedMessage => "malformed_message",
            Reason::UnknownMethod => "unknown_method",
            Reason::NotGrpc => "not_grpc",
            Reason::Compressed => "compressed",
            Reason::TooLarge => "too_large",
            Reason::BadFraming => "bad_framing",
            Reason::TokensStripped => "tokens_stripped",
            Reason::Http2 => "http2",
            Reason::Limit => "limit",
            Reason::AuditFull => "audit_full",
        }
    }
}

/// The missing right or the fault behind a [`Reason`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No details beyond the reason.
    Nothing,
    /// The first verb and the first part of a key range that no grant covers.
    Keys {
        /// The verb that is not granted.
        verb: Verb,
        /// The first part that is not covered.
        range: OwnedRange,
    },
    /// The capability that is not granted.
    Capability(Capability),
    /// The id of the lease.
    Lease(i64),
    /// The fault in the message.
    Form(Malformed),
    /// The message is longer than the limit.
    Size {
        /// Length in bytes, from the gRPC frame header.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The message is longer than the limit after decompression.
    Unpacked {
        /// The limit in bytes.
        limit: usize,
    },
    /// A fault of the request outside its message. The text may be shown to the client.
    Text(&'static str),
}

impl Denial {
    /// A denial without details (`text` is empty) or with a fixed text.
    pub fn new(reason: Reason, text: &'static str) -> Self {
        Self {
            reason,
            missing: if text.is_empty() { Missing::Nothing } else { Missing::Text(text) },
        }
    }
}

impl From<Malformed> for Denial {
    fn from(malformed: Malformed) -> Self {
        Self { reason: Reason::MalformedMessage, missing: Missing::Form(malformed) }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.code())?;
        match &self.missing {
            Missing::Nothing => Ok(()),
            Missing::Keys { verb, range } => write!(f, ": {verb} {range}"),
            Missing::Capability(capability) => write!(f, ": {capability}"),
            Missing::Lease(id) => write!(f, ": lease {id:x}"),
            Missing::Form(malformed) => write!(f, ": {malformed}"),
            Missing::Size { length, limit } => {
                write!(f, ": message of {length} bytes exceeds the limit of {limit} bytes")
            }
            Missing::Unpacked { limit } => {
                write!(f, ": decompressed message exceeds the limit of {limit} bytes")
            }
            Missing::Text(text) => write!(f, ": {text}"),
        }
    }
}

/// The client's claim to a lease that the request names. A lease without evidence is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseEvidence {
    /// The id of the lease.
    pub id: i64,
    /// The client's claim to it.
    pub claim: LeaseClaim,
}

/// The relation of a client to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseClaim {
    /// The id carries the client's mark.
    Own,
    /// The id does not carry the client's mark, and etcd reports no attached key: the lease belongs
    /// to no identity.
    Unattached,
    /// The id does not carry the client's mark, but the client has the verbs that the message needs
    /// on every attached key ([`AttachedKeys`]).
    Covered,
    /// The id does not carry the client's mark, and the client lacks a verb on an attached key.
    NotCovered,
    /// The id carries the mark of another identity, and no key is attached.
    OtherIdentity,
    /// The id does not carry the client's mark, and etcd did not answer.
    Unknown,
}

/// Checks whether a client has the verbs that its message needs on every key of a lease. It checks
/// one key at a time and stores none, because a lease may have many keys. The check can stop at the
/// first key that is not covered.
#[derive(Clone, Debug)]
pub struct AttachedKeys {
    principal: Arc<Principal>,
    /// The verbs needed on each key.
    verbs: Verbs,
    claim: LeaseClaim,
}

impl AttachedKeys {
    /// Starts a check of the lease `id`, which a message with these accesses uses.
    pub fn of(principal: Arc<Principal>, id: i64, accesses: &Accesses<'_>) -> Self {
        let uses = accesses.leases.iter().filter(|(of, _)| *of == id);
        let verbs = uses
            .fold(Verbs::NONE, |verbs, (_, lease_use)| verbs.union(lease_use.verbs_on_attached()));
        Self { principal, verbs, claim: LeaseClaim::Unattached }
    }

    /// Checks one attached key. Returns false if the client may not use the lease; its other keys
    /// then need no check.
    pub fn check(&mut self, key: &[u8]) -> bool {
        let is_covered = self.claim != LeaseClaim::NotCovered
            && covered(&self.principal, self.verbs, &KeyRange::key(key)).is_ok();
        self.claim = if is_covered { LeaseClaim::Covered } else { LeaseClaim::NotCovered };
        is_covered
    }

    /// The inputs of the check besides the keys. Two checks with equal inputs give the same result
    /// for the same keys.
    pub fn depends_on(&self) -> (*const Rights, Verbs) {
        (Arc::as_ptr(&self.principal.rights), self.verbs)
    }

    /// The claim. Call this after `check` was called for every key of the lease, or has returned
    /// false.
    pub fn claim(&self) -> LeaseClaim {
        self.claim.clone()
    }
}

/// Decides on one message. `leases` must be sorted by id: it is searched by bisection, because a
/// message may use ten thousand leases. If it is not sorted, evidence may not be found, and its
/// lease is denied.
///
/// # Errors
/// In enforce mode, the first denial. In shadow mode there is no error: the denial is in
/// [`Permit::would_deny`].
pub fn authorize(
    principal: &Principal,
    accesses: &Accesses<'_>,
    leases: &[LeaseEvidence],
) -> Result<Permit, Denial> {
    match decide(principal, accesses, leases) {
        Ok(grant) => Ok(Permit::of(principal, grant, None)),
        Err(denial) => refuse(principal, denial),
    }
}

/// Applies the mode to a denial that does not come from the rights, as for a malformed message or
/// an unknown method: enforcement denies, shadow mode permits and remembers the denial.
///
/// # Errors
/// In enforce mode, `denial` itself.
pub fn refuse(principal: &Principal, denial: Denial) -> Result<Permit, Denial> {
    match principal.mode {
        Mode::Enforce => Err(denial),
        Mode::Shadow => Ok(Permit::of(principal, None, Some(Box::new(denial)))),
    }
}

/// Checks that a binding matches the client. Every method requires this.
///
/// # Errors
/// The denial, if no binding matches.
pub fn check_binding(principal: &Principal) -> Result<(), Denial> {
    match principal.binding_status {
        BindingStatus::Bound => Ok(()),
        BindingStatus::Unbound => Err(Denial::new(Reason::NoBinding, "")),
        BindingStatus::Nameless(refusal) => Err(Denial::new(Reason::NoIdentity, refusal.code())),
        BindingStatus::BadCapture => Err(Denial::new(Reason::BadCapture, "")),
    }
}

fn decide(
    principal: &Principal,
    accesses: &Accesses<'_>,
    leases: &[LeaseEvidence],
) -> Result<Option<GrantId>, Denial> {
    check_binding(principal)?;
    let mut first = None;
    if let Some(capability) = accesses.capability {
        first = Some(holds(principal, capability)?);
    }
    for access in accesses.keys() {
        let grant = covered(principal, access.verbs, &access.range)?;
        first = first.or(grant);
    }
    for &(id, lease_use) in &accesses.leases {
        decide_lease(principal, id, lease_use, leases)?;
    }
    Ok(first)
}

fn holds(principal: &Principal, capability: Capability) -> Result<GrantId, Denial> {
    let rights = &principal.rights;
    // `lease-admin` includes `lease`.
    let by_lease_admin = || {
        if capability == Capability::Lease {
            rights.capability(Capability::LeaseAdmin)
        } else {
            None
        }
    };
    rights.capability(capability).or_else(by_lease_admin).ok_or(Denial {
        reason: Reason::CapabilityNotGranted,
        missing: Missing::Capability(capability),
    })
}

fn covered(
    principal: &Principal,
    verbs: Verbs,
    range: &KeyRange<'_>,
) -> Result<Option<GrantId>, Denial> {
    let mut first = None;
    for verb in verbs.iter() {
        let grant = principal.rights.covers(verb, range).map_err(|range| Denial {
            reason: Reason::KeyNotGranted,
            missing: Missing::Keys { verb, range },
        })?;
        first = first.or(Some(grant));
    }
    Ok(first)
}

fn decide_lease(
    principal: &Principal,
    id: i64,
    lease_use: LeaseUse,
    leases: &[LeaseEvidence],
) -> Result<(), Denial> {
    if principal.rights.capability(Capability::LeaseAdmin).is_some() {
        return Ok(());
    }
    if lease_use.extends_lifetime() {
        holds(principal, Capability::Lease)?;
    }
    let not_owned = Denial { reason: Reason::LeaseNotOwned, missing: Missing::Lease(id) };
    let known =
        leases.binary_search_by_key(&id, |evidence| evidence.id).ok().and_then(|at| leases.get(at));
    match known.map(|evidence| &evidence.claim) {
        Some(LeaseClaim::Own) => Ok(()),
        // The lease belongs to no identity. In etcd any user may revoke it, and this would delete a
        // key that another client attaches at the same time. So rights on keys are not enough: the
        // capability is required.
        Some(LeaseClaim::Unattached) => holds(principal, Capability::Lease).map(drop),
        Some(LeaseClaim::Covered) => Ok(()),
        Some(LeaseClaim::Unknown) => Err(Denial { reason: Reason::LeaseUnknown, ..not_owned }),
        Some(LeaseClaim::NotCovered | LeaseClaim::OtherIdentity) | None => Err(not_owned),
    }
}

#[cfg(test)]
mod tests;
