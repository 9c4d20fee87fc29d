//! The policy in effect, and notifications of its changes.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use etcd_warden_core::policy::Policy;
use tokio::sync::watch;

/// The policy in effect.
pub struct LivePolicy {
    /// The policy with its generation. They are one value, swapped as a whole, so no reader sees a
    /// policy with the generation of another one.
    current: ArcSwap<Policy>,
    changing: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl LivePolicy {
    /// Starts with `policy`.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let generation = policy.generation;
        Self {
            current: ArcSwap::from_pointee(policy),
            changing: Mutex::new(()),
            changed: watch::Sender::new(generation),
        }
    }

    /// The policy in effect.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// The generation of the policy in effect. Each request compares it with that of its principal.
    /// Unlike [`LivePolicy::current`], this changes no reference count.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Replaces the policy. `next` gets the current policy and the next generation. Only one
    /// replacement runs at a time. Decisions in progress finish under the old policy.
    pub fn replace(&self, next: impl FnOnce(&Policy, u64) -> Policy) -> Arc<Policy> {
        let _guard = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation().saturating_add(1);
        let mut policy = next(&self.current(), generation);
        policy.generation = generation;
        let policy = Arc::new(policy);
        // First store, then notify. So a task that is notified finds the new policy, and so does a
        // task that subscribes too late to be notified.
        self.current.store(policy.clone());
        self.changed.send_replace(generation);
        policy
    }

    /// A receiver that reports each change with its generation.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
