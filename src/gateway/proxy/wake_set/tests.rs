use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::task::noop_waker_ref;

use super::{Subtask, WakeSet};

#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn polls_a_subtask_first_and_after_each_wake_up() {
    let (subtask, polls, kept) = (WakeSet::new().subtask(), Cell::new(0), Cell::new(None::<Waker>));
    let poll = |answer: Poll<()>| {
        subtask.poll(|cx| {
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
fn a_wake_up_wakes_the_task_and_polls_only_that_subtask() {
    let mut set = WakeSet::new();
    let (one, other) = (set.subtask(), set.subtask());
    let task = Arc::new(Task::default());
    let run = |cx: &Context<'_>, polled: &Cell<usize>| {
        set.poll(cx, || {
            for subtask in [&one, &other] {
                let _: Poll<()> = subtask.poll(|_| {
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
    assert_eq!(task.0.load(Ordering::Relaxed), 1, "the second wake-up changes nothing");
    let _ = run(&Context::from_waker(&waker), &polled);
    assert_eq!((polled.get(), task.0.load(Ordering::Relaxed)), (3, 1));
}

#[test]
fn wake_ups_during_a_poll_wake_the_task_only_if_needed() {
    let mut set = WakeSet::new();
    let (one, other) = (set.subtask(), set.subtask());
    let task = Arc::new(Task::default());
    let waker = task.clone().into();
    let pending = |subtask: &Subtask, wakes: Option<&Subtask>| {
        let _: Poll<()> = subtask.poll(|_| {
            wakes.inspect(|subtask| subtask.wake());
            Poll::Pending
        });
    };
    let run = |first, second, by| {
        let _ = set.poll(&Context::from_waker(&waker), || {
            pending(first, Some(by));
            pending(second, None);
            Poll::<()>::Pending
        });
        task.0.swap(0, Ordering::Relaxed)
    };
    assert_eq!(run(&one, &other, &other), 0, "it is polled after the one that woke it");
    one.wake();
    assert_eq!(task.0.swap(0, Ordering::Relaxed), 1);
    assert_eq!(run(&one, &other, &one), 1, "it woke itself, and must be polled again");
}

#[test]
fn no_wake_up_by_another_thread_is_lost() {
    const TIMES: usize = 20_000;
    const TIMEOUT: Duration = Duration::from_secs(60);
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut set = WakeSet::new();
    let (subtask, published) = (set.subtask(), AtomicUsize::new(0));
    let waker = Arc::new(Unpark(thread::current())).into();
    thread::scope(|scope| {
        scope.spawn(|| {
            for time in 1..=TIMES {
                published.store(time, Ordering::Relaxed);
                subtask.wake();
            }
        });
        let poll = || {
            subtask.poll(|_| {
                if published.load(Ordering::Relaxed) == TIMES {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
        };
        while set.poll(&Context::from_waker(&waker), poll).is_pending() {
            let begun = Instant::now();
            thread::park_timeout(TIMEOUT);
            assert!(begun.elapsed() < TIMEOUT, "a wake-up was lost");
        }
    });
}
