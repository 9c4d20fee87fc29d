//! The decision. The only place where a [`Permit`] is made, and a request is forwarded only with
//! one.

pub mod reference;

use std::fmt;
use std::sync::Arc;

use crate::access::{Accesses, Capability, LeaseUse, Verb, Verbs};
use crate::keyspace::{KeyRange, OwnedRange};
use crate::policy::{GrantId, Mode, Principal, Rights, Standing};
use crate::wire::Malformed;

/// The right to forward one message. It has no public constructor: [`authorize`] and [`refuse`]
/// make it.
#[derive(Debug)]
#[must_use = "a permit is made to forward a message"]
pub struct Permit {
    grant: Option<GrantId>,
    would_deny: Option<Box<Denial>>,
    mode: Mode,
    generation: u64,
}

impl Permit {
    /// The grant that allowed the first access; `None` when the request touches nothing, or only by
    /// lease ownership.
    #[must_use]
    pub fn grant(&self) -> Option<GrantId> {
        self.grant
    }

    /// In shadow mode: the refusal that enforcement would have given.
    #[must_use]
    pub fn would_deny(&self) -> Option<&Denial> {
        self.would_deny.as_deref()
    }

    /// The mode of the client when the permit was made. A permit of shadow mode says nothing about
    /// rights.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The policy generation that the permit was made under. Under another one it proves nothing.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    fn of(principal: &Principal, grant: Option<GrantId>, would_deny: Option<Box<Denial>>) -> Self {
        Permit { grant, would_deny, mode: principal.mode, generation: principal.generation }
    }
}

/// What was decided, as the audit and the metrics have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Allowed by the policy.
    Allow,
    /// Refused.
    Deny,
    /// Let through by shadow mode; enforcement would refuse it.
    WouldDeny,
}

impl Decision {
    /// All decisions.
    pub const ALL: [Decision; 3] = [Decision::Allow, Decision::Deny, Decision::WouldDeny];

    /// The stable name in audit lines and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Decision::Allow => "allow",
            Decision::Deny => "deny",
            Decision::WouldDeny => "would_deny",
        }
    }
}

/// A refusal, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The closed reason.
    pub reason: Reason,
    /// What exactly is missing or wrong.
    pub missing: Missing,
}

/// Why a request is refused: a closed list, stable in audit lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No binding matches the identity.
    NoBinding,
    /// The certificate has no usable name; the [`Missing`] says which way.
    NoIdentity,
    /// A captured value is no DNS-1123 subdomain.
    BadCapture,
    /// Some key is not covered.
    KeyNotGranted,
    /// The capability is not granted.
    CapabilityNotGranted,
    /// The lease belongs to somebody else.
    LeaseNotOwned,
    /// Whose the lease is cannot be found out: etcd did not say which keys are attached.
    LeaseUnknown,
    /// The message cannot be judged.
    MalformedMessage,
    /// The path names no method of etcd.
    UnknownMethod,
    /// The request is not gRPC at all (HTTP method, content type).
    NotGrpc,
    /// `grpc-encoding` names a compression that etcd does not have: all but gzip.
    Compressed,
    /// The message is larger than the limit.
    TooLarge,
    /// The body is not one whole message (cut, several, none, trailers behind it).
    BadFraming,
    /// `Authenticate` while client tokens are stripped: the token could never be used.
    TokensStripped,
    /// HTTP/2 refused it: there was no request to judge, or none any more.
    Http2,
    /// A limit of the process or of the identity.
    Limit,
    /// The audit queue is full and `audit-on-full` is `deny`.
    AuditFull,
}

impl Reason {
    /// All reasons.
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
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Reason::NoBinding => "no-binding",
            Reason::NoIdentity => "no-identity",
            Reason::BadCapture => "bad-capture",
            Reason::KeyNotGranted => "key-not-granted",
            Reason::CapabilityNotGranted => "capability-not-granted",
            Reason::LeaseNotOwned => "lease-not-owned",
            Reason::LeaseUnknown => "lease-unknown",
            Reason::MalformedMessage => "malformed-message",
            Reason::UnknownMethod => "unknown-method",
            Reason::NotGrpc => "not-grpc",
            Reason::Compressed => "compressed",
            Reason::TooLarge => "too-large",
            Reason::BadFraming => "bad-framing",
            Reason::TokensStripped => "tokens-stripped",
            Reason::Http2 => "http2",
            Reason::Limit => "limit",
            Reason::AuditFull => "audit-full",
        }
    }
}

/// The particulars of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing more to say than the reason.
    Nothing,
    /// The first verb and part of the key space that no grant covers.
    Keys {
        /// What was to be done.
        verb: Verb,
        /// The first uncovered part.
        range: OwnedRange,
    },
    /// The capability.
    Capability(Capability),
    /// The lease.
    Lease(i64),
    /// What is wrong with the message.
    Form(Malformed),
    /// How long the message is, and how long it may be, in bytes.
    Size {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The compressed message becomes longer than it may be.
    Unpacked {
        /// How long that is, in bytes.
        limit: usize,
    },
    /// What is wrong with the request around the message, in words that may be shown to the client.
    Text(&'static str),
}

impl Denial {
    /// A refusal with nothing to add, or with a fixed sentence.
    #[must_use]
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
                write!(f, ": {length} bytes, and at most {limit} are read")
            }
            Missing::Unpacked { limit } => {
                write!(f, ": more than {limit} bytes when it is unpacked")
            }
            Missing::Text(text) => write!(f, ": {text}"),
        }
    }
}

/// What is known of a lease that a request names. A lease without evidence is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseEvidence {
    /// The lease's id.
    pub id: i64,
    /// Whose it is.
    pub standing: LeaseStanding,
}

/// Whose a lease is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseStanding {
    /// The id carries the caller's mark.
    Own,
    /// No mark of the caller's, and no key is attached to it, as etcd says: it belongs to no
    /// identity.
    Unattached,
    /// No mark of the caller's, and the caller may do to every attached key what the message does
    /// with the lease: see [`AttachedKeys`].
    Covered,
    /// No mark of the caller's, and the caller may not do that to one of its keys.
    NotCovered,
    /// Marked for another identity, and no keys are attached yet.
    AnotherIdentity,
    /// No mark of the caller's, and etcd did not answer.
    Unknown,
}

/// Finds out, key by key, whether a caller may do to every key of a lease what its message does
/// with the lease. The keys of a lease may be many: none is kept, and after the first that is not
/// covered no other has to be seen.
#[derive(Clone, Debug)]
pub struct AttachedKeys {
    principal: Arc<Principal>,
    /// What is needed on each key.
    verbs: Verbs,
    standing: LeaseStanding,
}

impl AttachedKeys {
    /// No key yet, of the lease `id` that a message with these accesses names.
    #[must_use]
    pub fn of(principal: Arc<Principal>, id: i64, accesses: &Accesses<'_>) -> Self {
        let uses = accesses.leases.iter().filter(|(of, _)| *of == id);
        let verbs = uses
            .fold(Verbs::NONE, |verbs, (_, lease_use)| verbs.and(lease_use.verbs_on_attached()));
        Self { principal, verbs, standing: LeaseStanding::Unattached }
    }

    /// One attached key. False: the lease may not be used, whatever its other keys are.
    pub fn see(&mut self, key: &[u8]) -> bool {
        let is_covered = self.standing != LeaseStanding::NotCovered
            && covered(&self.principal, self.verbs, &KeyRange::key(key)).is_ok();
        self.standing = if is_covered { LeaseStanding::Covered } else { LeaseStanding::NotCovered };
        is_covered
    }

    /// What its answers depend on beside the keys. Two that have this in common say the same of the
    /// same keys.
    #[must_use]
    pub fn depends_on(&self) -> (*const Rights, Verbs) {
        (Arc::as_ptr(&self.principal.rights), self.verbs)
    }

    /// What follows from all keys of the lease, or from those up to the first that is not covered.
    #[must_use]
    pub fn standing(&self) -> LeaseStanding {
        self.standing.clone()
    }
}

/// Judges one message. What is known of `leases` is sorted by id: a message may name ten thousand.
/// Evidence that is out of order may not be found, and then its lease is refused.
///
/// # Errors
/// In enforce mode, the first thing that is missing. In shadow mode never: the refusal is in
/// [`Permit::would_deny`].
pub fn authorize(
    principal: &Principal,
    accesses: &Accesses<'_>,
    leases: &[LeaseEvidence],
) -> Result<Permit, Denial> {
    match judge(principal, accesses, leases) {
        Ok(grant) => Ok(Permit::of(principal, grant, None)),
        Err(denial) => refuse(principal, denial),
    }
}

/// Turns a refusal that was found outside the rights (a malformed message, an unknown method) into
/// what the mode makes of it.
///
/// # Errors
/// In enforce mode, `denial` itself.
pub fn refuse(principal: &Principal, denial: Denial) -> Result<Permit, Denial> {
    match principal.mode {
        Mode::Enforce => Err(denial),
        Mode::Shadow => Ok(Permit::of(principal, None, Some(Box::new(denial)))),
    }
}

/// Whether the caller may speak at all; every method needs at least this.
///
/// # Errors
/// Why not.
pub fn standing(principal: &Principal) -> Result<(), Denial> {
    match principal.standing {
        Standing::Bound => Ok(()),
        Standing::Unbound => Err(Denial::new(Reason::NoBinding, "")),
        Standing::Nameless(refusal) => Err(Denial::new(Reason::NoIdentity, refusal.code())),
        Standing::BadCapture => Err(Denial::new(Reason::BadCapture, "")),
    }
}

fn judge(
    principal: &Principal,
    accesses: &Accesses<'_>,
    leases: &[LeaseEvidence],
) -> Result<Option<GrantId>, Denial> {
    standing(principal)?;
    let mut first = None;
    if let Some(capability) = accesses.capability {
        first = Some(holds(principal, capability)?);
    }
    for access in accesses.keys() {
        let grant = covered(principal, access.verbs, &access.range)?;
        first = first.or(grant);
    }
    for &(id, lease_use) in &accesses.leases {
        judge_lease(principal, id, lease_use, leases)?;
    }
    Ok(first)
}

fn holds(principal: &Principal, capability: Capability) -> Result<GrantId, Denial> {
    let rights = &principal.rights;
    // Who may do everything with the leases of others may do it with leases.
    let by_more = || {
        if capability == Capability::Lease {
            rights.capability(Capability::LeaseAdmin)
        } else {
            None
        }
    };
    rights.capability(capability).or_else(by_more).ok_or(Denial {
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

fn judge_lease(
    principal: &Principal,
    id: i64,
    lease_use: LeaseUse,
    leases: &[LeaseEvidence],
) -> Result<(), Denial> {
    if principal.rights.capability(Capability::LeaseAdmin).is_some() {
        return Ok(());
    }
    if lease_use.prolongs() {
        holds(principal, Capability::Lease)?;
    }
    let not_owned = Denial { reason: Reason::LeaseNotOwned, missing: Missing::Lease(id) };
    let known =
        leases.binary_search_by_key(&id, |evidence| evidence.id).ok().and_then(|at| leases.get(at));
    match known.map(|evidence| &evidence.standing) {
        Some(LeaseStanding::Own) => Ok(()),
        // Nobody's: etcd lets every user end it, and so take a key from whoever is about to attach
        // one. That is more than a right to keys.
        Some(LeaseStanding::Unattached) => holds(principal, Capability::Lease).map(drop),
        Some(LeaseStanding::Covered) => Ok(()),
        Some(LeaseStanding::Unknown) => Err(Denial { reason: Reason::LeaseUnknown, ..not_owned }),
        Some(LeaseStanding::NotCovered | LeaseStanding::AnotherIdentity) | None => Err(not_owned),
    }
}

#[cfg(test)]
mod tests;
