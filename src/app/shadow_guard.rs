//! Shadow mode only in front of an etcd whose own auth is off.
//!
//! etcd with auth on takes the proxy for the user that the proxy's certificate names, so that whoever passes in shadow mode acts
//! with the proxy's rights. Therefore `serve` does not start so, and while it runs it goes on asking: when auth is switched on,
//! shadow mode is suspended and everybody is enforced, loudly, until it is off again. What is not known is taken for the worse.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;

use crate::config::Config;
use crate::policy::{Mode, Policy};
use crate::proxy::Shared;
use crate::upstream::control::Control;

/// Between two questions while it is not known whether etcd's auth is on: shadow mode waits for the answer.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Whether shadow mode is suspended.
#[derive(Debug, Default)]
pub struct ShadowGuard(AtomicBool);

impl ShadowGuard {
    /// The mode that overrides the policy's own now.
    #[must_use]
    pub fn mode_override(&self, config: &Config) -> Option<Mode> {
        if self.0.load(Ordering::Acquire) { Some(Mode::Enforce) } else { config.mode }
    }
}

/// Asks before the start. etcd may come up after the proxy: then shadow mode waits until it has answered.
///
/// # Errors
/// etcd's auth is on, and the policy has shadow mode.
pub(super) async fn before_start(config: &Config, policy: Policy, control: &Control) -> anyhow::Result<(Policy, ShadowGuard)> {
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
            Ok((policy.in_mode(policy.generation, Some(Mode::Enforce))?, ShadowGuard(AtomicBool::new(true))))
        }
    }
}

/// Asks again and again, as long as the policy has shadow mode.
pub(super) async fn watch(shared: Arc<Shared>) {
    if shared.config.allow_shadow_with_etcd_auth {
        return;
    }
    let mut changes = shared.policy.subscribe();
    let mut known = !shared.shadow_guard.0.load(Ordering::Acquire);
    loop {
        changes.mark_unchanged();
        if shared.policy.current().has_shadow_under(shared.config.mode) {
            match shared.control.auth_enabled().await {
                Ok(on) => {
                    known = true;
                    suspend(&shared, on);
                }
                // As it was: etcd without a leader answers neither this nor anything that matters.
                Err(error) => tracing::debug!(%error, "cannot ask etcd whether its own auth is on"),
            }
        }
        let pause = if known { shared.config.upstream.health_interval } else { ASK_AGAIN };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = changes.changed() => {}
        }
    }
}

/// Suspends shadow mode, or lets it go on: a new generation of the same policy, so that every open stream is looked at again.
fn suspend(shared: &Shared, on: bool) {
    if shared.shadow_guard.0.swap(on, Ordering::AcqRel) == on {
        return;
    }
    let generation = shared.policy.generation().saturating_add(1);
    let mode = shared.shadow_guard.mode_override(&shared.config);
    match shared.policy.current().in_mode(generation, mode) {
        Ok(policy) => shared.policy.publish(policy),
        Err(mistakes) => return tracing::error!(%mistakes, "a policy that was read once cannot be read again"),
    }
    shared.metrics.policy_generation.set(u32::try_from(generation).map_or(f64::MAX, f64::from));
    if on {
        let why = "etcd's own auth was switched on: shadow mode is suspended, and everybody is enforced until it is off";
        tracing::error!("{why}");
        shared.policy.failed(why.to_owned());
    } else {
        tracing::info!("etcd's own auth is off: the policy's modes hold");
    }
}
