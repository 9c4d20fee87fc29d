//! How many of a connection's calls are polled before others have their turn.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// Polls of calls in one turn of their connection. Each takes some ten microseconds, and one frame of a client can wake all of its calls.
const POLLS: usize = 64;

/// The turn of one connection.
#[derive(Default)]
pub struct Turn {
    left: Cell<usize>,
}

impl Turn {
    /// It is this connection's turn.
    pub fn begin(&self) {
        self.left.set(POLLS);
    }

    /// Whether it is others' turn.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left.get() == 0
    }

    fn take(&self) -> bool {
        let left = self.left.get();
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
    fn a_turn_polls_so_many_calls_and_the_next_goes_on() {
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
        for turns in 1..=7 {
            turn.begin();
            let _ = calls.poll_next_unpin(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled.get(), turns * POLLS);
        }
    }
}
