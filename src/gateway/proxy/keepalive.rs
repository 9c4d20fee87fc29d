//! Whether the other end of a connection is still there, and whether it does anything: HTTP/2 pings
//! (RFC 9113, 6.7).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

/// Asks once in each interval.
pub struct Keepalive {
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    pings: Option<PingPong>,
    /// A ping is on its way.
    asked: bool,
    /// Calls are open.
    busy: bool,
    idle_since: Instant,
}

/// What is known at the end of an interval.
pub enum Found {
    /// The ping of the interval before was not answered.
    Gone,
    /// It is there, and has had no call for so long.
    Idle(Duration),
}

impl Keepalive {
    /// Of a connection that begins now.
    #[must_use]
    pub fn new(pings: Option<PingPong>, interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            interval,
            timer: Box::pin(sleep_until(now + interval)),
            pings,
            asked: false,
            busy: false,
            idle_since: now,
        }
    }

    /// Whether calls are open, each time that this may have changed.
    pub fn note(&mut self, busy: bool) {
        if std::mem::replace(&mut self.busy, busy) && !busy {
            self.idle_since = Instant::now();
        }
    }

    /// Ready at the end of each interval.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Found> {
        if self.asked
            && let Some(pings) = &mut self.pings
            && pings.poll_pong(cx).is_ready()
        {
            self.asked = false;
        }
        ready!(self.timer.as_mut().poll(cx));
        self.timer.as_mut().reset(Instant::now() + self.interval);
        // The timer has to be polled to be heard. h2 wakes the connection for the ping.
        cx.waker().wake_by_ref();
        if self.asked {
            return Poll::Ready(Found::Gone);
        }
        self.asked =
            self.pings.as_mut().is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok());
        Poll::Ready(Found::Idle(if self.busy { Duration::ZERO } else { self.idle_since.elapsed() }))
    }
}
