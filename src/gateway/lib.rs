//! What listens, and what it needs: from a connection to etcd and back.
//!
//! The modules stand in the order of a request's life; `proxy` drives it, and lists its own files
//! in that order. ARCHITECTURE.md says in two screens what runs where and what fails closed.
#![forbid(unsafe_code)]
// All output goes through `terminal`, which lets no control character of foreign text through.
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

pub mod terminal;
pub mod config;
pub mod files;
pub mod policy_file;
pub mod app;
// --- who is calling ---
pub mod crowd;
pub mod proxy_protocol;
pub mod tls;
// --- the path of a request ---
pub mod http2;
pub mod proxy;
pub mod upstream;
pub mod member_health;
// --- what happened ---
pub mod audit;
pub mod metrics;
pub mod telemetry;
// --- how it is operated ---
pub mod admin;
pub mod systemd;
pub mod http_client;
// --- what is fuzzed ---
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
