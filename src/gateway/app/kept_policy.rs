//! The policy that is kept in `state-dir`: which policy the gateway starts with, and when the one
//! in effect is kept.
//!
//! A gateway that cannot start locks out all clients, even those that could correct the policy
//! file. So a start with an invalid policy file uses the last valid policy.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::bail;
use etcd_warden_core::policy::Policy;

use super::reload::Reloads;
use super::reload::apply::{check_end_marker, checked_policy};
use super::{State, state_dir};
use crate::config::Config;
use crate::files::Files;
use crate::metrics::Metrics;
use crate::metrics::reason::Reloaded;
use crate::policy_file;

/// Whether the policy in effect has been kept since the start.
#[derive(Debug, Default)]
pub(super) struct KeptPolicy(AtomicBool);

/// The policy to start with: the file's, or the kept one if the file has an error.
///
/// # Errors
/// The errors of the file, if there is no kept policy. An unusable `state-dir`.
pub(super) fn first_policy(
    config: &Config,
    files: &Files,
    reloads: &Reloads,
    metrics: &Metrics,
) -> anyhow::Result<Policy> {
    let read = policy_file::of_read(&config.policy, files.bytes(&config.policy), 1, config.mode);
    let read = read.map_err(anyhow::Error::from).and_then(|policy| checked_policy(config, policy));
    let Some(folder) = &config.state_dir else { return read };
    state_dir::check(folder)?;
    let path = state_dir::path(folder);
    let kept = || {
        policy_file::load(&path, 1, config.mode)
            .map_err(anyhow::Error::from)
            .and_then(|policy| checked_policy(config, policy))
    };
    let errors = match read {
        Err(errors) => errors,
        // A file with the end marker is complete: no need to read the kept policy.
        Ok(policy) if policy.has_end_marker() => return Ok(policy),
        Ok(policy) => match kept().map(|kept| check_end_marker(&kept, &policy)) {
            Ok(Err(incomplete)) => incomplete,
            _ => return Ok(policy),
        },
    };
    let policy = match kept() {
        Ok(policy) => policy,
        Err(error) => {
            bail!("{errors:#}\n\nand the policy kept in `state-dir` cannot be used:\n{error:#}")
        }
    };
    tracing::error!(
        kept = %path.display(),
        "the policy file has errors; using the policy kept in `state-dir`: {errors:#}"
    );
    metrics.reload(Reloaded::Policy, false);
    reloads.status.set(Reloaded::Policy, Some(format!("{errors:#}")));
    reloads.status.set_kept(true);
    reloads.start_failed(Reloaded::Policy);
    Ok(policy)
}

/// Keeps the policy of the start immediately, if none is kept or if no watch would do it later.
pub(super) fn keep_first(state: &State) {
    let config = &state.shared.config;
    let has_none =
        config.state_dir.as_deref().is_some_and(|folder| !state_dir::path(folder).exists());
    let is_watched = !config.reload_settle.is_zero() && !config.reload_interval.is_zero();
    if has_none || !is_watched {
        keep(state);
    }
}

/// Keeps the policy of the start once its file is stable: a file that was cut must not replace a
/// complete policy.
pub(super) fn keep_when_stable(state: &State) {
    let is_kept = state.kept_policy.0.load(Ordering::Relaxed);
    let settle = state.shared.config.reload_settle;
    if !is_kept && state.reloads.is_stable(Reloaded::Policy, settle) {
        keep(state);
    }
}

/// Keeps the policy in effect. The gateway serves even if this fails.
pub(super) fn keep(state: &State) {
    state.kept_policy.0.store(true, Ordering::Relaxed);
    if let Some(folder) = &state.shared.config.state_dir
        && let Err(error) = state_dir::keep(folder, &state.shared.policy.current())
    {
        tracing::error!(
            folder = %folder.display(),
            %error,
            "cannot keep the policy in `state-dir`; a start with an invalid file would use an \
             older one"
        );
    }
}
