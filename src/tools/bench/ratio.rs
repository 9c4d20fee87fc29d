//! The ratio of a measurement between two targets: the median over pairs of slices that ran one
//! after the other.
//!
//! The confidence interval is that of order statistics (the inverted sign test). It makes no
//! assumption about the distribution of the ratios, only that pairs are independent. Of `n` sorted
//! ratios, the `k`-th from both ends bound the median with the confidence `1 - 2 P(B < k)`, where
//! `B` is binomial with `n` and 1/2. Five pairs are too few for 95 %: their whole range has 93.75
//! %.

use super::convert;

/// The requested confidence.
pub const CONFIDENCE: f64 = 0.95;

/// A median ratio with its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Ratio {
    /// The median.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Confidence of the interval: at least [`CONFIDENCE`], unless there are too few pairs.
    pub confidence: f64,
    /// Number of pairs.
    pub pairs: usize,
}

impl Ratio {
    /// Computed from pairs of measurements (first target, other target). Pairs without a positive
    /// first value are ignored. `None` without pairs.
    #[must_use]
    pub fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let mut ratios: Vec<f64> = pairs
            .into_iter()
            .filter(|(first, _)| *first > 0.0)
            .map(|(first, other)| other / first)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let pairs = ratios.len();
        let (place, confidence) = bounds(pairs);
        let (low, high) = (*ratios.get(place)?, *ratios.get(pairs.checked_sub(place + 1)?)?);
        Some(Self { median: median(&ratios)?, low, high, confidence, pairs })
    }
}

/// The median of sorted values.
fn median(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    if sorted.len() % 2 == 1 {
        Some(upper)
    } else {
        Some((sorted.get(half.checked_sub(1)?)? + upper) / 2.0)
    }
}

/// How many values to leave out at each end, and the confidence of the interval that remains.
fn bounds(values: usize) -> (usize, f64) {
    let mut best = (0, 0.0);
    // P(B = k), and P(B <= k).
    let (mut at, mut below) = (0.5_f64.powf(convert::length(values)), 0.0);
    for k in 0..values.div_ceil(2) {
        below += at;
        let confidence = 1.0 - 2.0 * below;
        if k > 0 && confidence < CONFIDENCE {
            break;
        }
        best = (k, confidence);
        at *= convert::length(values - k) / convert::length(k + 1);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_match_published_tables() {
        // Table of order-statistic intervals for the median (for instance Conover, Practical
        // Nonparametric Statistics, A3): n, values left out, confidence.
        for (values, place, confidence) in [
            (5, 0, 0.9375),
            (6, 0, 0.96875),
            (8, 0, 0.9921875),
            (9, 1, 0.9609375),
            (10, 1, 0.978515625),
            (20, 5, 0.9586105),
        ] {
            let (seen, level) = bounds(values);
            assert_eq!(seen, place, "{values}");
            assert!((level - confidence).abs() < 1e-6, "{values}: {level}");
        }
        assert_eq!(bounds(1), (0, 0.0));
    }

    #[test]
    fn the_median_ratio_of_known_pairs_is_right() {
        let pairs = [
            (10.0, 11.0),
            (10.0, 12.0),
            (10.0, 13.0),
            (10.0, 14.0),
            (10.0, 15.0),
            (20.0, 32.0),
            (0.0, 5.0),
        ];
        let ratio = Ratio::of(pairs).unwrap();
        assert!(
            (ratio.median - 1.35).abs() < 1e-9
                && (ratio.low - 1.1).abs() < 1e-9
                && (ratio.high - 1.6).abs() < 1e-9,
            "{ratio:?}"
        );
        assert_eq!(ratio.pairs, 6);
        assert_eq!(Ratio::of([]), None);
        assert_eq!(Ratio::of([(0.0, 1.0)]), None);
    }

    #[test]
    fn noise_that_affects_both_targets_cancels_out() {
        let noise = [1.0, 1.1, 7.0, 9.0, 1.2, 1.0, 1.0, 3.0, 1.0, 1.0];
        let ratio = Ratio::of(noise.map(|noise| (100.0 * noise, 120.0 * noise))).unwrap();
        assert!((ratio.low - 1.2).abs() < 1e-9 && (ratio.high - 1.2).abs() < 1e-9);
    }
}
