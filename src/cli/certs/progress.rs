//! A progress line on a terminal, for long runs.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Shorter runs show no progress.
const MANY: usize = 200;

/// Writes to standard error if that is a terminal.
pub(super) struct Progress {
    total: usize,
    /// When the line was last drawn; `None` if it is not shown.
    drawn: Option<Mutex<Instant>>,
}

impl Progress {
    /// Progress of a run with `total` certificates.
    pub(super) fn new(total: usize) -> Self {
        let is_shown = total >= MANY && std::io::stderr().is_terminal();
        Self { total, drawn: is_shown.then(|| Mutex::new(Instant::now())) }
    }

    /// Updates the line, at most ten times per second.
    pub(super) fn done(&self, count: usize) {
        let Some(Ok(mut drawn)) = self.drawn.as_ref().map(Mutex::try_lock) else { return };
        if drawn.elapsed() >= Duration::from_millis(100) {
            *drawn = Instant::now();
            let _ = write!(std::io::stderr(), "\r{count} of {} certificates", self.total);
        }
    }

    /// Clears the line.
    pub(super) fn end(&self) {
        if self.drawn.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
