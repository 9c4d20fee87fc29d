//! The thread that writes audit lines.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::queue::QueueSlot;
use super::sink::Sink;
use super::{Message, WriterState};
use crate::config::OnFull;

/// Between two attempts to write lines that must not be lost (`audit-on-full: deny`).
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Between two messages in the log about failed writes.
const ERROR_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Size of a batch, which is written at once, in bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// The writer of the audit log. Nothing else writes to its files.
pub(super) struct Writer {
    shared: Arc<WriterState>,
    sinks: Vec<Sink>,
    messages: Receiver<Message>,
    /// When an error was last logged.
    error_logged: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<WriterState>,
        sinks: Vec<Sink>,
        messages: Receiver<Message>,
    ) -> Self {
        Self { shared, sinks, messages, error_logged: None }
    }

    /// Writes until every handle is dropped, or until the audit log is closed and the queue is
    /// empty.
    pub(super) fn run(mut self) {
        while let Some(first) = self.next() {
            self.write_batch(first);
        }
    }

    /// Writes `first` and the messages that are queued after it.
    pub(super) fn write_batch(&mut self, first: Message) {
        // The slots are given back when the batch is on the disk.
        let _slots = self.gather(first);
        // After `gather`, which may have consumed the only `Wake`.
        self.reopen_if_asked();
        self.write_out();
    }

    pub(super) fn next(&self) -> Option<Message> {
        if self.shared.closing.load(Relaxed) {
            self.messages.try_recv().ok()
        } else {
            self.messages.recv().ok()
        }
    }

    /// Adds `first` and queued lines to the sinks, up to [`BATCH_BYTES`]. Returns their slots.
    fn gather(&mut self, first: Message) -> Vec<QueueSlot> {
        let lost = self.shared.lost.swap(0, Relaxed);
        self.sinks.iter_mut().for_each(|sink| sink.count_lost(lost));
        let (mut slots, mut gathered, mut next) = (Vec::new(), 0, Some(first));
        while let Some(message) = next {
            if let Message::Line(line, slot) = message {
                gathered += line.len();
                self.sinks.iter_mut().for_each(|sink| sink.add(&line));
                slots.push(slot);
            }
            next = if gathered < BATCH_BYTES { self.messages.try_recv().ok() } else { None };
        }
        slots
    }

    /// Returns when each pending line is written or lost.
    fn write_out(&mut self) {
        for at in 0..self.sinks.len() {
            while let Some((Err(error), sink)) =
                self.sinks.get_mut(at).map(|sink| (sink.flush(), sink))
            {
                self.shared.metrics.audit_errors.increment(1);
                if self.shared.on_full == OnFull::Deny && !self.shared.closing.load(Relaxed) {
                    // The queue fills up meanwhile, and then requests are refused.
                    self.log_error("cannot write audit lines; retrying", &error);
                    std::thread::park_timeout(RETRY_INTERVAL);
                    self.reopen_if_asked();
                } else {
                    let lost = sink.give_up();
                    self.shared.metrics.audit_lines_lost.increment(lost);
                    self.log_error("cannot write audit lines; they are lost", &error);
                }
            }
            if let Some(sink) = self.sinks.get_mut(at) {
                self.shared.metrics.audit_lines_written.increment(sink.take_written());
            }
        }
    }

    fn reopen_if_asked(&mut self) {
        if !self.shared.reopen.swap(false, Relaxed) {
            return;
        }
        let failures: Vec<_> =
            self.sinks.iter_mut().filter_map(|sink| sink.reopen().err()).collect();
        for error in failures {
            self.shared.metrics.audit_errors.increment(1);
            tracing::error!(%error, "cannot reopen the audit file; the old one stays in use");
        }
    }

    /// Logs once per [`ERROR_LOG_INTERVAL`] at most: a full disk must not fill the log as well.
    fn log_error(&mut self, message: &'static str, error: &io::Error) {
        if self.error_logged.is_none_or(|last| last.elapsed() >= ERROR_LOG_INTERVAL) {
            self.error_logged = Some(Instant::now());
            tracing::error!(%error, "{message}");
        }
    }
}
