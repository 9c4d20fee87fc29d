//! How much a connection does before others have their turn. Whose turn is next: [`super::rounds`].

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

/// Polls of calls in one turn of their connection. Each takes some ten microseconds, and one frame
/// of a client can wake all of its calls.
const POLLS: usize = 64;

/// How long a turn goes on being used. One frame, or a TLS record of one byte, is small, and
/// thousands of them come at once: what each costs is not known before.
const LONGEST: Duration = Duration::from_millis(1);

/// The turn of one connection.
#[derive(Default)]
pub struct Turn {
    left: Cell<usize>,
    begun: Cell<Option<Instant>>,
    /// Something was read in it.
    read: Cell<bool>,
}

impl Turn {
    /// It is this connection's turn.
    pub fn begin(&self) {
        self.left.set(POLLS);
        self.begun.set(Some(Instant::now()));
        self.read.set(false);
    }

    /// Whether it is others' turn.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left.get() == 0 || self.is_late()
    }

    /// Whether to read once more: once in each turn, whatever else there was to do, and then while
    /// there is time.
    #[must_use]
    pub fn may_read(&self) -> bool {
        !self.read.replace(true) || !self.is_late()
    }

    fn is_late(&self) -> bool {
        self.begun.get().is_some_and(|begun| begun.elapsed() >= LONGEST)
    }

    fn take(&self) -> bool {
        let left = self.left.get();
        // The first has its turn in any case.
        if left < POLLS && self.is_late() {
            self.left.set(0);
            return false;
        }
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

pin_project! {
    /// A call that waits for the next turn where this one is used up. The call is polled in its place: it is large, and moved once.
    pub struct InTurns<C> {
        turn: Rc<Turn>,
        #[pin]
        call: C,
    }
}

/// Polls `call` in the turns of its connection.
pub const fn in_turns<C>(turn: Rc<Turn>, call: C) -> InTurns<C> {
    InTurns { turn, call }
}

impl<C: Future> Future for InTurns<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let me = self.project();
        if me.turn.take() {
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
    fn a_turn_polls_so_many_calls_at_most_and_the_next_goes_on() {
        let (turn, polled) = (Rc::new(Turn::default()), Cell::new(0));
        let mut calls: FuturesUnordered<_> = (0..1000)
            .map(|_| {
                let polled = &polled;
                in_turns(
                    turn.clone(),
                    poll_fn(move |_| {
                        polled.set(polled.get() + 1);
                        Poll::<()>::Pending
                    }),
                )
            })
            .collect();
        for _ in 0..7 {
            let before = polled.get();
            turn.begin();
            let _ = calls.poll_next_unpin(&mut Context::from_waker(Waker::noop()));
            // Fewer, where this thread had to wait meanwhile.
            assert!((1..=POLLS).contains(&(polled.get() - before)));
        }
    }

    #[test]
    fn a_turn_ends_with_its_time_after_one_read_and_one_call() {
        let turn = Turn::default();
        assert!(turn.may_read() && turn.may_read(), "it has not begun");
        turn.begin();
        while !turn.is_over() {
            std::hint::spin_loop();
        }
        assert!(turn.take() && !turn.take());
        assert!(turn.may_read() && !turn.may_read());
        turn.begin();
        assert!(turn.take());
    }
}
