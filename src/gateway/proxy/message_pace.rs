//! Limits the messages of one stream that are judged in one poll.

/// Limit on messages per poll. A chunk of 16 KiB may have 3,000 messages, and each takes 2 to 10
/// microseconds. In one turn, a connection polls its calls again only within its budget
/// ([`super::poll_budget`]).
const MESSAGES_PER_POLL: u32 = 32;

/// Counts the messages of a stream that were handled since its task last yielded.
#[derive(Default)]
pub struct MessagePace {
    handled: u32,
}

impl MessagePace {
    /// Call this after each message. Yields after every 32nd.
    pub async fn after_message(&mut self) {
        self.handled = self.handled.saturating_add(1);
        if self.handled >= MESSAGES_PER_POLL {
            self.handled = 0;
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_poll_handles_a_bounded_number_of_messages() {
        let mut handled = 0;
        {
            let mut handling = pin!(async {
                let mut pace = MessagePace::default();
                for _ in 0..2 * MESSAGES_PER_POLL {
                    handled += 1;
                    pace.after_message().await;
                }
            });
            let mut cx = Context::from_waker(Waker::noop());
            assert!(handling.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(handled, MESSAGES_PER_POLL);
    }
}
