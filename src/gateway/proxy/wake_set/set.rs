//! The subtasks of one task, and their wakers.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::atomic::{AtomicUsize, AtomicWaker, Ordering};

/// Set while the task is being polled. Each other bit belongs to a subtask, and is set from its
/// wake-up until it is polled: while one is set, the task is being polled or was woken. All bits
/// are in one integer, so that of a wake-up and the end of a poll one always sees the bit of the
/// other.
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
    /// A task that was never polled.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared { bits: AtomicUsize::new(0), task: AtomicWaker::new() }),
            subtasks: 0,
        }
    }

    /// Adds a subtask, which counts as woken. A task has at most `usize::BITS - 1` of them.
    pub fn subtask(&mut self) -> Subtask {
        self.subtasks = self.subtasks.saturating_add(1);
        let bit = RUNNING.wrapping_shl(self.subtasks);
        self.shared.bits.fetch_or(bit, Ordering::AcqRel);
        let flag = Arc::new(Flag { bit, shared: self.shared.clone() });
        Subtask { waker: flag.clone().into(), flag }
    }

    /// Polls the task: `poll` polls its subtasks. If a subtask was woken meanwhile and not polled
    /// since, the task is woken.
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
        // A task that is being polled sees the bit itself, and does not need to be polled again.
        if before & (RUNNING | self.bit) == 0 {
            self.shared.task.wake();
        }
    }
}

impl Subtask {
    /// Wakes the subtask for an event that it has registered no waker for.
    pub fn wake(&self) {
        self.flag.wake_by_ref();
    }

    /// Polls the subtask if it was woken since the last poll. After [`Poll::Ready`] it counts as
    /// woken.
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
