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
    changed: watch::Sender<u64>,
    last_error: Mutex<Option<String>>,
}

impl LivePolicy {
    /// Begins with `policy`.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let generation = policy.generation;
        Self {
            current: ArcSwap::from_pointee(policy),
            generation: AtomicU64::new(generation),
            changed: watch::Sender::new(generation),
            last_error: Mutex::new(None),
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

    /// Replaces the policy. Requests that are being judged finish under the old one.
    pub fn publish(&self, policy: Policy) {
        let generation = policy.generation;
        self.current.store(Arc::new(policy));
        self.generation.store(generation, Ordering::Release);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.send_replace(generation);
    }

    /// Notes why a reload changed nothing.
    pub fn failed(&self, why: String) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Why the last reload changed nothing, if it did not.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Wakes whoever waits on it at each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
