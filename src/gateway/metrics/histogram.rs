//! Histograms with fixed buckets and constant memory. The exporter's own histograms keep every
//! observation until the next scrape. Without scrapes, their memory grows without bound.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use metrics::{Histogram, HistogramFn};

/// Upper bounds of the buckets for the duration of a request, in seconds.
///
/// Through the gateway, a serializable read takes about 0.2 ms. A write waits for a disk and takes
/// 1 to 20 ms. etcd logs a request that takes 100 ms or more as slow. Clients give up after 5 to
/// 10 s, because etcd's request timeout is 5 s plus the election timeout. The buckets are narrow
/// below 1 ms and around 100 ms. Elsewhere each bound is 2 to 2.5 times the previous one.
pub const REQUEST_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Upper bounds of the buckets for the duration of a decision, in seconds.
///
/// The target is 100 to 300 ns for one key and 5 us for a Txn of 128 operations. A decision that
/// takes 100 us is worth investigating.
pub const DECISION_BUCKETS: &[f64] = &[1e-7, 2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 1e-4, 1e-3];

/// The counters of one histogram.
pub(super) struct Buckets {
    bounds: &'static [f64],
    /// One counter for each bound, and one for values above the last bound. They are not
    /// cumulative; `render` adds them up.
    counts: Box<[AtomicU64]>,
    sum_nanoseconds: AtomicU64,
}

impl Buckets {
    pub(super) fn new(bounds: &'static [f64]) -> Arc<Self> {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Arc::new(Self { bounds, counts, sum_nanoseconds: AtomicU64::default() })
    }

    /// Returns a handle that records into these buckets.
    pub(super) fn handle(self: &Arc<Self>) -> Histogram {
        Histogram::from_arc(Arc::clone(self))
    }

    /// True if no observation has been recorded.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Relaxed) == 0)
    }

    /// Appends this histogram in Prometheus text format to `out`. `labels` is `name="value"`, or
    /// empty.
    pub(super) fn render(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, bucket) in bounds.zip(&self.counts) {
            count += bucket.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
        }
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let sum = Duration::from_nanos(self.sum_nanoseconds.load(Relaxed)).as_secs_f64();
        let _ = writeln!(out, "{name}_sum{braced} {sum}");
        let _ = writeln!(out, "{name}_count{braced} {count}");
    }
}

impl HistogramFn for Buckets {
    /// Records an observation in seconds. It is always counted, but a negative number or NaN adds
    /// 0 to the sum.
    fn record(&self, seconds: f64) {
        let index = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.counts.get(index) {
            bucket.fetch_add(1, Relaxed);
        }
        let nanoseconds =
            Duration::try_from_secs_f64(seconds).map_or(0, |duration| duration.as_nanos());
        self.sum_nanoseconds.fetch_add(u64::try_from(nanoseconds).unwrap_or(0), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let buckets = Buckets::new(&[0.001, 0.1]);
        for seconds in [0.0005, 0.001, 0.05, 7.0, -1.0, f64::NAN] {
            buckets.record(seconds);
        }
        let mut out = String::new();
        buckets.render("x", "method=\"KV/Put\"", &mut out);
        assert_eq!(
            out,
            "x_bucket{method=\"KV/Put\",le=\"0.001\"} 4\n\
             x_bucket{method=\"KV/Put\",le=\"0.1\"} 5\n\
             x_bucket{method=\"KV/Put\",le=\"+Inf\"} 6\n\
             x_sum{method=\"KV/Put\"} 7.0515\n\
             x_count{method=\"KV/Put\"} 6\n"
        );
    }

    #[test]
    fn bounds_are_sorted() {
        for bounds in [REQUEST_BUCKETS, DECISION_BUCKETS] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
