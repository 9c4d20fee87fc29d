//! Limits the work that a connection does in one poll of its task, called a turn.
//! [`super::scheduler`] decides which connection is polled next.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

/// Limit on polls of calls in one turn. Each poll takes about ten microseconds, and one frame from
/// a client can wake all its calls.
const POLLS: usize = 64;

/// The time after which a turn starts no more work. A count alone is not enough: thousands of small
/// frames, or TLS records of one byte, may arrive at once, and their cost is not known before.
const MAX_TURN: Duration = Duration::from_millis(1);

/// The budget of one connection's turn: a poll of its task.
#[derive(Default)]
pub struct PollBudget {
    left: Cell<usize>,
    begun: Cell<Option<Instant>>,
    /// True if the socket was read in this turn.
    read: Cell<bool>,
}

impl PollBudget {
    /// Begins a turn.
    pub fn begin(&self) {
        self.left.set(POLLS);
        self.begun.set(Some(Instant::now()));
        self.read.set(false);
    }

    /// True if the turn must end.
    pub fn is_spent(&self) -> bool {
        self.left.get() == 0 || self.is_late()
    }

    /// True if the socket may be read: always once per turn, and again while there is time.
    pub fn may_read(&self) -> bool {
        !self.read.replace(true) || !self.is_late()
    }

    fn is_late(&self) -> bool {
        self.begun.get().is_some_and(|begun| begun.elapsed() >= MAX_TURN)
    }

    fn take(&self) -> bool {
        let left = self.left.get();
        // The first call is always polled.
        if left < POLLS && self.is_late() {
            self.left.set(0);
            return false;
        }
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

pin_project! {
    /// A call that is polled within the budget. If the budget of this turn is spent, the call waits
    /// for the next turn. It is polled in place, because a call is large and should be moved only
    /// once.
    pub struct Budgeted<C> {
        budget: Rc<PollBudget>,
        #[pin]
        call: C,
    }
}

/// Polls `call` within the budget of its connection.
pub const fn budgeted<C>(budget: Rc<PollBudget>, call: C) -> Budgeted<C> {
    Budgeted { budget, call }
}

impl<C: Future> Future for Budgeted<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let me = self.project();
        if me.budget.take() {
            return me.call.poll(cx);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use futures_util::StreamExt as _;
    use futures_util::stream::FuturesUnordered;

    use super::*;

    #[test]
    fn a_turn_polls_a_bounded_number_of_calls() {
        let (budget, polled) = (Rc::new(PollBudget::default()), Cell::new(0));
        let mut calls: FuturesUnordered<_> = (0..1000)
            .map(|_| {
                let polled = &polled;
                budgeted(
                    budget.clone(),
                    poll_fn(move |_| {
                        polled.set(polled.get() + 1);
                        Poll::<()>::Pending
                    }),
                )
            })
            .collect();
        for _ in 0..7 {
            let before = polled.get();
            budget.begin();
            let _ = calls.poll_next_unpin(&mut Context::from_waker(Waker::noop()));
            // Fewer, if the operating system ran another thread meanwhile.
            assert!((1..=POLLS).contains(&(polled.get() - before)));
        }
    }

    #[test]
    fn a_late_turn_allows_one_read_and_one_call() {
        let budget = PollBudget::default();
        assert!(budget.may_read() && budget.may_read(), "no turn has begun");
        budget.begin();
        while !budget.is_spent() {
            std::hint::spin_loop();
        }
        assert!(budget.take() && !budget.take());
        assert!(budget.may_read() && !budget.may_read());
        budget.begin();
        assert!(budget.take());
    }
}
