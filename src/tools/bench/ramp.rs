//! Which rates of a ramp a target has kept up with.

use super::figure::float;

/// At least this share of what was due must have been done in time.
const KEPT_UP: f64 = 0.95;

/// What one target has shown at one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What was due in the measured time.
    pub due: u64,
    /// What of it had its answer before that time was over.
    pub in_time: u64,
    /// What failed.
    pub failed: u64,
    /// The worst p99, in microseconds.
    pub p99_us: u64,
}

/// Whether that rate is sustained.
#[must_use]
pub fn sustained(shown: Shown, limit_p99_us: Option<u64>) -> bool {
    let slow = limit_p99_us.is_some_and(|limit| shown.p99_us > limit);
    // Nothing done is nothing shown.
    shown.failed == 0
        && !slow
        && shown.in_time > 0
        && float(shown.in_time) >= float(shown.due) * KEPT_UP
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Shown = Shown { due: 1000, in_time: 950, failed: 0, p99_us: 5000 };

    #[test]
    fn a_rate_is_sustained_when_95_of_100_were_done_in_time_none_failed_and_none_was_slow() {
        assert!(sustained(GOOD, None) && sustained(GOOD, Some(5000)));
        for bad in [
            Shown { in_time: 949, ..GOOD },
            Shown { failed: 1, ..GOOD },
            Shown { due: 0, in_time: 0, ..GOOD },
            // All was answered, and a fifth of it too late, though the whole took little longer
            // than planned.
            Shown { in_time: 800, ..GOOD },
        ] {
            assert!(!sustained(bad, None), "{bad:?}");
        }
        assert!(!sustained(GOOD, Some(4999)));
    }
}
