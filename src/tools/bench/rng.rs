//! Seeded random numbers: the same seed gives the same run.

/// A random number generator.
#[derive(Clone, Debug)]
pub struct Rng(fastrand::Rng);

impl Rng {
    /// A generator for this seed. Generators of one seed with different `stream` numbers are
    /// independent.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mixed = fastrand::Rng::with_seed(seed).u64(..);
        // An odd factor, so that streams with consecutive numbers have very different seeds.
        Self(fastrand::Rng::with_seed(mixed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A number in `0.0..1.0`.
    pub fn fraction(&mut self) -> f64 {
        self.0.f64()
    }

    /// A number in `0..end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.0.u64(..end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_stream_determine_the_numbers() {
        let numbers = |seed, stream| {
            let mut rng = Rng::new(seed, stream);
            (0..8).map(|_| rng.below(u64::MAX)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1, 2), numbers(1, 2));
        assert_ne!(numbers(1, 2), numbers(1, 3));
        assert_ne!(numbers(1, 2), numbers(2, 2));
    }

    #[test]
    fn fractions_are_evenly_distributed() {
        let mut rng = Rng::new(7, 0);
        let mut tenths = [0_u32; 10];
        for _ in 0..100_000 {
            let fraction = rng.fraction();
            assert!((0.0..1.0).contains(&fraction));
            tenths[(fraction * 10.0) as usize] += 1;
            assert!(rng.below(3) < 3);
        }
        assert!(tenths.iter().all(|count| (9_600..10_400).contains(count)), "{tenths:?}");
        assert_eq!(rng.below(0), 0);
    }
}
