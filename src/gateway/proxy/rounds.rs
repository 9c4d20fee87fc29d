//! Whose turn it is on a worker, by identity. A thread polls the tasks that were woken one after
//! the other, so that who has four hundred connections has four hundred turns in a row. Here an
//! identity has one [`SLICE`] of each round, over all its connections; what is left of them waits
//! for the next, behind all that has arrived for other identities. With one identity alone, a round
//! is over at once.
//!
//! It goes by time, because no count knows what everything costs: records of TLS, frames, calls,
//! what one of them wakes.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use tokio::sync::Notify;

/// How long the connections of one identity may work in one round, before those of others do. The
/// last turn in it may take as long.
pub const SLICE: Duration = Duration::from_millis(1);

/// The rounds of one worker.
#[derive(Default)]
pub struct Rounds {
    this: Rc<Round>,
    lines: RefCell<Lines>,
}

#[derive(Default)]
struct Lines {
    by_name: HashMap<Arc<str>, Weak<Line>>,
    /// Number of entries at which those of identities without a connection are removed.
    sweep_at: usize,
}

#[derive(Default)]
struct Round {
    number: Cell<u64>,
    /// Who goes on in the next.
    waiting: RefCell<Vec<Rc<Line>>>,
    begun: Notify,
}

/// The connections of one identity on this worker.
pub struct Line {
    round: Rc<Round>,
    /// The round in which `spent` was.
    last: Cell<u64>,
    spent: Cell<Duration>,
    seats: RefCell<VecDeque<Rc<Seat>>>,
    /// One of its connections was called, and has not had its turn.
    called: Cell<bool>,
    /// It goes on in the next round.
    listed: Cell<bool>,
}

/// One connection's.
#[derive(Default)]
struct Seat {
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// It has nothing to do, or is at it.
    #[default]
    Idle,
    /// It waits for its turn.
    Waiting,
    /// It is its turn.
    Called,
    /// It is no more.
    Gone,
}

impl Rounds {
    /// The line of `owner` (its principal's name): one for all its connections.
    #[must_use]
    pub fn line(&self, owner: &Arc<str>) -> Rc<Line> {
        let mut lines = self.lines.borrow_mut();
        if lines.by_name.len() >= lines.sweep_at {
            lines.by_name.retain(|_, line| line.strong_count() > 0);
            lines.sweep_at = lines.by_name.len().saturating_mul(2).max(64);
        }
        if let Some(known) = lines.by_name.get(owner).and_then(Weak::upgrade) {
            return known;
        }
        let line = Rc::new(Line {
            round: self.this.clone(),
            last: Cell::new(0),
            spent: Cell::default(),
            seats: RefCell::default(),
            called: Cell::new(false),
            listed: Cell::new(false),
        });
        lines.by_name.insert(owner.clone(), Rc::downgrade(&line));
        line
    }

    /// Begins a round whenever somebody waits for one, for as long as the worker lives.
    pub fn keep_going(&self) -> impl Future<Output = ()> + 'static {
        let round = self.this.clone();
        async move {
            loop {
                round.begun.notified().await;
                // Woken only when the thread has looked for what has come for others, and behind
                // it.
                tokio::task::yield_now().await;
                round.next();
            }
        }
    }
}

impl Round {
    fn next(&self) {
        self.number.set(self.number.get().wrapping_add(1));
        let mut waiting = self.waiting.take();
        for line in waiting.drain(..) {
            line.listed.set(false);
            line.refresh();
            line.call();
        }
        // Its memory serves the next round, unless a waker has begun that already.
        if self.waiting.borrow().is_empty() {
            self.waiting.replace(waiting);
        }
    }
}

impl Line {
    /// In each round it has a slice, and no more if it used none.
    fn refresh(&self) {
        if self.last.replace(self.round.number.get()) != self.round.number.get() {
            self.spent.set(Duration::ZERO);
        }
    }

    /// Calls the one who has waited longest, if there is one and nobody was called.
    fn call(&self) {
        while !self.called.get() {
            let Some(seat) = self.seats.borrow_mut().pop_front() else { return };
            if seat.state.get() == State::Waiting {
                seat.state.set(State::Called);
                self.called.set(true);
                if let Some(waker) = seat.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Somebody waits: the next one is called if there is time left in this round, else in the
    /// next.
    fn go_on(self: &Rc<Self>) {
        if self.called.get() || self.seats.borrow().is_empty() {
            return;
        }
        if self.spent.get() < SLICE {
            return self.call();
        }
        if !self.listed.replace(true) {
            self.round.waiting.borrow_mut().push(self.clone());
            self.round.begun.notify_one();
        }
    }
}

/// A connection's place in its identity's line.
struct Place {
    line: Rc<Line>,
    seat: Rc<Seat>,
}

impl Place {
    /// Whether it is its turn. Else it is woken when it is.
    fn begin(&self, cx: &Context<'_>) -> bool {
        let Self { line, seat } = self;
        line.refresh();
        match seat.state.get() {
            State::Called => {
                seat.state.set(State::Idle);
                line.called.set(false);
                return true;
            }
            State::Idle if line.spent.get() < SLICE && line.seats.borrow().is_empty() => {
                return true;
            }
            State::Idle => {
                seat.state.set(State::Waiting);
                line.seats.borrow_mut().push_back(seat.clone());
            }
            State::Waiting | State::Gone => {}
        }
        *seat.waker.borrow_mut() = Some(cx.waker().clone());
        line.go_on();
        false
    }

    /// It had its turn, for so long.
    fn end(&self, took: Duration) {
        self.line.spent.set(self.line.spent.get().saturating_add(took));
        self.line.go_on();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.seat.state.replace(State::Gone) == State::Called {
            self.line.called.set(false);
        }
        self.line.go_on();
    }
}

pin_project! {
    /// What a connection does, in its identity's turns.
    pub struct InRounds<W> {
        place: Place,
        #[pin]
        work: W,
    }
}

/// Does `work` in the turns of `line`.
pub fn in_rounds<W>(line: Rc<Line>, work: W) -> InRounds<W> {
    InRounds { place: Place { line, seat: Rc::default() }, work }
}

impl<W: Future> Future for InRounds<W> {
    type Output = W::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<W::Output> {
        let me = self.project();
        if !me.place.begin(cx) {
            return Poll::Pending;
        }
        let begun = Instant::now();
        let polled = me.work.poll(cx);
        me.place.end(begun.elapsed());
        polled
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    /// A connection that always has something to do, and takes a slice for each bit of it.
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

    async fn on_a_worker(rounds: &Rounds, work: impl Future<Output = ()>) {
        let local = LocalSet::new();
        local.spawn_local(rounds.keep_going());
        local.run_until(work).await;
    }

    #[tokio::test]
    async fn each_identity_has_one_slice_of_a_round() {
        let rounds = Rounds::default();
        on_a_worker(&rounds, async {
            let count = || Rc::new(Cell::new(0));
            let (many, one) = (count(), count());
            let line = rounds.line(&"many".into());
            for _ in 0..100 {
                tokio::task::spawn_local(in_rounds(line.clone(), busy(many.clone())));
            }
            tokio::task::spawn_local(in_rounds(rounds.line(&"one".into()), busy(one.clone())));
            while one.get() < 50 {
                tokio::task::yield_now().await;
            }
            // Each round may begin with either.
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
    async fn all_connections_of_an_identity_have_their_turn() {
        let rounds = Rounds::default();
        on_a_worker(&rounds, async {
            let turns: Vec<Rc<Cell<usize>>> = (0..20).map(|_| Rc::default()).collect();
            for turns in &turns {
                tokio::task::spawn_local(in_rounds(
                    rounds.line(&"many".into()),
                    busy(turns.clone()),
                ));
            }
            while turns.iter().any(|turns| turns.get() < 3) {
                tokio::task::yield_now().await;
            }
            assert!(turns.iter().all(|turns| turns.get() <= 5), "in turn");
        })
        .await;
    }

    #[tokio::test]
    async fn who_leaves_while_it_waits_or_was_called_holds_up_nobody() {
        let rounds = Rounds::default();
        on_a_worker(&rounds, async {
            let turns = Rc::new(Cell::new(0));
            let line = rounds.line(&"many".into());
            for round in 0..20 {
                let tasks: Vec<_> = (0..5)
                    .map(|_| tokio::task::spawn_local(in_rounds(line.clone(), busy(turns.clone()))))
                    .collect();
                for _ in 0..round {
                    tokio::task::yield_now().await;
                }
                tasks.iter().for_each(tokio::task::JoinHandle::abort);
            }
            let before = turns.get();
            tokio::task::spawn_local(in_rounds(line.clone(), busy(turns.clone())));
            while turns.get() < before + 3 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
