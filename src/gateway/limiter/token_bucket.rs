//! A rate limit.

use std::time::Duration;

use super::atomic::{AtomicU64, Ordering};

/// One second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// A token bucket. Its state is one number: the time at which it will be full again, in nanoseconds
/// since an origin that all callers share. This is the virtual scheduling form of the generic cell
/// rate algorithm (GCRA, ITU-T I.371).
#[derive(Debug)]
pub struct TokenBucket {
    /// Nanoseconds for one token.
    interval: u64,
    /// Nanoseconds for all tokens of a full bucket.
    depth: u64,
    full_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens that gains `per_second` tokens in each second.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = SECOND / u64::from(per_second.max(1));
        let depth = interval.saturating_mul(u64::from(burst));
        Self { interval, depth, full_at: AtomicU64::new(0) }
    }

    /// Takes a token at the time `now`.
    ///
    /// # Errors
    /// There is no token. Returns the time until there is one.
    pub fn try_take(&self, now: u64) -> Result<(), Duration> {
        let latest = now.saturating_add(self.depth);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let next = full_at.max(now).saturating_add(self.interval);
            if next > latest {
                return Err(Duration::from_nanos(next.saturating_sub(latest)));
            }
            match self.full_at.compare_exchange_weak(
                full_at,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(changed) => full_at = changed,
            }
        }
    }

    /// True if the bucket is full at the time `now`.
    pub fn is_full(&self, now: u64) -> bool {
        self.full_at.load(Ordering::Relaxed) <= now
    }
}

/// A duration in nanoseconds, the unit of [`TokenBucket`].
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
