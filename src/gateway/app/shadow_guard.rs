//! Shadow mode only in front of an etcd whose own auth is off.
//!
//! etcd with auth on takes the proxy for the user that the proxy's certificate names, so that
//! whoever passes in shadow mode acts with the proxy's rights. Therefore `serve` does not start so,
//! and while it runs it goes on asking: when auth is switched on, shadow mode is suspended and
//! everybody is enforced, loudly, until it is off again. What is not known is taken for the worse;
//! only at the start, when it may soon be known, nobody is judged before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::bail;
use etcd_warden_core::policy::{Mode, Policy};

use super::{State, reload};
use crate::config::Config;
use crate::upstream::control::Control;

/// Between two questions while it is not known whether etcd's auth is on: shadow mode waits for the
/// answer.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// etcd's auth is off: the policy's modes hold.
const OFF: u8 = 0;
/// Nobody has asked yet, or for a while.
const UNKNOWN: u8 = 1;
/// etcd's auth is on.
const ON: u8 = 2;

/// What is known of etcd's own auth, and so whether shadow mode is suspended.
#[derive(Debug, Default)]
pub struct ShadowGuard {
    state: AtomicU8,
}

impl ShadowGuard {
    /// The mode that overrides the policy's own now, where `asked` is asked for.
    #[must_use]
    pub fn mode_override(&self, asked: Option<Mode>) -> Option<Mode> {
        if self.state.load(Ordering::Acquire) == OFF { asked } else { Some(Mode::Enforce) }
    }

    /// Whether shadow mode waits for the first answer.
    pub(super) fn has_yet_to_begin(&self) -> bool {
        self.state.load(Ordering::Acquire) == UNKNOWN
    }

    /// Before `next` follows `present`, each with what overrides its modes: while a policy has no
    /// shadow mode nobody asks etcd, so that one that brings it waits for an answer.
    pub(super) fn before(
        &self,
        next: (&Policy, Option<Mode>),
        present: (&Policy, Option<Mode>),
        config: &Config,
    ) {
        let brings_shadow =
            next.0.has_shadow_under(next.1) && !present.0.has_shadow_under(present.1);
        if brings_shadow && !config.allow_shadow_with_etcd_auth {
            self.state.store(UNKNOWN, Ordering::Release);
        }
    }

    /// Notes what etcd said; true if that is news.
    fn learnt(&self, state: u8) -> bool {
        self.state.swap(state, Ordering::AcqRel) != state
    }
}

/// Asks before the start. etcd may come up after the proxy: then shadow mode waits until it has
/// answered.
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
            "etcd's own auth is on, and the policy lets callers through in shadow mode: they would all act with the proxy's rights. \
             use mode `enforce`, switch etcd's auth off, or say `allow-shadow-with-etcd-auth` if that is what you want"
        ),
        Err(error) => {
            tracing::warn!(%error, "cannot ask etcd whether its own auth is on: shadow mode begins when it has said no");
            Ok((
                policy.in_mode(policy.generation, Some(Mode::Enforce)),
                ShadowGuard { state: AtomicU8::new(UNKNOWN) },
            ))
        }
    }
}

/// Asks again and again, as long as the policy has shadow mode.
pub(super) async fn watch(state: Arc<State>) {
    if state.shared.config.allow_shadow_with_etcd_auth {
        return;
    }
    let mut changes = state.shared.policy.subscribe();
    loop {
        changes.mark_unchanged();
        if state.shared.policy.current().has_shadow_under(state.mode.get()) {
            match state.shared.control.auth_enabled().await {
                Ok(on) => suspend(&state, if on { ON } else { OFF }),
                // As it was: etcd without a leader answers neither this nor anything that matters.
                Err(error) => tracing::debug!(%error, "cannot ask etcd whether its own auth is on"),
            }
        }
        let unknown = state.shadow_guard.state.load(Ordering::Acquire) == UNKNOWN;
        let pause = if unknown { ASK_AGAIN } else { state.shared.config.upstream.health_interval };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = changes.changed() => {}
        }
    }
}

/// Suspends shadow mode, or lets it go on: a new generation of the same policy, so that every open
/// stream is looked at again.
fn suspend(state: &State, auth: u8) {
    if !state.shadow_guard.learnt(auth) {
        return;
    }
    if auth == ON {
        let why = "etcd's own auth is on: shadow mode is suspended, and everybody is enforced until it is off";
        tracing::error!("{why}");
        state.reloads.suspended(Some(why));
    } else {
        tracing::info!("etcd's own auth is off: the policy's modes hold");
        state.reloads.suspended(None);
    }
    let mode = state.shadow_guard.mode_override(state.mode.get());
    if state.shared.policy.current().mode_override() != mode {
        reload::publish(state, |present| present.in_mode(0, mode));
    }
    // Only now: whoever is judged from here on finds the policy in its modes.
    state.shared.awaits_auth_status.store(false, Ordering::Release);
}
