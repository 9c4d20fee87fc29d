//! The thread that writes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::share::Place;
use super::sink::Sink;
use super::{Message, Shared};
use crate::config::OnFull;

/// Between two attempts at a line that must not be lost (`on_full: deny`).
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Between two lines of the log about the same trouble.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// Lines are gathered up to this many bytes before they are written.
const BATCH_BYTES: usize = 256 * 1024;

/// The only one who touches the disk.
pub(super) struct Writer {
    shared: Arc<Shared>,
    sinks: Vec<Sink>,
    messages: Receiver<Message>,
    complained: Option<Instant>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, sinks: Vec<Sink>, messages: Receiver<Message>) -> Self {
        Self { shared, sinks, messages, complained: None }
    }

    /// Ends when every handle is gone, or when it was told to and all that was handed in before is
    /// written.
    pub(super) fn run(mut self) {
        while let Some(first) = self.next() {
            self.turn(first);
        }
    }

    /// Writes `first` and what else waits.
    pub(super) fn turn(&mut self, first: Message) {
        // Places are given back when the batch is on the disk, at the end of this turn.
        let _places = self.gather(first);
        // Behind the gathering: a `Wake` that was taken with lines comes only once.
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

    /// Adds `first` and what else waits to the sinks, up to [`BATCH_BYTES`]. Returns their places.
    fn gather(&mut self, first: Message) -> Vec<Place> {
        let lost = self.shared.lost.swap(0, Relaxed);
        self.sinks.iter_mut().for_each(|sink| sink.lose(lost));
        let (mut places, mut gathered, mut next) = (Vec::new(), 0, Some(first));
        while let Some(message) = next {
            if let Message::Line(line, place) = message {
                gathered += line.len();
                self.sinks.iter_mut().for_each(|sink| sink.add(&line));
                places.push(place);
            }
            next = if gathered < BATCH_BYTES { self.messages.try_recv().ok() } else { None };
        }
        places
    }

    /// Comes back when nothing is pending any more: written, or given up.
    fn write_out(&mut self) {
        for at in 0..self.sinks.len() {
            while let Some((Err(error), sink)) =
                self.sinks.get_mut(at).map(|sink| (sink.flush(), sink))
            {
                self.shared.metrics.audit_errors.increment(1);
                if self.shared.on_full == OnFull::Deny && !self.shared.closing.load(Relaxed) {
                    // The queue fills meanwhile, and requests are refused: nothing goes on unseen.
                    self.complain("audit lines cannot be written, they wait", &error);
                    std::thread::park_timeout(RETRY_INTERVAL);
                    self.reopen_if_asked();
                } else {
                    let lost = sink.give_up();
                    self.shared.metrics.audit_lost.increment(lost);
                    self.complain("audit lines cannot be written, they are lost", &error);
                }
            }
            if let Some(sink) = self.sinks.get_mut(at) {
                self.shared.metrics.audit_written.increment(sink.take_written());
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
            tracing::error!(%error, "the audit file cannot be opened again, the old one stays in use");
        }
    }

    /// Logs at most once per minute: a full disk must not fill the log as well.
    fn complain(&mut self, what: &'static str, error: &io::Error) {
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL) {
            self.complained = Some(Instant::now());
            tracing::error!(%error, "{what}");
        }
    }
}
