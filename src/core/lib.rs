//! Who asks, what is asked for, and whether it is allowed. Nothing here knows a runtime, a socket,
//! a file, a clock, a log or a metric: what this crate depends on has none of them.
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
        reason = "a unit test that meets the unexpected is to fail at once, and at that place"
    )
)]

// --- who asks ---
pub mod identity;
// --- what is asked for ---
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
// --- what a Watch stream has been granted ---
pub mod watch_ledger;
// --- what is fuzzed ---
#[cfg(feature = "model")]
pub mod fuzzing;
