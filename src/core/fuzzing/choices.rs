//! An input as a row of choices. Where it ends, every further choice is the first one, so that a
//! shorter input is a simpler case.

/// What is left of an input.
pub struct Choices<'b>(&'b [u8]);

impl<'b> Choices<'b> {
    /// Of these bytes.
    #[must_use]
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

    /// Once in two.
    pub fn coin(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// The next `count` bytes, or as many as there are.
    pub fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'b [u8] {
        self.take(usize::MAX)
    }

    /// Whether all choices are made.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
