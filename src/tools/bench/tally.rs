//! Measurements that can be added up: one tally for each second of each thread.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_warden_core::method::Method;
use hdrhistogram::Histogram;

use super::connection::Failure;
use super::convert;

/// Latencies in microseconds, with three significant digits, up to an hour.
pub type Latencies = Histogram<u32>;

/// The largest latency that a histogram holds, in microseconds; larger ones count as this.
const MOST: u64 = 3_600_000_000;

/// Number of wrong responses that are described.
const EXAMPLES: usize = 10;

/// The results of all requests of one name.
#[derive(Clone, Debug)]
pub struct Series {
    /// Latencies of successes, from the due time.
    pub latency: Latencies,
    /// Failures by name: their number, and the message of the first.
    pub failures: BTreeMap<String, (u64, String)>,
    /// True for requests; false for events, and for sequences of requests.
    pub requests: bool,
}

impl Default for Series {
    fn default() -> Self {
        Self { latency: latencies(), failures: BTreeMap::new(), requests: false }
    }
}

/// Grows with the largest latency: 8 KiB for a millisecond, some 90 KiB for an hour.
#[expect(
    clippy::expect_used,
    reason = "three digits are within the crate's documented bounds, and every test creates one"
)]
fn latencies() -> Latencies {
    Histogram::new(3).expect("digits")
}

impl Series {
    /// Records a success.
    pub fn success(&mut self, latency: Duration) {
        // The histogram grows as needed, so this cannot fail.
        let _ = self.latency.record(convert::micros(latency).min(MOST));
    }

    /// Records a failure.
    pub fn failure(&mut self, failure: &Failure) {
        let (count, _) = self
            .failures
            .entry(failure.name())
            .or_insert_with(|| (0, failure.message().to_owned()));
        *count += 1;
    }

    /// The number of failures.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().map(|(count, _)| count).sum()
    }

    fn add(&mut self, other: &Series) {
        // The histogram grows as needed, so this cannot fail.
        let _ = self.latency.add(&other.latency);
        self.requests |= other.requests;
        for (name, (count, message)) in &other.failures {
            self.failures.entry(name.clone()).or_insert_with(|| (0, message.clone())).0 += count;
        }
    }
}

/// Sent requests of one method, warm-up included, to compare with etcd's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Requests with status OK.
    pub ok: u64,
    /// Requests without a response: etcd may or may not have executed them.
    pub uncertain: u64,
}

/// All measurements of some span of time.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By name: `range`, `lease-grant`, ...
    pub series: BTreeMap<&'static str, Series>,
    /// By method.
    pub sent: BTreeMap<Method, Sent>,
    /// All calls, whatever their result, warm-up included.
    pub calls: u64,
    /// Number of wrong responses.
    pub wrong: u64,
    /// Descriptions of the first wrong responses.
    pub examples: Vec<String>,
    /// Requests that succeeded before the measured time ended.
    pub in_time: u64,
    /// Requests that were due and not sent, because it was too late or the run was stopped.
    pub not_sent: u64,
    /// The longest delay of a request between its due time and sending: waiting for a free stream,
    /// or for this program itself.
    pub max_late: Duration,
}

impl Tally {
    /// Records a wrong response.
    pub fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.wrong += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(what());
        }
    }

    /// Records a sent request and its failure, if any.
    pub fn sent(&mut self, method: Method, failure: Option<&Failure>) {
        self.calls += 1;
        let sent = self.sent.entry(method).or_default();
        match failure {
            // A wrong response has the status OK.
            None | Some(Failure::Wrong(_)) => sent.ok += 1,
            Some(failure) if failure.is_uncertain() => sent.uncertain += 1,
            Some(_) => {}
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Tally) {
        for (name, series) in &other.series {
            match self.series.get_mut(name) {
                Some(known) => known.add(series),
                None => drop(self.series.insert(name, series.clone())),
            }
        }
        for (method, sent) in &other.sent {
            let known = self.sent.entry(*method).or_default();
            known.ok += sent.ok;
            known.uncertain += sent.uncertain;
        }
        self.calls += other.calls;
        self.wrong += other.wrong;
        self.in_time += other.in_time;
        self.not_sent += other.not_sent;
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.iter().take(room).cloned());
        self.max_late = self.max_late.max(other.max_late);
    }

    /// Number of successful requests.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.requests().map(|series| series.latency.len()).sum()
    }

    /// Number of failed requests.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.requests().map(Series::failed).sum()
    }

    fn requests(&self) -> impl Iterator<Item = &Series> {
        self.series.values().filter(|series| series.requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole_without_latencies_of_failures() {
        let (mut whole, mut parts) =
            (Tally::default(), [Tally::default(), Tally::default(), Tally::default()]);
        let refused = Failure::Grpc(7, "etcdserver: permission denied".into());
        for number in 1..=1000_u64 {
            for tally in [&mut whole, &mut parts[number as usize % 3]] {
                let series = tally.series.entry("range").or_default();
                series.requests = true;
                series.success(Duration::from_micros(number * 10));
                tally.series.entry("event").or_default().success(Duration::ZERO);
                tally.sent(Method::Range, None);
                if number % 10 == 0 {
                    let series = tally.series.entry("put").or_default();
                    series.requests = true;
                    series.failure(&refused);
                    tally.sent(Method::Put, Some(&refused));
                    tally.sent(Method::Put, Some(&Failure::Timeout));
                    tally.wrong(|| number.to_string());
                }
            }
        }
        let mut sum = Tally::default();
        parts.iter().for_each(|part| sum.add(part));
        for percentile in [0.0, 50.0, 99.0, 99.9, 100.0] {
            let of = |tally: &Tally| tally.series["range"].latency.value_at_percentile(percentile);
            assert_eq!(of(&sum), of(&whole), "{percentile}");
        }
        let p99 = sum.series["range"].latency.value_at_percentile(99.0);
        assert!((9_890..=9_910).contains(&p99), "{p99}");
        assert_eq!(
            (sum.succeeded(), sum.failed(), sum.wrong, sum.examples.len()),
            (1000, 100, 100, 10)
        );
        assert_eq!(sum.sent, whole.sent);
        assert_eq!(sum.sent[&Method::Put], Sent { ok: 0, uncertain: 100 });
        assert_eq!(
            sum.series["put"].failures["PermissionDenied"],
            (100, "etcdserver: permission denied".to_owned())
        );
        assert_eq!(sum.series["put"].latency.len(), 0);
    }

    #[test]
    fn latencies_above_an_hour_count_as_an_hour() {
        let (mut series, mut other) = (Series::default(), Series::default());
        series.success(Duration::from_micros(1));
        series.success(Duration::from_secs(10_000));
        other.success(Duration::from_micros(1));
        other.add(&series);
        for series in [series, other] {
            assert!(
                (MOST..MOST + MOST / 500).contains(&series.latency.max()),
                "{}",
                series.latency.max()
            );
        }
    }
}
