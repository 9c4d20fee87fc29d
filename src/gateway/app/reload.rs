//! Reloads policies and certificates while the gateway serves. Each [`Reloaded`] is read and
//! checked as a whole before it replaces the one in effect: after an error the previous version is
//! kept. Errors are in the log, in `etcd_warden_reloads_total` and on `/policy`.
//!
//! These functions read files. They must not run on a thread that serves clients.

pub(super) mod apply;
pub(super) mod status;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::groups::Groups;
use super::settling::FileKind;
use super::watched_files::GroupReader;
use super::{State, kept_policy, watched_files};
use crate::config::Config;
use crate::files::Files;
use crate::metrics::reason::Reloaded;
use crate::tls::TlsErrors;
pub(super) use apply::warn_of_stale;
use status::ReloadStatus;

/// After a failed reload the files are read again after this time, changed or not: a certificate
/// may have become valid, and the counter of failed reloads must increase as long as the error
/// remains.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Between two checks while a requested reload waits until files are stable.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a requested reload waits for stable files, in addition to `reload-settle`. Later
/// changes are left to the watch.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The state of all reloads.
#[derive(Debug)]
pub(super) struct Reloads {
    sources: BTreeMap<Reloaded, Source>,
    /// Numbers the reads, so that an older read never replaces a newer one.
    reads: AtomicU64,
    /// How the last reloads went.
    pub(super) status: ReloadStatus,
}

/// The files of one [`Reloaded`]. It does not wait for any other.
#[derive(Debug)]
struct Source {
    readers: Vec<GroupReader>,
    last: Mutex<Last>,
}

/// The last reload of a source.
#[derive(Debug)]
struct Last {
    files: Groups,
    /// The number of the last read that was checked.
    read: u64,
    when: Instant,
    ok: bool,
}

/// The content of a source's files, as one read has found it.
#[derive(Debug)]
pub(super) struct FilesRead {
    number: u64,
    files: Files,
}

/// The reloads that failed, and why. At least one.
#[derive(Debug)]
pub struct ReloadErrors(Vec<(Reloaded, String)>);

impl fmt::Display for ReloadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.0.iter().map(|(_, error)| error.as_str()).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ReloadErrors {}

impl Reloads {
    /// Reads all files, for the start.
    pub(super) async fn start(config: &Config) -> (Self, Files) {
        let read = async |what: Reloaded| {
            let readers: Vec<_> =
                watched_files::groups(config, what).into_iter().map(GroupReader::new).collect();
            let groups =
                futures_util::future::join_all(readers.iter().map(GroupReader::read)).await;
            let files = groups.iter().cloned().fold(Files::default(), Files::and);
            let kind = if what == Reloaded::Policy { FileKind::Policy } else { FileKind::Pem };
            let last =
                Last { files: Groups::new(groups, kind), read: 0, when: Instant::now(), ok: true };
            ((what, Source { readers, last: Mutex::new(last) }), files)
        };
        let read =
            futures_util::future::join_all(Reloaded::ALL.iter().map(|&what| read(what))).await;
        let (sources, files): (BTreeMap<_, _>, Vec<_>) = read.into_iter().unzip();
        let reloads = Self { sources, reads: AtomicU64::new(1), status: ReloadStatus::default() };
        (reloads, files.into_iter().fold(Files::default(), Files::and))
    }

    /// Reads the files of one source.
    pub(super) async fn read(&self, what: Reloaded) -> FilesRead {
        let number = self.next_read();
        let readers = self.sources.get(&what).map_or(&[][..], |source| &source.readers);
        let files = futures_util::future::join_all(readers.iter().map(GroupReader::read)).await;
        FilesRead { number, files: files.into_iter().fold(Files::default(), Files::and) }
    }

    /// Notes that the policy file had an error at the start, so that the watch retries it.
    pub(super) fn start_failed(&self, what: Reloaded) {
        if let Some(mut last) = self.last(what) {
            last.ok = false;
        }
    }

    /// Whether the last reload succeeded, and the files have not changed for `settle` since.
    pub(super) fn is_stable(&self, what: Reloaded, settle: Duration) -> bool {
        self.last(what).is_some_and(|last| {
            last.ok && last.when.elapsed() >= settle && !last.files.has_change()
        })
    }

    fn last(&self, what: Reloaded) -> Option<MutexGuard<'_, Last>> {
        Some(self.sources.get(&what)?.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn next_read(&self) -> u64 {
        self.reads.fetch_add(1, Ordering::Relaxed)
    }
}

/// Reloads everything, each source as soon as its files are stable. An error in one does not affect
/// the others.
///
/// # Errors
/// The reloads that failed, and why.
pub(super) async fn everything(state: &Arc<State>) -> Result<(), ReloadErrors> {
    let results =
        futures_util::future::join_all(Reloaded::ALL.iter().map(|&what| when_stable(state, what)))
            .await;
    let errors: Vec<_> = Reloaded::ALL
        .iter()
        .zip(results)
        .filter_map(|(&what, result)| Some((what, format!("{:#}", result.err()?))))
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(ReloadErrors(errors)) }
}

/// Reloads one source when its files are stable.
async fn when_stable(state: &Arc<State>, what: Reloaded) -> anyhow::Result<()> {
    let deadline = Instant::now() + state.shared.config.reload_settle + REQUEST_TIMEOUT;
    loop {
        let read = state.reloads.read(what).await;
        let owned = state.clone();
        let outcome =
            tokio::task::spawn_blocking(move || use_read(&owned, what, &read, Trigger::Request))
                .await?;
        match outcome {
            Outcome::Reloaded(result) => return result,
            _ if Instant::now() < deadline => tokio::time::sleep(CHECK_INTERVAL).await,
            Outcome::Nothing => bail!("{}: a later read was checked first", what.code()),
            Outcome::Unstable(files) => {
                let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
                bail!(
                    "{}: still being written, and reloaded when stable: {}",
                    what.code(),
                    files.join(", ")
                )
            }
        }
    }
}

/// Reloads one source on the calling thread without waiting until its files are stable, for callers
/// that know that they are complete.
///
/// # Errors
/// The reload failed, and the previous version is still in effect.
pub(super) fn now(state: &State, what: Reloaded) -> anyhow::Result<()> {
    let number = state.reloads.next_read();
    let read = FilesRead { number, files: watched_files::read_now(&state.shared.config, what) };
    match use_read(state, what, &read, Trigger::RequestComplete) {
        Outcome::Reloaded(result) => result,
        Outcome::Nothing | Outcome::Unstable(_) => Ok(()),
    }
}

/// Reloads one source if `read` shows a stable change, or if a failed reload must be retried.
pub(super) fn check(state: &State, what: Reloaded, read: &FilesRead) {
    // `use_read` reports errors.
    let _ = use_read(state, what, read, Trigger::Watch);
    if what == Reloaded::Policy {
        kept_policy::keep_when_stable(state);
    }
}

/// What has started a reload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trigger {
    /// The watch: only changes are reloaded.
    Watch,
    /// A signal: unchanged files are checked, too.
    Request,
    /// A caller that knows that the files are complete.
    RequestComplete,
}

/// The result of a check.
enum Outcome {
    /// Nothing had to be reloaded.
    Nothing,
    /// These files may be incomplete. All others are in effect.
    Unstable(Vec<PathBuf>),
    /// All files were used.
    Reloaded(anyhow::Result<()>),
}

fn use_read(state: &State, what: Reloaded, read: &FilesRead, trigger: Trigger) -> Outcome {
    let Some(mut last) = state.reloads.last(what) else { return Outcome::Nothing };
    // A read that began later was checked first.
    if read.number < last.read {
        return Outcome::Nothing;
    }
    last.read = read.number;
    let settle = if trigger == Trigger::RequestComplete {
        Duration::ZERO
    } else {
        state.shared.config.reload_settle
    };
    let usable = last.files.check(&read.files, Instant::now(), settle);
    let is_requested = trigger != Trigger::Watch && usable.unstable.is_empty();
    let is_retry = !last.ok && last.when.elapsed() >= RETRY_INTERVAL;
    if !usable.changed && !is_requested && !is_retry {
        return if usable.unstable.is_empty() {
            Outcome::Nothing
        } else {
            Outcome::Unstable(usable.unstable)
        };
    }
    let is_unchanged = last.ok && !usable.changed;
    let result = apply::apply(state, what, &usable.files, is_unchanged);
    let error = result.as_ref().err();
    let is_valid = |path: &Path| match error.map(|error| error.downcast_ref::<TlsErrors>()) {
        None => true,
        Some(None) => false,
        Some(Some(errors)) => errors.0.iter().all(|error| error.path != path),
    };
    last.files.used(&usable, is_valid);
    (last.when, last.ok) = (Instant::now(), result.is_ok());
    state.shared.metrics.reload(what, result.is_ok());
    state.reloads.status.set(what, error.map(|error| format!("{error:#}")));
    match &result {
        Ok(()) => tracing::info!(what = what.code(), "reloaded"),
        Err(error) => tracing::error!(
            what = what.code(),
            "reload failed; the previous version stays in effect: {error:#}"
        ),
    }
    if usable.unstable.is_empty() {
        Outcome::Reloaded(result)
    } else {
        Outcome::Unstable(usable.unstable)
    }
}
