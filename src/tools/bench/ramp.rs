//! Decides whether a target sustained a rate of a ramp.

use super::convert::float;

/// The share of due requests that must succeed in time.
const KEPT_UP: f64 = 0.95;

/// The results of one target at one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateResult {
    /// Requests that were due in the measured time.
    pub due: u64,
    /// Requests that succeeded before that time ended.
    pub in_time: u64,
    /// Failed requests.
    pub failed: u64,
    /// The highest p99 of all kinds, in microseconds.
    pub p99_us: u64,
}

/// True if the target sustained the rate.
#[must_use]
pub fn sustained(result: RateResult, limit_p99_us: Option<u64>) -> bool {
    let slow = limit_p99_us.is_some_and(|limit| result.p99_us > limit);
    // A target without any success sustains nothing.
    result.failed == 0
        && !slow
        && result.in_time > 0
        && float(result.in_time) >= float(result.due) * KEPT_UP
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: RateResult = RateResult { due: 1000, in_time: 950, failed: 0, p99_us: 5000 };

    #[test]
    fn a_rate_is_sustained_if_95_percent_succeed_in_time() {
        assert!(sustained(GOOD, None) && sustained(GOOD, Some(5000)));
        for bad in [
            RateResult { in_time: 949, ..GOOD },
            RateResult { failed: 1, ..GOOD },
            RateResult { due: 0, in_time: 0, ..GOOD },
            // All requests succeeded, but a fifth of them too late.
            RateResult { in_time: 800, ..GOOD },
        ] {
            assert!(!sustained(bad, None), "{bad:?}");
        }
        assert!(!sustained(GOOD, Some(4999)));
    }
}
