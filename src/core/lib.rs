//! The authorization decision of etcd-warden: it identifies the client, derives the accesses that a
//! request needs, and allows or denies them. This crate and its dependencies contain no runtime,
//! socket, file, clock, log or metric.
//!
//! ```text
//!   certificate ─▶ identity ─▶ policy ─▶ Principal ─┐
//!                                                   ├─▶ authorize ─▶ Permit or Denial
//!   request ─▶ method ─▶ wire ─▶ Accesses ──────────┘
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::panic_in_result_fn,
        clippy::string_slice,
        clippy::unreachable,
        reason = "a unit test must fail at the first unexpected value"
    )
)]

// --- the client ---
pub mod identity;
// --- the request ---
pub mod method;
pub mod printable;
pub mod keyspace;
pub mod access;
pub mod wire;
pub mod lease_id;
// --- text that operators write ---
pub mod diagnostics;
pub mod yaml;
// --- the decision ---
pub mod policy;
pub mod authorize;
// --- the watches of a stream ---
pub mod watch_ledger;
// --- fuzz targets ---
#[cfg(feature = "model")]
pub mod fuzzing;
