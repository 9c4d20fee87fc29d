//! From decisions to the disk. One thread writes; nobody else ever waits for a disk.
//!
//! A request takes a place in the queue ([`Audit::reserve`]) before it is forwarded and hands in
//! its line ([`Slot::submit`]) when it is done, so that with `on_full: deny` nothing happens that
//! could not be written down. The line is made by the thread that served the request, with a bound
//! on its size; places and bytes are given back when the line is on the disk. `share` has the
//! rule that keeps one identity from taking the queue away from the others.

mod share;
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

use super::line::{self, Cut};
use super::{Decision, ModeChange, Record};
use crate::config::{self, AuditAllowed, OnFull};
use crate::metrics::Metrics;
use share::{Place, Queue};
use sink::Sink;
use thread::Writer;

/// How long [`Audit::close`] waits for the writer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The way to the audit. Cheap to clone; the writer ends when all clones are gone, or after
/// [`Audit::close`].
#[derive(Clone)]
pub struct Audit(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    /// Not in `Shared`: the writer ends when the last sender is gone.
    sender: Sender<Message>,
    queue: Arc<Queue>,
}

/// What the handle and the writer both see.
struct Shared {
    allowed: AuditAllowed,
    sample: f64,
    on_full: OnFull,
    metrics: Arc<Metrics>,
    has_sinks: bool,
    /// Lines lost in front of the queue since the last line went out.
    lost: AtomicU64,
    sampled: AtomicU64,
    reopen: AtomicBool,
    closing: AtomicBool,
    finished: Mutex<Option<Receiver<()>>>,
}

enum Message {
    Line(Vec<u8>, Place),
    /// Look at the flags.
    Wake,
}

/// The queue has no place, and `on_full` is `deny`: the request must be refused
/// ([`etcd_warden_core::authorize::Reason::AuditFull`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the audit queue is full")
    }
}

impl std::error::Error for Full {}

/// The place of one line. Dropped without a line, it is given back.
#[must_use = "a slot is taken to submit a line"]
pub struct Slot {
    audit: Audit,
    place: Option<Place>,
}

impl Audit {
    /// Opens the file (append, mode 0640 if it is new) and starts the writer.
    ///
    /// # Errors
    /// The file cannot be opened (the message names it), or the thread cannot be started.
    pub fn start(config: &config::Audit, metrics: Arc<Metrics>) -> io::Result<Audit> {
        let (audit, writer, finished) = Self::with_writer(config, metrics)?;
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            writer.run();
            // Whoever closes the audit may have stopped waiting.
            let _ = finished.send(());
        })?;
        Ok(audit)
    }

    /// The handle, the writer that is still to run, and whom to tell when it has ended.
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
            reason = "bounded by places and two flags; sync_channel has memory for all from the start"
        )]
        let (sender, messages) = channel();
        let (finished_sender, finished) = sync_channel(1);
        let shared = Arc::new(Shared {
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

    /// Whether a line is to be written for such a decision. Of allowed requests, the configured
    /// part is drawn here.
    #[must_use]
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

    /// Takes a place for one line of the identity `owner` (its principal's name).
    ///
    /// # Errors
    /// There is none and `on_full` is `deny`. The line that will be missing is counted as lost.
    /// With `on_full: drop` there is always a slot; what is submitted to one without a place is
    /// counted as lost.
    pub fn reserve(&self, owner: &Arc<str>) -> Result<Slot, Full> {
        let place = self.0.queue.take(owner);
        if place.is_none() && self.0.shared.on_full == OnFull::Deny && self.0.shared.has_sinks {
            self.0.shared.count_lost();
            return Err(Full);
        }
        Ok(Slot { audit: self.clone(), place })
    }

    /// Hands in the line of a changed mode. It waits for nothing: whoever breaks the glass may do
    /// it because the audit is full. Then the line is counted as lost, and the log has it.
    pub fn mode_changed(&self, change: &ModeChange) {
        let shared = &self.0.shared;
        if !shared.has_sinks {
            return;
        }
        let sent = self
            .0
            .queue
            .take(&"admin socket".into())
            .map(|place| self.0.sender.send(Message::Line(change.line(), place)));
        if !matches!(sent, Some(Ok(()))) {
            shared.count_lost();
        }
    }

    /// Opens the file again by its path, soon (SIGHUP, after the old one was renamed). If that
    /// fails, the old one stays in use.
    pub fn reopen(&self) {
        // Of many wishes one is enough, so that what waits has a bound also while the disk hangs.
        if !self.0.shared.reopen.swap(true, Relaxed) {
            let _ = self.0.sender.send(Message::Wake);
        }
    }

    /// Writes what waits and ends the writer. Waits for at most 5 s: a disk that hangs must not
    /// hang the end of the process. Blocks the thread. Returns whether the writer ended in
    /// time; lines handed in afterwards are counted as lost.
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
                waiting = self.0.queue.taken(),
                "the audit did not end in time, lines are lost"
            );
        }
        ended
    }
}

impl Slot {
    /// Hands the line to the writer. Never blocks on a disk.
    pub fn submit(self, record: impl Borrow<Record>) {
        let record = record.borrow();
        let shared = &self.audit.0.shared;
        if !shared.has_sinks {
            return;
        }
        let Some(mut place) = self.place else { return shared.count_lost() };
        let mut bytes = Vec::with_capacity(1024);
        line::render(record, Cut::WIDE, &mut bytes);
        if !place.weigh(bytes.len()) {
            bytes.clear();
            line::render(record, Cut::NARROW, &mut bytes);
        }
        // An error says that the writer has ended.
        if self.audit.0.sender.send(Message::Line(bytes, place)).is_err() {
            shared.count_lost();
        }
    }
}

impl Shared {
    fn count_lost(&self) {
        self.lost.fetch_add(1, Relaxed);
        self.metrics.audit_lost.increment(1);
    }

    /// True for the configured part of calls. The sequence is mixed (splitmix64), so that no rhythm
    /// of requests falls between the draws.
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
