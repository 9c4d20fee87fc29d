//! Files that are read again when their content changes.
//!
//! Content is compared, not times: Kubernetes replaces a whole folder by moving one symlink, agents
//! rename, editors write in place. When a change is in effect is for `settling` to say. A change
//! that is half done (a certificate without its key) is a mistake, which is reported and changes
//! nothing; the other half is the next change.
//!
//! Each thing is looked at by itself, and read on a thread of its own: a file system that does not
//! answer holds up nothing else, not even the end of the process (`cli::serve::on_runtime` waits
//! for no thread).

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

/// The files of `what` in groups, each of which is read and comes to rest by itself: a revocation
/// waits for no other file.
pub(super) fn groups(config: &Config, what: Reloaded) -> Vec<Vec<PathBuf>> {
    let paths = paths(config, what).into_iter().map(Path::to_owned);
    match what {
        Reloaded::Clients => {
            paths.collect::<BTreeSet<_>>().into_iter().map(|path| vec![path]).collect()
        }
        // A certificate and its key go together.
        Reloaded::Policy | Reloaded::Server | Reloaded::Upstream => vec![paths.collect()],
    }
}

/// Reads the files of `what`, on the calling thread.
pub(super) fn read_now(config: &Config, what: Reloaded) -> Files {
    Files::read(paths(config, what), tls::MAX_BYTES)
}

/// Reads files that are used together, on a thread that serves no client.
#[derive(Debug)]
pub(super) struct Desk {
    paths: Vec<PathBuf>,
    /// A thread reads them.
    busy: Arc<AtomicBool>,
}

impl Desk {
    /// For these files.
    pub(super) fn of(paths: Vec<PathBuf>) -> Self {
        Self { paths, busy: Arc::default() }
    }

    /// Reads them. Those of a file system that does not answer are [`crate::files::ReadError::TimedOut`],
    /// and one thread at most waits for it.
    pub(super) async fn read(&self) -> Files {
        let owned = self.paths.clone();
        let read = move || Files::read(owned.iter().map(PathBuf::as_path), tls::MAX_BYTES);
        self.within(READ_TIMEOUT, read)
            .await
            .unwrap_or_else(|| Files::timed_out(self.paths.iter().map(PathBuf::as_path)))
    }

    /// What `read` gives in time, unless one from before has not ended yet.
    async fn within<T: Send + 'static>(
        &self,
        time: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        let done = Done(self.busy.clone());
        let reading = spawn_blocking(move || {
            let _done = done;
            read()
        });
        tokio::time::timeout(time, reading).await.ok()?.ok()
    }
}

/// Clears the mark when the thread is done, however it ends.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Looks at all files once each `reload-interval`, and uses what has changed and come to rest.
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
        let looking = state.clone();
        // A panic there is a bug of ours, and was logged; the next look may do better.
        let _ = spawn_blocking(move || reload::look(&looking, what, &read)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_read_that_does_not_end_holds_up_one_thread() {
        let (desk, long) = (Desk::of(Vec::new()), Duration::from_secs(3600));
        let (go_on, hangs) = mpsc::sync_channel::<()>(1);
        assert_eq!(desk.within(Duration::ZERO, move || hangs.recv()).await, None, "late");
        for _ in 0..1000 {
            assert_eq!(desk.within(long, || ()).await, None, "no second thread");
        }
        go_on.send(()).unwrap();
        while desk.busy.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        assert_eq!(desk.within(long, || 1).await, Some(1));
    }
}
