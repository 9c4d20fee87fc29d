//! What one identity may do, compiled.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::keyset::{KeySet, Pattern};
use crate::access::{Capability, Verb, Verbs};
use crate::keyspace::{End, KeyRange, OwnedRange, cmp_end_to_key};

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

/// `ROLE: KEYS [VERBS] (SOURCE)`, as audit lines and `explain` show it.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.role, self.text)?;
        if !self.verbs.is_empty() {
            write!(f, " [{}]", self.verbs)?;
        }
        write!(f, " ({})", self.source)
    }
}

/// A grant's place in the policy's list of grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub u32);

/// Everything that an identity may do.
///
/// Which grant a decision names is part of the contract: of those that hold the first key, the
/// first in the policy's order; but entries that need more than a range (an inner `*`, or a role
/// with a denial that has one) only when no other does, and of those the first that holds the whole
/// gap.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    pub(super) tables: [Table; Verb::ALL.len()],
    /// Sorted, at most one entry per capability.
    pub(super) capabilities: Box<[(Capability, GrantId)]>,
}

/// The keys of one verb.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Sorted by start, disjoint.
    pub(super) pieces: Box<[Piece]>,
    /// What the pieces cannot say, in the policy's order. Few: each is tried where the pieces
    /// leave a gap.
    pub(super) extras: Box<[Extra]>,
    /// Denied to the identity, whatever grants it; what could be subtracted from the pieces
    /// already is.
    pub(super) never: Box<[Pattern]>,
}

/// Consecutive keys of one grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: Box<[u8]>,
    /// Exclusive; `None` is the end of the key space.
    pub(super) end: Option<Box<[u8]>>,
    pub(super) grant: GrantId,
}

/// A grant that is a pattern, or that is guarded by denials which no range can say.
#[derive(Clone, Debug)]
pub(super) struct Extra {
    pub(super) keys: KeySet,
    /// Nothing that may touch one of these is covered.
    pub(super) unless: Arc<[KeySet]>,
    pub(super) grant: GrantId,
}

impl Rights {
    /// The grant that covers the start of `range` if every key of `range` may be `verb`ed; else the
    /// first part of it that nothing covers. An empty range needs the right on its start.
    /// Allocates nothing when the range is covered and no pattern is concerned.
    ///
    /// # Errors
    /// The first uncovered part of `range`.
    pub fn covers(&self, verb: Verb, range: &KeyRange<'_>) -> Result<GrantId, OwnedRange> {
        let mut first = None;
        self.table(verb).walk(range, &mut |grant| {
            first.get_or_insert(grant);
        })?;
        first.ok_or_else(|| (*range).into())
    }

    /// Every grant that has a part in covering `range`, in the order of the keys. Empty when the
    /// range is not covered.
    #[must_use]
    pub fn covering(&self, verb: Verb, range: &KeyRange<'_>) -> Vec<GrantId> {
        let mut all = Vec::new();
        let mut note = |grant| {
            if !all.contains(&grant) {
                all.push(grant);
            }
        };
        match self.table(verb).walk(range, &mut note) {
            Ok(()) => all,
            Err(_) => Vec::new(),
        }
    }

    /// The grant of a capability.
    #[must_use]
    pub fn capability(&self, capability: Capability) -> Option<GrantId> {
        let place = self.capabilities.binary_search_by_key(&capability, |(held, _)| *held).ok()?;
        self.capabilities.get(place).map(|(_, grant)| *grant)
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
    /// Goes through `range` from its start, grant by grant, to its end or to the first gap.
    fn walk(
        &self,
        range: &KeyRange<'_>,
        grants: &mut impl FnMut(GrantId),
    ) -> Result<(), OwnedRange> {
        // No key is empty: a range from "" begins with the smallest key.
        let start = if range.start.is_empty() { b"\0" } else { range.start };
        let asked = KeyRange { start, end: range.end };
        let range = if asked.is_empty() { KeyRange::key(start) } else { asked };
        if self.never.iter().any(|pattern| pattern.may_touch(&range)) {
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
                    rest.start = key
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
    /// Whether this covers `gap` from its start on: the grant, and the first key behind what it
    /// covers (`None`: all of it).
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
        let free = !self.unless.iter().any(|denied| denied.may_touch(&part));
        let end = match part.end {
            End::Before(end) => Some(end),
            End::OnlyStart | End::Open => None,
        };
        free.then_some((self.grant, end))
    }
}

/// `range`, or what of it lies before `key`.
fn until<'k>(range: &KeyRange<'k>, key: Option<&'k [u8]>) -> KeyRange<'k> {
    match key {
        Some(key) if cmp_end_to_key(range, key) == Ordering::Greater => {
            KeyRange { start: range.start, end: End::Before(key) }
        }
        _ => *range,
    }
}
