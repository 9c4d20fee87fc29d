//! The log: one event, one line, on standard error, written by a thread of its own.
//!
//! **No thread that serves ever waits for the log.** A line is handed to the writer's queue; where
//! that is full, because standard error is a pipe that is not read, the line is lost and counted.
//! Of each kind of line only some are written in a second (`telemetry/repeats`).
//!
//! Names and keys come from callers. Say them through [`etcd_warden_core::keyspace::Escaped`]:
//! `tracing::warn!(cn = %Escaped(cn.as_bytes()), "refused")`. Where that is forgotten, the writer
//! below still lets no control character of a value through, so that nobody can forge a second line
//! or talk to a terminal.

mod line;
mod repeats;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::config::Log;
use line::OneLine;
use repeats::Repeats;

/// What the lines of this module have as their target.
const TARGET: &str = module_path!();

/// Lines that may wait for the writer.
pub const QUEUE: usize = 1024;

/// Between two lines that say what was left out.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// How long the end of the process waits for lines that are not written yet.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log of this process, once it has begun.
static LOG: OnceLock<Running> = OnceLock::new();

struct Running {
    passed: Arc<Passed>,
    repeats: Repeats,
    full: ErrorCounter,
    /// Never dropped: its end would write to standard output, which may be the audit.
    _writer: WorkerGuard,
}

/// Lines on their way.
#[derive(Default)]
struct Passed {
    made: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
}

impl Passed {
    fn one_is_made(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lines of this process that were not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Standard error was not read, or could not be written to.
    pub full: u64,
    /// There were too many of their kind.
    pub repeated: u64,
}

/// Starts the log. Only the first call of a process takes effect; later ones (tests) check the
/// filter and leave the log as it is.
///
/// # Errors
/// A filter that `EnvFilter` cannot read, with what is wrong in it.
pub fn init(log: &Log) -> Result<(), String> {
    filter(log)?;
    let mut failed = None;
    LOG.get_or_init(|| {
        let (passed, repeats) = (Arc::<Passed>::default(), Repeats::default());
        let sink = Sink { to: io::stderr(), passed: passed.clone() };
        let builder = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE)
            .thread_name("log");
        let (writer, guard) = builder.finish(sink);
        let full = writer.error_counter();
        let ansi = !log.json && io::stderr().is_terminal();
        match build(log, ansi, writer, passed.clone(), repeats.clone()) {
            // An error here says that there is a log already.
            Ok(subscriber) => drop(tracing::subscriber::set_global_default(subscriber)),
            Err(error) => failed = Some(error),
        }
        Running { passed, repeats, full, _writer: guard }
    });
    failed.map_or(Ok(()), Err)
}

/// The log as `init` sets it up, on another writer. `ansi`: colours, for terminals.
///
/// # Errors
/// As [`init`].
pub fn subscriber<W>(
    log: &Log,
    ansi: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    build(log, ansi, writer, Arc::default(), Repeats::default())
}

fn filter(log: &Log) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .parse(&log.filter)
        .map_err(|error| format!("log filter `{}`: {error}", log.filter))
}

fn build<W>(
    log: &Log,
    ansi: bool,
    writer: W,
    passed: Arc<Passed>,
    repeats: Repeats,
) -> Result<Box<dyn Subscriber + Send + Sync>, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter(log)?).with_ansi(ansi);
    // What it says of its own errors it would write to standard error itself, and wait.
    let builder = builder.log_internal_errors(false).with_writer(OneLine {
        writer,
        ansi,
        json: log.json,
        passed,
    });
    Ok(if log.json {
        Box::new(builder.json().flatten_event(true).finish().with(repeats))
    } else {
        Box::new(builder.finish().with(repeats))
    })
}

/// What this process has not written so far.
#[must_use]
pub fn lost() -> Lost {
    let Some(log) = LOG.get() else { return Lost::default() };
    let full = u64::try_from(log.full.dropped_lines()).unwrap_or(u64::MAX);
    Lost {
        full: full.saturating_add(log.passed.failed.load(Ordering::Relaxed)),
        repeated: log.repeats.total(),
    }
}

/// Says every few seconds which lines were left out, and how many were lost, for as long as this is
/// polled.
pub async fn report_what_is_left_out() {
    let mut said = 0;
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let Some(log) = LOG.get() else { continue };
        for (like, lines) in log.repeats.take() {
            tracing::warn!(lines, %like, "lines were left out of the log: too many of one kind");
        }
        let full = lost().full;
        if full > said {
            tracing::warn!(
                lines = full.saturating_sub(said),
                "lines of the log were lost: standard error is not read, or too slowly"
            );
            said = full;
        }
    }
}

/// Waits until all lines are written, for a second at most: what reads standard error may do so no
/// more.
pub fn flush() {
    let Some(log) = LOG.get() else { return };
    let begun = Instant::now();
    let is_written = || {
        let gone = log
            .passed
            .written
            .load(Ordering::Acquire)
            .saturating_add(u64::try_from(log.full.dropped_lines()).unwrap_or(u64::MAX));
        gone >= log.passed.made.load(Ordering::Acquire)
    };
    while !is_written() && begun.elapsed() < LAST_LINES {
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Where the writer's thread writes to.
struct Sink<W> {
    to: W,
    passed: Arc<Passed>,
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    /// One line.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.to.write_all(line);
        if written.is_err() {
            self.passed.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.passed.written.fetch_add(1, Ordering::Release);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests;
