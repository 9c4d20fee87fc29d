//! Slots: units of a limit that identities hold across threads, singly or several at once.

use std::cell::Cell;
use std::sync::Arc;

use super::atomic::AtomicUsize;
use super::fair_share::{Count as _, Pool, Rule};

/// All slots of one limit.
pub type SlotPool = Pool<AtomicUsize>;

/// A pool of `capacity` slots, of which one owner may hold `per_owner` at most.
pub fn pool(capacity: usize, per_owner: Option<usize>) -> Arc<SlotPool> {
    let per_owner = per_owner.unwrap_or(usize::MAX);
    Arc::new(Pool::new(Rule { capacity, divisor: 1, per_owner }))
}

/// The slots of one limit that one owner holds. While any slot is free, the owner always gets a
/// first one.
pub struct Limiter {
    pool: Arc<SlotPool>,
    held: AtomicUsize,
}

/// One slot. Dropping it gives it back.
#[must_use = "the slot is given back when this is dropped"]
pub struct Slot(Arc<Limiter>);

/// A changing number of slots. Dropping it gives all of them back.
pub struct Slots {
    limiter: Arc<Limiter>,
    held: Cell<usize>,
}

impl Limiter {
    /// A limiter of an owner that holds no slot of `pool`.
    pub fn new(pool: &Arc<SlotPool>) -> Arc<Self> {
        Arc::new(Self { pool: pool.clone(), held: AtomicUsize::zero() })
    }

    /// Number of slots that the owner holds.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Takes a slot if the rule allows it.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Slot> {
        self.try_take(1).then(|| Slot(self.clone()))
    }

    /// Takes a slot without checking the rule. Shadow mode refuses nothing, but counts.
    pub fn acquire_unchecked(self: &Arc<Self>) -> Slot {
        self.pool.take_unchecked(&self.held, 1);
        Slot(self.clone())
    }

    fn try_take(&self, slots: usize) -> bool {
        self.pool.try_take(&self.held, slots, 1)
    }

    fn give_back(&self, slots: usize) {
        self.pool.give_back(&self.held, slots);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.give_back(1);
    }
}

impl Slots {
    /// No slot of `limiter`.
    pub fn none(limiter: &Arc<Limiter>) -> Self {
        Self { limiter: limiter.clone(), held: Cell::new(0) }
    }

    /// Takes `slots` more slots if the rule allows all of them. Otherwise takes none and returns
    /// false.
    #[must_use]
    pub fn try_acquire(&self, slots: usize) -> bool {
        let taken = self.limiter.try_take(slots);
        if taken {
            self.held.set(self.held.get().saturating_add(slots));
        }
        taken
    }

    /// Gives back all but `slots` slots.
    pub fn shrink_to(&self, slots: usize) {
        let kept = self.held.get().min(slots);
        self.limiter.give_back(self.held.replace(kept).saturating_sub(kept));
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}
