//! Handshakes at once. Nobody knows yet who is behind one, so there is no share for each: at the bound, whoever has had the longest
//! time without finishing makes room. Others wait a moment in the kernel's queue, which costs the proxy nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// A handshake that others wait for is given this part of its time.
const GRACE: u32 = 4;

/// The handshakes under way, in the order in which they began.
pub struct Handshakes {
    under_way: VecDeque<(Instant, Weak<Notify>)>,
    most: usize,
    grace: Duration,
    one_ended: Arc<Notify>,
}

/// One of them, until it is dropped.
pub struct Handshake {
    given_up: Arc<Notify>,
    ended: Arc<Notify>,
}

impl Handshakes {
    /// None yet. Each has `time`, unless there are more than `most`.
    #[must_use]
    pub fn new(most: usize, time: Duration) -> Self {
        Self { under_way: VecDeque::new(), most, grace: time / GRACE, one_ended: Arc::default() }
    }

    /// Waits until there is room for one more, and makes it when the oldest has had its time.
    pub async fn room(&mut self) {
        loop {
            if self.under_way.len() < self.most {
                return;
            }
            // Most of them have ended well meanwhile.
            self.under_way.retain(|(_, one)| one.strong_count() > 0);
            let Some((begun, oldest)) = self.under_way.front().filter(|_| self.under_way.len() >= self.most) else { return };
            let left = self.grace.saturating_sub(begun.elapsed());
            if left.is_zero() {
                if let Some(oldest) = oldest.upgrade() {
                    oldest.notify_one();
                }
                self.under_way.pop_front();
            } else {
                let _ = timeout(left, self.one_ended.notified()).await;
            }
        }
    }

    /// One more begins.
    #[must_use]
    pub fn begin(&mut self) -> Handshake {
        let given_up = Arc::default();
        self.under_way.push_back((Instant::now(), Arc::downgrade(&given_up)));
        Handshake { given_up, ended: self.one_ended.clone() }
    }
}

impl Handshake {
    /// Waits until it is to make room.
    pub async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const AN_HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn at_the_bound_the_oldest_makes_room_when_it_has_had_its_time() {
        let mut handshakes = Handshakes::new(2, Duration::from_millis(40));
        let (oldest, second) = (handshakes.begin(), handshakes.begin());
        handshakes.room().await;
        assert!(oldest.given_up().now_or_never().is_some());
        assert!(second.given_up().now_or_never().is_none());
    }

    #[tokio::test]
    async fn before_its_time_nobody_is_given_up_and_one_that_ends_makes_room_at_once() {
        let mut handshakes = Handshakes::new(2, AN_HOUR);
        let (oldest, second) = (handshakes.begin(), handshakes.begin());
        assert!(handshakes.room().now_or_never().is_none());
        drop(second);
        assert!(handshakes.room().now_or_never().is_some());
        let third = handshakes.begin();
        tokio::join!(handshakes.room(), async move { drop(third) });
        assert!(oldest.given_up().now_or_never().is_none());
    }
}
