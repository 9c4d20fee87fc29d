//! Quotas: what one identity may have at once, over all its connections and all workers, and how
//! many requests it may send in a second.
//!
//! Slots of each kind are shared by the rule of [`crate::limiter::fair_share`]; a setting can lower
//! the limit of each identity. An identity is looked up once for each of its connections. A request
//! costs a few atomic operations and no lock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use crate::limiter::slots::{Limiter, Slot, Slots};

use super::lease_lookup::MAX_LOOKUPS;
use crate::config::Limits;
use crate::limiter::owners::Owners;
use crate::limiter::slots::{SlotPool, pool};
use crate::limiter::token_bucket::{TokenBucket, nanoseconds};

/// One overflow slot per this many regular ones. It exists only to deliver the refusal: a Watch
/// stream in which each create is refused, or a connection that is closed with GOAWAY.
const SLOTS_PER_OVERFLOW: usize = 16;

/// How long a password login counts.
const LOGIN_WINDOW: Duration = Duration::from_secs(1);

/// Number of identities from which on those that are gone are forgotten.
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
    /// The slots of the logins in [`LOGIN_WINDOW`], and when each ends.
    recent_logins: Mutex<VecDeque<(Instant, Slot)>>,
    per_second: Option<u32>,
    /// The moment from which token buckets count time.
    begun: Instant,
    owners: Mutex<Owners<Arc<Quota>>>,
}

/// The quota of one identity.
pub struct Quota {
    /// Its connections.
    pub connections: Arc<Limiter>,
    /// Connections above the limit, which are being closed.
    pub overflow_connections: Arc<Limiter>,
    /// Its requests and streams, each until its response has ended.
    pub requests: Arc<Limiter>,
    /// Watch streams above the limit, in which each create is refused.
    pub overflow_streams: Arc<Limiter>,
    /// Its watches.
    pub watches: Arc<Limiter>,
    /// Lookups of leases at etcd that it has caused ([`super::lease_questions`]).
    pub questions: Arc<Limiter>,
    /// Its password logins in [`LOGIN_WINDOW`].
    logins: Arc<Limiter>,
    rate: Option<TokenBucket>,
    begun: Instant,
}

impl Quotas {
    /// Quotas of which nothing is used.
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

    /// The quota of `owner` (its principal's name). All its connections use the same one. It is
    /// kept after the last of them while its token bucket is not full, so that a client cannot
    /// reset its rate by connecting again.
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

    /// Whether as many connections are open as `max-connections` allows.
    pub fn connections_full(&self) -> bool {
        self.connections.is_full()
    }

    /// Whether a password login may go to etcd now. It holds its slot for [`LOGIN_WINDOW`], so that
    /// identities share the rate of logins by the same rule as all other limits. Only logins take
    /// this lock.
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
    /// The rate is exceeded: how long it takes until a request is allowed.
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
