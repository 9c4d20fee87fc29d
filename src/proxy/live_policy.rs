//! The policy that counts now, and the news that it changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::policy::Policy;

/// The one place where the serving policy is replaced.
pub struct LivePolicy {
    current: ArcSwap<Policy>,
    generation: AtomicU64,
    changing: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl LivePolicy {
    /// Begins with `policy`.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let generation = policy.generation;
        Self {
            current: ArcSwap::from_pointee(policy),
            generation: AtomicU64::new(generation),
            changing: Mutex::new(()),
            changed: watch::Sender::new(generation),
        }
    }

    /// The policy.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// Its generation: one load, so that a connection can ask on each request whether its principal is still true.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Replaces the policy by what `next` makes for the next generation, with the present one in sight; one change at a time.
    /// Requests that are being judged finish under the old one.
    ///
    /// # Errors
    /// Those of `next`: then nothing changes.
    pub fn replace<E>(&self, next: impl FnOnce(&Policy, u64) -> Result<Policy, E>) -> Result<Arc<Policy>, E> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation().saturating_add(1);
        let mut policy = next(&self.current(), generation)?;
        policy.generation = generation;
        let policy = Arc::new(policy);
        self.current.store(policy.clone());
        self.generation.store(generation, Ordering::Release);
        self.changed.send_replace(generation);
        Ok(policy)
    }

    /// Wakes whoever waits on it at each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
