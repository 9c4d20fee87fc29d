//! Reproducible random numbers: the same seed gives the same run.

/// SplitMix64 (Steele, Lea, Flood 2014): a counter whose bits are mixed. Good enough to choose
/// requests.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True with probability 1 / `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Like [`Rng::below`], for the types in messages.
    pub fn number(&mut self, bound: i32) -> i32 {
        i32::try_from(self.below(usize::try_from(bound).unwrap())).unwrap()
    }

    /// A number at most `reach` from `middle`, never below 0.
    pub fn near(&mut self, middle: i64, reach: i32) -> i64 {
        (middle + i64::from(self.number(reach * 2 + 1) - reach)).max(0)
    }
}
