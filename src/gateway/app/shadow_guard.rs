//! Allows shadow mode only in front of an etcd whose own auth is off.
//!
//! etcd with auth on identifies the gateway by the gateway's certificate, so a client that passes
//! in shadow mode has the gateway's rights. Therefore `serve` does not start in that case. While it
//! runs it asks etcd repeatedly: when auth is switched on, shadow mode is suspended and all clients
//! are enforced until auth is off again. While the state is unknown, all clients are enforced. At
//! the start, requests wait for the first answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::bail;
use etcd_warden_core::policy::{Mode, Policy};

use super::{State, publish};
use crate::config::Config;
use crate::upstream::control::Control;

/// Between two questions to etcd while it is unknown whether its auth is on.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// etcd's auth is off: the modes of the policy are in effect.
const OFF: u8 = 0;
/// etcd was not asked, or not since the policy got shadow mode.
const UNKNOWN: u8 = 1;
/// etcd's auth is on.
const ON: u8 = 2;

/// Whether etcd's own auth is on, and so whether shadow mode is suspended.
#[derive(Debug, Default)]
pub struct ShadowGuard {
    state: AtomicU8,
}

impl ShadowGuard {
    /// The mode override in effect, if `requested` is the one that was requested.
    pub fn mode_override(&self, requested: Option<Mode>) -> Option<Mode> {
        if self.state.load(Ordering::Acquire) == OFF { requested } else { Some(Mode::Enforce) }
    }

    /// Whether shadow mode waits for the first answer of etcd.
    pub(super) fn is_pending(&self) -> bool {
        self.state.load(Ordering::Acquire) == UNKNOWN
    }

    /// Call this before `next` replaces `current`, each with its mode override. If `next` adds
    /// shadow mode, it waits for an answer of etcd, which is not asked while no policy has shadow
    /// mode.
    pub(super) fn before(
        &self,
        next: (&Policy, Option<Mode>),
        current: (&Policy, Option<Mode>),
        config: &Config,
    ) {
        let adds_shadow = next.0.has_shadow_under(next.1) && !current.0.has_shadow_under(current.1);
        if adds_shadow && !config.allow_shadow_with_etcd_auth {
            self.state.store(UNKNOWN, Ordering::Release);
        }
    }

    /// Stores the answer of etcd. Returns whether it has changed.
    fn update(&self, state: u8) -> bool {
        self.state.swap(state, Ordering::AcqRel) != state
    }
}

/// Asks etcd before the start. If etcd does not answer, because it starts later, shadow mode waits
/// for its answer.
///
/// # Errors
/// etcd's auth is on, and the policy has shadow mode.
pub(super) async fn before_start(
    config: &Config,
    policy: Policy,
    control: &Control,
) -> anyhow::Result<(Policy, ShadowGuard)> {
    if !policy.has_shadow() || config.allow_shadow_with_etcd_auth {
        return Ok((policy, ShadowGuard::default()));
    }
    match control.auth_enabled().await {
        Ok(false) => Ok((policy, ShadowGuard::default())),
        Ok(true) => bail!(
            "etcd's own auth is on, and the policy has shadow mode: clients in shadow mode \
             would have the rights of etcd-warden. Use mode `enforce`, switch etcd's auth off, or \
             set `allow-shadow-with-etcd-auth` to allow this"
        ),
        Err(error) => {
            tracing::warn!(
                %error,
                "cannot ask etcd whether its own auth is on; shadow mode waits for the answer"
            );
            Ok((
                policy.in_mode(policy.generation, Some(Mode::Enforce)),
                ShadowGuard { state: AtomicU8::new(UNKNOWN) },
            ))
        }
    }
}

/// Asks etcd repeatedly while the policy has shadow mode.
pub(super) async fn watch(state: Arc<State>) {
    if state.shared.config.allow_shadow_with_etcd_auth {
        return;
    }
    let mut changes = state.shared.policy.subscribe();
    loop {
        changes.mark_unchanged();
        if state.shared.policy.current().has_shadow_under(state.mode.get()) {
            match state.shared.control.auth_enabled().await {
                Ok(on) => set_auth(&state, if on { ON } else { OFF }),
                // No change: an etcd without a leader answers neither this nor other requests.
                Err(error) => tracing::debug!(%error, "cannot ask etcd whether its own auth is on"),
            }
        }
        let unknown = state.shadow_guard.state.load(Ordering::Acquire) == UNKNOWN;
        let pause =
            if unknown { RETRY_INTERVAL } else { state.shared.config.upstream.health_interval };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = changes.changed() => {}
        }
    }
}

/// Suspends or resumes shadow mode. This creates a new generation of the same policy, so every open
/// stream is judged again.
fn set_auth(state: &State, auth: u8) {
    if !state.shadow_guard.update(auth) {
        return;
    }
    if auth == ON {
        let why = "etcd's own auth is on: shadow mode is suspended, and all clients are enforced \
                   until auth is off";
        tracing::error!("{why}");
        state.reloads.status.set_suspended(Some(why));
    } else {
        tracing::info!("etcd's own auth is off: the modes of the policy are in effect");
        state.reloads.status.set_suspended(None);
    }
    let mode = state.shadow_guard.mode_override(state.mode.get());
    if state.shared.policy.current().mode_override() != mode {
        publish::policy(state, |current| current.in_mode(0, mode));
    }
    // Only after `publish`: requests that waited are judged by the policy in its final modes.
    state.shared.awaits_auth_status.store(false, Ordering::Release);
}
