//! etcd-warden: an mTLS authorization gateway for etcd.
//!
//! ```text
//!   certificate ─▶ identity ─▶ policy ─▶ Principal ─┐
//!                                                   ├─▶ authorize ─▶ Permit ─▶ upstream ─▶ etcd
//!   request ─▶ method ─▶ wire ─▶ Accesses ──────────┘       └─▶ Denial ─▶ etcd's own words; audit, metrics
//! ```
//!
//! The modules stand in the order of a request's life; `proxy` drives it, and lists its own files in that order. ARCHITECTURE.md
//! says in two screens what runs where and what fails closed.
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

pub mod cli;
pub mod terminal;
pub mod config;
pub mod files;
pub mod app;
// --- who is calling ---
pub mod crowd;
pub mod proxy_protocol;
pub mod tls;
pub mod identity;
// --- what is asked for (pure) ---
pub mod method;
pub mod printable;
pub mod keyspace;
pub mod access;
pub mod wire;
pub mod lease_id;
// --- the decision (pure) ---
pub mod policy;
pub mod authorize;
// --- the path of a request ---
pub mod watch_ledger;
pub mod http2;
pub mod proxy;
pub mod upstream;
// --- what happened ---
pub mod audit;
pub mod metrics;
pub mod telemetry;
// --- how it is operated ---
pub mod admin;
pub mod doctor;
pub mod bench;
pub mod systemd;
// --- what is made for clients: their certificates, and Calico's own files ---
pub mod certs;
pub mod calico;
// --- a real etcd and throwaway certificates: for the demo, the tests and the benches ---
pub mod etcd;
pub mod pki;
pub mod demo;
#[doc(hidden)]
pub mod pb;
// --- what is fuzzed ---
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
