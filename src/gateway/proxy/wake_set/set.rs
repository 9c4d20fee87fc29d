//! The subtasks of one task, and their wakers.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::atomic::{AtomicUsize, AtomicWaker, Ordering};

/// This bit is set while the task is being polled. Each other bit belongs to a subtask: it is set
/// when the subtask is woken and cleared when it is polled. While any subtask's bit is set, the
/// task is being polled or was woken.
///
/// All bits are in one atomic integer. So if a wake-up and the end of a poll happen at the same
/// time, at least one of them sees the bit of the other, and no wake-up is lost.
const RUNNING: usize = 1;

/// The subtasks of one task.
pub struct WakeSet {
    shared: Arc<Shared>,
    subtasks: u32,
}

struct Shared {
    bits: AtomicUsize,
    task: AtomicWaker,
}

/// One subtask. Its clones are the same subtask.
#[derive(Clone)]
pub struct Subtask {
    flag: Arc<Flag>,
    waker: Waker,
}

struct Flag {
    bit: usize,
    shared: Arc<Shared>,
}

impl WakeSet {
    /// A task without subtasks that was not polled yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared { bits: AtomicUsize::new(0), task: AtomicWaker::new() }),
            subtasks: 0,
        }
    }

    /// Adds a subtask, which is already woken. A task has at most `usize::BITS - 1` subtasks.
    pub fn subtask(&mut self) -> Subtask {
        self.subtasks = self.subtasks.saturating_add(1);
        let bit = RUNNING.wrapping_shl(self.subtasks);
        self.shared.bits.fetch_or(bit, Ordering::AcqRel);
        let flag = Arc::new(Flag { bit, shared: self.shared.clone() });
        Subtask { waker: flag.clone().into(), flag }
    }

    /// Polls the task by calling `poll`, which polls the subtasks. If a subtask was woken meanwhile
    /// and not polled since, the task is woken again.
    pub fn poll<T>(&self, cx: &Context<'_>, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        self.shared.task.register(cx.waker());
        self.shared.bits.fetch_or(RUNNING, Ordering::AcqRel);
        let polled = poll();
        let before = self.shared.bits.fetch_and(!RUNNING, Ordering::AcqRel);
        if polled.is_pending() && before != RUNNING {
            cx.waker().wake_by_ref();
        }
        polled
    }
}

impl Default for WakeSet {
    fn default() -> Self {
        Self::new()
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.shared.bits.fetch_or(self.bit, Ordering::AcqRel);
        // A task that is being polled checks the bits at the end of its poll, so no wake-up is
        // needed.
        if before & (RUNNING | self.bit) == 0 {
            self.shared.task.wake();
        }
    }
}

impl Subtask {
    /// Wakes the subtask, for an event that does not use its waker.
    pub fn wake(&self) {
        self.flag.wake_by_ref();
    }

    /// Polls the subtask if it was woken since the last poll. After [`Poll::Ready`], it is woken
    /// again, because there may be more work.
    pub fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let Flag { bit, shared } = &*self.flag;
        if shared.bits.fetch_and(!bit, Ordering::AcqRel) & bit == 0 {
            return Poll::Pending;
        }
        let polled = poll(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            shared.bits.fetch_or(*bit, Ordering::AcqRel);
        }
        polled
    }
}
