//! Puts reloaded files into effect: one function for each [`Reloaded`].
//!
//! Certificates are read and checked even if no file has changed (`is_unchanged`), because their
//! validity depends on the time. In that case nothing is replaced.

use anyhow::bail;
use etcd_warden_core::policy::Policy;

use crate::app::{State, count_expiries, kept_policy, publish};
use crate::config::Config;
use crate::files::Files;
use crate::metrics::reason::Reloaded;
use crate::policy_file;
use crate::proxy::Shared;
use crate::tls::{ClientTls, ServerIdentity};

/// Reads `what` from `files`, and replaces the version in effect.
pub(super) fn apply(
    state: &State,
    what: Reloaded,
    files: &Files,
    is_unchanged: bool,
) -> anyhow::Result<()> {
    match what {
        Reloaded::Policy => policy(state, files),
        Reloaded::Clients => clients(state, files, is_unchanged),
        Reloaded::Server => server(state, files, is_unchanged),
        Reloaded::Upstream => upstream(state, files, is_unchanged),
    }
}

fn clients(state: &State, files: &Files, is_unchanged: bool) -> anyhow::Result<()> {
    let current = state.shared.tls.current();
    let (trust, errors) = current.server.trust().renewed(&state.shared.config.downstream, files)?;
    if !is_unchanged {
        state.shared.tls.replace_trust(trust, &state.shared.config)?;
        warn_of_stale(&state.shared);
    }
    count_expiries(&state.shared);
    // A file with an error keeps its previous content. The other files are in effect.
    if errors.0.is_empty() { Ok(()) } else { Err(errors.into()) }
}

fn server(state: &State, files: &Files, is_unchanged: bool) -> anyhow::Result<()> {
    let identity = ServerIdentity::from_files(&state.shared.config.downstream, files)?;
    if !is_unchanged {
        state.shared.tls.replace_identity(identity, &state.shared.config)?;
    }
    count_expiries(&state.shared);
    Ok(())
}

fn upstream(state: &State, files: &Files, is_unchanged: bool) -> anyhow::Result<()> {
    let upstream = ClientTls::from_files(&state.shared.config.upstream, files)?;
    if let Some(upstream) = upstream.filter(|_| !is_unchanged) {
        state.shared.tls.replace_upstream(upstream);
        warn_of_stale(&state.shared);
    }
    count_expiries(&state.shared);
    Ok(())
}

/// Logs each CA and revocation list that has expired.
pub(in crate::app) fn warn_of_stale(shared: &Shared) {
    for stale in shared.tls.current().expired() {
        tracing::warn!("expired: {stale}");
    }
}

fn policy(state: &State, files: &Files) -> anyhow::Result<()> {
    let mode = state.shadow_guard.mode_override(state.mode.get());
    let path = &state.shared.config.policy;
    let next = checked_policy(
        &state.shared.config,
        policy_file::of_read(path, files.bytes(path), 0, mode)?,
    )?;
    check_end_marker(&state.shared.policy.current(), &next)?;
    let policy = publish::policy(state, |_| next);
    state.reloads.status.set_kept(false);
    kept_policy::keep(state);
    tracing::info!(generation = policy.generation, hash = %policy.hash, "policy reloaded");
    Ok(())
}

/// Expects YAML's end marker (`...`) in `next` if `before` has it: without it, the file was cut.
///
/// # Errors
/// The end marker is missing.
pub(in crate::app) fn check_end_marker(before: &Policy, next: &Policy) -> anyhow::Result<()> {
    if before.has_end_marker() && !next.has_end_marker() {
        bail!(
            "the policy file is incomplete: the policy in effect ends with the line `...`, and \
             this file does not. Add that line at its end. To stop using it, restart \
             etcd-warden (with an empty `state-dir`)"
        );
    }
    Ok(())
}

/// Checks a policy against the configuration, and logs its warnings.
pub(in crate::app) fn checked_policy(config: &Config, policy: Policy) -> anyhow::Result<Policy> {
    let cas: Vec<&str> = config.downstream.client_cas.iter().map(|ca| &*ca.name).collect();
    let unknown = policy.check_cas(&cas);
    if unknown.has_errors() {
        return Err(unknown.into());
    }
    for warning in policy.warnings().iter() {
        tracing::warn!("{warning}");
    }
    Ok(policy)
}
