//! Measurements by second. The last seconds are complete tallies, so that all threads can add to
//! them. Of earlier seconds only the values for reports are kept: a histogram per second would take
//! gigabytes for an hour.

use std::collections::BTreeMap;

use serde::Serialize;

use super::quantiles::Quantiles;
use super::tally::{Series, Tally};

/// Number of complete seconds. A thread reports a second when it has ended, so it is never ten
/// seconds late unless it hangs.
const WHOLE: usize = 10;

/// The values of one second for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are usual")]
pub struct Point {
    /// From the start of the run; within a slice, from the start of the slice.
    pub second: u64,
    pub ok: u64,
    pub failed: u64,
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
}

impl Point {
    /// `None` if nothing was measured, as in the warm-up.
    fn of(second: u64, series: &Series) -> Option<Self> {
        let (ok, failed) = (series.latency.len(), series.failed());
        let Quantiles { p50, p99, p999, .. } = Quantiles::of(&series.latency);
        (ok > 0 || failed > 0).then_some(Self { second, ok, failed, p50, p99, p999 })
    }
}

/// The seconds of a slice.
#[derive(Debug, Default)]
pub struct Timeline {
    whole: BTreeMap<u64, Tally>,
    /// Earlier seconds by name, in order.
    before: BTreeMap<&'static str, Vec<Point>>,
    /// The first second that is not in `before`.
    from: u64,
}

impl Timeline {
    /// Adds a second of one thread. If it is older than the complete seconds, it is added to the
    /// oldest of them, so that no request is lost.
    pub fn add(&mut self, second: u64, tally: &Tally) {
        self.whole.entry(second.max(self.from)).or_default().add(tally);
        while self.whole.len() > WHOLE {
            let Some((second, tally)) = self.whole.pop_first() else { return };
            for (name, series) in &tally.series {
                self.before.entry(name).or_default().extend(Point::of(second, series));
            }
            self.from = second.saturating_add(1);
        }
    }

    /// The tally of a second so far, while it is complete.
    #[must_use]
    pub fn second(&self, second: u64) -> Option<&Tally> {
        self.whole.get(&second)
    }

    /// All seconds in which requests of this name were measured.
    pub fn points(&self, name: &str) -> impl Iterator<Item = Point> {
        let whole = self
            .whole
            .iter()
            .filter_map(move |(second, tally)| Point::of(*second, tally.series.get(name)?));
        self.before.get(name).into_iter().flatten().copied().chain(whole)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tally(micros: u64) -> Tally {
        let mut tally = Tally::default();
        tally.series.entry("range").or_default().success(Duration::from_micros(micros));
        tally
    }

    #[test]
    fn an_hour_keeps_histograms_of_ten_seconds_only() {
        let mut timeline = Timeline::default();
        for second in 0..3600 {
            // Two threads, one of which reports late.
            timeline.add(second, &tally(second + 1));
            timeline.add(second.saturating_sub(5), &tally(second + 1));
            assert!(timeline.whole.len() <= WHOLE);
        }
        let points: Vec<Point> = timeline.points("range").collect();
        assert_eq!(
            points.iter().map(|point| point.second).collect::<Vec<_>>(),
            (0..3600).collect::<Vec<_>>()
        );
        assert_eq!(points.iter().map(|point| point.ok).sum::<u64>(), 7200);
        assert_eq!(
            points[100],
            Point { second: 100, ok: 2, failed: 0, p50: 101, p99: 106, p999: 106 }
        );
        assert_eq!(timeline.points("put").count(), 0);
        assert!(timeline.second(3589).is_none() && timeline.second(3590).is_some());
    }

    #[test]
    fn a_very_late_report_is_added_to_the_oldest_complete_second() {
        let mut timeline = Timeline::default();
        (0..20).for_each(|second| timeline.add(second, &tally(1)));
        timeline.add(3, &tally(1));
        let points: Vec<(u64, u64)> =
            timeline.points("range").map(|point| (point.second, point.ok)).collect();
        let all: Vec<(u64, u64)> =
            (0..20).map(|second| (second, if second == 10 { 2 } else { 1 })).collect();
        assert_eq!(points, all);
    }
}
