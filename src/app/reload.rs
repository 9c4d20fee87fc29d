//! What is read again while the program runs: each thing whole and aside, so that a mistake changes nothing and the last good one
//! goes on. How a mistake is told: in the log with its place, in `etcd_warden_reloads_total`, and on `/policy`.
//!
//! All of this reads files and must not run on a thread that serves.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::watched_files::Fingerprint;
use super::{count_expiries, count_policy, state_dir};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::metrics::reason::Reloaded;
use crate::policy::{self, Mode, Policy};
use crate::proxy::Shared;
use crate::tls::{ClientTls, ClientTrust, ServerIdentity};

/// What was refused is read again after this, changed or not: its day may have come, and an alert goes on as long as its cause.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// How the last reload of each thing went.
#[derive(Debug)]
pub struct Reloads {
    /// What was read last. One reload at a time, so that what was read later is what counts later.
    read: Mutex<BTreeMap<Reloaded, LastRead>>,
    failed: Mutex<BTreeMap<Reloaded, String>>,
    suspended: Mutex<Option<&'static str>>,
    /// The policy that serves is the kept one.
    kept: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct LastRead {
    files: Fingerprint,
    when: Instant,
    ok: bool,
}

impl LastRead {
    fn of(config: &Config, what: Reloaded) -> Self {
        Self { files: Fingerprint::of(config, what), when: Instant::now(), ok: true }
    }
}

/// What was not reloaded, and why: at least one.
#[derive(Debug)]
pub struct Refused(Vec<(Reloaded, String)>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.0.iter().map(|(_, why)| why.as_str()).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Refused {}

impl Reloads {
    /// For a start: make it before anything is read, so that no change is missed.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let read = Reloaded::ALL.iter().map(|&what| (what, LastRead::of(config, what))).collect();
        Self { read: Mutex::new(read), failed: Mutex::default(), suspended: Mutex::default(), kept: AtomicBool::new(false) }
    }

    /// Where the policy that counts was read.
    #[must_use]
    pub fn source(&self) -> &'static str {
        if self.kept.load(Ordering::Relaxed) { "state-dir" } else { "file" }
    }

    /// Why the policy that counts is not the one in the file, or not in its modes.
    #[must_use]
    pub fn policy_error(&self) -> Option<String> {
        let suspended = *self.suspended.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).get(&Reloaded::Policy).cloned();
        failed.or(suspended.map(str::to_owned))
    }

    /// Why the last reload of certificates and revocation lists changed nothing, by what was not reloaded.
    #[must_use]
    pub fn certificate_errors(&self) -> BTreeMap<&'static str, String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.iter().filter(|(what, _)| **what != Reloaded::Policy).map(|(what, why)| (what.code(), why.clone())).collect()
    }

    /// Notes that shadow mode is suspended, or that it is not.
    pub(super) fn suspended(&self, why: Option<&'static str>) {
        *self.suspended.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Notes how a reload went.
    fn note(&self, what: Reloaded, error: Option<String>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => failed.insert(what, error),
            None => failed.remove(&what),
        };
    }
}

/// Reads everything again. What is sound counts when this returns, whatever is wrong with the rest.
///
/// # Errors
/// What was not reloaded, and why.
pub fn everything(shared: &Shared) -> Result<(), Refused> {
    let refused = Reloaded::ALL.iter().filter_map(|&what| Some((what, one(shared, what).err()?.to_string())));
    let refused: Vec<_> = refused.collect();
    if refused.is_empty() { Ok(()) } else { Err(Refused(refused)) }
}

/// Reads again what is in files that have changed.
pub fn what_has_changed(shared: &Shared) {
    for &what in Reloaded::ALL {
        let now = Fingerprint::of(&shared.config, what);
        let read = shared.reloads.read.lock().unwrap_or_else(PoisonError::into_inner);
        let due = read.get(&what).is_none_or(|last| last.files != now || !last.ok && last.when.elapsed() >= TRY_AGAIN);
        drop(read);
        if due {
            // A mistake has been told.
            let _ = one(shared, what);
        }
    }
}

/// Reads one thing again.
///
/// # Errors
/// Why the last good one goes on.
pub fn one(shared: &Shared, what: Reloaded) -> anyhow::Result<()> {
    let mut read = shared.reloads.read.lock().unwrap_or_else(PoisonError::into_inner);
    // Looked at before it is read: what changes in between is another change.
    let looked = LastRead::of(&shared.config, what);
    let same = read.get(&what).is_some_and(|last| last.ok && last.files == looked.files);
    let reloaded = match what {
        Reloaded::Policy => policy(shared),
        Reloaded::Clients => clients(shared, same),
        Reloaded::Server => server(shared, same),
        Reloaded::Upstream => upstream(shared, same),
    };
    read.insert(what, LastRead { ok: reloaded.is_ok(), ..looked });
    shared.metrics.reload(what, reloaded.is_ok());
    shared.reloads.note(what, reloaded.as_ref().err().map(|error| format!("{error:#}")));
    match &reloaded {
        Ok(()) => tracing::info!(what = what.code(), "reloaded"),
        Err(error) => tracing::error!(what = what.code(), "not reloaded, the last good one goes on: {error:#}"),
    }
    reloaded
}

// Certificates are read also where nothing is new (`same`): their day may have come. But then nothing is replaced.

fn clients(shared: &Shared, same: bool) -> anyhow::Result<()> {
    let trust = ClientTrust::load(&shared.config.downstream)?;
    if !same {
        shared.tls.replace_trust(trust, &shared.config)?;
    }
    count_expiries(shared);
    Ok(())
}

fn server(shared: &Shared, same: bool) -> anyhow::Result<()> {
    let identity = ServerIdentity::load(&shared.config.downstream)?;
    if !same {
        shared.tls.replace_identity(identity, &shared.config)?;
    }
    count_expiries(shared);
    Ok(())
}

fn upstream(shared: &Shared, same: bool) -> anyhow::Result<()> {
    let upstream = ClientTls::load(&shared.config.upstream)?;
    if let Some(upstream) = upstream.filter(|_| !same) {
        shared.tls.replace_upstream(upstream);
    }
    count_expiries(shared);
    Ok(())
}

fn policy(shared: &Shared) -> anyhow::Result<()> {
    let mode = shared.shadow_guard.mode_override(shared.mode.get());
    let read = load_policy(&shared.config, &shared.config.policy, 0, mode)?;
    let policy = publish(shared, |_| Ok(read))?;
    shared.reloads.kept.store(false, Ordering::Relaxed);
    keep(shared);
    tracing::info!(generation = policy.generation, hash = %policy.hash, "policy reloaded");
    Ok(())
}

/// The policy that `next` makes of the present one becomes the one that counts, in the mode that counts at that very moment.
///
/// # Errors
/// Those of `next`.
pub fn publish(shared: &Shared, next: impl FnOnce(&Policy) -> anyhow::Result<Policy>) -> anyhow::Result<Arc<Policy>> {
    publish_in(shared, |asked| asked, next)
}

/// As [`publish`]; at that very moment, what overrides the policy's modes becomes what `overrule` makes of it.
///
/// # Errors
/// Those of `next`: then nothing changes.
pub fn publish_in(
    shared: &Shared,
    overrule: impl FnOnce(Option<Mode>) -> Option<Mode>,
    next: impl FnOnce(&Policy) -> anyhow::Result<Policy>,
) -> anyhow::Result<Arc<Policy>> {
    let policy = shared.policy.replace(|present, generation| {
        let next = next(present)?;
        let was = shared.mode.get();
        let asked = overrule(was);
        shared.shadow_guard.before((&next, asked), (present, was), &shared.config);
        let mode = shared.shadow_guard.mode_override(asked);
        let next = if next.mode_override() == mode { next } else { next.in_mode(generation, mode)? };
        shared.mode.set(asked);
        anyhow::Ok(next)
    })?;
    count_policy(&shared.metrics, &policy);
    Ok(policy)
}

/// The policy to start with: the file's, or the last good one where the file has a mistake and one is kept.
///
/// # Errors
/// What is wrong with the file, when nothing else can be served.
pub(super) fn first_policy(config: &Config, reloads: &Reloads, metrics: &Metrics) -> anyhow::Result<Policy> {
    let Some(folder) = &config.state_dir else { return load_policy(config, &config.policy, 1, config.mode) };
    state_dir::check(folder)?;
    let mistakes = match load_policy(config, &config.policy, 1, config.mode) {
        Ok(policy) => return Ok(policy),
        Err(mistakes) => mistakes,
    };
    let kept = state_dir::path(folder);
    let policy = match load_policy(config, &kept, 1, config.mode) {
        Ok(policy) => policy,
        Err(error) => bail!("{mistakes:#}\n\nand the last good policy cannot take its place:\n{error:#}"),
    };
    tracing::error!(kept = %kept.display(), "the policy file has a mistake, the last good policy serves in its place: {mistakes:#}");
    metrics.reload(Reloaded::Policy, false);
    reloads.note(Reloaded::Policy, Some(format!("{mistakes:#}")));
    reloads.kept.store(true, Ordering::Relaxed);
    if let Some(last) = reloads.read.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&Reloaded::Policy) {
        last.ok = false;
    }
    Ok(policy)
}

/// Keeps the policy that serves for a start with a broken file. That it cannot be kept is no reason not to serve.
pub(super) fn keep(shared: &Shared) {
    if let Some(folder) = &shared.config.state_dir
        && let Err(error) = state_dir::keep(folder, &shared.policy.current())
    {
        tracing::error!(folder = %folder.display(), %error, "the policy cannot be kept: a start with a broken file would find the one before");
    }
}

/// Reads, checks and compiles the policy, and says every warning in the log.
fn load_policy(config: &Config, path: &Path, generation: u64, mode: Option<Mode>) -> anyhow::Result<Policy> {
    let loaded = policy::load::load(path, generation, mode)?;
    let cas: Vec<&str> = config.downstream.client_cas.iter().map(|ca| &*ca.name).collect();
    let unknown = loaded.check_cas(&cas);
    if unknown.has_mistakes() {
        return Err(unknown.into());
    }
    for warning in loaded.warnings().iter() {
        tracing::warn!("{warning}");
    }
    Ok(loaded)
}
