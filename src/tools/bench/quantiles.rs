//! What reports show of a distribution.

use serde::Serialize;

use super::figure::float;
use super::tally::Latencies;

/// Percentiles of a distribution: halfway to 100 again and again, with steps between.
const STEPS_PER_HALF: u32 = 4;

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "names that say it")]
pub struct Quantiles {
    pub mean: f64,
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Quantiles {
    /// The usual ones; all 0 without any latency.
    #[must_use]
    pub fn of(latency: &Latencies) -> Self {
        if latency.is_empty() {
            return Self::default();
        }
        let at = |percentile| latency.value_at_percentile(percentile);
        Self {
            mean: latency.mean(),
            min: latency.min(),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: latency.max(),
        }
    }
}

/// Percentiles, each with its microseconds.
#[must_use]
pub fn distribution(latency: &Latencies) -> Vec<(f64, u64)> {
    if latency.is_empty() {
        return Vec::new();
    }
    // No further than there are values for it: the largest of a hundred is no 99.99th percentile.
    let last = 1.0 - 1.0 / float(latency.len());
    let steps = latency
        .iter_quantiles(STEPS_PER_HALF)
        .take_while(|step| step.quantile_iterated_to() < last);
    let steps = steps.map(|step| (step.quantile_iterated_to() * 100.0, step.value_iterated_to()));
    steps.chain([(last * 100.0, latency.max())]).collect()
}
