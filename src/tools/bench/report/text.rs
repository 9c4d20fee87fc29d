//! The report as text.

use std::fmt::{self, Display, Formatter};

use super::{Comparison, Report, Step, TargetReport};
use crate::bench::convert::float;
use crate::bench::ratio::CONFIDENCE;

/// Microseconds, result in a suitable unit.
pub struct Time(pub f64);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            us if us < 1000.0 => write!(f, "{us:.0} us"),
            us if us < 1e6 => write!(f, "{:.2} ms", us / 1e3),
            us => write!(f, "{:.2} s", us / 1e6),
        }
    }
}

fn time(us: u64) -> String {
    Time(float(us)).to_string()
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(f, "{step}")?;
        }
        // A last rate that was interrupted by a signal is not judged.
        if let Some(last) = self.steps.iter().rfind(|step| step.sustained.is_some()) {
            match (self.knee, last.sustained) {
                (Some(knee), Some(false)) => {
                    writeln!(
                        f,
                        "highest sustained rate: between {knee:.0} and {:.0} requests per second",
                        last.offered.unwrap_or(knee)
                    )?;
                }
                (Some(knee), _) => {
                    writeln!(f, "all rates up to {knee:.0} requests per second were sustained")?;
                }
                (None, _) => writeln!(f, "the first rate was not sustained")?,
            }
        }
        let check = &self.verification;
        match check.wrong_answers {
            0 => writeln!(f, "all responses were correct")?,
            wrong => writeln!(f, "WRONG: {wrong} responses were not correct")?,
        }
        for line in check.examples.iter().chain(&check.errors) {
            writeln!(f, "  {line}")?;
        }
        for count in &check.etcd_counts {
            let (prefix, uncertain) = (if count.agrees { "" } else { "WRONG: " }, count.uncertain);
            let uncertain = if uncertain > 0 {
                format!(", and {uncertain} have no response")
            } else {
                String::new()
            };
            writeln!(
                f,
                "{prefix}etcd counted {} of {}; {} have status OK{uncertain}",
                count.counted, count.rpc, count.ok
            )?;
        }
        if self.stopped {
            writeln!(f, "stopped early by a signal")?;
        }
        Ok(())
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for target in &self.targets {
            let offered = self.offered.map(|rate| format!(" of {rate:.0} due")).unwrap_or_default();
            let kept = match self.sustained {
                Some(false) => ": not sustained",
                Some(true) => ": sustained",
                None => "",
            };
            writeln!(
                f,
                "{} ({}): {:.0} requests per second{offered}{kept}",
                target.name, target.url, target.rate
            )?;
            write!(f, "{target}")?;
        }
        for compared in &self.ratios {
            writeln!(f, "{compared}")?;
        }
        Ok(())
    }
}

impl Display for TargetReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<16} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "ok", "failed", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for series in &self.series {
            let q = &series.latency_us;
            let failed: u64 = series.failures.iter().map(|failed| failed.count).sum();
            let times = [q.p50, q.p90, q.p99, q.p999, q.max].map(time);
            let [p50, p90, p99, p999, max] = &times;
            writeln!(
                f,
                "  {:<16} {:>9} {failed:>9} {p50:>9} {p90:>9} {p99:>9} {p999:>9} {max:>9}",
                series.name, series.ok
            )?;
            for failed in &series.failures {
                let message = if failed.message.is_empty() {
                    String::new()
                } else {
                    format!(": {}", failed.message)
                };
                writeln!(f, "    {} x {}{message}", failed.count, failed.what)?;
            }
        }
        if self.max_late_us > 0 {
            writeln!(f, "  sent at most {} late", time(self.max_late_us))?;
        }
        if self.not_sent > 0 {
            writeln!(f, "  {} due requests were not sent", self.not_sent)?;
        }
        if let Some(cpu) = self.cpu_us {
            let resident = float(self.resident.unwrap_or_default()) / f64::from(1 << 20);
            writeln!(f, "  its process: {cpu:.1} us of CPU per request, {resident:.1} MiB")?;
        }
        if let Some(cpu) = self.generator_cpu_us {
            writeln!(f, "  this program: {cpu:.1} us of CPU per request")?;
        }
        Ok(())
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ratio = &self.ratio;
        let weak = if ratio.confidence < CONFIDENCE { ", too few rounds for 95 %" } else { "" };
        write!(
            f,
            "  {} / {}: {:<24} {:.3} ({:.3} to {:.3}; {:.1} % confidence, {} pairs{weak})",
            self.target,
            self.base,
            self.figure,
            ratio.median,
            ratio.low,
            ratio.high,
            ratio.confidence * 100.0,
            ratio.pairs
        )
    }
}
