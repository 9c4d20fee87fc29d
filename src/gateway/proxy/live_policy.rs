//! The policy that counts now, and the news that it changed.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use etcd_warden_core::policy::Policy;
use tokio::sync::watch;

/// The one place where the serving policy is replaced.
pub struct LivePolicy {
    /// The policy with its generation: one value, swapped as a whole, so that nobody ever sees the
    /// one without the other.
    current: ArcSwap<Policy>,
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
            changing: Mutex::new(()),
            changed: watch::Sender::new(generation),
        }
    }

    /// The policy.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// Its generation: a connection asks on each request whether its principal is still true, and
    /// takes no count of the policy for it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Replaces the policy by what `next` makes for the next generation, with the present one in
    /// sight; one change at a time. Requests that are being judged finish under the old one.
    pub fn replace(&self, next: impl FnOnce(&Policy, u64) -> Policy) -> Arc<Policy> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation().saturating_add(1);
        let mut policy = next(&self.current(), generation);
        policy.generation = generation;
        let policy = Arc::new(policy);
        // In this order: whoever hears of the change finds it made, and who subscribes too late to
        // hear of it does as well.
        self.current.store(policy.clone());
        self.changed.send_replace(generation);
        policy
    }

    /// Wakes whoever waits on it at each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
