//! How fast an identity may ask.

use std::time::Duration;

use super::atomic::{AtomicU64, Ordering};

/// A token bucket of one second's tokens, as one number: the moment at which it will be full again
/// (the "generic cell rate algorithm" of ATM's traffic management, read as a virtual schedule), in
/// nanoseconds since a moment that all questions agree on.
pub struct Bucket {
    interval: u64,
    due: AtomicU64,
}

/// In nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self { interval: SECOND / u64::from(per_second.max(1)), due: AtomicU64::new(0) }
    }

    /// Takes a token at `now`, if there is one.
    ///
    /// # Errors
    /// How long it takes until there is.
    pub fn take(&self, now: u64) -> Result<(), Duration> {
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

    /// Whether it is full at `now`.
    #[must_use]
    pub fn is_at_rest(&self, now: u64) -> bool {
        self.due.load(Ordering::Relaxed) <= now
    }
}
