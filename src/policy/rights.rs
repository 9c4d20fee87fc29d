//! What one identity may do, compiled.

use std::sync::Arc;

use crate::access::{Capability, Verb, Verbs};
use crate::keyspace::{KeyRange, OwnedRange};

/// One `allow` entry of a role, as a decision names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The role that holds it.
    pub role: Arc<str>,
    /// The role's place among all roles of the policy, for tables that hold one entry per role.
    pub role_index: u32,
    /// The key as written, or `capability NAME`.
    pub text: Arc<str>,
    /// The verbs as granted; none for a capability.
    pub verbs: Verbs,
    /// Where it was written: `FILE:LINE`, or `builtin:ROLE-SET:LINE`.
    pub source: Arc<str>,
}

/// A grant's place in the policy's list of grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub u32);

/// Everything that an identity may do.
#[derive(Clone, Debug, Default)]
pub struct Rights {}

impl Rights {
    /// The grant that covers the start of `range` if every key of `range` may be `verb`ed; else the first part of it that
    /// nothing covers. An empty range needs the right on its start.
    ///
    /// # Errors
    /// The first uncovered part of `range`.
    pub fn covers(&self, verb: Verb, range: &KeyRange<'_>) -> Result<GrantId, OwnedRange> {
        let _ = verb;
        Err((*range).into())
    }

    /// The grant of a capability.
    #[must_use]
    pub fn capability(&self, capability: Capability) -> Option<GrantId> {
        let _ = capability;
        None
    }
}
