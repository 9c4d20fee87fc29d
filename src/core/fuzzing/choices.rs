//! Reads a fuzzing input as a sequence of choices. After the end of the input, each choice takes
//! its first option. So a shorter input is a simpler case.

/// The part of an input that has not been read.
pub struct Choices<'b>(&'b [u8]);

impl<'b> Choices<'b> {
    /// Starts at the first byte.
    pub const fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    /// A number below `count`, which is at most 256.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// One of `choices`.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// True or false.
    pub fn coin(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// The next `count` bytes, or fewer at the end.
    pub fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All remaining bytes.
    pub fn rest(&mut self) -> &'b [u8] {
        self.take(usize::MAX)
    }

    /// True at the end of the input.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
