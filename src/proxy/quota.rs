//! What one identity may have at once, over all its connections and all workers, and how fast it may ask.
//!
//! Places of each kind are given by the rule of [`super::budget`]: nobody holds more than is left for all others, but everybody one
//! while there is any. A setting can give each less than that. An identity is looked up once for each of its connections; a request
//! costs a few atomic operations, and no lock.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Limits;

/// For each so many places there is room for one stream more, or for one connection that ends, in which its client hears that there
/// is no place.
const PLACES_PER_STANDING: usize = 16;

/// Identities that are gone are forgotten when there are so many.
const SWEEP_AT: usize = 1024;

/// The quotas of all identities of one proxy.
pub struct Quotas {
    connections: Arc<Total>,
    leaving: Arc<Total>,
    requests: Arc<Total>,
    standing: Arc<Total>,
    watches: Arc<Total>,
    per_second: Option<u32>,
    begun: Instant,
    owners: Mutex<Owners>,
}

#[derive(Default)]
struct Owners {
    by_name: HashMap<Arc<str>, Arc<Quota>>,
    sweep_at: usize,
}

/// The quota of one identity.
pub struct Quota {
    /// Its connections.
    pub connections: Arc<Meter>,
    /// Those beyond them that are being told so.
    pub leaving: Arc<Meter>,
    /// Its requests and streams, each until its answer has ended.
    pub requests: Arc<Meter>,
    /// Its Watch streams beyond them, in which every create is refused.
    pub standing: Arc<Meter>,
    /// Its watches.
    pub watches: Arc<Meter>,
    rate: Option<Bucket>,
}

/// The places of one kind, of all identities together.
struct Total {
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

impl Quotas {
    /// Nobody has anything yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let total = |cap, each: Option<usize>| Arc::new(Total { taken: AtomicUsize::new(0), cap, each: each.unwrap_or(usize::MAX) });
        Self {
            connections: total(limits.max_connections, limits.max_connections_per_identity),
            leaving: total(limits.max_connections.div_ceil(PLACES_PER_STANDING), None),
            requests: total(limits.max_requests, limits.max_requests_per_identity),
            standing: total(limits.max_requests.div_ceil(PLACES_PER_STANDING), None),
            watches: total(limits.max_watches, limits.max_watches_per_identity),
            per_second: limits.requests_per_second_per_identity,
            begun: Instant::now(),
            owners: Mutex::default(),
        }
    }

    /// The quota of `owner` (its principal's name): one for all its connections. It outlasts them while its rate is not at rest, so
    /// that coming back is not a way to ask faster.
    #[must_use]
    pub fn of(&self, owner: &Arc<str>) -> Arc<Quota> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.by_name.len() >= owners.sweep_at {
            let now = nanoseconds(self.begun.elapsed());
            owners.by_name.retain(|_, quota| Arc::strong_count(quota) > 1 || !quota.is_at_rest(now));
            owners.sweep_at = owners.by_name.len().saturating_mul(2).max(SWEEP_AT);
        }
        if let Some(known) = owners.by_name.get(owner) {
            return known.clone();
        }
        let meter = |all: &Arc<Total>| Arc::new(Meter { all: all.clone(), mine: AtomicUsize::new(0) });
        let quota = Arc::new(Quota {
            connections: meter(&self.connections),
            leaving: meter(&self.leaving),
            requests: meter(&self.requests),
            standing: meter(&self.standing),
            watches: meter(&self.watches),
            rate: self.per_second.map(|per_second| Bucket::new(self.begun, per_second)),
        });
        owners.by_name.insert(owner.clone(), quota.clone());
        quota
    }
}

impl Quota {
    /// Asks once more, if the rate allows it.
    ///
    /// # Errors
    /// How long it takes until it does.
    pub fn ask(&self) -> Result<(), Duration> {
        self.rate.as_ref().map_or(Ok(()), |rate| rate.take(nanoseconds(rate.begun.elapsed())))
    }

    fn is_at_rest(&self, now: u64) -> bool {
        self.rate.as_ref().is_none_or(|rate| rate.due.load(Ordering::Relaxed) <= now)
    }
}

impl Meter {
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
        self.all.taken.fetch_add(places, Ordering::Relaxed);
    }

    /// Whether what is taken, the newest included, is within the rule. Two that come at the same moment may both be refused the last
    /// place; never are both given it.
    fn fits(&self) -> bool {
        let mine = self.mine.load(Ordering::Relaxed);
        let Some(left) = self.all.cap.checked_sub(self.all.taken.load(Ordering::Relaxed)) else { return false };
        mine <= self.all.each && mine <= left.max(1)
    }

    fn give_back(&self, places: usize) {
        self.mine.fetch_sub(places, Ordering::Relaxed);
        self.all.taken.fetch_sub(places, Ordering::Relaxed);
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

/// A token bucket of one second's tokens, as one number: the moment at which it will be full again (the "generic cell rate
/// algorithm" of ATM's traffic management, read as a virtual schedule), in nanoseconds since `begun`.
struct Bucket {
    begun: Instant,
    interval: u64,
    due: AtomicU64,
}

const SECOND: u64 = 1_000_000_000;

impl Bucket {
    fn new(begun: Instant, per_second: u32) -> Self {
        Self { begun, interval: SECOND / u64::from(per_second.max(1)), due: AtomicU64::new(0) }
    }

    fn take(&self, now: u64) -> Result<(), Duration> {
        let full = now.saturating_add(SECOND);
        let mut due = self.due.load(Ordering::Relaxed);
        loop {
            let next = due.max(now).saturating_add(self.interval);
            if next > full {
                return Err(Duration::from_nanos(next.saturating_sub(full)));
            }
            match self.due.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(taken_meanwhile) => due = taken_meanwhile,
            }
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(cap: usize, each: Option<usize>, per_second: Option<u32>) -> Quotas {
        Quotas::new(&Limits {
            max_requests: cap,
            max_requests_per_identity: each,
            requests_per_second_per_identity: per_second,
            ..Limits::default()
        })
    }

    fn flood(quota: &Quota) -> Vec<Place> {
        std::iter::from_fn(|| quota.requests.place()).collect()
    }

    #[test]
    fn a_flood_gets_half_and_leaves_a_half_to_the_others() {
        let quotas = quotas(100, None, None);
        let (flooder, other) = (quotas.of(&"flood".into()), quotas.of(&"other".into()));
        let held = flood(&flooder);
        assert_eq!(held.len(), 50);
        assert_eq!(flood(&other).len(), 25);
        drop(held);
        assert_eq!(flood(&other).len(), 50, "what is dropped is given back");
    }

    #[test]
    fn a_newcomer_has_one_while_there_is_any_and_nobody_has_more_than_there_are() {
        let quotas = quotas(20, None, None);
        let held: Vec<Place> = (0..30).filter_map(|n| quotas.of(&format!("flood-{n}").into()).requests.place()).collect();
        assert_eq!(held.len(), 20);
    }

    #[test]
    fn a_setting_gives_each_less_over_all_its_connections() {
        let quotas = quotas(100, Some(3), None);
        let held = [flood(&quotas.of(&"a".into())), flood(&quotas.of(&"a".into())), flood(&quotas.of(&"b".into()))];
        assert_eq!(held.map(|places| places.len()), [3, 0, 3]);
    }

    #[test]
    fn places_that_change_are_all_given_back() {
        let quotas = Quotas::new(&Limits { max_watches: 10, ..Limits::default() });
        let quota = quotas.of(&"a".into());
        let places = Places::none(&quota.watches);
        assert_eq!(std::iter::from_fn(|| places.take(1).then_some(())).count(), 5);
        places.keep(7);
        places.keep(2);
        assert_eq!(quota.watches.mine.load(Ordering::Relaxed), 2);
        drop(places);
        assert_eq!((quota.watches.mine.load(Ordering::Relaxed), quotas.watches.taken.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn the_rate_gives_one_second_at_once_and_then_one_for_each_interval() {
        let bucket = Bucket::new(Instant::now(), 10);
        let at_once = (0..100).filter(|_| bucket.take(5 * SECOND).is_ok()).count();
        assert_eq!(at_once, 10);
        assert_eq!(bucket.take(5 * SECOND), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(5 * SECOND + SECOND / 10), Ok(()));
        assert!(bucket.take(5 * SECOND + SECOND / 10).is_err());
        // However long it rests, it holds no more than it did.
        assert_eq!((0..100).filter(|_| bucket.take(500 * SECOND).is_ok()).count(), 10);
    }

    #[test]
    fn coming_back_does_not_fill_the_bucket_and_who_rests_is_forgotten() {
        let quotas = quotas(100, None, Some(1));
        assert!(quotas.of(&"a".into()).ask().is_ok());
        for n in 0..10_000 {
            drop(quotas.of(&format!("owner-{n}").into()));
        }
        assert!(quotas.of(&"a".into()).ask().is_err());
        assert!(quotas.owners.lock().unwrap().by_name.len() <= 2 * SWEEP_AT);
    }
}
