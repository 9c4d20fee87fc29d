//! A task that consists of subtasks and polls only the woken ones. One request wakes the task of
//! its connection several times, usually for only one of its subtasks.

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
