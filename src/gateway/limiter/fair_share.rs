//! The rule by which owners share a limit.
//!
//! **An owner may hold at most 1/N of what it leaves to all others, but always a first amount while
//! the limit has room for it.** With N = 1, an owner that takes as much as possible gets a half of
//! the limit, the next one a quarter, and so on. So a newcomer always finds room.
//!
//! Amounts are slots or bytes. An owner is an identity, by its principal's name.

use std::cell::Cell;

use super::atomic::{AtomicUsize, Ordering};

/// A count of held amounts: a `Cell` within one thread, an atomic between threads.
pub trait Count {
    /// A count of 0.
    fn zero() -> Self;
    /// The current count.
    fn get(&self) -> usize;
    /// Adds to the count.
    fn add(&self, amount: usize);
    /// Subtracts an amount that was added before.
    fn subtract(&self, amount: usize);
}

impl Count for Cell<usize> {
    fn zero() -> Self {
        Self::new(0)
    }

    fn get(&self) -> usize {
        Self::get(self)
    }

    fn add(&self, amount: usize) {
        self.set(Self::get(self).saturating_add(amount));
    }

    fn subtract(&self, amount: usize) {
        self.set(Self::get(self).saturating_sub(amount));
    }
}

impl Count for AtomicUsize {
    fn zero() -> Self {
        Self::new(0)
    }

    fn get(&self) -> usize {
        self.load(Ordering::Relaxed)
    }

    fn add(&self, amount: usize) {
        self.fetch_add(amount, Ordering::AcqRel);
    }

    fn subtract(&self, amount: usize) {
        self.fetch_sub(amount, Ordering::AcqRel);
    }
}

/// A limit and the parameters of its rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The limit: all owners together may hold this amount.
    pub capacity: usize,
    /// N: an owner may hold 1/N of what it leaves to the others.
    pub divisor: usize,
    /// The maximum for one owner, even if more is left.
    pub per_owner: usize,
}

impl Rule {
    /// True if one owner may hold `mine` while all owners together hold `held`. Both include the
    /// requested amount. Up to the amount `first`, it is enough that the limit has room.
    const fn allows(&self, mine: usize, held: usize, first: usize) -> bool {
        let Some(left) = self.capacity.checked_sub(held) else { return false };
        let Some(part) = left.checked_div(self.divisor) else { return false };
        mine <= self.per_owner && (mine <= part || mine <= first)
    }
}

/// The total that all owners hold of one limit. In addition, each owner has its own [`Count`].
#[derive(Debug)]
pub struct Pool<C> {
    rule: Rule,
    held: C,
}

impl<C: Count> Pool<C> {
    /// A pool of which nothing is held.
    pub fn new(rule: Rule) -> Self {
        Self { rule, held: C::zero() }
    }

    /// Takes an amount for the owner whose count is `mine`, if the rule allows it. Up to the amount
    /// `first`, it is enough that the limit has room.
    ///
    /// If two threads ask for the last slot at the same moment, both may be refused. It is never
    /// given to both.
    #[must_use]
    pub fn try_take(&self, mine: &C, amount: usize, first: usize) -> bool {
        // More than the limit. After this check, no sum can overflow.
        if amount > self.rule.capacity {
            return false;
        }
        self.take_unchecked(mine, amount);
        let allowed = self.rule.allows(mine.get(), self.held.get(), first);
        if !allowed {
            self.give_back(mine, amount);
        }
        allowed
    }

    /// Takes an amount without checking the rule. It is counted like any other.
    pub fn take_unchecked(&self, mine: &C, amount: usize) {
        mine.add(amount);
        // Release order: a thread that adds to `held` later also sees the new count in `mine`.
        self.held.add(amount);
    }

    /// Gives back an amount that was taken with the same `mine`.
    pub fn give_back(&self, mine: &C, amount: usize) {
        mine.subtract(amount);
        self.held.subtract(amount);
    }

    /// The total that all owners hold.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// True if nothing is left.
    pub fn is_full(&self) -> bool {
        self.held.get() >= self.rule.capacity
    }
}
