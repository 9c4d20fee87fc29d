//! What one identity may have at once, over all its connections and all workers, and how fast it
//! may ask.
//!
//! Places of each kind are given by the rule of [`super::budget`]: nobody holds more than is left
//! for all others, but everybody one while there is any. A setting can give each less than that. An
//! identity is looked up once for each of its connections; a request costs a few atomic operations,
//! and no lock.

mod places;
mod rate;
/// What [`places`] and [`rate`] count with. Tests compile both once more with loom's.
mod atomic {
    pub use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use places::Total;
pub use places::{Meter, Place, Places};
use rate::Bucket;

use super::lease_lookup::MAX_LOOKUPS;
use crate::config::Limits;

/// For each so many places there is room for one stream more, or for one connection that ends, in
/// which its client hears that there is no place.
const PLACES_PER_STANDING: usize = 16;

const A_SECOND: Duration = Duration::from_secs(1);

/// Identities that are gone are forgotten when there are so many.
const SWEEP_AT: usize = 1024;

/// The quotas of all identities of one proxy.
pub struct Quotas {
    connections: Arc<Total>,
    leaving: Arc<Total>,
    requests: Arc<Total>,
    standing: Arc<Total>,
    watches: Arc<Total>,
    questions: Arc<Total>,
    logins: Arc<Total>,
    /// The places of the logins of the last second, and when each ends.
    lately: Mutex<VecDeque<(Instant, Place)>>,
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
    /// LeaseLookups to etcd about leases that it has caused ([`super::lease_lookup`]).
    pub questions: Arc<Meter>,
    /// Its password logins of the last second.
    logins: Arc<Meter>,
    rate: Option<Bucket>,
    begun: Instant,
}

impl Quotas {
    /// Nobody has anything yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            connections: Total::new(limits.max_connections, limits.max_connections_per_identity),
            leaving: Total::new(limits.max_connections.div_ceil(PLACES_PER_STANDING), None),
            requests: Total::new(limits.max_requests, limits.max_requests_per_identity),
            standing: Total::new(limits.max_requests.div_ceil(PLACES_PER_STANDING), None),
            watches: Total::new(limits.max_watches, limits.max_watches_per_identity),
            questions: Total::new(MAX_LOOKUPS, None),
            logins: Total::new(
                usize::try_from(limits.authenticate_per_second).unwrap_or(usize::MAX),
                None,
            ),
            lately: Mutex::default(),
            per_second: limits.requests_per_second_per_identity,
            begun: Instant::now(),
            owners: Mutex::default(),
        }
    }

    /// The quota of `owner` (its principal's name): one for all its connections. It outlasts them
    /// while its rate is not at rest, so that coming back is not a way to ask faster.
    #[must_use]
    pub fn of(&self, owner: &Arc<str>) -> Arc<Quota> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.by_name.len() >= owners.sweep_at {
            let now = nanoseconds(self.begun.elapsed());
            owners
                .by_name
                .retain(|_, quota| Arc::strong_count(quota) > 1 || !quota.is_at_rest(now));
            owners.sweep_at = owners.by_name.len().saturating_mul(2).max(SWEEP_AT);
        }
        if let Some(known) = owners.by_name.get(owner) {
            return known.clone();
        }
        let quota = Arc::new(Quota {
            connections: Meter::new(&self.connections),
            leaving: Meter::new(&self.leaving),
            requests: Meter::new(&self.requests),
            standing: Meter::new(&self.standing),
            watches: Meter::new(&self.watches),
            questions: Meter::new(&self.questions),
            logins: Meter::new(&self.logins),
            rate: self.per_second.map(Bucket::new),
            begun: self.begun,
        });
        owners.by_name.insert(owner.clone(), quota.clone());
        quota
    }

    /// Whether all connections that there may be are there.
    #[must_use]
    pub fn has_all_connections(&self) -> bool {
        self.connections.is_full()
    }

    /// Whether one more password login may go to etcd now. It has its place for a second: so a rate
    /// is shared by the same rule as everything else. This takes a lock, which none but logins
    /// take.
    #[must_use]
    pub fn may_log_in(&self, quota: &Quota) -> bool {
        let now = Instant::now();
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        while lately.front().is_some_and(|(end, _)| *end <= now) {
            lately.pop_front();
        }
        let Some(place) = quota.logins.place() else { return false };
        lately.push_back((now + A_SECOND, place));
        true
    }
}

impl Quota {
    /// Asks once more, if the rate allows it.
    ///
    /// # Errors
    /// How long it takes until it does.
    pub fn ask(&self) -> Result<(), Duration> {
        self.rate.as_ref().map_or(Ok(()), |rate| rate.take(nanoseconds(self.begun.elapsed())))
    }

    fn is_at_rest(&self, now: u64) -> bool {
        Arc::strong_count(&self.logins) == 1
            && self.rate.as_ref().is_none_or(|rate| rate.is_at_rest(now))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod every_order;
#[cfg(test)]
mod tests;
