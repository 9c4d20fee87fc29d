//! The mode override: a mode that is used in place of the modes of the policy. It can be changed at
//! the admin socket without a restart (break-glass).
//!
//! A change creates a new generation of the same policy, so every open stream is judged again. It
//! lasts until the next change, through all reloads, but not after a restart: the start uses the
//! setting `mode`.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use etcd_warden_core::policy::Mode;

use super::State;
use super::publish;
use crate::admin::Peer;
use crate::audit::ModeChange;

/// The mode override, if there is one.
#[derive(Debug)]
pub struct ModeOverride(Mutex<Option<Mode>>);

impl ModeOverride {
    /// Begins with the setting `mode`.
    pub fn new(setting: Option<Mode>) -> Self {
        Self(Mutex::new(setting))
    }

    /// The override that was requested. While etcd's own auth is on, [`super::shadow_guard`]
    /// enforces whatever this is.
    pub fn get(&self) -> Option<Mode> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only for [`super::publish`], which replaces the policy at the same moment.
    pub(super) fn set(&self, mode: Option<Mode>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }
}

/// Sets or ends (`None`) the mode override, and records which process asked for it in the log, the
/// audit log and the metrics.
pub(super) fn change(state: &State, requested: Option<Mode>, by: Peer) {
    let mut before = None;
    let new_mode = |current| {
        before = current;
        requested
    };
    let policy = publish::policy_and_mode(state, new_mode, |current| current.in_mode(0, requested));
    let change = ModeChange {
        time: SystemTime::now(),
        mode: requested,
        before,
        uid: by.uid,
        pid: by.pid,
        generation: policy.generation,
        policy_hash: policy.hash.clone(),
    };
    let (mode, pid) = (ModeChange::name(requested), by.pid.unwrap_or_default());
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
