//! How many of a connection's calls are polled before others have their turn.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

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

/// A call that waits for the next turn where this one is used up.
pub async fn in_turns<C: Future>(turn: Rc<Turn>, call: C) -> C::Output {
    let mut call = pin!(call);
    poll_fn(|cx| {
        if turn.take() {
            return call.as_mut().poll(cx);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

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
