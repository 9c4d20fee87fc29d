//! When requests are due in an open loop: fixed before the first is sent, so that no answer can
//! move them.

use std::time::Duration;

use super::dice::Dice;
use super::figure;

/// How the gaps between requests are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Gaps {
    /// As of many clients that know nothing of each other: exponential gaps.
    #[default]
    Poisson,
    /// All equal.
    Uniform,
}

/// The times, from the start on, at which one of several threads sends.
#[derive(Clone, Debug)]
pub struct Arrivals {
    gaps: Gaps,
    /// Of this thread, per second.
    rate: f64,
    /// Of the first request with equal gaps, in seconds.
    phase: f64,
    /// How many there were.
    number: u64,
    /// The last one, in seconds.
    last: f64,
    dice: Dice,
}

impl Arrivals {
    /// `rate` requests per second over all `threads`, of which this is number `thread`. With equal
    /// gaps the threads take turns; Poisson processes add up to one.
    #[must_use]
    pub fn new(gaps: Gaps, rate: f64, thread: usize, threads: usize, dice: Dice) -> Self {
        let share = figure::length(threads.max(1));
        Self {
            gaps,
            rate: rate / share,
            phase: figure::length(thread) / rate,
            number: 0,
            last: 0.0,
            dice,
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.last = match self.gaps {
            // Counted from the start, so that no error adds up.
            Gaps::Uniform => self.phase + figure::float(self.number) / self.rate,
            Gaps::Poisson => self.last - (1.0 - self.dice.fraction()).ln() / self.rate,
        };
        self.number += 1;
        Duration::try_from_secs_f64(self.last).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(gaps: Gaps, rate: f64, thread: usize, threads: usize) -> Arrivals {
        Arrivals::new(gaps, rate, thread, threads, Dice::new(1, thread as u64))
    }

    #[test]
    fn equal_gaps_stay_equal_over_all_threads_and_for_ever() {
        let mut all: Vec<Duration> =
            (0..3).flat_map(|thread| of(Gaps::Uniform, 3000.0, thread, 3).take(100_000)).collect();
        all.sort();
        assert_eq!(all[0], Duration::ZERO);
        assert!((all[299_999].as_secs_f64() - 299_999.0 / 3000.0).abs() < 1e-6);
        for pair in all.windows(2) {
            assert!(((pair[1] - pair[0]).as_secs_f64() - 1.0 / 3000.0).abs() < 1e-6);
        }
    }

    #[test]
    fn poisson_has_the_rate_and_gaps_whose_deviation_is_their_mean() {
        let arrivals: Vec<f64> =
            of(Gaps::Poisson, 1000.0, 0, 1).take(100_000).map(|at| at.as_secs_f64()).collect();
        assert!((arrivals[99_999] - 100.0).abs() < 1.5, "{}", arrivals[99_999]);
        let gaps: Vec<f64> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation =
            (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.02, "{}", deviation / mean);
        assert!(gaps.iter().all(|gap| *gap >= 0.0));
    }

    #[test]
    fn a_seed_fixes_them() {
        let times = || of(Gaps::Poisson, 10.0, 2, 4).take(50).collect::<Vec<_>>();
        assert_eq!(times(), times());
    }
}
