//! What a run has shown, for machines (JSON) and, from the same figures, for people ([`text`],
//! [`html`]).

pub mod chart;
pub mod html;
pub mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::crew::Slice;
use super::figure::float;
use super::quantiles::{Quantiles, distribution};
use super::ratio::Ratio;
use super::tally::Tally;
use super::timeline::Point;
use super::witness::Count;

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// This program's version.
    pub version: &'static str,
    /// When it began, RFC 3339.
    pub started: String,
    /// What was asked for.
    pub settings: BTreeMap<&'static str, String>,
    /// One, or each rate of a ramp.
    pub steps: Vec<Step>,
    /// The highest rate of a ramp that was sustained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knee: Option<f64>,
    /// Whether answers and counts were right.
    pub verification: Verification,
    /// Whether it was ended by a signal before its end.
    pub stopped: bool,
}

/// All slices of one rate.
#[derive(Debug, Serialize)]
pub struct Step {
    /// What it is.
    pub name: String,
    /// Requests per second that were due; none in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered: Option<f64>,
    /// Whether the target of a ramp kept up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sustained: Option<bool>,
    /// What each target showed.
    pub targets: Vec<Target>,
    /// Each other target against the first.
    pub ratios: Vec<Compared>,
}

/// What one target showed.
#[derive(Debug, Serialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Slices.
    pub slices: usize,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Requests that succeeded; events of watches are not among them.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that succeeded before the measured time was over.
    pub in_time: u64,
    /// Requests that were due, and not sent within `--timeout` of the end, or because the run was
    /// stopped.
    pub not_sent: u64,
    /// Successes per second.
    pub rate: f64,
    /// How late a request left at most, in microseconds: because all streams were busy, or this
    /// program was.
    pub max_late_us: u64,
    /// CPU time per request of the process that `--pid` names, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
    /// The most memory that it was seen to have, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident: Option<u64>,
    /// CPU time per request of this program itself, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_cpu_us: Option<f64>,
    /// By name.
    pub series: Vec<Series>,
}

/// What came of all requests of one name.
#[derive(Debug, Serialize)]
pub struct Series {
    /// Its name.
    pub name: &'static str,
    /// Successes.
    pub ok: u64,
    /// Failures, by what failed.
    pub failures: Vec<Failed>,
    /// Of successes, in microseconds.
    pub latency_us: Quantiles,
    /// Percentile and microseconds.
    pub distribution: Vec<(f64, u64)>,
    /// By second.
    pub timeline: Vec<Point>,
}

/// Failures of one sort.
#[derive(Debug, Serialize)]
pub struct Failed {
    /// gRPC's name of the code, or what else it was.
    pub what: String,
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub message: String,
}

/// One figure of one target against the first.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// The first target.
    pub base: String,
    /// The other one.
    pub target: String,
    /// What is compared.
    pub figure: String,
    /// The other's through the first's.
    #[serde(flatten)]
    pub ratio: Ratio,
}

/// Whether the run did what it says.
#[derive(Debug, Default, Serialize)]
pub struct Verification {
    /// Answers that were not what they had to be.
    pub wrong_answers: u64,
    /// Some of them.
    pub examples: Vec<String>,
    /// What etcd counted, where it was asked.
    pub etcd_counts: Vec<Count>,
    /// What else was wrong.
    pub mistakes: Vec<String>,
}

impl Verification {
    /// Whether all is right.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.wrong_answers == 0
            && self.mistakes.is_empty()
            && self.etcd_counts.iter().all(|count| count.agrees)
    }
}

/// A slice, and what else is known of it.
#[derive(Debug)]
pub struct Measured {
    /// When it began, from the start of the run.
    pub at: Duration,
    /// What came of it.
    pub slice: Slice,
    /// From the end of the warm-up to the last answer, or to the planned end if that is later.
    pub measured: Duration,
    /// CPU time of the target's process, and its memory at the end.
    pub usage: Option<(Duration, u64)>,
    /// CPU time of this process.
    pub own: Option<Duration>,
}

/// All slices of one target.
#[must_use]
pub fn target(name: &str, url: &str, slices: &[Measured]) -> Target {
    let mut total = Tally::default();
    slices.iter().for_each(|measured| total.add(&measured.slice.total));
    let seconds: f64 = slices.iter().map(|measured| measured.measured.as_secs_f64()).sum();
    let (ok, failed) = (total.succeeded(), total.failed());
    // CPU time is that of the warm-up too.
    let per_request = |time: Option<Duration>| {
        time.filter(|_| total.calls > 0).map(|time| time.as_secs_f64() * 1e6 / float(total.calls))
    };
    let cpu: Option<Duration> =
        slices.iter().map(|measured| measured.usage.map(|(cpu, _)| cpu)).sum();
    let series =
        total.series.iter().map(|(name, series)| self::series(name, series, slices)).collect();
    Target {
        name: name.to_owned(),
        url: url.to_owned(),
        slices: slices.len(),
        seconds,
        ok,
        failed,
        in_time: total.in_time,
        not_sent: total.not_sent,
        rate: if seconds > 0.0 { float(ok) / seconds } else { 0.0 },
        max_late_us: super::figure::micros(total.max_late),
        cpu_us: per_request(cpu),
        resident: slices
            .iter()
            .filter_map(|measured| measured.usage.map(|(_, resident)| resident))
            .max(),
        generator_cpu_us: per_request(slices.iter().map(|measured| measured.own).sum()),
        series,
    }
}

fn series(name: &'static str, series: &super::tally::Series, slices: &[Measured]) -> Series {
    let failures = series.failures.iter();
    let failures = failures
        .map(|(what, (count, message))| Failed {
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
    Series {
        name,
        ok: series.latency.len(),
        failures,
        latency_us: Quantiles::of(&series.latency),
        distribution: distribution(&series.latency),
        timeline,
    }
}

/// Each other target against the first: latencies by name, and CPU time where both have a process.
#[must_use]
pub fn ratios(names: &[String], slices: &[Vec<Measured>]) -> Vec<Compared> {
    let mut compared = Vec::new();
    let (Some(base), Some(first)) = (names.first(), slices.first()) else { return compared };
    for (target, others) in names.iter().zip(slices).skip(1) {
        let mut push = |figure: String, of: &dyn Fn(&Measured) -> Option<f64>| {
            let pairs = first
                .iter()
                .zip(others)
                .filter_map(|(first, other)| Some((of(first)?, of(other)?)));
            if let Some(ratio) = Ratio::of(pairs) {
                compared.push(Compared {
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
