//! Puts a policy into effect, together with what overrides its modes.

use std::sync::Arc;

use etcd_warden_core::policy::{Mode, Policy};

use super::{State, count_policy};

/// Replaces the policy in effect by what `next` makes of it. The mode override stays.
pub(super) fn policy(state: &State, next: impl FnOnce(&Policy) -> Policy) -> Arc<Policy> {
    policy_and_mode(state, |mode| mode, next)
}

/// Replaces the policy in effect by what `next` makes of it, and the mode override by what
/// `new_mode` makes of it, both at the same moment.
pub(super) fn policy_and_mode(
    state: &State,
    new_mode: impl FnOnce(Option<Mode>) -> Option<Mode>,
    next: impl FnOnce(&Policy) -> Policy,
) -> Arc<Policy> {
    let policy = state.shared.policy.replace(|current, generation| {
        let next = next(current);
        let before = state.mode.get();
        let requested = new_mode(before);
        state.shadow_guard.before((&next, requested), (current, before), &state.shared.config);
        let mode = state.shadow_guard.mode_override(requested);
        state.mode.set(requested);
        if next.mode_override() == mode { next } else { next.in_mode(generation, mode) }
    });
    count_policy(&state.shared.metrics, &policy);
    policy
}
