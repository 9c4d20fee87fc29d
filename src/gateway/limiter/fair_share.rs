//! The rule by which owners share a limit.
//!
//! **An owner may hold at most 1/N of what it leaves to all others, but always a first amount while
//! the limit has room for it.** With N = 1 an owner that takes all it can gets a half of the limit,
//! the next one a quarter, and so on: a newcomer still finds room.
//!
//! Amounts are slots or bytes. An owner is an identity, by its principal's name.

use std::cell::Cell;

use super::atomic::{AtomicUsize, Ordering};

/// A count of what is held: a `Cell` within one thread, an atomic between threads.
pub trait Count {
    /// A count of 0.
    fn zero() -> Self;
    /// The present count.
    fn get(&self) -> usize;
    /// Adds to the count.
    fn add(&self, amount: usize);
    /// Subtracts what was added before.
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
    /// What all owners together may hold.
    pub capacity: usize,
    /// N: an owner may hold 1/N of what it leaves to the others.
    pub divisor: usize,
    /// What one owner may hold at most, whatever is left.
    pub per_owner: usize,
}

impl Rule {
    /// Whether one owner may hold `mine` of `held`, what all hold together, both counted with the
    /// amount that is asked for. Up to `first` it needs no more than room.
    const fn allows(&self, mine: usize, held: usize, first: usize) -> bool {
        let Some(left) = self.capacity.checked_sub(held) else { return false };
        let Some(part) = left.checked_div(self.divisor) else { return false };
        mine <= self.per_owner && (mine <= part || mine <= first)
    }
}

/// What all owners together hold of one limit. Each owner has a [`Count`] of its own beside it.
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

    /// Takes an amount for the owner whose count is `mine`, if the rule allows it: up to `first`
    /// the owner needs no more than room.
    ///
    /// Of two threads that ask for the last slot at the same moment, both may be refused. It is
    /// never given to both.
    #[must_use]
    pub fn try_take(&self, mine: &C, amount: usize, first: usize) -> bool {
        // Larger than all there is; past this check no sum can overflow.
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

    /// Takes an amount without any rule. It is counted all the same.
    pub fn take_unchecked(&self, mine: &C, amount: usize) {
        mine.add(amount);
        // Released after `mine`: a thread that adds to `held` later also sees this owner's count.
        self.held.add(amount);
    }

    /// Gives back an amount that was taken with the same `mine`.
    pub fn give_back(&self, mine: &C, amount: usize) {
        mine.subtract(amount);
        self.held.subtract(amount);
    }

    /// What all owners hold.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Whether nothing is left.
    pub fn is_full(&self) -> bool {
        self.held.get() >= self.rule.capacity
    }
}
