//! Seeded chance: the same seed gives the same run. `SplitMix64` (Steele, Lea, Flood: Fast
//! Splittable Pseudorandom Number Generators, 2014): enough for keys and gaps, and nothing here is
//! a secret.

/// A source of numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Of this seed; `stream` tells several sources of one seed apart.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut dice = Self(seed);
        let mixed = dice.number() ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(mixed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A fraction, from 0 up to and without 1.
    pub fn fraction(&mut self) -> f64 {
        // The 52 bits of the fraction of a number from 1 up to 2.
        f64::from_bits(0x3ff0_0000_0000_0000 | (self.number() >> 12)) - 1.0
    }

    /// A number below `end`; 0 for an `end` of 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let product = u128::from(self.number()) * u128::from(end);
        u64::try_from(product >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_stream_give_the_same_numbers_again_and_others_do_not() {
        let numbers = |seed, stream| {
            let mut dice = Dice::new(seed, stream);
            (0..8).map(|_| dice.number()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1, 2), numbers(1, 2));
        assert_ne!(numbers(1, 2), numbers(1, 3));
        assert_ne!(numbers(1, 2), numbers(2, 2));
    }

    #[test]
    fn fractions_and_numbers_stay_in_their_bounds_and_fill_them_evenly() {
        let mut dice = Dice::new(7, 0);
        let mut tenths = [0_u32; 10];
        for _ in 0..100_000 {
            let fraction = dice.fraction();
            assert!((0.0..1.0).contains(&fraction));
            tenths[(fraction * 10.0) as usize] += 1;
            assert!(dice.below(3) < 3);
        }
        assert!(tenths.iter().all(|count| (9_600..10_400).contains(count)), "{tenths:?}");
        assert_eq!(dice.below(0), 0);
    }
}
