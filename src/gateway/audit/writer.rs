//! Writes audit records to the disk. Only the writer's thread waits for the disk.
//!
//! A request takes a slot of the queue ([`Audit::reserve`]) before it is forwarded, and submits its
//! line ([`Slot::submit`]) when it has ended. So with `audit-on-full: deny` nothing is forwarded
//! that could not be recorded. The thread that serves the request formats the line, whose size is
//! bounded. Slots and bytes are given back when the line is on the disk. `queue` shares them
//! between identities.

mod queue;
mod sink;
mod thread;

use std::borrow::Borrow;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_warden_core::method::Effect;

use super::line::{self, LineLimits};
use super::{Decision, ModeChange, Record};
use crate::config::{self, AuditAllowed, OnFull};
use crate::metrics::Metrics;
use queue::{Queue, QueueSlot};
use sink::Sink;
use thread::Writer;

/// How long [`Audit::close`] waits for the writer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle to the audit log. Cheap to clone. The writer's thread ends when all clones are dropped,
/// or after [`Audit::close`].
#[derive(Clone)]
pub struct Audit(Arc<Handle>);

struct Handle {
    shared: Arc<WriterState>,
    /// Not in `WriterState`, which the writer has too: the writer ends when the last sender is
    /// dropped.
    sender: Sender<Message>,
    queue: Arc<Queue>,
}

/// State of the handles and the writer.
struct WriterState {
    allowed: AuditAllowed,
    sample: f64,
    on_full: OnFull,
    metrics: Arc<Metrics>,
    has_sinks: bool,
    /// Lines that did not get into the queue since the writer last reported them.
    lost: AtomicU64,
    sampled: AtomicU64,
    reopen: AtomicBool,
    closing: AtomicBool,
    finished: Mutex<Option<Receiver<()>>>,
}

enum Message {
    Line(Vec<u8>, QueueSlot),
    /// Wakes the writer, to look at the flags `reopen` and `closing`.
    Wake,
}

/// The queue has no slot, and `audit-on-full` is `deny`: the request must be refused
/// ([`etcd_warden_core::authorize::Reason::AuditFull`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the audit queue is full")
    }
}

impl std::error::Error for Full {}

/// The slot of one line. Dropping it without a line gives it back.
#[must_use = "a slot is taken to submit a line"]
pub struct Slot {
    audit: Audit,
    slot: Option<QueueSlot>,
}

impl Audit {
    /// Opens the file (append; mode 0640 if it is new) and starts the writer.
    ///
    /// # Errors
    /// The file cannot be opened (the message names it), or the thread cannot be started.
    pub fn start(config: &config::Audit, metrics: Arc<Metrics>) -> io::Result<Audit> {
        let (audit, writer, finished) = Self::with_writer(config, metrics)?;
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            writer.run();
            // An error: `close` has stopped waiting.
            let _ = finished.send(());
        })?;
        Ok(audit)
    }

    /// The handle, the writer to run, and the channel that reports its end.
    fn with_writer(
        config: &config::Audit,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Audit, Writer, SyncSender<()>)> {
        let mut sinks = Vec::new();
        if let Some(path) = &config.file {
            sinks.push(Sink::file(path)?);
        }
        if config.stdout {
            sinks.push(Sink::stdout()?);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded by the slots and two flags; sync_channel allocates its whole capacity"
        )]
        let (sender, messages) = channel();
        let (finished_sender, finished) = sync_channel(1);
        let shared = Arc::new(WriterState {
            allowed: config.allowed,
            sample: config.sample,
            on_full: config.on_full,
            has_sinks: !sinks.is_empty(),
            lost: AtomicU64::new(0),
            sampled: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            finished: Mutex::new(Some(finished)),
            metrics: Arc::clone(&metrics),
        });
        let queue = Queue::new(config.queue, metrics.audit_queue_length.clone());
        let writer = Writer::new(Arc::clone(&shared), sinks, messages);
        Ok((Audit(Arc::new(Handle { shared, sender, queue })), writer, finished_sender))
    }

    /// Whether a decision must be recorded. Samples allowed requests as `audit-sample` says.
    pub fn wants(&self, decision: Decision, effect: Effect) -> bool {
        if !self.0.shared.has_sinks {
            return false;
        }
        match (decision, self.0.shared.allowed, effect) {
            (Decision::Deny | Decision::WouldDeny, _, _) => true,
            (Decision::Allow, AuditAllowed::All, _)
            | (Decision::Allow, AuditAllowed::Writes, Effect::Writes) => self.0.shared.draw(),
            (Decision::Allow, AuditAllowed::None | AuditAllowed::Writes, _) => false,
        }
    }

    /// Takes a slot for one line of the identity `owner` (its principal's name).
    ///
    /// # Errors
    /// There is none and `audit-on-full` is `deny`. The line is counted as lost. With
    /// `audit-on-full: drop` this never fails: the line is counted as lost when it is submitted.
    pub fn reserve(&self, owner: &Arc<str>) -> Result<Slot, Full> {
        let slot = self.0.queue.try_acquire(owner);
        if slot.is_none() && self.0.shared.on_full == OnFull::Deny && self.0.shared.has_sinks {
            self.0.shared.count_lost();
            return Err(Full);
        }
        Ok(Slot { audit: self.clone(), slot })
    }

    /// Submits the line of a changed mode. A full queue does not prevent the change, which may be
    /// made because the queue is full: then the line is counted as lost, and only the log has it.
    pub fn mode_changed(&self, change: &ModeChange) {
        let shared = &self.0.shared;
        if !shared.has_sinks {
            return;
        }
        let sent = self
            .0
            .queue
            .try_acquire(&"admin socket".into())
            .map(|slot| self.0.sender.send(Message::Line(change.line(), slot)));
        if !matches!(sent, Some(Ok(()))) {
            shared.count_lost();
        }
    }

    /// Makes the writer open the file again by its path (SIGHUP, after the file was renamed). If
    /// that fails, the old file stays in use.
    pub fn reopen(&self) {
        // Any number of calls sends only one message, so the queue stays short while the disk
        // hangs.
        if !self.0.shared.reopen.swap(true, Relaxed) {
            let _ = self.0.sender.send(Message::Wake);
        }
    }

    /// Writes the queued lines and ends the writer. Blocks the thread, for at most 5 s: a disk that
    /// hangs must not prevent the end of the process. Returns whether the writer ended in time.
    /// Lines that are submitted later are counted as lost.
    pub fn close(&self) -> bool {
        self.close_within(CLOSE_TIMEOUT)
    }

    fn close_within(&self, timeout: Duration) -> bool {
        self.0.shared.closing.store(true, Relaxed);
        let _ = self.0.sender.send(Message::Wake);
        let finished = self.0.shared.finished.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = finished.is_none_or(|finished| {
            finished.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout)
        });
        if !ended {
            tracing::error!(
                queued = self.0.queue.taken(),
                "audit log: not all queued lines were written before the deadline; they are lost"
            );
        }
        ended
    }
}

impl Slot {
    /// Passes the line to the writer. Never blocks on the disk.
    pub fn submit(self, record: impl Borrow<Record>) {
        let record = record.borrow();
        let shared = &self.audit.0.shared;
        if !shared.has_sinks {
            return;
        }
        let Some(mut slot) = self.slot else { return shared.count_lost() };
        let mut bytes = Vec::with_capacity(1024);
        line::render(record, LineLimits::WIDE, &mut bytes);
        if !slot.try_reserve(bytes.len()) {
            bytes.clear();
            line::render(record, LineLimits::NARROW, &mut bytes);
        }
        // An error: the writer has ended.
        if self.audit.0.sender.send(Message::Line(bytes, slot)).is_err() {
            shared.count_lost();
        }
    }
}

impl WriterState {
    fn count_lost(&self) {
        self.lost.fetch_add(1, Relaxed);
        self.metrics.audit_lines_lost.increment(1);
    }

    /// True for the part of its calls that `audit-sample` sets. The sequence is mixed (splitmix64),
    /// so that it cannot coincide with a regular pattern of requests.
    fn draw(&self) -> bool {
        if self.sample >= 1.0 {
            return true;
        }
        let mut mixed = self.sampled.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0) < self.sample
    }
}

#[cfg(test)]
mod tests;
