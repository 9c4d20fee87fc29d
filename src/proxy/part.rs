//! A part of a task that is polled only after it was woken: a request wakes its connection's task a few times, and mostly for one part of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// One part. What it waits for wakes the task, and says that it was for this part. Clones are the same part.
#[derive(Clone)]
pub struct Part {
    woken: Arc<Woken>,
    waker: Waker,
}

struct Woken {
    is: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Part {
    /// A part that was never polled, and so is to be.
    #[must_use]
    pub fn new() -> Self {
        let woken = Arc::new(Woken { is: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { waker: woken.clone().into(), woken }
    }

    /// Tells whom to wake. To be called at each poll of the task, before anything else.
    pub fn of_task(&self, cx: &Context<'_>) {
        self.woken.task.register(cx.waker());
    }

    /// Something happened to it that it does not wait for.
    pub fn wake(&self) {
        self.woken.wake_by_ref();
    }

    /// Polls what this part waits for, if it was woken since the last time. After [`Poll::Ready`] it counts as woken.
    pub fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if !self.woken.is.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        let polled = poll(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            self.woken.is.store(true, Ordering::Release);
        }
        polled
    }
}

impl Default for Part {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::task::noop_waker_ref;

    use super::*;

    #[test]
    fn a_part_is_polled_at_first_and_then_after_each_waking() {
        let (part, polls, kept) = (Part::new(), Cell::new(0), Cell::new(None::<Waker>));
        part.of_task(&Context::from_waker(noop_waker_ref()));
        let poll = |answer: Poll<()>| {
            part.poll(|cx| {
                polls.set(polls.get() + 1);
                kept.set(Some(cx.waker().clone()));
                answer
            })
        };
        assert!(poll(Poll::Ready(())).is_ready() && poll(Poll::Pending).is_pending() && poll(Poll::Pending).is_pending());
        assert_eq!(polls.get(), 2);
        kept.take().unwrap().wake();
        assert!(poll(Poll::Pending).is_pending() && poll(Poll::Pending).is_pending());
        assert_eq!(polls.get(), 3);
    }

    #[test]
    fn whoever_wakes_a_part_wakes_the_task_that_polled_last() {
        struct Task(AtomicBool);
        impl Wake for Task {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (part, task) = (Part::new(), Arc::new(Task(AtomicBool::new(false))));
        part.of_task(&Context::from_waker(noop_waker_ref()));
        part.of_task(&Context::from_waker(&task.clone().into()));
        let _: Poll<()> = part.poll(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert!(task.0.load(Ordering::Relaxed));
        assert!(part.poll(|_| Poll::Ready(())).is_ready(), "woken while it was polled");
    }
}
