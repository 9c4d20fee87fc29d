//! How long a connection may last: no longer than the certificate that it was opened with, and if
//! asked for, no longer than a certain age. A client is told to go before that, so that it comes
//! back in its own time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::metrics::reason::Termination;

/// No connection lasts a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Between two looks at the wall clock, which somebody may set.
const LOOK: Duration = Duration::from_secs(60);
/// A timer that is due at once would be set again and again while its connection has something else
/// to do first.
const LEAST_WAIT: Duration = Duration::from_millis(10);
/// A client goes at most so long before its certificate ends.
const LEAD: Duration = Duration::from_secs(300);
/// Where less than this is left to go ahead of the end, nobody is told to: a client that has no new
/// certificate yet would only come back with the old one.
const LEAST_LEAD: Duration = Duration::from_secs(1);

/// From the handshake on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// When the client is told to open another connection, and why.
    pub leave: Option<(Duration, Termination)>,
    /// When the certificate ends, and with it all that is open.
    pub end: Duration,
}

impl Lifetime {
    /// Of a connection whose certificate lasts for `left` from now on. `dice`, from 0 to 1, spreads
    /// those who came together.
    ///
    /// The lead before the end of a certificate is a tenth of what is left, at most five minutes:
    /// short-lived certificates are renewed long before that (SPIFFE agents do it at half their
    /// time), and whoever comes back with the old one has a tenth of the tenth.
    #[must_use]
    pub fn of(left: Duration, max_age: Option<Duration>, dice: f64) -> Self {
        let end = left.min(LONGEST);
        let dice = dice.clamp(0.0, 1.0);
        let lead = (end / 10).min(LEAD);
        let before_end = (lead >= LEAST_LEAD)
            .then(|| (end.saturating_sub(lead.mul_f64(0.5 + dice / 2.0)), Termination::Identity));
        let aged = max_age.map(|age| (age.mul_f64(0.9 + dice / 5.0), Termination::Age));
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

/// The lifetime of one connection, as it passes.
pub struct Term {
    timer: Pin<Box<Sleep>>,
    leave: Option<Leave>,
    /// Seconds since 1970.
    not_after: i64,
}

/// When a client is told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// When its certificate has only so long left.
    Before(Duration),
    /// At a certain age.
    At(Instant),
}

/// What a connection has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Its client is to be told to go.
    Leave(Termination),
    /// Its certificate has ended.
    End,
}

impl Term {
    /// Of a connection that begins now, with a certificate that ends at `not_after` (seconds since
    /// 1970).
    #[must_use]
    pub fn begin(not_after: i64, max_age: Option<Duration>) -> Self {
        let (left, now) = (time_left(not_after), Instant::now());
        let Lifetime { leave, end } = Lifetime::of(left, max_age, dice());
        let leave = leave.map(|(when, why)| match why {
            Termination::Age => Leave::At(now + when),
            _ => Leave::Before(end.saturating_sub(when)),
        });
        Self { timer: Box::pin(sleep_until(now + wait(leave, left, now, true))), leave, not_after }
    }

    /// Ready once for each thing that is due, in their order; the end stays due. Where the client
    /// is not `enforced`, the end of its certificate is none of the connection's, as at etcd,
    /// which looks at it in the handshake alone.
    pub fn poll_due(&mut self, cx: &mut Context<'_>, enforced: impl FnOnce() -> bool) -> Poll<Due> {
        ready!(self.timer.as_mut().poll(cx));
        let (left, now, enforced) = (time_left(self.not_after), Instant::now(), enforced());
        let due = due(self.leave, left, now, enforced);
        if matches!(due, Some(Due::Leave(_))) {
            self.leave = None;
        }
        self.timer.as_mut().reset(now + wait(self.leave, left, now, enforced));
        // The timer that was set is polled, so that it wakes this task.
        cx.waker().wake_by_ref();
        due.map_or(Poll::Pending, Poll::Ready)
    }
}

/// Whether a certificate that ends at `not_after` (seconds since 1970) has ended.
#[must_use]
pub fn has_ended(not_after: i64) -> bool {
    time_left(not_after).is_zero()
}

/// What is due when a certificate has this long left by the wall clock.
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

/// How long to wait until something may be due: until the next look at the wall clock at the
/// latest. A timer keeps to the clock that nobody sets, and does not see that the other was set, or
/// that the machine slept.
fn wait(leave: Option<Leave>, left: Duration, now: Instant, enforced: bool) -> Duration {
    let until_end = enforced.then_some(left);
    let until_leave = match leave {
        Some(Leave::Before(lead)) => enforced.then_some(left.saturating_sub(lead)),
        Some(Leave::At(age)) => Some(age.saturating_duration_since(now)),
        None => None,
    };
    [until_end, until_leave].into_iter().flatten().fold(LOOK, Duration::min).max(LEAST_WAIT)
}

/// Until a certificate ends, by the wall clock.
fn time_left(not_after: i64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let end = Duration::from_secs(u64::try_from(not_after).unwrap_or(0));
    end.saturating_sub(now)
}

/// From 0 to 1. Nothing hangs on it but that clients do not come back all at once.
fn dice() -> f64 {
    let mut bytes = [0; 2];
    // Without randomness they do.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_client_goes_a_little_before_its_certificate_ends_and_not_all_at_once() {
        let leave = |left, dice| {
            Lifetime::of(left, None, dice).leave.map(|(when, why)| (when.as_secs(), why))
        };
        assert_eq!(leave(HOUR, 0.0), Some((3600 - 150, Termination::Identity)));
        assert_eq!(leave(HOUR, 1.0), Some((3600 - 300, Termination::Identity)));
        assert_eq!(leave(Duration::from_secs(60), 0.0), Some((57, Termination::Identity)));
        assert_eq!(leave(Duration::from_secs(60), 1.0), Some((54, Termination::Identity)));
        assert_eq!(Lifetime::of(HOUR, None, 0.5).end, HOUR);
    }

    #[test]
    fn whoever_comes_back_with_the_old_certificate_is_left_alone_soon() {
        let mut left = HOUR;
        let mut times = 0;
        while let Some((when, _)) = Lifetime::of(left, None, 0.0).leave {
            left -= when;
            times += 1;
        }
        assert!(times <= 4 && left < Duration::from_secs(10), "{times} times, {left:?} left");
    }

    #[test]
    fn an_age_is_spread_and_never_beyond_the_certificate() {
        let leave = |left, dice| Lifetime::of(left, Some(HOUR), dice).leave;
        assert_eq!(leave(48 * HOUR, 0.0), Some((HOUR.mul_f64(0.9), Termination::Age)));
        assert_eq!(leave(48 * HOUR, 1.0), Some((HOUR.mul_f64(1.1), Termination::Age)));
        assert_eq!(leave(HOUR / 2, 1.0).map(|(_, why)| why), Some(Termination::Identity));
        assert_eq!(leave(Duration::from_secs(2), 1.0), None);
    }

    #[test]
    fn the_wall_clock_decides_when_a_certificate_ends() {
        let now = Instant::now();
        let leave = Some(Leave::Before(Duration::from_secs(300)));
        for (left, expected) in [
            (HOUR, None),
            (Duration::from_secs(300), Some(Due::Leave(Termination::Identity))),
            // The clock was set forward.
            (Duration::ZERO, Some(Due::End)),
        ] {
            assert_eq!(due(leave, left, now, true), expected, "{left:?}");
            assert!(wait(leave, left, now, true) <= LOOK, "somebody may set it meanwhile");
        }
        assert_eq!(wait(leave, Duration::from_secs(310), now, true), Duration::from_secs(10));
        assert_eq!(wait(None, Duration::from_secs(7), now, true), Duration::from_secs(7));
    }

    #[test]
    fn in_shadow_mode_a_certificate_ends_no_connection() {
        let now = Instant::now();
        for leave in [None, Some(Leave::Before(HOUR))] {
            assert_eq!(due(leave, Duration::ZERO, now, false), None);
            assert_eq!(wait(leave, Duration::ZERO, now, false), LOOK);
        }
        let aged = Some(Leave::At(now));
        assert_eq!(
            due(aged, Duration::ZERO, now, false),
            Some(Due::Leave(Termination::Age)),
            "that is asked for"
        );
    }

    #[test]
    fn a_certificate_without_end_sets_a_timer_that_can_be_set() {
        assert_eq!(Lifetime::of(Duration::MAX, None, 0.5).end, LONGEST);
        assert_eq!(
            Lifetime::of(Duration::ZERO, Some(HOUR), 0.5),
            Lifetime { leave: None, end: Duration::ZERO }
        );
    }
}
