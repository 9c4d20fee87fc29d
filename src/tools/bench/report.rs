//! The results of a run: serialized as JSON, and result as [`text`] and [`html`].

pub mod chart;
pub mod html;
pub mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::convert::float;
use super::quantiles::{Quantiles, distribution};
use super::ratio::Ratio;
use super::server_counts::MethodCount;
use super::tally::Tally;
use super::timeline::Point;
use super::workers::Slice;

/// The results of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Start of the run, RFC 3339.
    pub started: String,
    /// The arguments of the run.
    pub settings: BTreeMap<&'static str, String>,
    /// One step, or one for each rate of a ramp.
    pub steps: Vec<Step>,
    /// The highest sustained rate of a ramp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knee: Option<f64>,
    /// Whether responses and counts were right.
    pub verification: Verification,
    /// True if a signal ended the run early.
    pub stopped: bool,
}

/// All slices at one rate.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Requests per second that were due; `None` in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered: Option<f64>,
    /// Ramp: whether all targets sustained the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sustained: Option<bool>,
    /// The results of each target.
    pub targets: Vec<TargetReport>,
    /// Each other target compared with the first.
    pub ratios: Vec<Comparison>,
}

/// The results of one target.
#[derive(Debug, Serialize)]
pub struct TargetReport {
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Number of slices.
    pub slices: usize,
    /// Measured time in seconds.
    pub seconds: f64,
    /// Successful requests; watch events are not included.
    pub ok: u64,
    /// Failed requests.
    pub failed: u64,
    /// Requests that succeeded before the measured time ended.
    pub in_time: u64,
    /// Requests that were due, but not sent within `--timeout` after the end, or because the run
    /// was stopped.
    pub not_sent: u64,
    /// Successes per second.
    pub rate: f64,
    /// The longest delay of a request between its due time and sending, in microseconds: all
    /// streams were busy, or this program was.
    pub max_late_us: u64,
    /// CPU time per request of the process of `--pid`, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
    /// The highest observed resident memory of that process, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident: Option<u64>,
    /// CPU time per request of this program, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_cpu_us: Option<f64>,
    /// Results by name.
    pub series: Vec<SeriesReport>,
}

/// The results of all requests of one name.
#[derive(Debug, Serialize)]
pub struct SeriesReport {
    /// Its name.
    pub name: &'static str,
    /// Number of successes.
    pub ok: u64,
    /// Failures by name.
    pub failures: Vec<FailureCount>,
    /// Latencies of successes, in microseconds.
    pub latency_us: Quantiles,
    /// Pairs of a percentile and a latency in microseconds.
    pub distribution: Vec<(f64, u64)>,
    /// Values by second.
    pub timeline: Vec<Point>,
}

/// Failures of one name.
#[derive(Debug, Serialize)]
pub struct FailureCount {
    /// The name of the gRPC code, or of another failure.
    pub what: String,
    /// Their number.
    pub count: u64,
    /// The message of the first one.
    pub message: String,
}

/// A measurement of one target compared with the first target.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The first target.
    pub base: String,
    /// The other target.
    pub target: String,
    /// The compared measurement.
    pub figure: String,
    /// The other target's value divided by the first target's.
    #[serde(flatten)]
    pub ratio: Ratio,
}

/// Whether the measurements can be trusted.
#[derive(Debug, Default, Serialize)]
pub struct Verification {
    /// Number of wrong responses.
    pub wrong_answers: u64,
    /// Descriptions of some of them.
    pub examples: Vec<String>,
    /// etcd's counts, if requested.
    pub etcd_counts: Vec<MethodCount>,
    /// Other errors.
    pub errors: Vec<String>,
}

impl Verification {
    /// True if nothing was wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.wrong_answers == 0
            && self.errors.is_empty()
            && self.etcd_counts.iter().all(|count| count.agrees)
    }
}

/// A measured slice.
#[derive(Debug)]
pub struct MeasuredSlice {
    /// Its start, from the start of the run.
    pub at: Duration,
    /// Its tallies.
    pub slice: Slice,
    /// From the end of the warm-up to the last response, or to the planned end if that is later.
    pub measured: Duration,
    /// CPU time and final memory of the target's process.
    pub usage: Option<(Duration, u64)>,
    /// CPU time of this process.
    pub own: Option<Duration>,
}

/// The results of all slices of one target.
#[must_use]
pub fn target_report(name: &str, url: &str, slices: &[MeasuredSlice]) -> TargetReport {
    let mut total = Tally::default();
    slices.iter().for_each(|measured| total.add(&measured.slice.total));
    let seconds: f64 = slices.iter().map(|measured| measured.measured.as_secs_f64()).sum();
    let (ok, failed) = (total.succeeded(), total.failed());
    // CPU time includes the warm-up, so it is divided by all calls.
    let per_request = |time: Option<Duration>| {
        time.filter(|_| total.calls > 0).map(|time| time.as_secs_f64() * 1e6 / float(total.calls))
    };
    let cpu: Option<Duration> =
        slices.iter().map(|measured| measured.usage.map(|(cpu, _)| cpu)).sum();
    let series =
        total.series.iter().map(|(name, series)| series_report(name, series, slices)).collect();
    TargetReport {
        name: name.to_owned(),
        url: url.to_owned(),
        slices: slices.len(),
        seconds,
        ok,
        failed,
        in_time: total.in_time,
        not_sent: total.not_sent,
        rate: if seconds > 0.0 { float(ok) / seconds } else { 0.0 },
        max_late_us: super::convert::micros(total.max_late),
        cpu_us: per_request(cpu),
        resident: slices
            .iter()
            .filter_map(|measured| measured.usage.map(|(_, resident)| resident))
            .max(),
        generator_cpu_us: per_request(slices.iter().map(|measured| measured.own).sum()),
        series,
    }
}

fn series_report(
    name: &'static str,
    series: &super::tally::Series,
    slices: &[MeasuredSlice],
) -> SeriesReport {
    let failures = series.failures.iter();
    let failures = failures
        .map(|(what, (count, message))| FailureCount {
            what: what.clone(),
            count: *count,
            message: message.clone(),
        })
        .collect();
    let mut timeline = Vec::new();
    for measured in slices {
        let at = measured.at.as_secs();
        timeline.extend(
            measured
                .slice
                .timeline
                .points(name)
                .map(|point| Point { second: at + point.second, ..point }),
        );
    }
    SeriesReport {
        name,
        ok: series.latency.len(),
        failures,
        latency_us: Quantiles::of(&series.latency),
        distribution: distribution(&series.latency),
        timeline,
    }
}

/// Compares each other target with the first: latencies by name, and CPU time if both have a
/// process.
#[must_use]
pub fn ratios(names: &[String], slices: &[Vec<MeasuredSlice>]) -> Vec<Comparison> {
    let mut compared = Vec::new();
    let (Some(base), Some(first)) = (names.first(), slices.first()) else { return compared };
    for (target, others) in names.iter().zip(slices).skip(1) {
        let mut push = |figure: String, of: &dyn Fn(&MeasuredSlice) -> Option<f64>| {
            let pairs = first
                .iter()
                .zip(others)
                .filter_map(|(first, other)| Some((of(first)?, of(other)?)));
            if let Some(ratio) = Ratio::of(pairs) {
                compared.push(Comparison {
                    base: base.clone(),
                    target: target.clone(),
                    figure,
                    ratio,
                });
            }
        };
        let known: std::collections::BTreeSet<&'static str> =
            first.iter().flat_map(|measured| measured.slice.total.series.keys().copied()).collect();
        for name in known {
            for (figure, percentile) in [("p50", 50.0), ("p99", 99.0)] {
                push(format!("{name} {figure}"), &|measured| {
                    let series = measured
                        .slice
                        .total
                        .series
                        .get(name)
                        .filter(|series| !series.latency.is_empty())?;
                    Some(float(series.latency.value_at_percentile(percentile)))
                });
            }
        }
        push("requests per second".to_owned(), &|measured| {
            Some(float(measured.slice.total.succeeded()) / measured.measured.as_secs_f64())
                .filter(|rate| rate.is_finite())
        });
        push("CPU per request".to_owned(), &|measured| {
            let (cpu, _) = measured.usage?;
            Some(cpu.as_secs_f64() / float(measured.slice.total.calls))
                .filter(|cpu| cpu.is_finite())
        });
    }
    compared
}
