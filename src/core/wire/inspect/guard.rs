//! What the compares of a Txn say about keys, and for how long it holds.
//!
//! etcd evaluates every compare of a Txn, of nested ones too, on the state before any of its
//! operations is applied (`compareToPath`, `server/etcdserver/txn/txn.go`; the same in 3.4 to 3.7),
//! and applies Txns one at a time. So whenever a branch runs, what its compares demand was true at
//! the start of the Txn. It is true of a key until something writes that key.
//!
//! * A missing key compares as version, revisions and lease 0; a key that is there has version and
//!   revisions of at least 1, and any lease, 0 too. Comparing the **value** of a missing key is
//!   false whatever the result asked for.
//! * A range compare (`range_end`) is true when it is true of each key, and of none: it is no
//!   guard.
//! * All compares of a Txn hold in its success branch. In its failure branch one of them does not,
//!   and which one is known only when there is just one: then its opposite holds.
//!
//! A guard ends with the first Put or DeleteRange that may reach its key, in whichever nested
//! branch: etcd refuses most such Txns, but not all (a DeleteRange with the open end `\0` is not
//! seen by `checkIntervals`). And the compares of a nested Txn guard nothing when the Txn around it
//! may have written anything before.

use smallvec::SmallVec;

use crate::access::Verbs;
use crate::keyspace::KeyRange;

/// How many times a key of a Txn is compared with a guard before guards are ignored for the rest of
/// it, so that the time is bounded: 128 guarded operations, etcd's own default limit, just fit.
pub(super) const BUDGET: usize = 128 * 128;

/// What a compare is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `VERSION`, `CREATE` or `MOD`: 0 for a missing key, at least 1 for others.
    Counter(i64),
    /// `LEASE`: 0 for a missing key, anything for others.
    Lease(i64),
    /// `VALUE`.
    Value,
}

/// `Compare.result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    Greater,
    Less,
    NotEqual,
}

impl Relation {
    const fn holds(self, left: i64, right: i64) -> bool {
        match self {
            Relation::Equal => left == right,
            Relation::Greater => left > right,
            Relation::Less => left < right,
            Relation::NotEqual => left != right,
        }
    }
}

/// Whether the key of a compare exists, given that the compare came out as `outcome`; `None` when
/// that does not say.
pub(super) fn exists(relation: Relation, target: Target, outcome: bool) -> Option<bool> {
    match target {
        // False for a missing key: true means that it is there.
        Target::Value => outcome.then_some(true),
        Target::Lease(lease) => (relation.holds(0, lease) != outcome).then_some(true),
        Target::Counter(number) => {
            let missing = relation.holds(0, number) == outcome;
            // A relation to one number is constant below it and above it.
            let present = [1, number.max(1), i64::MAX]
                .iter()
                .any(|&counter| relation.holds(counter, number) == outcome);
            match (missing, present) {
                (true, false) => Some(false),
                (false, true) => Some(true),
                // Both are possible; or neither is, and the branch never runs.
                _ => None,
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Guard<'m> {
    key: &'m [u8],
    exists: bool,
    spent: bool,
}

/// The guards of the branch that is being read, and of those around it.
pub(super) struct Guards<'m> {
    guards: SmallVec<[Guard<'m>; 4]>,
    budget: usize,
}

impl<'m> Guards<'m> {
    pub(super) fn new() -> Self {
        Self { guards: SmallVec::new(), budget: BUDGET }
    }

    /// How many there are, to go back to with [`Guards::leave`].
    pub(super) fn depth(&self) -> usize {
        self.guards.len()
    }

    /// Ends those of a branch that has been read.
    pub(super) fn leave(&mut self, depth: usize) {
        self.guards.truncate(depth);
    }

    pub(super) fn add(&mut self, key: &'m [u8], exists: bool) {
        self.guards.push(Guard { key, exists, spent: false });
    }

    /// What a Put of `key` can be here. Ends the guards of that key.
    pub(super) fn put(&mut self, key: &[u8]) -> Verbs {
        // Keys of one Txn tend to differ at their ends: looking there first makes the search ten
        // times as fast.
        match self.end(|guarded| guarded.last() == key.last() && guarded == key) {
            Some(true) => Verbs::UPDATE,
            Some(false) => Verbs::CREATE,
            None => Verbs::PUT,
        }
    }

    /// Ends the guards of the keys in `range`. A DeleteRange is narrowed by nothing.
    pub(super) fn delete(&mut self, range: &KeyRange<'_>) {
        self.end(|guarded| range.contains(guarded));
    }

    /// Ends the guards of the keys that are `written`, and says what the first of them knew.
    fn end(&mut self, written: impl Fn(&[u8]) -> bool) -> Option<bool> {
        let Some(budget) = self.budget.checked_sub(self.guards.len()) else {
            // With no budget left, every guard that is still added ends here before it is asked.
            self.budget = 0;
            self.guards.clear();
            return None;
        };
        self.budget = budget;
        let mut known = None;
        for guard in self.guards.iter_mut().filter(|guard| !guard.spent && written(guard.key)) {
            known = known.or(Some(guard.exists));
            guard.spent = true;
        }
        known
    }
}
