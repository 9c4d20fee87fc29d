//! A task made of subtasks, each of which is polled only after it was woken. One request wakes the
//! task of its connection several times, mostly for one part of it.

mod set;
/// The primitives of [`set`]. Tests compile it a second time with loom's.
mod atomic {
    pub use futures_util::task::AtomicWaker;
    pub use std::sync::atomic::{AtomicUsize, Ordering};
}

pub use set::{Subtask, WakeSet};

#[cfg(test)]
mod every_order;
#[cfg(test)]
mod tests;
