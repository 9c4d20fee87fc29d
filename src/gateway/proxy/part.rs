//! A task in parts: one is polled only after it was woken, because a request wakes its connection's
//! task a few times, and mostly for one part of it. What wakes a part while the task is being
//! polled does not wake the task: it would be polled once more for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// The task is being polled. The other bits are of parts that were woken and not polled since:
/// while any of them stands, the task is being polled, or was woken. All are in one integer, so
/// that who wakes a part and who ends a poll see each other's bit in some order.
const RUNNING: usize = 1;

/// All parts of one task.
pub struct Parts {
    shared: Arc<Shared>,
    made: u32,
}

struct Shared {
    bits: AtomicUsize,
    task: AtomicWaker,
}

/// One part of a task.
#[derive(Clone)]
pub struct Part {
    woken: Arc<Woken>,
    waker: Waker,
}

struct Woken {
    bit: usize,
    shared: Arc<Shared>,
}

impl Parts {
    /// A task that was never polled.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared { bits: AtomicUsize::new(0), task: AtomicWaker::new() }),
            made: 0,
        }
    }

    /// One part more, which was never polled, and so is to be. A task has few: as many as an
    /// integer has bits, less one.
    pub fn part(&mut self) -> Part {
        self.made = self.made.saturating_add(1);
        let bit = RUNNING.wrapping_shl(self.made);
        self.shared.bits.fetch_or(bit, Ordering::AcqRel);
        let woken = Arc::new(Woken { bit, shared: self.shared.clone() });
        Part { waker: woken.clone().into(), woken }
    }

    /// Polls the task, by polling its parts.
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

impl Default for Parts {
    fn default() -> Self {
        Self::new()
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.shared.bits.fetch_or(self.bit, Ordering::AcqRel);
        if before & (RUNNING | self.bit) == 0 {
            self.shared.task.wake();
        }
    }
}

impl Part {
    /// Something happened to it that it does not wait for.
    pub fn wake(&self) {
        self.woken.wake_by_ref();
    }

    /// Polls what this part waits for, if it was woken since the last time. After [`Poll::Ready`]
    /// it counts as woken.
    pub fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let Woken { bit, shared } = &*self.woken;
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::thread;
    use std::time::{Duration, Instant};

    use futures_util::task::noop_waker_ref;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_part_is_polled_at_first_and_then_after_each_waking() {
        let (part, polls, kept) = (Parts::new().part(), Cell::new(0), Cell::new(None::<Waker>));
        let poll = |answer: Poll<()>| {
            part.poll(|cx| {
                polls.set(polls.get() + 1);
                kept.set(Some(cx.waker().clone()));
                answer
            })
        };
        assert!(
            poll(Poll::Ready(())).is_ready()
                && poll(Poll::Pending).is_pending()
                && poll(Poll::Pending).is_pending()
        );
        assert_eq!(polls.get(), 2);
        kept.take().unwrap().wake();
        assert!(poll(Poll::Pending).is_pending() && poll(Poll::Pending).is_pending());
        assert_eq!(polls.get(), 3);
    }

    #[test]
    fn whoever_wakes_a_part_wakes_the_task_that_polled_last_and_only_that_part_is_polled() {
        let mut parts = Parts::new();
        let (one, other) = (parts.part(), parts.part());
        let task = Arc::new(Task::default());
        let run = |cx: &Context<'_>, polled: &Cell<usize>| {
            parts.poll(cx, || {
                for part in [&one, &other] {
                    let _: Poll<()> = part.poll(|_| {
                        polled.set(polled.get() + 1);
                        Poll::Pending
                    });
                }
                Poll::<()>::Pending
            })
        };
        let polled = Cell::new(0);
        let _ = run(&Context::from_waker(noop_waker_ref()), &polled);
        let waker = task.clone().into();
        let _ = run(&Context::from_waker(&waker), &polled);
        assert_eq!((polled.get(), task.0.load(Ordering::Relaxed)), (2, 0));
        one.wake();
        one.wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "once is enough");
        let _ = run(&Context::from_waker(&waker), &polled);
        assert_eq!((polled.get(), task.0.load(Ordering::Relaxed)), (3, 1));
    }

    #[test]
    fn what_is_woken_while_the_task_is_polled_is_polled_and_wakes_the_task_only_if_it_was_not() {
        let mut parts = Parts::new();
        let (one, other) = (parts.part(), parts.part());
        let task = Arc::new(Task::default());
        let waker = task.clone().into();
        let pending = |part: &Part, wakes: Option<&Part>| {
            let _: Poll<()> = part.poll(|_| {
                wakes.inspect(|part| part.wake());
                Poll::Pending
            });
        };
        let run = |first, second, by| {
            let _ = parts.poll(&Context::from_waker(&waker), || {
                pending(first, Some(by));
                pending(second, None);
                Poll::<()>::Pending
            });
            task.0.swap(0, Ordering::Relaxed)
        };
        assert_eq!(run(&one, &other, &other), 0, "it was polled behind the one that woke it");
        one.wake();
        assert_eq!(task.0.swap(0, Ordering::Relaxed), 1);
        assert_eq!(run(&one, &other, &one), 1, "it woke itself, and is polled once more");
    }

    #[test]
    fn no_waking_by_another_thread_is_lost() {
        const TIMES: usize = 20_000;
        const PATIENCE: Duration = Duration::from_secs(60);
        struct Unpark(thread::Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let mut parts = Parts::new();
        let (part, said) = (parts.part(), AtomicUsize::new(0));
        let waker = Arc::new(Unpark(thread::current())).into();
        thread::scope(|scope| {
            scope.spawn(|| {
                for time in 1..=TIMES {
                    said.store(time, Ordering::Relaxed);
                    part.wake();
                }
            });
            let heard = || {
                part.poll(|_| {
                    if said.load(Ordering::Relaxed) == TIMES {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
            };
            while parts.poll(&Context::from_waker(&waker), heard).is_pending() {
                let begun = Instant::now();
                thread::park_timeout(PATIENCE);
                assert!(begun.elapsed() < PATIENCE, "a waking was lost");
            }
        });
    }
}
