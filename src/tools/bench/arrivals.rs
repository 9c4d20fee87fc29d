//! The times of requests in an open loop. They are fixed before the first request is sent, so that
//! response times cannot influence them.

use std::time::Duration;

use super::convert;
use super::rng::Rng;

/// Distribution of the gaps between requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Gaps {
    /// Exponential gaps, as of many independent clients.
    #[default]
    Poisson,
    /// Equal gaps.
    Uniform,
}

/// The due times of one of several threads, from the start of the slice.
#[derive(Clone, Debug)]
pub struct Arrivals {
    gaps: Gaps,
    /// Requests per second of this thread.
    rate: f64,
    /// Time of the first request with equal gaps, in seconds.
    phase: f64,
    /// Number of requests so far.
    number: u64,
    /// The last due time, in seconds.
    last: f64,
    rng: Rng,
}

impl Arrivals {
    /// `rate` is the number of requests per second of all `threads`. With equal gaps the threads
    /// take turns; Poisson processes add up to a Poisson process.
    #[must_use]
    pub fn new(gaps: Gaps, rate: f64, thread: usize, threads: usize, rng: Rng) -> Self {
        let share = convert::length(threads.max(1));
        Self {
            gaps,
            rate: rate / share,
            phase: convert::length(thread) / rate,
            number: 0,
            last: 0.0,
            rng,
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.last = match self.gaps {
            // Computed from the start, so that rounding errors do not add up.
            Gaps::Uniform => self.phase + convert::float(self.number) / self.rate,
            Gaps::Poisson => self.last - (1.0 - self.rng.fraction()).ln() / self.rate,
        };
        self.number += 1;
        Duration::try_from_secs_f64(self.last).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(gaps: Gaps, rate: f64, thread: usize, threads: usize) -> Arrivals {
        Arrivals::new(gaps, rate, thread, threads, Rng::new(1, thread as u64))
    }

    #[test]
    fn equal_gaps_stay_equal_over_all_threads() {
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
    fn poisson_gaps_have_the_rate_and_an_exponential_deviation() {
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
    fn the_same_seed_gives_the_same_times() {
        let times = || of(Gaps::Poisson, 10.0, 2, 4).take(50).collect::<Vec<_>>();
        assert_eq!(times(), times());
    }
}
