//! Compiles the roles of an identity into sorted disjoint ranges, in O(n log n) for n grants and
//! denials.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::keyset::{KeySet, Pattern};
use super::rights::{Extra, GrantId, Piece, Rights, Table};
use crate::access::{Capability, Verb, Verbs};
use crate::keyspace::{OwnedEnd, OwnedRange};

/// The roles and denials of one identity as the policy states them: the input of the compiler and
/// of the reference model.
#[derive(Clone, Debug, Default)]
pub struct Entitlements {
    /// The roles, with captured values filled in.
    pub roles: Vec<ResolvedRole>,
    /// Denials of the bindings. They apply to all roles.
    pub denied: Vec<(KeySet, Verbs)>,
}

/// One role with captured values filled in.
#[derive(Clone, Debug, Default)]
pub struct ResolvedRole {
    /// Grants on keys.
    pub allowed: Vec<(KeySet, Verbs, GrantId)>,
    /// Denials. They apply to this role.
    pub denied: Vec<(KeySet, Verbs)>,
    /// Granted capabilities.
    pub capabilities: Vec<(Capability, GrantId)>,
}

impl Entitlements {
    /// Compiles the rights.
    pub fn compile(&self) -> Rights {
        let mut capabilities: Vec<(Capability, GrantId)> =
            self.roles.iter().flat_map(|role| role.capabilities.iter().copied()).collect();
        capabilities.sort_unstable();
        capabilities.dedup_by_key(|(capability, _)| *capability);
        Rights { tables: Verb::ALL.map(|verb| self.table(verb)), capabilities: capabilities.into() }
    }

    fn table(&self, verb: Verb) -> Table {
        let denied = of_verb(&self.denied, verb);
        let (mut pieces, mut extras) = (Vec::new(), Vec::new());
        for role in &self.roles {
            role.compile(verb, &denied, &mut pieces, &mut extras);
        }
        extras.sort_by_key(|extra| extra.grant);
        Table {
            pieces: sweep(&pieces, &[]).into(),
            extras: extras.into(),
            never: patterns(&denied).cloned().collect(),
        }
    }
}

impl ResolvedRole {
    fn compile(
        &self,
        verb: Verb,
        denied: &[&KeySet],
        pieces: &mut Vec<Piece>,
        extras: &mut Vec<Extra>,
    ) {
        let own = of_verb(&self.denied, verb);
        let (mut ranges, mut open) = (Vec::new(), Vec::new());
        for (keys, _, grant) in self.allowed.iter().filter(|(_, verbs, _)| verbs.contains(verb)) {
            match keys {
                KeySet::Range(range) => ranges.push(piece(range, *grant)),
                KeySet::Pattern(pattern) => open.push((pattern, *grant)),
            }
        }
        let holes: Vec<Piece> = own
            .iter()
            .chain(denied)
            .filter_map(|keys| as_range(keys))
            .map(|range| piece(range, GrantId(0)))
            .collect();
        let ranges = sweep(&ranges, &holes);
        let guards: Arc<[KeySet]> = patterns(&own).cloned().map(KeySet::Pattern).collect();
        if guards.is_empty() {
            pieces.extend(ranges);
        } else {
            // A denial with an inner `*` cannot be subtracted from a range. So each request is
            // checked against it.
            extras.extend(ranges.into_iter().map(|piece| Extra {
                grant: piece.grant,
                keys: KeySet::Range(piece.into()),
                unless: Arc::clone(&guards),
            }));
        }
        let unless: Arc<[KeySet]> = own
            .iter()
            .chain(denied.iter().filter(|keys| as_range(keys).is_some()))
            .map(|keys| (*keys).clone())
            .collect();
        extras.extend(open.into_iter().map(|(pattern, grant)| Extra {
            keys: KeySet::Pattern(pattern.clone()),
            unless: Arc::clone(&unless),
            grant,
        }));
    }
}

impl From<Piece> for OwnedRange {
    fn from(piece: Piece) -> Self {
        OwnedRange { start: piece.start, end: piece.end.map_or(OwnedEnd::Open, OwnedEnd::Before) }
    }
}

fn of_verb(denied: &[(KeySet, Verbs)], verb: Verb) -> Vec<&KeySet> {
    denied.iter().filter(|(_, verbs)| verbs.contains(verb)).map(|(keys, _)| keys).collect()
}

fn as_range(keys: &KeySet) -> Option<&OwnedRange> {
    match keys {
        KeySet::Range(range) => Some(range),
        KeySet::Pattern(_) => None,
    }
}

fn patterns<'k>(keys: &'k [&KeySet]) -> impl Iterator<Item = &'k Pattern> {
    keys.iter().filter_map(|keys| match keys {
        KeySet::Pattern(pattern) => Some(pattern),
        KeySet::Range(_) => None,
    })
}

/// A range with an explicit end.
fn piece(range: &OwnedRange, grant: GrantId) -> Piece {
    let end = match &range.end {
        OwnedEnd::Before(end) => Some(end.clone()),
        OwnedEnd::OnlyStart => Some([&*range.start, b"\0"].concat().into()),
        OwnedEnd::Open => None,
    };
    Piece { start: range.start.clone(), end, grant }
}

/// The start or end of a range or a hole.
#[derive(Clone, Copy)]
enum Edge {
    Enter(GrantId),
    Leave(GrantId),
    HoleBegins,
    HoleEnds,
}

/// Returns sorted disjoint pieces that together contain the keys of `ranges` except those of
/// `holes`. Where grants overlap, the first one in the policy is used.
fn sweep(ranges: &[Piece], holes: &[Piece]) -> Vec<Piece> {
    let mut edges: Vec<(&[u8], Edge)> = Vec::with_capacity(2 * (ranges.len() + holes.len()));
    for range in ranges {
        edges.push((&range.start, Edge::Enter(range.grant)));
        edges.extend(range.end.as_deref().map(|end| (end, Edge::Leave(range.grant))));
    }
    for hole in holes {
        edges.push((&hole.start, Edge::HoleBegins));
        edges.extend(hole.end.as_deref().map(|end| (end, Edge::HoleEnds)));
    }
    edges.sort_by_key(|(key, _)| *key);
    // An identity may have a role twice, with different captures, so the sweep may be inside the
    // same grant more than once. So count.
    let mut inside: BTreeMap<GrantId, usize> = BTreeMap::new();
    let mut holes_here = 0_usize;
    let mut pieces: Vec<Piece> = Vec::new();
    let mut open: Option<(&[u8], GrantId)> = None;
    let mut edges = edges.into_iter().peekable();
    while let Some((key, edge)) = edges.next() {
        match edge {
            Edge::Enter(grant) => *inside.entry(grant).or_default() += 1,
            Edge::Leave(grant) => {
                if let Entry::Occupied(mut entry) = inside.entry(grant) {
                    *entry.get_mut() -= 1;
                    if *entry.get() == 0 {
                        entry.remove();
                    }
                }
            }
            Edge::HoleBegins => holes_here += 1,
            Edge::HoleEnds => holes_here = holes_here.saturating_sub(1),
        }
        if edges.peek().is_some_and(|(next, _)| *next == key) {
            continue;
        }
        let now = if holes_here > 0 { None } else { inside.keys().next().copied() };
        if open.map(|(_, grant)| grant) != now {
            if let Some((start, grant)) = open {
                pieces.push(Piece { start: start.into(), end: Some(key.into()), grant });
            }
            open = now.map(|grant| (key, grant));
        }
    }
    if let Some((start, grant)) = open {
        pieces.push(Piece { start: start.into(), end: None, grant });
    }
    pieces
}
