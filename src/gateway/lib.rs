//! The gateway: everything between a client's connection and etcd.
//!
//! The modules are listed in the order in which a request passes them. `proxy` drives a request and
//! lists its own files in the same order. ARCHITECTURE.md describes the threads, and which failures
//! refuse a request.
#![forbid(unsafe_code)]
// All output passes `terminal`, which escapes control characters.
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
        reason = "a unit test must fail at the first unexpected result"
    )
)]

pub mod terminal;
pub mod config;
pub mod files;
pub mod policy_file;
pub mod app;
// --- the identity of a client ---
mod origin_table;
pub mod proxy_protocol;
pub mod tls;
// --- the path of a request ---
pub mod http2;
pub mod proxy;
mod limiter;
pub mod upstream;
pub mod member_health;
// --- what is recorded ---
pub mod audit;
pub mod metrics;
pub mod telemetry;
// --- operation ---
mod admin;
pub mod systemd;
pub mod http_client;
// --- what is fuzzed ---
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
