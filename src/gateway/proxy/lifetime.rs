//! Limits the lifetime of a connection: it ends when the client certificate expires, or at a
//! maximum age if one is configured. The client gets GOAWAY some time before, so that it can
//! reconnect without losing a call.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::metrics::reason::Termination;

/// The longest timer of a connection: a year.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// The interval at which the wall clock is read, because it may be set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
/// The shortest timer. A timer that is due at once would be reset in each poll while the connection
/// has other work first.
const MIN_WAIT: Duration = Duration::from_millis(10);
/// The longest lead: the time from the GOAWAY to the end of the client certificate.
const MAX_LEAD: Duration = Duration::from_secs(300);
/// The shortest lead. If it would be shorter, the client gets no GOAWAY: without a new certificate
/// it would only reconnect with the old one.
const MIN_LEAD: Duration = Duration::from_secs(1);

/// The times of a connection, counted from its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// When the client gets GOAWAY, and why.
    pub leave: Option<(Duration, Termination)>,
    /// When the certificate expires. The connection ends then with all its calls.
    pub end: Duration,
}

impl Lifetime {
    /// The lifetime of a connection whose certificate is valid for `left` from now. `jitter`, from
    /// 0 to 1, spreads clients that connected together.
    ///
    /// The lead before the end of a certificate is a tenth of the time left, at most five minutes.
    /// Short-lived certificates are renewed long before that (SPIFFE agents renew at half of the
    /// lifetime). If a client reconnects with the old certificate, its next lead is a tenth of the
    /// remaining tenth.
    pub fn of(left: Duration, max_age: Option<Duration>, jitter: f64) -> Self {
        let end = left.min(MAX_LIFETIME);
        let jitter = jitter.clamp(0.0, 1.0);
        let lead = (end / 10).min(MAX_LEAD);
        let before_end = (lead >= MIN_LEAD)
            .then(|| (end.saturating_sub(lead.mul_f64(0.5 + jitter / 2.0)), Termination::Identity));
        let aged = max_age.map(|age| (age.mul_f64(0.9 + jitter / 5.0), Termination::Age));
        Self {
            leave: before_end
                .into_iter()
                .chain(aged)
                .filter(|(when, _)| *when < end)
                .min_by_key(|(when, _)| *when),
            end,
        }
    }
}

/// The timer of one connection's lifetime.
pub struct LifetimeTimer {
    timer: Pin<Box<Sleep>>,
    leave: Option<Leave>,
    /// Seconds since the Unix epoch.
    not_after: i64,
}

/// When a client gets GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// When its certificate is valid only for this time.
    Before(Duration),
    /// At a certain age.
    At(Instant),
}

/// An event in the lifetime of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The client must get GOAWAY.
    Leave(Termination),
    /// The certificate has expired.
    End,
}

impl LifetimeTimer {
    /// Starts with a new connection, whose certificate ends at `not_after` (seconds since
    /// the Unix epoch).
    pub fn start(not_after: i64, max_age: Option<Duration>) -> Self {
        let (left, now) = (time_left(not_after), Instant::now());
        let Lifetime { leave, end } = Lifetime::of(left, max_age, jitter());
        let leave = leave.map(|(when, reason)| match reason {
            Termination::Age => Leave::At(now + when),
            _ => Leave::Before(end.saturating_sub(when)),
        });
        Self { timer: Box::pin(sleep_until(now + wait(leave, left, now, true))), leave, not_after }
    }

    /// Ready once for each event, in order; [`Due::End`] is repeated. If the client is not
    /// `enforced`, an expired certificate does not end the connection, because etcd itself checks
    /// certificates only in the handshake.
    pub fn poll_due(&mut self, cx: &mut Context<'_>, enforced: impl FnOnce() -> bool) -> Poll<Due> {
        ready!(self.timer.as_mut().poll(cx));
        let (left, now, enforced) = (time_left(self.not_after), Instant::now(), enforced());
        let due = due(self.leave, left, now, enforced);
        if matches!(due, Some(Due::Leave(_))) {
            self.leave = None;
        }
        self.timer.as_mut().reset(now + wait(self.leave, left, now, enforced));
        // A timer that was reset must be polled again to wake this task.
        cx.waker().wake_by_ref();
        due.map_or(Poll::Pending, Poll::Ready)
    }
}

/// True if a certificate that ends at `not_after` (seconds since the Unix epoch) has expired.
#[must_use]
pub fn has_ended(not_after: i64) -> bool {
    time_left(not_after).is_zero()
}

/// The event that is due if the certificate is valid for the time `left` by the wall clock.
fn due(leave: Option<Leave>, left: Duration, now: Instant, enforced: bool) -> Option<Due> {
    match leave {
        _ if left.is_zero() && enforced => Some(Due::End),
        Some(Leave::Before(lead)) if left <= lead && enforced => {
            Some(Due::Leave(Termination::Identity))
        }
        Some(Leave::At(age)) if age <= now => Some(Due::Leave(Termination::Age)),
        _ => None,
    }
}

/// The time to wait for the next event, at most [`CLOCK_INTERVAL`]. Timers use the monotonic clock,
/// which does not change when the wall clock is set or the machine was suspended, so the wall clock
/// must be read regularly.
fn wait(leave: Option<Leave>, left: Duration, now: Instant, enforced: bool) -> Duration {
    let until_end = enforced.then_some(left);
    let until_leave = match leave {
        Some(Leave::Before(lead)) => enforced.then_some(left.saturating_sub(lead)),
        Some(Leave::At(age)) => Some(age.saturating_duration_since(now)),
        None => None,
    };
    [until_end, until_leave].into_iter().flatten().fold(CLOCK_INTERVAL, Duration::min).max(MIN_WAIT)
}

/// The time until a certificate ends, by the wall clock.
fn time_left(not_after: i64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let end = Duration::from_secs(u64::try_from(not_after).unwrap_or(0));
    end.saturating_sub(now)
}

/// A random number from 0 to 1, so that clients do not reconnect all at once.
fn jitter() -> f64 {
    let mut bytes = [0; 2];
    // If the system has no randomness, they do; nothing else depends on it.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn clients_leave_before_their_certificates_end() {
        let leave = |left, jitter| {
            Lifetime::of(left, None, jitter).leave.map(|(when, why)| (when.as_secs(), why))
        };
        assert_eq!(leave(HOUR, 0.0), Some((3600 - 150, Termination::Identity)));
        assert_eq!(leave(HOUR, 1.0), Some((3600 - 300, Termination::Identity)));
        assert_eq!(leave(Duration::from_secs(60), 0.0), Some((57, Termination::Identity)));
        assert_eq!(leave(Duration::from_secs(60), 1.0), Some((54, Termination::Identity)));
        assert_eq!(Lifetime::of(HOUR, None, 0.5).end, HOUR);
    }

    #[test]
    fn reconnects_with_an_old_certificate_are_few() {
        let mut left = HOUR;
        let mut times = 0;
        while let Some((when, _)) = Lifetime::of(left, None, 0.0).leave {
            left -= when;
            times += 1;
        }
        assert!(times <= 4 && left < Duration::from_secs(10), "{times} times, {left:?} left");
    }

    #[test]
    fn a_maximum_age_is_spread_and_never_beyond_the_certificate() {
        let leave = |left, jitter| Lifetime::of(left, Some(HOUR), jitter).leave;
        assert_eq!(leave(48 * HOUR, 0.0), Some((HOUR.mul_f64(0.9), Termination::Age)));
        assert_eq!(leave(48 * HOUR, 1.0), Some((HOUR.mul_f64(1.1), Termination::Age)));
        assert_eq!(leave(HOUR / 2, 1.0).map(|(_, why)| why), Some(Termination::Identity));
        assert_eq!(leave(Duration::from_secs(2), 1.0), None);
    }

    #[test]
    fn a_certificate_ends_by_the_wall_clock() {
        let now = Instant::now();
        let leave = Some(Leave::Before(Duration::from_secs(300)));
        for (left, expected) in [
            (HOUR, None),
            (Duration::from_secs(300), Some(Due::Leave(Termination::Identity))),
            // The clock was set forward.
            (Duration::ZERO, Some(Due::End)),
        ] {
            assert_eq!(due(leave, left, now, true), expected, "{left:?}");
            assert!(
                wait(leave, left, now, true) <= CLOCK_INTERVAL,
                "the clock may be set meanwhile"
            );
        }
        assert_eq!(wait(leave, Duration::from_secs(310), now, true), Duration::from_secs(10));
        assert_eq!(wait(None, Duration::from_secs(7), now, true), Duration::from_secs(7));
    }

    #[test]
    fn the_end_of_a_certificate_is_ignored_in_shadow_mode() {
        let now = Instant::now();
        for leave in [None, Some(Leave::Before(HOUR))] {
            assert_eq!(due(leave, Duration::ZERO, now, false), None);
            assert_eq!(wait(leave, Duration::ZERO, now, false), CLOCK_INTERVAL);
        }
        let aged = Some(Leave::At(now));
        assert_eq!(
            due(aged, Duration::ZERO, now, false),
            Some(Due::Leave(Termination::Age)),
            "the maximum age is configured"
        );
    }

    #[test]
    fn an_endless_certificate_sets_a_valid_timer() {
        assert_eq!(Lifetime::of(Duration::MAX, None, 0.5).end, MAX_LIFETIME);
        assert_eq!(
            Lifetime::of(Duration::ZERO, Some(HOUR), 0.5),
            Lifetime { leave: None, end: Duration::ZERO }
        );
    }
}
