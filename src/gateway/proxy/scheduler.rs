//! Shares the time of a worker between identities. A thread polls woken tasks one after the other,
//! so an identity with 400 connections would have 400 turns in a row. Instead, each identity has
//! one [`SLICE`] per round, for all its connections together. When the slice is used up, its other
//! connections wait for the next round, and other identities run first. If only one identity has
//! work, the next round begins at once.
//!
//! The slice is a duration and not a count, because a count cannot cover all costs: TLS records,
//! frames, calls, and the tasks that a call wakes.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use tokio::sync::Notify;

/// The time for which the connections of one identity may run in one round. The last poll in the
/// slice is not interrupted, so it may take as long again.
pub const SLICE: Duration = Duration::from_millis(1);

/// The scheduler of one worker.
#[derive(Default)]
pub struct Scheduler {
    round: Rc<Round>,
    queues: RefCell<Queues>,
}

#[derive(Default)]
struct Queues {
    by_name: HashMap<Arc<str>, Weak<Queue>>,
    /// At this number of entries, those of identities without a connection are removed.
    sweep_at: usize,
}

#[derive(Default)]
struct Round {
    number: Cell<u64>,
    /// The queues that continue in the next round.
    waiting: RefCell<Vec<Rc<Queue>>>,
    wanted: Notify,
}

/// The connections of one identity on this worker.
pub struct Queue {
    round: Rc<Round>,
    /// The number of the round that `spent` belongs to.
    last: Cell<u64>,
    /// The used part of the slice.
    spent: Cell<Duration>,
    /// The connections that wait, in order.
    entries: RefCell<VecDeque<Rc<Entry>>>,
    /// True if one of the connections was called and has not been polled since.
    called: Cell<bool>,
    /// True if the queue is in [`Round::waiting`].
    listed: Cell<bool>,
}

/// The state of one connection.
#[derive(Default)]
struct Entry {
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// The connection does not wait: it has no work, or is running.
    #[default]
    Idle,
    /// The connection waits to be called.
    Waiting,
    /// The connection was called, and runs when it is polled next.
    Called,
    /// The connection was dropped.
    Dropped,
}

impl Scheduler {
    /// The queue of `owner` (its principal's name): one for all its connections.
    #[must_use]
    pub fn queue(&self, owner: &Arc<str>) -> Rc<Queue> {
        let mut queues = self.queues.borrow_mut();
        if queues.by_name.len() >= queues.sweep_at {
            queues.by_name.retain(|_, queue| queue.strong_count() > 0);
            queues.sweep_at = queues.by_name.len().saturating_mul(2).max(64);
        }
        if let Some(known) = queues.by_name.get(owner).and_then(Weak::upgrade) {
            return known;
        }
        let queue = Rc::new(Queue {
            round: self.round.clone(),
            last: Cell::new(0),
            spent: Cell::default(),
            entries: RefCell::default(),
            called: Cell::new(false),
            listed: Cell::new(false),
        });
        queues.by_name.insert(owner.clone(), Rc::downgrade(&queue));
        queue
    }

    /// Begins a round whenever a queue waits for one. Never ends.
    pub fn run(&self) -> impl Future<Output = ()> + 'static {
        let round = self.round.clone();
        async move {
            loop {
                round.wanted.notified().await;
                // tokio resumes this task after it has polled the I/O driver and then the tasks
                // that the driver has woken. So work that has arrived for other identities runs
                // first.
                tokio::task::yield_now().await;
                round.begin_next();
            }
        }
    }
}

impl Round {
    fn begin_next(&self) {
        self.number.set(self.number.get().wrapping_add(1));
        let mut waiting = self.waiting.take();
        for queue in waiting.drain(..) {
            queue.listed.set(false);
            queue.refresh();
            queue.call();
        }
        // Reuse the memory, unless a waker has already added a queue for the next round.
        if self.waiting.borrow().is_empty() {
            self.waiting.replace(waiting);
        }
    }
}

impl Queue {
    /// Begins a new slice if the round has changed. Unused time is not carried over.
    fn refresh(&self) {
        if self.last.replace(self.round.number.get()) != self.round.number.get() {
            self.spent.set(Duration::ZERO);
        }
    }

    /// Calls the connection that has waited longest, unless one was called already.
    fn call(&self) {
        while !self.called.get() {
            let Some(entry) = self.entries.borrow_mut().pop_front() else { return };
            if entry.state.get() == State::Waiting {
                entry.state.set(State::Called);
                self.called.set(true);
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Calls the next waiting connection: now if there is time left in this round, else in the
    /// next round.
    fn call_next(self: &Rc<Self>) {
        if self.called.get() || self.entries.borrow().is_empty() {
            return;
        }
        if self.spent.get() < SLICE {
            return self.call();
        }
        if !self.listed.replace(true) {
            self.round.waiting.borrow_mut().push(self.clone());
            self.round.wanted.notify_one();
        }
    }
}

/// A connection in its identity's queue.
struct Membership {
    queue: Rc<Queue>,
    entry: Rc<Entry>,
}

impl Membership {
    /// Returns true if the connection may run now. If not, it is woken when it may.
    fn begin(&self, cx: &Context<'_>) -> bool {
        let Self { queue, entry } = self;
        queue.refresh();
        match entry.state.get() {
            State::Called => {
                entry.state.set(State::Idle);
                queue.called.set(false);
                return true;
            }
            State::Idle if queue.spent.get() < SLICE && queue.entries.borrow().is_empty() => {
                return true;
            }
            State::Idle => {
                entry.state.set(State::Waiting);
                queue.entries.borrow_mut().push_back(entry.clone());
            }
            State::Waiting | State::Dropped => {}
        }
        *entry.waker.borrow_mut() = Some(cx.waker().clone());
        queue.call_next();
        false
    }

    /// Charges the time that the connection has run.
    fn end(&self, took: Duration) {
        self.queue.spent.set(self.queue.spent.get().saturating_add(took));
        self.queue.call_next();
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.entry.state.replace(State::Dropped) == State::Called {
            self.queue.called.set(false);
        }
        self.queue.call_next();
    }
}

pin_project! {
    /// The work of a connection, run in the slices of its identity.
    pub struct Scheduled<W> {
        membership: Membership,
        #[pin]
        work: W,
    }
}

/// Runs `work` in the slices of `queue`.
pub fn scheduled<W>(queue: Rc<Queue>, work: W) -> Scheduled<W> {
    Scheduled { membership: Membership { queue, entry: Rc::default() }, work }
}

impl<W: Future> Future for Scheduled<W> {
    type Output = W::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<W::Output> {
        let me = self.project();
        if !me.membership.begin(cx) {
            return Poll::Pending;
        }
        let begun = Instant::now();
        let polled = me.work.poll(cx);
        me.membership.end(begun.elapsed());
        polled
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    /// A connection that always has work, and uses a whole slice in each poll.
    async fn busy(turns: Rc<Cell<usize>>) {
        loop {
            turns.set(turns.get() + 1);
            let begun = Instant::now();
            while begun.elapsed() < SLICE {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
    }

    async fn on_a_worker(scheduler: &Scheduler, work: impl Future<Output = ()>) {
        let local = LocalSet::new();
        local.spawn_local(scheduler.run());
        local.run_until(work).await;
    }

    #[tokio::test]
    async fn each_identity_gets_one_slice_per_round() {
        let scheduler = Scheduler::default();
        on_a_worker(&scheduler, async {
            let count = || Rc::new(Cell::new(0));
            let (many, one) = (count(), count());
            let queue = scheduler.queue(&"many".into());
            for _ in 0..100 {
                tokio::task::spawn_local(scheduled(queue.clone(), busy(many.clone())));
            }
            tokio::task::spawn_local(scheduled(scheduler.queue(&"one".into()), busy(one.clone())));
            while one.get() < 50 {
                tokio::task::yield_now().await;
            }
            // A round may begin with either identity.
            assert!(
                many.get() <= one.get() + 2,
                "{} turns of many connections, {} of one",
                many.get(),
                one.get()
            );
        })
        .await;
    }

    #[tokio::test]
    async fn connections_of_an_identity_take_turns() {
        let scheduler = Scheduler::default();
        on_a_worker(&scheduler, async {
            let turns: Vec<Rc<Cell<usize>>> = (0..20).map(|_| Rc::default()).collect();
            for turns in &turns {
                tokio::task::spawn_local(scheduled(
                    scheduler.queue(&"many".into()),
                    busy(turns.clone()),
                ));
            }
            while turns.iter().any(|turns| turns.get() < 3) {
                tokio::task::yield_now().await;
            }
            assert!(
                turns.iter().all(|turns| turns.get() <= 5),
                "no connection has many more turns than another"
            );
        })
        .await;
    }

    #[tokio::test]
    async fn a_dropped_connection_does_not_block_its_queue() {
        let scheduler = Scheduler::default();
        on_a_worker(&scheduler, async {
            let turns = Rc::new(Cell::new(0));
            let queue = scheduler.queue(&"many".into());
            for round in 0..20 {
                let tasks: Vec<_> = (0..5)
                    .map(|_| {
                        tokio::task::spawn_local(scheduled(queue.clone(), busy(turns.clone())))
                    })
                    .collect();
                for _ in 0..round {
                    tokio::task::yield_now().await;
                }
                tasks.iter().for_each(tokio::task::JoinHandle::abort);
            }
            let before = turns.get();
            tokio::task::spawn_local(scheduled(queue.clone(), busy(turns.clone())));
            while turns.get() < before + 3 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
