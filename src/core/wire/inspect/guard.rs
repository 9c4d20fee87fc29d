//! Guards: what the compares of a Txn prove about the existence of keys, and for how long.
//!
//! etcd evaluates every compare of a Txn, nested ones included, on the state before any operation
//! of the Txn is applied (`compareToPath`, `server/etcdserver/txn/txn.go`; the same in 3.4 to 3.7),
//! and it applies Txns one at a time. So if a branch runs, its compares held at the start of the
//! Txn. A compare holds for a key until an operation writes that key.
//!
//! * For a missing key, version, revisions and lease compare as 0. An existing key has version and
//!   revisions of at least 1 and any lease, 0 included. A compare of the **value** of a missing key
//!   is false for every relation.
//! * A range compare (`range_end`) is true if it holds for each key, and also if the range holds no
//!   key. So it is no guard.
//! * All compares of a Txn hold in its success branch. In its failure branch one of them does not
//!   hold. Which one is known only if there is exactly one: then its opposite holds.
//!
//! A guard ends with the first Put or DeleteRange that may reach its key, in any nested branch.
//! etcd refuses most Txns that write a key twice, but not all: `checkIntervals` ignores a
//! DeleteRange with the open end `\0`. The compares of a nested Txn guard nothing if an enclosing
//! Txn may have written anything before it.

use smallvec::SmallVec;

use crate::access::Verbs;
use crate::keyspace::KeyRange;

/// Number of comparisons between keys and guards per Txn. Beyond it, guards are ignored for the
/// rest of the Txn, which bounds the time. 128 guarded operations, etcd's default limit, are just
/// within it.
pub(super) const MAX_COMPARISONS: usize = 128 * 128;

/// The compared property of a key and the value it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `VERSION`, `CREATE` or `MOD`: 0 for a missing key, at least 1 for an existing one.
    Counter(i64),
    /// `LEASE`: 0 for a missing key, any number for an existing one.
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

/// Whether the key of a compare exists, given that the compare came out as `outcome`. `None` if
/// that does not follow.
pub(super) fn exists(relation: Relation, target: Target, outcome: bool) -> Option<bool> {
    match target {
        // A compare of a missing key's value is false. So true proves that the key exists.
        Target::Value => outcome.then_some(true),
        Target::Lease(lease) => (relation.holds(0, lease) != outcome).then_some(true),
        Target::Counter(number) => {
            let missing = relation.holds(0, number) == outcome;
            // The relation has one result below `number` and one above it.
            let present = [1, number.max(1), i64::MAX]
                .iter()
                .any(|&counter| relation.holds(counter, number) == outcome);
            match (missing, present) {
                (true, false) => Some(false),
                (false, true) => Some(true),
                // Either both are possible, or neither is and the branch never runs.
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

/// The guards of the branch that is being read and of the branches around it.
pub(super) struct Guards<'m> {
    guards: SmallVec<[Guard<'m>; 4]>,
    budget: usize,
}

impl<'m> Guards<'m> {
    pub(super) fn new() -> Self {
        Self { guards: SmallVec::new(), budget: MAX_COMPARISONS }
    }

    /// Number of guards, for a later [`Guards::leave`].
    pub(super) fn depth(&self) -> usize {
        self.guards.len()
    }

    /// Removes the guards of a branch that has been read.
    pub(super) fn leave(&mut self, depth: usize) {
        self.guards.truncate(depth);
    }

    pub(super) fn add(&mut self, key: &'m [u8], exists: bool) {
        self.guards.push(Guard { key, exists, spent: false });
    }

    /// The possible effects of a Put of `key`. Ends the guards of that key.
    pub(super) fn put(&mut self, key: &[u8]) -> Verbs {
        // Keys of one Txn usually differ at their ends. Comparing the last byte first makes the
        // search ten times as fast.
        match self.end(|guarded| guarded.last() == key.last() && guarded == key) {
            Some(true) => Verbs::UPDATE,
            Some(false) => Verbs::CREATE,
            None => Verbs::PUT,
        }
    }

    /// Ends the guards of the keys in `range`. No guard narrows a DeleteRange.
    pub(super) fn delete(&mut self, range: &KeyRange<'_>) {
        self.end(|guarded| range.contains(guarded));
    }

    /// Ends the guards of the `written` keys. Returns what the first of them proved.
    fn end(&mut self, written: impl Fn(&[u8]) -> bool) -> Option<bool> {
        let Some(budget) = self.budget.checked_sub(self.guards.len()) else {
            // Out of budget: every guard added later is removed here before it is used.
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
