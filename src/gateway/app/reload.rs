//! What is read again while the program runs: each thing whole and aside, so that a mistake changes
//! nothing and the last good one goes on. How a mistake is told: in the log with its place, in
//! `etcd_warden_reloads_total`, and on `/policy`.
//!
//! All of this reads files and must not run on a thread that serves.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use etcd_warden_core::policy::{Mode, Policy};

use super::groups::Groups;
use super::watched_files::Desk;
use super::{State, count_expiries, count_policy, state_dir, watched_files};
use crate::config::Config;
use crate::files::Files;
use crate::metrics::Metrics;
use crate::metrics::reason::Reloaded;
use crate::policy_file;
use crate::proxy::Shared;
use crate::tls::{ClientTls, ServerIdentity, TlsErrors};

/// What was refused is read again after this, changed or not: its day may have come, and an alert
/// goes on as long as its cause.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Between two looks while a reload that was asked for waits until files have come to rest.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Beyond the time that files have to rest: those that change for longer are left to the next look.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the last reload of each thing went.
#[derive(Debug)]
pub(super) struct Reloads {
    things: BTreeMap<Reloaded, Thing>,
    /// Counts reads, so that what was read later is what is in effect later.
    reads: AtomicU64,
    failed: Mutex<BTreeMap<Reloaded, String>>,
    suspended: Mutex<Option<&'static str>>,
    /// The policy that serves is the kept one.
    kept: AtomicBool,
    /// The policy that serves was kept for the next start.
    stored: AtomicBool,
}

/// What is reloaded as a whole, with its own files: no other thing waits for it.
#[derive(Debug)]
struct Thing {
    desks: Vec<Desk>,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    files: Groups,
    /// The number of the read that was looked at last.
    read: u64,
    when: Instant,
    ok: bool,
}

/// What was read of a thing's files, and when.
#[derive(Debug)]
pub(super) struct Read {
    number: u64,
    files: Files,
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
    /// Reads all files, for a start.
    pub(super) async fn start(config: &Config) -> (Self, Files) {
        let read = async |what: Reloaded| {
            let desks: Vec<_> =
                watched_files::groups(config, what).into_iter().map(Desk::of).collect();
            let groups = futures_util::future::join_all(desks.iter().map(Desk::read)).await;
            let files = groups.iter().cloned().fold(Files::default(), Files::and);
            let last = Last {
                files: Groups::new(groups, what == Reloaded::Policy),
                read: 0,
                when: Instant::now(),
                ok: true,
            };
            ((what, Thing { desks, last: Mutex::new(last) }), files)
        };
        let read =
            futures_util::future::join_all(Reloaded::ALL.iter().map(|&what| read(what))).await;
        let (things, files): (BTreeMap<_, _>, Vec<_>) = read.into_iter().unzip();
        let reloads = Self {
            things,
            reads: AtomicU64::new(1),
            failed: Mutex::default(),
            suspended: Mutex::default(),
            kept: AtomicBool::new(false),
            stored: AtomicBool::new(false),
        };
        (reloads, files.into_iter().fold(Files::default(), Files::and))
    }

    /// Reads the files of one thing.
    pub(super) async fn read(&self, what: Reloaded) -> Read {
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        let desks = self.things.get(&what).map_or(&[][..], |thing| &thing.desks);
        let files = futures_util::future::join_all(desks.iter().map(Desk::read)).await;
        Read { number, files: files.into_iter().fold(Files::default(), Files::and) }
    }

    fn last(&self, what: Reloaded) -> Option<MutexGuard<'_, Last>> {
        Some(self.things.get(&what)?.last.lock().unwrap_or_else(PoisonError::into_inner))
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
        let failed = self
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&Reloaded::Policy)
            .cloned();
        failed.or(suspended.map(str::to_owned))
    }

    /// Why the last reload of certificates and revocation lists changed nothing, by what was not
    /// reloaded.
    #[must_use]
    pub fn certificate_errors(&self) -> BTreeMap<&'static str, String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed
            .iter()
            .filter(|(what, _)| **what != Reloaded::Policy)
            .map(|(what, why)| (what.code(), why.clone()))
            .collect()
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

/// Reads everything again. What is sound, and has come to rest, is in effect when this returns,
/// whatever is wrong with the rest.
///
/// # Errors
/// What was not reloaded, and why.
pub(super) async fn everything(state: &Arc<State>) -> Result<(), Refused> {
    let done =
        futures_util::future::join_all(Reloaded::ALL.iter().map(|&what| at_rest(state, what)))
            .await;
    let refused = Reloaded::ALL
        .iter()
        .zip(done)
        .filter_map(|(&what, done)| Some((what, format!("{:#}", done.err()?))));
    let refused: Vec<_> = refused.collect();
    if refused.is_empty() { Ok(()) } else { Err(Refused(refused)) }
}

/// Reads one thing again, when its files have come to rest.
async fn at_rest(state: &Arc<State>, what: Reloaded) -> anyhow::Result<()> {
    let patience = Instant::now() + state.shared.config.reload_settle + PATIENCE;
    loop {
        let read = state.reloads.read(what).await;
        let looking = state.clone();
        let looked =
            tokio::task::spawn_blocking(move || use_read(&looking, what, &read, Asked::ByName))
                .await?;
        match looked {
            Looked::Used(done) => return done,
            _ if Instant::now() < patience => tokio::time::sleep(LOOK_AGAIN).await,
            Looked::Nothing => bail!("{}: another look has read later", what.code()),
            Looked::Moving(files) => {
                bail!(
                    "{}: still being written, and used when it has come to rest: {}",
                    what.code(),
                    files
                        .iter()
                        .map(|file| file.display().to_string())
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            }
        }
    }
}

/// Reads one thing again on the calling thread, without a wait for its files to come to rest: for
/// callers that know that they are whole.
///
/// # Errors
/// Why the last good one goes on.
pub(super) fn one(state: &State, what: Reloaded) -> anyhow::Result<()> {
    let number = state.reloads.reads.fetch_add(1, Ordering::Relaxed);
    let read = Read { number, files: watched_files::read_now(&state.shared.config, what) };
    match use_read(state, what, &read, Asked::Knowing) {
        Looked::Used(done) => done,
        Looked::Nothing | Looked::Moving(_) => Ok(()),
    }
}

/// Looks at what was read of a thing, and uses it if it has changed and come to rest, or if it is
/// time to try again.
pub(super) fn look(state: &State, what: Reloaded, read: &Read) {
    // An error was reported.
    let _ = use_read(state, what, read, Asked::Never);
    if what == Reloaded::Policy {
        keep_what_has_rested(state);
    }
}

/// Whether somebody has asked for a reload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The watch: only what has changed is used.
    Never,
    /// A signal: what has not changed is proved again.
    ByName,
    /// A caller that knows that the files are whole.
    Knowing,
}

/// What became of a look.
enum Looked {
    /// There is nothing to do.
    Nothing,
    /// These files may not be whole yet. What has come to rest is in effect.
    Moving(Vec<PathBuf>),
    /// All files were used.
    Used(anyhow::Result<()>),
}

fn use_read(state: &State, what: Reloaded, read: &Read, asked: Asked) -> Looked {
    let Some(mut last) = state.reloads.last(what) else { return Looked::Nothing };
    // Another look has read later, and was faster.
    if read.number < last.read {
        return Looked::Nothing;
    }
    last.read = read.number;
    let settle =
        if asked == Asked::Knowing { Duration::ZERO } else { state.shared.config.reload_settle };
    let usable = last.files.look(&read.files, Instant::now(), settle);
    let again = asked != Asked::Never && usable.moving.is_empty()
        || !last.ok && last.when.elapsed() >= TRY_AGAIN;
    if !usable.rested && !again {
        return if usable.moving.is_empty() {
            Looked::Nothing
        } else {
            Looked::Moving(usable.moving)
        };
    }
    let (same, files) = (last.ok && !usable.rested, &usable.files);
    let reloaded = match what {
        Reloaded::Policy => policy(state, files),
        Reloaded::Clients => clients(state, files, same),
        Reloaded::Server => server(state, files, same),
        Reloaded::Upstream => upstream(state, files, same),
    };
    let faults = reloaded.as_ref().err();
    let sound = |path: &Path| match faults.map(|error| error.downcast_ref::<TlsErrors>()) {
        None => true,
        Some(None) => false,
        Some(Some(errors)) => errors.0.iter().all(|error| error.path != path),
    };
    last.files.used(&usable, sound);
    (last.when, last.ok) = (Instant::now(), reloaded.is_ok());
    state.shared.metrics.reload(what, reloaded.is_ok());
    state.reloads.note(what, reloaded.as_ref().err().map(|error| format!("{error:#}")));
    match &reloaded {
        Ok(()) => tracing::info!(what = what.code(), "reloaded"),
        Err(error) => tracing::error!(
            what = what.code(),
            "not reloaded, the last good one goes on: {error:#}"
        ),
    }
    if usable.moving.is_empty() { Looked::Used(reloaded) } else { Looked::Moving(usable.moving) }
}

// Certificates are read also where nothing is new (`same`): their day may have come. But then
// nothing is replaced.

fn clients(state: &State, files: &Files, same: bool) -> anyhow::Result<()> {
    let present = state.shared.tls.current();
    let (trust, mistakes) =
        present.server.trust().renewed(&state.shared.config.downstream, files)?;
    if !same {
        state.shared.tls.replace_trust(trust, &state.shared.config)?;
        warn_of_stale(&state.shared);
    }
    count_expiries(&state.shared);
    // Of a file with a mistake, what it had before goes on: the others count.
    if mistakes.0.is_empty() { Ok(()) } else { Err(mistakes.into()) }
}

fn server(state: &State, files: &Files, same: bool) -> anyhow::Result<()> {
    let identity = ServerIdentity::from_files(&state.shared.config.downstream, files)?;
    if !same {
        state.shared.tls.replace_identity(identity, &state.shared.config)?;
    }
    count_expiries(&state.shared);
    Ok(())
}

fn upstream(state: &State, files: &Files, same: bool) -> anyhow::Result<()> {
    let upstream = ClientTls::from_files(&state.shared.config.upstream, files)?;
    if let Some(upstream) = upstream.filter(|_| !same) {
        state.shared.tls.replace_upstream(upstream);
        warn_of_stale(&state.shared);
    }
    count_expiries(&state.shared);
    Ok(())
}

/// Says what is out of date, and so refuses or says nothing.
pub(super) fn warn_of_stale(shared: &Shared) {
    for stale in shared.tls.current().expired() {
        tracing::warn!("out of date: {stale}");
    }
}

fn policy(state: &State, files: &Files) -> anyhow::Result<()> {
    let mode = state.shadow_guard.mode_override(state.mode.get());
    let path = &state.shared.config.policy;
    let read = checked_policy(
        &state.shared.config,
        policy_file::of_read(path, files.bytes(path), 0, mode)?,
    )?;
    whole(&state.shared.policy.current(), &read)?;
    let policy = publish(state, |_| read);
    state.reloads.kept.store(false, Ordering::Relaxed);
    keep(state);
    tracing::info!(generation = policy.generation, hash = %policy.hash, "policy reloaded");
    Ok(())
}

/// The policy that `next` makes of the present one becomes the one that counts, in the mode that
/// counts at that very moment.
pub(super) fn publish(state: &State, next: impl FnOnce(&Policy) -> Policy) -> Arc<Policy> {
    publish_in(state, |asked| asked, next)
}

/// As [`publish`]; at that very moment, what overrides the policy's modes becomes what `overrule`
/// makes of it.
pub(super) fn publish_in(
    state: &State,
    overrule: impl FnOnce(Option<Mode>) -> Option<Mode>,
    next: impl FnOnce(&Policy) -> Policy,
) -> Arc<Policy> {
    let policy = state.shared.policy.replace(|present, generation| {
        let next = next(present);
        let was = state.mode.get();
        let asked = overrule(was);
        state.shadow_guard.before((&next, asked), (present, was), &state.shared.config);
        let mode = state.shadow_guard.mode_override(asked);
        state.mode.set(asked);
        if next.mode_override() == mode { next } else { next.in_mode(generation, mode) }
    });
    count_policy(&state.shared.metrics, &policy);
    policy
}

/// A policy that ends with YAML's own end of a document, after one that did: what lacks it was cut.
///
/// # Errors
/// It lacks it.
fn whole(before: &Policy, next: &Policy) -> anyhow::Result<()> {
    if before.has_end_marker() && !next.has_end_marker() {
        bail!(
            "the policy file is not whole: the policy before it ends with the line `...`, and this one does not. \
             Write that line at its end; a proxy that is started again (with an empty `state-dir`) does without it"
        );
    }
    Ok(())
}

/// The policy to start with: the file's, or the last good one where the file has a mistake and one
/// is kept.
///
/// # Errors
/// What is wrong with the file, when nothing else can be served.
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
    let mistakes = match read {
        Err(mistakes) => mistakes,
        // Only the marker makes it worth the while to read the kept one.
        Ok(policy) if policy.has_end_marker() => return Ok(policy),
        Ok(policy) => match kept().map(|kept| whole(&kept, &policy)) {
            Ok(Err(cut)) => cut,
            _ => return Ok(policy),
        },
    };
    let policy = match kept() {
        Ok(policy) => policy,
        Err(error) => {
            bail!("{mistakes:#}\n\nand the last good policy cannot take its place:\n{error:#}")
        }
    };
    tracing::error!(kept = %path.display(), "the policy file has a mistake, the last good policy serves in its place: {mistakes:#}");
    metrics.reload(Reloaded::Policy, false);
    reloads.note(Reloaded::Policy, Some(format!("{mistakes:#}")));
    reloads.kept.store(true, Ordering::Relaxed);
    if let Some(mut last) = reloads.last(Reloaded::Policy) {
        last.ok = false;
    }
    Ok(policy)
}

/// Keeps the policy that a start has read: at once where none is kept yet, or where no watch would
/// do it later.
pub(super) fn keep_first(state: &State) {
    let none_yet = state
        .shared
        .config
        .state_dir
        .as_deref()
        .is_some_and(|folder| !state_dir::path(folder).exists());
    let watched = !state.shared.config.reload_settle.is_zero()
        && !state.shared.config.reload_interval.is_zero();
    if none_yet || !watched {
        keep(state);
    }
}

/// Keeps the policy that a start has read in the place of another, once its file has come to rest:
/// a file that was cut is not to outlive the process.
fn keep_what_has_rested(state: &State) {
    if state.reloads.stored.load(Ordering::Relaxed) {
        return;
    }
    let rested = |last: &Last| {
        last.ok
            && last.when.elapsed() >= state.shared.config.reload_settle
            && !last.files.is_moving()
    };
    if state.reloads.last(Reloaded::Policy).is_some_and(|last| rested(&last)) {
        keep(state);
    }
}

/// Keeps the policy that serves for a start with a broken file. That it cannot be kept is no reason
/// not to serve.
pub(super) fn keep(state: &State) {
    state.reloads.stored.store(true, Ordering::Relaxed);
    if let Some(folder) = &state.shared.config.state_dir
        && let Err(error) = state_dir::keep(folder, &state.shared.policy.current())
    {
        tracing::error!(folder = %folder.display(), %error, "the policy cannot be kept: a start with a broken file would find the one before");
    }
}

/// Checks a policy against the configuration, and says every warning in the log.
fn checked_policy(config: &Config, policy: Policy) -> anyhow::Result<Policy> {
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
