//! The functions behind the fuzz targets in `fuzz/`. Each checks one input and panics at the first
//! violated property.
//!
//! They are in this crate so that a libFuzzer target is one line and `cargo test` runs every file
//! of the corpora through the same function ([`corpus`](self)). Only the feature `model` compiles
//! them.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a fuzz target must panic at the first unexpected value"
)]

pub mod authorize;
pub mod certificate;
pub mod choices;
pub mod frame;
pub mod policy_text;
pub mod scan;
pub mod watch_state_machine;

/// Checks one input.
pub type Run = fn(&[u8]);

/// Every target: its name in `fuzz/fuzz_targets` and `fuzz/corpus`, and its function.
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
