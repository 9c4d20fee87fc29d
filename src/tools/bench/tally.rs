//! What was measured, in pieces that add up: one for each second of each thread.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_warden_core::method::Method;
use hdrhistogram::Histogram;

use super::connection::Failure;
use super::figure;

/// Latencies in microseconds: three digits, up to an hour.
pub type Latencies = Histogram<u32>;

/// Microseconds that a histogram holds at most; more counts as that.
const MOST: u64 = 3_600_000_000;

/// How many wrong answers are told in words.
const EXAMPLES: usize = 10;

/// What came of all requests of one name.
#[derive(Clone, Debug)]
pub struct Series {
    /// Of successes alone, from when each was due.
    pub latency: Latencies,
    /// Failures, by gRPC's name of the code or what else went wrong: how many, and what the first
    /// one said.
    pub failures: BTreeMap<String, (u64, String)>,
    /// Whether these are requests, and not events or what is made of several requests.
    pub requests: bool,
}

impl Default for Series {
    fn default() -> Self {
        Self { latency: latencies(), failures: BTreeMap::new(), requests: false }
    }
}

/// It grows with the largest latency: 8 KiB for a millisecond, some 90 for an hour.
#[expect(
    clippy::expect_used,
    reason = "three digits are within the crate's documented bounds, and every test makes one"
)]
fn latencies() -> Latencies {
    Histogram::new(3).expect("digits")
}

impl Series {
    /// Notes a success.
    pub fn success(&mut self, latency: Duration) {
        // It has room for any: nothing is refused.
        let _ = self.latency.record(figure::micros(latency).min(MOST));
    }

    /// Notes a failure.
    pub fn failure(&mut self, failure: &Failure) {
        let (count, _) = self
            .failures
            .entry(failure.name())
            .or_insert_with(|| (0, failure.message().to_owned()));
        *count += 1;
    }

    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().map(|(count, _)| count).sum()
    }

    fn add(&mut self, other: &Series) {
        // It grows as far as the other one.
        let _ = self.latency.add(&other.latency);
        self.requests |= other.requests;
        for (name, (count, message)) in &other.failures {
            self.failures.entry(name.clone()).or_insert_with(|| (0, message.clone())).0 += count;
        }
    }
}

/// What was sent of one method, warm-up included: to be compared with what etcd counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Answered with OK.
    pub ok: u64,
    /// Without an answer: etcd may have done them or not.
    pub uncertain: u64,
}

/// All that was measured in some span of time.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By name: `range`, `lease-grant`, ..
    pub series: BTreeMap<&'static str, Series>,
    /// By method.
    pub sent: BTreeMap<Method, Sent>,
    /// Calls, whatever came of them, warm-up included.
    pub calls: u64,
    /// Answers that were not what they had to be.
    pub wrong: u64,
    /// The first of them, in words.
    pub examples: Vec<String>,
    /// Requests that succeeded before the measured time was over.
    pub in_time: u64,
    /// Requests that were due and are not sent: it was too late for them, or the run was stopped.
    pub not_sent: u64,
    /// How late requests left at most: waiting for a free stream, or for this program itself.
    pub max_late: Duration,
}

impl Tally {
    /// Notes a wrong answer.
    pub fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.wrong += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(what());
        }
    }

    /// Notes what was sent, and what came instead of a good answer.
    pub fn sent(&mut self, method: Method, failure: Option<&Failure>) {
        self.calls += 1;
        let sent = self.sent.entry(method).or_default();
        match failure {
            // A wrong answer is one that came with OK.
            None | Some(Failure::Wrong(_)) => sent.ok += 1,
            Some(failure) if failure.is_uncertain() => sent.uncertain += 1,
            Some(_) => {}
        }
    }

    /// Takes in another.
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

    /// Requests that succeeded.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.requests().map(|series| series.latency.len()).sum()
    }

    /// Requests that failed.
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
    fn parts_add_up_to_the_whole_and_failures_stay_out_of_latencies() {
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
    fn an_hour_and_more_is_an_hour_also_for_a_histogram_that_was_small() {
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
