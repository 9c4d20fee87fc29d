//! A Zipf distribution of keys.

use super::convert;
use super::rng::Rng;

/// A random choice among keys 0, 1, 2, ...; key `i` has the weight `1 / (i + 1)^exponent`.
#[derive(Clone, Debug)]
pub struct Zipf {
    keys: u64,
    /// Cumulative probability of each key; empty if all are equal.
    up_to: Vec<f64>,
}

impl Zipf {
    /// `keys` must be at least 1. With an exponent of 0 all keys are equally likely.
    #[must_use]
    pub fn new(keys: u64, exponent: f64) -> Self {
        if exponent == 0.0 {
            return Self { keys, up_to: Vec::new() };
        }
        let mut sum = 0.0;
        let mut up_to: Vec<f64> = (1..=keys)
            .map(|rank| {
                sum += convert::float(rank).powf(-exponent);
                sum
            })
            .collect();
        up_to.iter_mut().for_each(|share| *share /= sum);
        Self { keys, up_to }
    }

    /// Picks a key.
    pub fn pick(&self, rng: &mut Rng) -> u64 {
        if self.up_to.is_empty() {
            return rng.below(self.keys);
        }
        let place = rng.fraction();
        let index = self.up_to.partition_point(|share| *share <= place);
        u64::try_from(index).unwrap_or(0).min(self.keys.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(keys: u64, exponent: f64, picks: u32) -> Vec<f64> {
        let (zipf, mut rng) = (Zipf::new(keys, exponent), Rng::new(3, 0));
        let mut counts = vec![0.0; keys as usize];
        (0..picks).for_each(|_| counts[zipf.pick(&mut rng) as usize] += 1.0);
        counts
    }

    #[test]
    fn with_exponent_1_key_n_has_the_frequency_1_through_n() {
        let counts = counts(1000, 1.0, 400_000);
        let harmonic: f64 = (1..=1000).map(|rank| 1.0 / f64::from(rank)).sum();
        for rank in [1_u32, 2, 3, 10] {
            let expected = 400_000.0 / f64::from(rank) / harmonic;
            let seen = counts[rank as usize - 1];
            assert!(
                (seen / expected - 1.0).abs() < 0.05,
                "rank {rank}: {seen}, expected {expected}"
            );
        }
    }

    #[test]
    fn without_an_exponent_all_keys_are_equal() {
        let counts = counts(10, 0.0, 100_000);
        assert!(counts.iter().all(|count| (9_600.0..10_400.0).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_single_key_is_always_picked() {
        assert_eq!(counts(1, 0.99, 10), [10.0]);
    }
}
