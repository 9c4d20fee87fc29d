//! Watches files, and reloads them when their content changes.
//!
//! This compares content, not times: Kubernetes replaces a folder by moving one symbolic link,
//! agents rename files, editors write in place. [`super::settling`] decides when a change is used.
//! Half a change, as a certificate without its key, is an error that is reported and changes
//! nothing; the other half is the next change.
//!
//! Each [`Reloaded`] is watched by itself, and its files are read on another thread. A file system
//! that does not answer delays nothing else, not even the end of the process
//! (`cli::serve::on_runtime` does not wait for threads).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::State;
use super::reload;
use crate::config::Config;
use crate::files::{Files, READ_TIMEOUT};
use crate::metrics::reason::Reloaded;
use crate::tls;

/// The files of `what`.
fn paths(config: &Config, what: Reloaded) -> Vec<&Path> {
    match what {
        Reloaded::Clients => config.downstream.trust_files().collect(),
        Reloaded::Policy => vec![&config.policy],
        Reloaded::Server => config.downstream.identity_files().to_vec(),
        Reloaded::Upstream => config.upstream.files().collect(),
    }
}

/// The files of `what` in groups. Each group is read and settles by itself, so that a revocation
/// does not wait for other files.
pub(super) fn groups(config: &Config, what: Reloaded) -> Vec<Vec<PathBuf>> {
    let paths = paths(config, what).into_iter().map(Path::to_owned);
    match what {
        Reloaded::Clients => {
            paths.collect::<BTreeSet<_>>().into_iter().map(|path| vec![path]).collect()
        }
        // A certificate and its key must match.
        Reloaded::Policy | Reloaded::Server | Reloaded::Upstream => vec![paths.collect()],
    }
}

/// Reads the files of `what`, on the calling thread.
pub(super) fn read_now(config: &Config, what: Reloaded) -> Files {
    Files::read(paths(config, what), tls::MAX_BYTES)
}

/// Reads one group of files, on a thread that serves no client.
#[derive(Debug)]
pub(super) struct GroupReader {
    paths: Vec<PathBuf>,
    /// A thread is reading them.
    busy: Arc<AtomicBool>,
}

impl GroupReader {
    /// A reader of these files.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, busy: Arc::default() }
    }

    /// Reads the files. If their file system does not answer they are
    /// [`crate::files::ReadError::TimedOut`], and at most one thread waits for it.
    pub(super) async fn read(&self) -> Files {
        let owned = self.paths.clone();
        let read = move || Files::read(owned.iter().map(PathBuf::as_path), tls::MAX_BYTES);
        self.within(READ_TIMEOUT, read)
            .await
            .unwrap_or_else(|| Files::timed_out(self.paths.iter().map(PathBuf::as_path)))
    }

    /// The result of `read`, unless it takes longer than `time` or an earlier one has not ended.
    async fn within<T: Send + 'static>(
        &self,
        time: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        let done = ClearOnDrop(self.busy.clone());
        let reading = spawn_blocking(move || {
            let _done = done;
            read()
        });
        tokio::time::timeout(time, reading).await.ok()?.ok()
    }
}

/// Clears `busy` when the thread ends, also by a panic.
struct ClearOnDrop(Arc<AtomicBool>);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Checks all files once per `reload-interval`, and reloads those that have changed and are stable.
pub(super) async fn watch(state: Arc<State>) {
    if !state.shared.config.reload_interval.is_zero() {
        futures_util::future::join_all(Reloaded::ALL.iter().map(|&what| watch_one(&state, what)))
            .await;
    }
}

async fn watch_one(state: &Arc<State>, what: Reloaded) {
    loop {
        tokio::time::sleep(state.shared.config.reload_interval).await;
        let read = state.reloads.read(what).await;
        let state = state.clone();
        // A panic was logged; the next check may succeed.
        let _ = spawn_blocking(move || reload::check(&state, what, &read)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_read_that_does_not_end_blocks_one_thread() {
        let (reader, long) = (GroupReader::new(Vec::new()), Duration::from_secs(3600));
        let (proceed, hangs) = mpsc::sync_channel::<()>(1);
        assert_eq!(reader.within(Duration::ZERO, move || hangs.recv()).await, None, "late");
        for _ in 0..1000 {
            assert_eq!(reader.within(long, || ()).await, None, "no second thread");
        }
        proceed.send(()).unwrap();
        while reader.busy.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        assert_eq!(reader.within(long, || 1).await, Some(1));
    }
}
