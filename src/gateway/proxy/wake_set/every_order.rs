//! [`super::set`], compiled a second time with loom's atomics. Loom runs each test in every order
//! in which the threads can interleave, and with every value that a relaxed load may return.

mod atomic {
    use std::task::Waker;

    use loom::sync::Mutex;
    pub use loom::sync::atomic::{AtomicUsize, Ordering};

    /// What `futures_util::task::AtomicWaker` promises, with a lock.
    pub struct AtomicWaker(Mutex<Option<Waker>>);

    impl AtomicWaker {
        pub fn new() -> Self {
            Self(Mutex::new(None))
        }

        pub fn register(&self, waker: &Waker) {
            *self.0.lock().unwrap() = Some(waker.clone());
        }

        pub fn wake(&self) {
            let waker = self.0.lock().unwrap().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
#[allow(clippy::duplicate_mod, reason = "it is compiled twice on purpose")]
#[path = "set.rs"]
mod set;

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use loom::thread;

use atomic::{AtomicUsize, Ordering};
use set::{Subtask, WakeSet};

/// Counts the wake-ups of the task.
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A task of one thread, and a subtask for each event that another thread publishes.
struct Fixture {
    set: WakeSet,
    task: Arc<Task>,
    subtasks: Vec<Subtask>,
    events: Vec<Arc<AtomicUsize>>,
}

impl Fixture {
    fn new(subtasks: usize) -> Self {
        let mut set = WakeSet::new();
        Self {
            subtasks: (0..subtasks).map(|_| set.subtask()).collect(),
            events: (0..subtasks).map(|_| Arc::new(AtomicUsize::new(0))).collect(),
            task: Arc::new(Task(AtomicUsize::new(0))),
            set,
        }
    }

    /// Publishes event `n` on another thread, and wakes its subtask.
    fn publish(&self, n: usize) -> thread::JoinHandle<()> {
        let (event, subtask) = (self.events[n].clone(), self.subtasks[n].clone());
        thread::spawn(move || {
            event.store(1, Ordering::Relaxed);
            subtask.wake();
        })
    }

    /// Polls the task once, and returns which events its subtasks saw.
    fn poll(&self) -> Vec<bool> {
        let mut seen = vec![false; self.subtasks.len()];
        let waker = Waker::from(self.task.clone());
        let _ = self.set.poll(&Context::from_waker(&waker), || {
            for ((subtask, event), seen) in self.subtasks.iter().zip(&self.events).zip(&mut seen) {
                let _: Poll<()> = subtask.poll(|_| {
                    *seen = event.load(Ordering::Relaxed) == 1;
                    Poll::Pending
                });
            }
            Poll::<()>::Pending
        });
        seen
    }

    fn wake_ups(&self) -> usize {
        self.task.0.load(Ordering::Relaxed)
    }
}

#[test]
fn a_wake_up_during_a_poll_is_seen_or_wakes_the_task() {
    loom::model(|| {
        let fixture = Fixture::new(1);
        // The subtask is idle, and only a wake-up makes it see the event.
        assert_eq!(fixture.poll(), [false]);
        let publishing = fixture.publish(0);
        let seen = fixture.poll();
        publishing.join().unwrap();
        if seen == [false] {
            assert!(fixture.wake_ups() > 0, "the wake-up is lost");
            assert_eq!(fixture.poll(), [true]);
        }
    });
}

#[test]
fn a_wake_up_of_an_idle_task_wakes_it_once() {
    loom::model(|| {
        let fixture = Fixture::new(1);
        assert_eq!(fixture.poll(), [false]);
        let publishing = [fixture.publish(0), fixture.publish(0)];
        publishing.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(fixture.wake_ups(), 1);
        assert_eq!(fixture.poll(), [true]);
    });
}

#[test]
fn each_of_two_subtasks_that_are_woken_is_polled() {
    loom::model(|| {
        let fixture = Fixture::new(2);
        assert_eq!(fixture.poll(), [false, false]);
        let publishing = [fixture.publish(0), fixture.publish(1)];
        let first = fixture.poll();
        publishing.into_iter().for_each(|thread| thread.join().unwrap());
        let second = if fixture.wake_ups() > 0 { fixture.poll() } else { vec![false, false] };
        for (first, second) in first.iter().zip(second) {
            assert!(*first || second, "the wake-up is lost");
        }
    });
}
