//! The compiled rights of one identity.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::keyset::{KeySet, Pattern};
use crate::access::{Capability, Verb, Verbs};
use crate::keyspace::{End, KeyRange, OwnedRange, cmp_end_to_key};

/// One key or capability that a role allows. Decisions name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The role that holds it.
    pub role: Arc<str>,
    /// Index of the role among all roles of the policy, for tables with one entry per role.
    pub role_index: u32,
    /// The key as written, or `capability NAME`.
    pub text: Arc<str>,
    /// The granted verbs; empty for a capability.
    pub verbs: Verbs,
    /// Its position: `FILE:LINE`, or `builtin:ROLE-SET:LINE`.
    pub source: Arc<str>,
}

/// Displays `ROLE: KEYS [VERBS] (SOURCE)`, as audit lines and `explain` show it.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.role, self.text)?;
        if !self.verbs.is_empty() {
            write!(f, " [{}]", self.verbs)?;
        }
        write!(f, " ({})", self.source)
    }
}

/// Index of a grant in the policy's list of grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub u32);

/// The rights of an identity.
///
/// It is defined which grant a decision names. Of the grants that contain the first key, it is the
/// first in the policy's order. A grant that is not a plain range (its key or a denial of its role
/// has an inner `*`) is used only in gaps, where no plain grant contains the key. Of several such
/// grants, it is the first that covers the whole gap.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    pub(super) tables: [Table; Verb::ALL.len()],
    /// Sorted; at most one entry per capability.
    pub(super) capabilities: Box<[(Capability, GrantId)]>,
}

/// The rights for one verb.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Sorted by start, disjoint.
    pub(super) pieces: Box<[Piece]>,
    /// Grants that cannot be expressed as pieces, in the policy's order. There are few of them, and
    /// they are tried only in the gaps between pieces.
    pub(super) extras: Box<[Extra]>,
    /// Patterns that bindings deny, whichever grant allows them. Denied ranges are not here: they
    /// are already subtracted from the pieces.
    pub(super) never: Box<[Pattern]>,
}

/// A range of consecutive keys with one grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: Box<[u8]>,
    /// Exclusive; `None` is the end of the key space.
    pub(super) end: Option<Box<[u8]>>,
    pub(super) grant: GrantId,
}

/// A grant that is a pattern, or that is restricted by a denied pattern.
#[derive(Clone, Debug)]
pub(super) struct Extra {
    pub(super) keys: KeySet,
    /// A range that may overlap one of these is not covered.
    pub(super) unless: Arc<[KeySet]>,
    pub(super) grant: GrantId,
}

impl Rights {
    /// Checks that `verb` is granted on every key of `range`. Returns the grant that covers its
    /// start. An empty range needs the right on its start.
    ///
    /// Allocates nothing if the range is covered and no pattern is involved.
    ///
    /// # Errors
    /// The first part of `range` that is not covered.
    pub fn covers(&self, verb: Verb, range: &KeyRange<'_>) -> Result<GrantId, OwnedRange> {
        let mut first = None;
        self.table(verb).walk(range, &mut |grant| {
            first.get_or_insert(grant);
        })?;
        first.ok_or_else(|| (*range).into())
    }

    /// Every grant that covers a part of `range`, in key order. Empty if the range is not covered.
    pub fn covering(&self, verb: Verb, range: &KeyRange<'_>) -> Vec<GrantId> {
        let mut all = Vec::new();
        let mut record = |grant| {
            if !all.contains(&grant) {
                all.push(grant);
            }
        };
        match self.table(verb).walk(range, &mut record) {
            Ok(()) => all,
            Err(_) => Vec::new(),
        }
    }

    /// The grant of a capability.
    pub fn capability(&self, capability: Capability) -> Option<GrantId> {
        let index = self.capabilities.binary_search_by_key(&capability, |(held, _)| *held).ok()?;
        self.capabilities.get(index).map(|(_, grant)| *grant)
    }

    fn table(&self, verb: Verb) -> &Table {
        let [read, create, update, delete] = &self.tables;
        match verb {
            Verb::Read => read,
            Verb::Create => create,
            Verb::Update => update,
            Verb::Delete => delete,
        }
    }
}

impl Table {
    /// Calls `grants` for each grant from the start of `range` to its end or to the first gap.
    fn walk(
        &self,
        range: &KeyRange<'_>,
        grants: &mut impl FnMut(GrantId),
    ) -> Result<(), OwnedRange> {
        // No key is empty: a range from "" starts at the smallest key.
        let start = if range.start.is_empty() { b"\0" } else { range.start };
        let asked = KeyRange { start, end: range.end };
        let range = if asked.is_empty() { KeyRange::key(start) } else { asked };
        if self.never.iter().any(|pattern| pattern.may_overlap(&range)) {
            return Err(range.into());
        }
        let mut rest = range;
        loop {
            let behind = self.pieces.partition_point(|piece| *piece.start <= *rest.start);
            let here = behind.checked_sub(1).and_then(|at| self.pieces.get(at));
            let next = match here.filter(|piece| piece.reaches(rest.start)) {
                Some(piece) => {
                    grants(piece.grant);
                    piece.end.as_deref()
                }
                None => {
                    let gap = until(&rest, self.pieces.get(behind).map(|piece| &*piece.start));
                    let (grant, end) = self
                        .extras
                        .iter()
                        .find_map(|extra| extra.covers(&gap))
                        .ok_or_else(|| OwnedRange::from(gap))?;
                    grants(grant);
                    end
                }
            };
            match next {
                Some(key)
                    if rest.end != End::OnlyStart
                        && cmp_end_to_key(&rest, key) == Ordering::Greater =>
                {
                    rest.start = key;
                }
                _ => return Ok(()),
            }
        }
    }
}

impl Piece {
    fn reaches(&self, key: &[u8]) -> bool {
        self.end.as_deref().is_none_or(|end| end > key)
    }
}

impl Extra {
    /// Checks whether this grant covers `gap` from its start. Returns the grant and the first key
    /// that it does not cover, or `None` instead of the key if it covers all of `gap`.
    fn covers<'k>(&'k self, gap: &KeyRange<'k>) -> Option<(GrantId, Option<&'k [u8]>)> {
        let part = match &self.keys {
            KeySet::Pattern(pattern) => pattern.covers(gap).then_some(*gap)?,
            KeySet::Range(range) => {
                let range = range.as_range();
                range.contains(gap.start).then_some(())?;
                match range.end {
                    End::Before(end) => until(gap, Some(end)),
                    End::OnlyStart => (gap.end == End::OnlyStart).then_some(*gap)?,
                    End::Open => *gap,
                }
            }
        };
        let free = !self.unless.iter().any(|denied| denied.may_overlap(&part));
        let end = match part.end {
            End::Before(end) => Some(end),
            End::OnlyStart | End::Open => None,
        };
        free.then_some((self.grant, end))
    }
}

/// The part of `range` before `key`.
fn until<'k>(range: &KeyRange<'k>, key: Option<&'k [u8]>) -> KeyRange<'k> {
    match key {
        Some(key) if cmp_end_to_key(range, key) == Ordering::Greater => {
            KeyRange { start: range.start, end: End::Before(key) }
        }
        _ => *range,
    }
}
