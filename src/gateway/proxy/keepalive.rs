//! HTTP/2 keepalive (PING, RFC 9113, 6.7). Detects a dead peer, and measures how long a connection
//! has been idle.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

/// Sends a PING in each interval.
pub struct Keepalive {
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    pings: Option<PingPong>,
    /// True if a PING was sent and not acknowledged yet.
    sent: bool,
    /// True if calls are open.
    busy: bool,
    idle_since: Instant,
}

/// The state of a connection at the end of an interval.
pub enum Liveness {
    /// The PING of the interval was not acknowledged.
    PeerDead,
    /// The peer is alive. It has had no open call for this duration.
    Idle(Duration),
}

impl Keepalive {
    /// Starts with a new connection.
    pub fn new(pings: Option<PingPong>, interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            interval,
            timer: Box::pin(sleep_until(now + interval)),
            pings,
            sent: false,
            busy: false,
            idle_since: now,
        }
    }

    /// Sets whether calls are open. Call this whenever that may have changed.
    pub fn note(&mut self, busy: bool) {
        if std::mem::replace(&mut self.busy, busy) && !busy {
            self.idle_since = Instant::now();
        }
    }

    /// Ready at the end of each interval.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Liveness> {
        if self.sent
            && let Some(pings) = &mut self.pings
            && pings.poll_pong(cx).is_ready()
        {
            self.sent = false;
        }
        ready!(self.timer.as_mut().poll(cx));
        self.timer.as_mut().reset(Instant::now() + self.interval);
        // A timer that was reset must be polled again to wake this task. h2 wakes the connection
        // for the PING.
        cx.waker().wake_by_ref();
        if self.sent {
            return Poll::Ready(Liveness::PeerDead);
        }
        self.sent =
            self.pings.as_mut().is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok());
        Poll::Ready(Liveness::Idle(if self.busy {
            Duration::ZERO
        } else {
            self.idle_since.elapsed()
        }))
    }
}
