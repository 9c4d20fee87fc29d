//! Break-glass without a restart: what overrides the modes of the policy, changed at the admin
//! socket while the proxy serves.
//!
//! A change is a new generation of the same policy, so that every open stream is looked at again.
//! It lasts until the next one, through all reloads, and not beyond the process: a start goes by
//! the setting `mode`.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use etcd_warden_core::policy::Mode;

use super::State;
use super::reload;
use crate::admin::Peer;
use crate::audit::ModeChange;

/// What overrides the modes of the policy file, if anything does.
#[derive(Debug)]
pub struct ModeOverride(Mutex<Option<Mode>>);

impl ModeOverride {
    /// Begins with the setting.
    #[must_use]
    pub fn new(setting: Option<Mode>) -> Self {
        Self(Mutex::new(setting))
    }

    /// What is asked for now. Etcd's own auth may stand against it (`shadow_guard`).
    #[must_use]
    pub fn get(&self) -> Option<Mode> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only where the policy is replaced, so that the two never contradict each other.
    pub(super) fn set(&self, mode: Option<Mode>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }
}

/// Overrides the modes of the policy, or no longer (`None`), and says who wanted it: in the log,
/// the audit and the metrics.
pub(super) fn change(state: &State, asked: Option<Mode>, by: Peer) {
    let mut before = None;
    let overrule = |was| {
        before = was;
        asked
    };
    let policy = reload::publish_in(state, overrule, |present| present.in_mode(0, asked));
    let change = ModeChange {
        time: SystemTime::now(),
        asked,
        before,
        uid: by.uid,
        pid: by.pid,
        generation: policy.generation,
        policy_hash: policy.hash.clone(),
    };
    let (mode, pid) = (ModeChange::name(asked), by.pid.unwrap_or_default());
    tracing::warn!(
        mode,
        before = ModeChange::name(before),
        uid = by.uid,
        pid,
        generation = policy.generation,
        "mode changed at the admin socket"
    );
    state.shared.metrics.mode_changed(mode);
    state.shared.audit.mode_changed(&change);
}
