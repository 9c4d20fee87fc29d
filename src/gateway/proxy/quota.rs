//! Quotas: the limits of each identity over all its connections and all workers. They limit what an
//! identity holds at the same time, and its requests per second.
//!
//! Identities share the slots of each kind (`crate::limiter::fair_share`); a setting can lower
//! the limit of each identity. An identity is looked up once per connection. A request costs a few
//! atomic operations and takes no lock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use crate::limiter::slots::{Limiter, Slot, Slots};

use super::lease_lookup::MAX_LOOKUPS;
use crate::config::Limits;
use crate::limiter::owners::Owners;
use crate::limiter::slots::{SlotPool, pool};
use crate::limiter::token_bucket::{TokenBucket, nanoseconds};

/// Number of regular slots per overflow slot. An overflow slot exists only to deliver a refusal: it
/// is for a Watch stream on which each create is refused, or a connection that is closed with
/// GOAWAY.
const SLOTS_PER_OVERFLOW: usize = 16;

/// The time for which a password login holds its slot.
const LOGIN_WINDOW: Duration = Duration::from_secs(1);

/// From this number of identities on, those without a connection are removed from the table.
const MIN_SWEEP: usize = 1024;

/// The quotas of all identities of one gateway.
pub struct Quotas {
    connections: Arc<SlotPool>,
    overflow_connections: Arc<SlotPool>,
    requests: Arc<SlotPool>,
    overflow_streams: Arc<SlotPool>,
    watches: Arc<SlotPool>,
    questions: Arc<SlotPool>,
    logins: Arc<SlotPool>,
    /// The slots of recent logins, each with the end of its [`LOGIN_WINDOW`].
    recent_logins: Mutex<VecDeque<(Instant, Slot)>>,
    /// The setting `requests-per-second-per-identity`.
    per_second: Option<u32>,
    /// The origin of time for the token buckets.
    begun: Instant,
    owners: Mutex<Owners<Arc<Quota>>>,
}

/// The quota of one identity.
pub struct Quota {
    /// Slots for its connections.
    pub connections: Arc<Limiter>,
    /// Slots for connections over the limit, which are being closed.
    pub overflow_connections: Arc<Limiter>,
    /// Slots for its requests and streams, each until its response has ended.
    pub requests: Arc<Limiter>,
    /// Slots for Watch streams over the limit, on which each create is refused.
    pub overflow_streams: Arc<Limiter>,
    /// Slots for its watches.
    pub watches: Arc<Limiter>,
    /// Slots for lookups of leases at etcd that it has caused ([`super::lease_lookup`]).
    pub questions: Arc<Limiter>,
    /// Slots for its password logins within [`LOGIN_WINDOW`].
    logins: Arc<Limiter>,
    rate: Option<TokenBucket>,
    begun: Instant,
}

impl Quotas {
    /// New quotas, with every slot free.
    pub fn new(limits: &Limits) -> Self {
        let logins = usize::try_from(limits.authenticate_per_second).unwrap_or(usize::MAX);
        Self {
            connections: pool(limits.max_connections, limits.max_connections_per_identity),
            overflow_connections: pool(limits.max_connections.div_ceil(SLOTS_PER_OVERFLOW), None),
            requests: pool(limits.max_requests, limits.max_requests_per_identity),
            overflow_streams: pool(limits.max_requests.div_ceil(SLOTS_PER_OVERFLOW), None),
            watches: pool(limits.max_watches, limits.max_watches_per_identity),
            questions: pool(MAX_LOOKUPS, None),
            logins: pool(logins, None),
            recent_logins: Mutex::default(),
            per_second: limits.requests_per_second_per_identity,
            begun: Instant::now(),
            owners: Mutex::new(Owners::new(MIN_SWEEP)),
        }
    }

    /// The quota of `owner` (its principal's name). All its connections share it. After the last
    /// connection, it is kept until its token bucket is full again, so that a client cannot reset
    /// its rate by reconnecting.
    pub fn of(&self, owner: &Arc<str>) -> Arc<Quota> {
        let now = nanoseconds(self.begun.elapsed());
        let is_gone = |quota: &Arc<Quota>| Arc::strong_count(quota) == 1 && quota.is_unused(now);
        let new = || {
            Arc::new(Quota {
                connections: Limiter::new(&self.connections),
                overflow_connections: Limiter::new(&self.overflow_connections),
                requests: Limiter::new(&self.requests),
                overflow_streams: Limiter::new(&self.overflow_streams),
                watches: Limiter::new(&self.watches),
                questions: Limiter::new(&self.questions),
                logins: Limiter::new(&self.logins),
                rate: self.per_second.map(|rate| TokenBucket::new(rate, rate)),
                begun: self.begun,
            })
        };
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.get_or_insert(owner, is_gone, new)
    }

    /// True if `max-connections` connections are open.
    pub fn connections_full(&self) -> bool {
        self.connections.is_full()
    }

    /// Returns true if a password login may be sent to etcd now. A login holds its slot for
    /// `LOGIN_WINDOW`, so the rule for sharing slots applies to the rate of logins too. Only
    /// logins take this lock.
    #[must_use]
    pub fn try_login(&self, quota: &Quota) -> bool {
        let now = Instant::now();
        let mut recent = self.recent_logins.lock().unwrap_or_else(PoisonError::into_inner);
        while recent.front().is_some_and(|(end, _)| *end <= now) {
            recent.pop_front();
        }
        let Some(slot) = quota.logins.try_acquire() else { return false };
        recent.push_back((now + LOGIN_WINDOW, slot));
        true
    }
}

impl Quota {
    /// Counts one request against `requests-per-second-per-identity`.
    ///
    /// # Errors
    /// The rate is exceeded. Returns the time until a request is allowed.
    pub fn try_request(&self) -> Result<(), Duration> {
        self.rate.as_ref().map_or(Ok(()), |rate| rate.try_take(nanoseconds(self.begun.elapsed())))
    }

    fn is_unused(&self, now: u64) -> bool {
        // A slot in `recent_logins` keeps its limiter alive.
        Arc::strong_count(&self.logins) == 1
            && self.rate.as_ref().is_none_or(|rate| rate.is_full(now))
    }
}

#[cfg(test)]
mod tests;
