//! How far it is, on a terminal, when it is long.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Fewer than these are done before anybody wonders.
const MANY: usize = 200;

/// Writes to standard error while it is looked at.
pub(super) struct Progress {
    total: usize,
    /// When it was told last; `None` when nobody looks.
    told: Option<Mutex<Instant>>,
}

impl Progress {
    /// Of so many.
    pub(super) fn new(total: usize) -> Self {
        let looked_at = total >= MANY && std::io::stderr().is_terminal();
        Self { total, told: looked_at.then(|| Mutex::new(Instant::now())) }
    }

    /// So many are done.
    pub(super) fn done(&self, count: usize) {
        let Some(Ok(mut told)) = self.told.as_ref().map(Mutex::try_lock) else { return };
        if told.elapsed() >= Duration::from_millis(100) {
            *told = Instant::now();
            let _ = write!(std::io::stderr(), "\r{count} of {} certificates", self.total);
        }
    }

    /// Takes the line away.
    pub(super) fn end(&self) {
        if self.told.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
