//! Places of one kind: of all identities, of one, and one place itself.

use std::cell::Cell;
use std::sync::Arc;

use super::atomic::{AtomicUsize, Ordering};

/// The places of one kind, of all identities together.
pub struct Total {
    taken: AtomicUsize,
    cap: usize,
    each: usize,
}

/// The places of one kind that one identity has.
pub struct Meter {
    all: Arc<Total>,
    mine: AtomicUsize,
}

/// A place, given back when it is dropped.
#[must_use = "the place is given back when this is dropped"]
pub struct Place(Arc<Meter>);

/// A number of places that changes, all of them given back when this is dropped.
pub struct Places {
    meter: Arc<Meter>,
    held: Cell<usize>,
}

impl Total {
    /// So many, and for each identity so many at most.
    #[must_use]
    pub fn new(cap: usize, each: Option<usize>) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), cap, each: each.unwrap_or(usize::MAX) })
    }

    /// Whether there is none left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.cap
    }

    /// Those that are taken.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Meter {
    /// None yet, of `all`.
    #[must_use]
    pub fn new(all: &Arc<Total>) -> Arc<Self> {
        Arc::new(Self { all: all.clone(), mine: AtomicUsize::new(0) })
    }

    /// Those that this identity has.
    #[cfg(test)]
    pub fn mine(&self) -> usize {
        self.mine.load(Ordering::Relaxed)
    }

    /// A place, if the rule gives one.
    #[must_use]
    pub fn place(self: &Arc<Self>) -> Option<Place> {
        let place = self.occupy();
        self.fits().then_some(place)
    }

    /// A place without any rule: what shadow mode takes. It is counted all the same.
    pub fn occupy(self: &Arc<Self>) -> Place {
        self.add(1);
        Place(self.clone())
    }

    fn add(&self, places: usize) {
        self.mine.fetch_add(places, Ordering::Relaxed);
        // Whoever comes second here sees what the first has of `mine`, too.
        self.all.taken.fetch_add(places, Ordering::AcqRel);
    }

    /// Whether what is taken, the newest included, is within the rule. Two that come at the same
    /// moment may both be refused the last place; never are both given it.
    fn fits(&self) -> bool {
        let mine = self.mine.load(Ordering::Relaxed);
        let Some(left) = self.all.cap.checked_sub(self.all.taken.load(Ordering::Relaxed)) else {
            return false;
        };
        mine <= self.all.each && mine <= left.max(1)
    }

    fn give_back(&self, places: usize) {
        self.mine.fetch_sub(places, Ordering::Relaxed);
        self.all.taken.fetch_sub(places, Ordering::AcqRel);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.give_back(1);
    }
}

impl Places {
    /// None yet.
    #[must_use]
    pub fn none(meter: &Arc<Meter>) -> Self {
        Self { meter: meter.clone(), held: Cell::new(0) }
    }

    /// Takes so many more, if the rule gives them.
    #[must_use]
    pub fn take(&self, places: usize) -> bool {
        self.meter.add(places);
        let given = self.meter.fits();
        if given {
            self.held.set(self.held.get().saturating_add(places));
        } else {
            self.meter.give_back(places);
        }
        given
    }

    /// Gives back all but so many.
    pub fn keep(&self, places: usize) {
        let kept = self.held.get().min(places);
        self.meter.give_back(self.held.replace(kept).saturating_sub(kept));
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.keep(0);
    }
}
