//! Counts and times as floating point, in the two directions that `as` would take without a word.

use std::time::Duration;

/// A count or a number of microseconds. Exact below 2^53, which is 285 years of microseconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53; above, the nearest")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// A length, likewise.
#[must_use]
pub fn length(count: usize) -> f64 {
    float(u64::try_from(count).unwrap_or(u64::MAX))
}

/// The nearest whole number; 0 for what is negative or no number.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and makes 0 of NaN"
)]
pub fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// What one of several parts has of a count, so that all together have exactly it.
#[must_use]
pub fn share(count: u64, parts: u64, part: u64) -> u64 {
    let parts = parts.max(1);
    count / parts + u64::from(part < count % parts)
}

/// Whole microseconds; those of 584,000 years for more.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_differ_by_one_at_most() {
        for (count, parts, shares) in [
            (7, 3, &[3, 2, 2][..]),
            (6, 3, &[2, 2, 2]),
            (1, 3, &[1, 0, 0]),
            (0, 2, &[0, 0]),
            (5, 0, &[5]),
        ] {
            assert_eq!(
                (0..parts.max(1)).map(|part| share(count, parts, part)).collect::<Vec<_>>(),
                shares
            );
        }
    }
}
