//! The log: one line for each event, on standard error, written by a thread of its own.
//!
//! **A thread that serves clients never waits for the log.** It adds a line to the writer's queue.
//! If the queue is full, because standard error is a pipe that is not read, the line is lost and
//! counted. The rate of similar lines is limited (`repeats`).
//!
//! Names and keys come from clients. Log them through [`etcd_warden_core::keyspace::Escaped`]:
//! `tracing::warn!(cn = %Escaped(cn.as_bytes()), "refused")`. If a place forgets that, the writer
//! still escapes control characters in values (`line`), so that a client can neither forge a line
//! nor control a terminal.

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

/// The target of the lines of this module.
const TARGET: &str = module_path!();

/// Capacity of the queue in lines.
pub const QUEUE: usize = 1024;

/// Between two reports of suppressed and lost lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// How long [`flush`] waits for the queue.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The log of this process, set by [`init`].
static LOG: OnceLock<LogState> = OnceLock::new();

struct LogState {
    counts: Arc<LineCounts>,
    repeats: Repeats,
    full: ErrorCounter,
    /// Never dropped: its destructor writes to standard output, which may be the audit log.
    _writer: WorkerGuard,
}

/// Counters of lines, by which [`flush`] finds the queue empty.
#[derive(Default)]
struct LineCounts {
    made: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
}

impl LineCounts {
    fn count_made(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lines of this process that were not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Standard error was not read, or writing to it failed.
    pub full: u64,
    /// There were too many similar ones.
    pub repeated: u64,
}

/// Starts the log. Only the first call of a process takes effect; later ones (tests) check the
/// filter and leave the log as it is.
///
/// # Errors
/// `EnvFilter` does not accept the filter.
pub fn init(log: &Log) -> Result<(), String> {
    filter(log)?;
    let mut failed = None;
    LOG.get_or_init(|| {
        let (counts, repeats) = (Arc::<LineCounts>::default(), Repeats::default());
        let sink = CountingWriter { to: io::stderr(), counts: counts.clone() };
        let builder = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE)
            .thread_name("log");
        let (writer, guard) = builder.finish(sink);
        let full = writer.error_counter();
        let ansi = !log.json && io::stderr().is_terminal();
        match build(log, ansi, writer, counts.clone(), repeats.clone()) {
            // An error: the process has set another subscriber, as tests do.
            Ok(subscriber) => drop(tracing::subscriber::set_global_default(subscriber)),
            Err(error) => failed = Some(error),
        }
        LogState { counts, repeats, full, _writer: guard }
    });
    failed.map_or(Ok(()), Err)
}

/// The log of [`init`] with another writer. `ansi`: with colours, for terminals.
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
    counts: Arc<LineCounts>,
    repeats: Repeats,
) -> Result<Box<dyn Subscriber + Send + Sync>, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter(log)?).with_ansi(ansi);
    // Internal errors would be written to standard error directly, and block.
    let builder = builder.log_internal_errors(false).with_writer(OneLine {
        writer,
        ansi,
        json: log.json,
        counts,
    });
    Ok(if log.json {
        Box::new(builder.json().flatten_event(true).finish().with(repeats))
    } else {
        Box::new(builder.finish().with(repeats))
    })
}

/// The number of lines that were not written since the start.
pub fn lost() -> Lost {
    let Some(log) = LOG.get() else { return Lost::default() };
    let full = u64::try_from(log.full.dropped_lines()).unwrap_or(u64::MAX);
    Lost {
        full: full.saturating_add(log.counts.failed.load(Ordering::Relaxed)),
        repeated: log.repeats.total(),
    }
}

/// Reports suppressed and lost lines in the log, once per `REPORT_INTERVAL`. Never returns.
pub async fn report_lost_lines() {
    let mut reported = 0;
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let Some(log) = LOG.get() else { continue };
        for (example, lines) in log.repeats.take() {
            tracing::warn!(lines, %example, "suppressed similar lines of the log");
        }
        let full = lost().full;
        if full > reported {
            tracing::warn!(
                lines = full.saturating_sub(reported),
                "lost lines of the log: standard error is not read, or is read too slowly"
            );
            reported = full;
        }
    }
}

/// Waits until all queued lines are written, for one second at most: the process that reads
/// standard error may have stopped.
pub fn flush() {
    let Some(log) = LOG.get() else { return };
    let begun = Instant::now();
    let is_written = || {
        let done = log
            .counts
            .written
            .load(Ordering::Acquire)
            .saturating_add(u64::try_from(log.full.dropped_lines()).unwrap_or(u64::MAX));
        done >= log.counts.made.load(Ordering::Acquire)
    };
    while !is_written() && begun.elapsed() < FLUSH_TIMEOUT {
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// The output of the writer's thread. Counts lines.
struct CountingWriter<W> {
    to: W,
    counts: Arc<LineCounts>,
}

impl<W: Write> Write for CountingWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    /// The writer's thread calls this once for each line.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.to.write_all(line);
        if written.is_err() {
            self.counts.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.counts.written.fetch_add(1, Ordering::Release);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests;
