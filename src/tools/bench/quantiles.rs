//! Quantiles of latencies, for reports.

use serde::Serialize;

use super::convert::float;
use super::tally::Latencies;

/// Steps of the distribution: this many from each percentile to the one halfway to 100.
const STEPS_PER_HALF: u32 = 4;

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names are usual")]
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
    /// The usual quantiles; all 0 without latencies.
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

/// Percentiles, each with its latency in microseconds.
#[must_use]
pub fn distribution(latency: &Latencies) -> Vec<(f64, u64)> {
    if latency.is_empty() {
        return Vec::new();
    }
    // Stop where there are no values: the largest of 100 latencies is not a 99.99th percentile.
    let last = 1.0 - 1.0 / float(latency.len());
    let steps = latency
        .iter_quantiles(STEPS_PER_HALF)
        .take_while(|step| step.quantile_iterated_to() < last);
    let steps = steps.map(|step| (step.quantile_iterated_to() * 100.0, step.value_iterated_to()));
    steps.chain([(last * 100.0, latency.max())]).collect()
}
