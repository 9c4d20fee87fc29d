//! Conversions between integers, floating point and durations, without truncating `as` casts.

use std::time::Duration;

/// A count or a number of microseconds as a float. Exact below 2^53.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53; rounded above")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// A length as a float.
#[must_use]
pub fn length(count: usize) -> f64 {
    float(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Rounds to the nearest integer; 0 for negative numbers and NaN.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates and maps NaN to 0"
)]
pub fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// The share of one of `parts` in a count. All shares add up to the count.
#[must_use]
pub fn share(count: u64, parts: u64, part: u64) -> u64 {
    let parts = parts.max(1);
    count / parts + u64::from(part < count % parts)
}

/// Whole microseconds, saturating.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_differ_by_at_most_one() {
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
