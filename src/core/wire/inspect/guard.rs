//! Guards. A compare of a Txn may prove that a key exists, or that it does not. Then a Put of this
//! key needs only `update` or only `create`.
//!
//! etcd evaluates every compare of a Txn, nested ones included, on the state before any operation
//! of the Txn is applied (`compareToPath`, `server/etcdserver/txn/txn.go`; the same in 3.4 to 3.7),
//! and it applies Txns one at a time. So if a branch runs, its compares held at the start of the
//! Txn. A compare holds for a key until an operation writes that key.
//!
//! * If the key is missing, its version, revisions and lease compare as 0. If it exists, its
//!   version and revisions are at least 1, and its lease is any number, 0 included. A compare of
//!   the **value** of a missing key is false for every relation.
//! * A compare of a range (`range_end`) is true if it holds for each key of the range, so also if
//!   the range contains no key. It proves nothing about one key and is no guard.
//! * In the success branch of a Txn, all its compares hold. In the failure branch, at least one
//!   does not hold. If the Txn has exactly one compare, its opposite holds there. Otherwise it is
//!   not known which compare failed, so there is no guard.
//!
//! A guard ends with the first Put or DeleteRange that may write its key, in any nested branch.
//! This is necessary because etcd does not refuse every Txn that writes a key twice:
//! `checkIntervals` ignores a DeleteRange with the open end `\0`. The compares of a nested Txn are
//! no guards if an enclosing Txn may have written anything before it.

use smallvec::SmallVec;

use crate::access::Verbs;
use crate::keyspace::KeyRange;

/// Limit on comparisons between keys and guards per Txn, to limit the time. Beyond it, guards are
/// ignored for the rest of the Txn. etcd's default limit of 128 operations, all of them guarded,
/// just fits.
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

/// Returns whether the key of a compare exists if the result of the compare is `outcome`. `None` if
/// the outcome proves neither.
pub(super) fn exists(relation: Relation, target: Target, outcome: bool) -> Option<bool> {
    match target {
        // A compare of a missing key's value is always false. So `true` proves that the key exists.
        Target::Value => outcome.then_some(true),
        Target::Lease(lease) => (relation.holds(0, lease) != outcome).then_some(true),
        Target::Counter(number) => {
            let missing = relation.holds(0, number) == outcome;
            // The relation has one result for all counters below `number`, and one for all above.
            // So these three values stand for every existing key.
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
    /// True if the key exists, false if it is missing.
    exists: bool,
    /// True after an operation that may write the key: the guard has ended.
    spent: bool,
}

/// The guards of the branch that is being read and of the branches around it.
pub(super) struct Guards<'m> {
    guards: SmallVec<[Guard<'m>; 4]>,
    /// Number of comparisons left ([`MAX_COMPARISONS`]).
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
        // Keys of one Txn usually differ at their ends. It is ten times as fast to compare the last
        // byte first.
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

    /// Ends the guards of the `written` keys. Returns whether their key exists, according to the
    /// first of them.
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
