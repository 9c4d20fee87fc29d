//! The places of the queue, and who holds them.
//!
//! The rule: an identity may take a place while it holds less than an eighth of what is still free
//! (and always a first one). So one that floods gets a ninth of the queue and the others keep the
//! rest; a second one gets a ninth of that, and so on: it takes some seventy flooding identities
//! and a dead disk to fill a queue of 16384. The same goes for bytes: each place brings 1 KiB, more
//! is taken from an eighth of the free bytes.
//!
//! Only identities that hold a place are remembered, so there are never more of them than places.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::Gauge;

/// The part of what is free that one identity may hold.
const SHARE: usize = 8;
/// Bytes that come with each place.
const PLACE_BYTES: usize = 1024;

pub(super) struct Queue {
    places: usize,
    length: Gauge,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    all: Held,
    owners: HashMap<Arc<str>, Held>,
}

#[derive(Clone, Copy, Default)]
struct Held {
    places: usize,
    bytes: usize,
}

/// One taken place; dropping it gives it back.
pub(super) struct Place {
    queue: Arc<Queue>,
    owner: Arc<str>,
    bytes: usize,
}

impl Queue {
    /// A queue of so many places (at least one). `length` shows how many are taken.
    pub(super) fn new(places: usize, length: Gauge) -> Arc<Self> {
        Arc::new(Self { places: places.max(1), length, state: Mutex::default() })
    }

    /// A place for `owner`, if the rule gives it one.
    pub(super) fn take(self: &Arc<Self>, owner: &Arc<str>) -> Option<Place> {
        let mut state = self.state();
        let free = self.places.saturating_sub(state.all.places);
        let held = state.owners.get(owner).map_or(0, |held| held.places);
        if free == 0 || held >= (free / SHARE).max(1) {
            return None;
        }
        state.all.places += 1;
        state.owners.entry(Arc::clone(owner)).or_default().places += 1;
        self.length.increment(1.0);
        Some(Place { queue: Arc::clone(self), owner: Arc::clone(owner), bytes: 0 })
    }

    /// How many places are taken.
    pub(super) fn taken(&self) -> usize {
        self.state().all.places
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Asks for room for a line of `bytes`. If the rule says no, nothing is taken.
    pub(super) fn weigh(&mut self, bytes: usize) -> bool {
        let mut state = self.queue.state();
        let free = (self.queue.places * PLACE_BYTES).saturating_sub(state.all.bytes);
        let Some(held) = state.owners.get_mut(&self.owner) else { return false };
        if held.bytes + bytes > (free / SHARE).max(held.places * PLACE_BYTES) {
            return false;
        }
        held.bytes += bytes;
        state.all.bytes += bytes;
        self.bytes += bytes;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.all.places = state.all.places.saturating_sub(1);
        state.all.bytes = state.all.bytes.saturating_sub(self.bytes);
        if let Some(held) = state.owners.get_mut(&self.owner) {
            held.places = held.places.saturating_sub(1);
            held.bytes = held.bytes.saturating_sub(self.bytes);
            if held.places == 0 {
                state.owners.remove(&self.owner);
            }
        }
        self.queue.length.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(places: usize) -> Arc<Queue> {
        Queue::new(places, Gauge::noop())
    }

    fn flood(queue: &Arc<Queue>, owner: &str) -> Vec<Place> {
        let owner = owner.into();
        std::iter::from_fn(|| queue.take(&owner)).collect()
    }

    #[test]
    fn a_flood_gets_a_ninth_and_leaves_the_rest() {
        let queue = queue(9000);
        let flood = flood(&queue, "flood");
        assert_eq!(flood.len(), 1000);
        assert!(queue.take(&"other".into()).is_some());
    }

    #[test]
    fn a_newcomer_finds_a_place_behind_fifty_floods() {
        let queue = queue(8192);
        let floods: Vec<_> = (0..50).map(|n| flood(&queue, &format!("flood-{n}"))).collect();
        assert!(floods.iter().all(|places| !places.is_empty()));
        assert!(queue.take(&"newcomer".into()).is_some());
    }

    #[test]
    fn there_are_never_more_places_than_the_queue_has() {
        let queue = queue(5);
        let places: Vec<_> =
            (0..10).filter_map(|n| queue.take(&format!("identity-{n}").into())).collect();
        assert_eq!((places.len(), queue.taken()), (5, 5));
    }

    #[test]
    fn what_is_given_back_leaves_no_trace() {
        let queue = queue(100);
        let mut places = flood(&queue, "flood");
        assert!(places.iter_mut().all(|place| place.weigh(500)));
        drop(places);
        let state = queue.state();
        assert_eq!((state.all.places, state.all.bytes, state.owners.len()), (0, 0, 0));
    }

    #[test]
    fn long_lines_of_one_identity_leave_bytes_for_others() {
        let queue = queue(8192);
        let mut flood = flood(&queue, "flood");
        let heavy =
            flood.iter_mut().filter_map(|place| place.weigh(64 * 1024).then_some(())).count();
        assert!((1..=17).contains(&heavy), "{heavy} lines of 64 KiB in a queue of 8 MiB");
        assert!(queue.take(&"other".into()).expect("a place").weigh(64 * 1024));
    }
}
