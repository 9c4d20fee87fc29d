//! Slots of the audit queue, and the identities that hold them.
//!
//! Identities share the slots by the rule of [`crate::limiter::fair_share`] with N = 8: an identity
//! that floods gets a ninth of the queue, a second one a ninth of the rest, and so on. To fill a
//! queue of 16,384 slots, about seventy identities must flood it while the disk does not accept
//! writes. The same rule limits bytes; with each slot, an identity may always hold 1 KiB.
//!
//! Only identities that hold a slot have an entry, so there are never more entries than slots.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::Gauge;

use crate::limiter::fair_share::{Pool, Rule};

/// N of the rule: one identity may hold 1/N of what it leaves to the others.
const DIVISOR: usize = 8;
/// Bytes that an identity may always hold for each of its slots.
const SLOT_BYTES: usize = 1024;

pub(super) struct Queue {
    length: Gauge,
    state: Mutex<QueueState>,
}

struct QueueState {
    slots: Pool<Cell<usize>>,
    bytes: Pool<Cell<usize>>,
    owners: HashMap<Arc<str>, OwnerHolds>,
}

#[derive(Default)]
struct OwnerHolds {
    slots: Cell<usize>,
    bytes: Cell<usize>,
}

/// One slot. Dropping it gives it back.
pub(super) struct QueueSlot {
    queue: Arc<Queue>,
    owner: Arc<str>,
    bytes: usize,
}

impl Queue {
    /// A queue of `slots` slots (at least one). `length` shows how many are taken.
    pub(super) fn new(slots: usize, length: Gauge) -> Arc<Self> {
        let slots = slots.max(1);
        let pool = |capacity| Pool::new(Rule { capacity, divisor: DIVISOR, per_owner: usize::MAX });
        let state = QueueState {
            slots: pool(slots),
            bytes: pool(slots.saturating_mul(SLOT_BYTES)),
            owners: HashMap::new(),
        };
        Arc::new(Self { length, state: Mutex::new(state) })
    }

    /// A slot for `owner`, if the rule allows it.
    pub(super) fn try_acquire(self: &Arc<Self>, owner: &Arc<str>) -> Option<QueueSlot> {
        let mut guard = self.state();
        let state = &mut *guard;
        let held = state.owners.entry(owner.clone()).or_default();
        if !state.slots.try_take(&held.slots, 1, 1) {
            if held.slots.get() == 0 {
                state.owners.remove(owner);
            }
            return None;
        }
        self.length.increment(1.0);
        Some(QueueSlot { queue: Arc::clone(self), owner: Arc::clone(owner), bytes: 0 })
    }

    /// Number of slots that are taken.
    pub(super) fn taken(&self) -> usize {
        self.state().slots.held()
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueSlot {
    /// Reserves room for a line of `bytes`. Returns false and takes nothing if the rule does not
    /// allow it.
    #[must_use]
    pub(super) fn try_reserve(&mut self, bytes: usize) -> bool {
        let state = self.queue.state();
        let Some(held) = state.owners.get(&self.owner) else { return false };
        let first = held.slots.get().saturating_mul(SLOT_BYTES);
        let allowed = state.bytes.try_take(&held.bytes, bytes, first);
        if allowed {
            self.bytes = self.bytes.saturating_add(bytes);
        }
        allowed
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        let mut guard = self.queue.state();
        let state = &mut *guard;
        if let Some(held) = state.owners.get(&self.owner) {
            state.slots.give_back(&held.slots, 1);
            state.bytes.give_back(&held.bytes, self.bytes);
            if held.slots.get() == 0 {
                state.owners.remove(&self.owner);
            }
        }
        self.queue.length.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(slots: usize) -> Arc<Queue> {
        Queue::new(slots, Gauge::noop())
    }

    fn acquire_all(queue: &Arc<Queue>, owner: &str) -> Vec<QueueSlot> {
        let owner = owner.into();
        std::iter::from_fn(|| queue.try_acquire(&owner)).collect()
    }

    #[test]
    fn a_flood_gets_a_ninth_and_leaves_the_rest() {
        let queue = queue(9000);
        let flood = acquire_all(&queue, "flood");
        assert_eq!(flood.len(), 1000);
        assert!(queue.try_acquire(&"other".into()).is_some());
    }

    #[test]
    fn a_newcomer_finds_a_slot_after_fifty_floods() {
        let queue = queue(8192);
        let floods: Vec<_> = (0..50).map(|n| acquire_all(&queue, &format!("flood-{n}"))).collect();
        assert!(floods.iter().all(|slots| !slots.is_empty()));
        assert!(queue.try_acquire(&"newcomer".into()).is_some());
    }

    #[test]
    fn no_more_slots_are_taken_than_the_queue_has() {
        let queue = queue(5);
        let slots: Vec<_> =
            (0..10).filter_map(|n| queue.try_acquire(&format!("identity-{n}").into())).collect();
        assert_eq!((slots.len(), queue.taken()), (5, 5));
        assert_eq!(queue.state().owners.len(), 5);
    }

    #[test]
    fn owners_without_slots_are_forgotten() {
        let queue = queue(100);
        let mut slots = acquire_all(&queue, "flood");
        assert!(slots.iter_mut().all(|slot| slot.try_reserve(500)));
        drop(slots);
        let state = queue.state();
        assert_eq!((state.slots.held(), state.bytes.held(), state.owners.len()), (0, 0, 0));
    }

    #[test]
    fn long_lines_of_one_identity_leave_bytes_for_others() {
        let queue = queue(8192);
        let mut flood = acquire_all(&queue, "flood");
        let heavy =
            flood.iter_mut().filter_map(|slot| slot.try_reserve(64 * 1024).then_some(())).count();
        assert!((1..=17).contains(&heavy), "{heavy} lines of 64 KiB in a queue of 8 MiB");
        assert!(queue.try_acquire(&"other".into()).expect("a slot").try_reserve(64 * 1024));
    }
}
