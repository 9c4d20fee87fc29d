//! What was measured second by second. The last seconds are whole, so that what threads tell of
//! them adds up; of those before, only the figures are kept that reports show: a histogram for each
//! second of an hour would be gigabytes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::quantiles::Quantiles;
use super::tally::{Series, Tally};

/// How many seconds are whole. Each thread tells of a second when it is over, and is not ten
/// seconds late unless it stands still.
const WHOLE: usize = 10;

/// One second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "names that say it")]
pub struct Point {
    /// Counted from the start of the run; within a slice, from that of the slice.
    pub second: u64,
    pub ok: u64,
    pub failed: u64,
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
}

impl Point {
    /// `None` where nothing was measured, as in the warm-up.
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
    /// By name, in order.
    before: BTreeMap<&'static str, Vec<Point>>,
    /// The first second that is not among those before.
    from: u64,
}

impl Timeline {
    /// Takes in a second of one thread. One that is told too late counts in the oldest that is
    /// whole: no request is lost.
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

    /// A second, as far as it has been told, and as long as it is whole.
    #[must_use]
    pub fn second(&self, second: u64) -> Option<&Tally> {
        self.whole.get(&second)
    }

    /// All seconds in which something of this name was measured.
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
    fn an_hour_is_points_and_ten_seconds_of_histograms() {
        let mut timeline = Timeline::default();
        for second in 0..3600 {
            // Two threads, of which one tells late.
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
    fn what_is_told_far_too_late_is_in_the_oldest_second_that_is_whole() {
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
