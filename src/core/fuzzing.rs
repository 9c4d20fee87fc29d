//! What the fuzz targets of `fuzz/` do with their bytes: each is one function that stops at the
//! first broken promise.
//!
//! They are here, beside the code they check, so that a target of libFuzzer is one line, and so
//! that `cargo test` takes every file of the corpora through the same function ([`corpus`](self)).
//! Not part of the program: the feature `model` alone builds them.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a target that meets the unexpected is to stop at once, and at that place"
)]

pub mod authorize;
pub mod certificate;
pub mod choices;
pub mod frame;
pub mod policy_text;
pub mod scan;
pub mod watch_state_machine;

/// Takes an input through a target.
pub type Run = fn(&[u8]);

/// Every target: its name in `fuzz/fuzz_targets` and `fuzz/corpus`, and what it runs.
pub const TARGETS: &[(&str, Run)] = &[
    ("authorize", authorize::run),
    ("certificate", certificate::run),
    ("frame", frame::run),
    ("policy_text", policy_text::run),
    ("scan", scan::run),
    ("watch_state_machine", watch_state_machine::run),
];

#[cfg(test)]
mod corpus;
