//! Everything that needs a real etcd, in one binary. This list is its table of contents.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected is to fail at once, and at that place"
)]

// --- the ground that the other tests stand on ---
mod etcd_itself;
mod etcdctl_watch;
mod harness;
mod live;
mod process;
#[allow(dead_code, reason = "a toolbox: not every tool is in use at every time")]
mod world;

// --- every RPC, allowed and refused ---
mod rpc_table;

// --- what is open, under change ---
mod drain;
mod reload;
mod watch_streams;

// --- what a user starts ---
mod audit_trail;
mod metrics_and_admin;
mod serve_process;
mod demo;

// --- rules of the house ---
mod layering;
