//! Everything that needs a real etcd, in one binary. This list is its table of contents.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::string_slice,
    clippy::type_complexity,
    clippy::unreachable,
    clippy::unwrap_used,
    reason = "a test must fail at once where something unexpected happens"
)]

// --- the harness and its tests ---
mod etcd_itself;
mod etcdctl_watch;
mod harness;
#[allow(dead_code, reason = "a library of helpers, of which some may be unused")]
mod live;
mod process;
#[allow(dead_code, reason = "a library of helpers, of which some may be unused")]
mod world;

// --- every RPC, allowed and refused ---
mod edges;
mod lease_questions;
mod leases;
mod rewrites;
mod rpc_table;
mod oracle;
mod rust_client;

// --- changes while calls are open ---
mod admin_socket;
mod drain;
mod identity_ends;
mod live_certificates;
mod permits;
mod reload;
mod reload_files;
mod reloads_under_load;
mod renewal;
mod state_dir;
mod streams_end;
mod watch_streams;

// --- commands and outputs for operators ---
mod audit_trail;
mod bench;
mod mode;
mod doctor;
mod hostile_tools;
mod migrating;
mod certs;
mod member_health;
mod metrics_and_admin;
mod serve_process;
mod demo;

// --- bad input gets a clear error and harms no other client ---
mod bad_clients;
mod bad_requests;
mod bad_upstream;
mod gzip;
mod wire_clients;
mod wire_forms;
mod cancellation;
mod harm;
mod isolation;
mod no_message_crashes_etcd;
mod published_holes;

// --- a whole session ---
mod etcdctl_session;

// --- shadow mode ---
mod shadow;

// --- the real programs of Calico and Kubernetes ---
mod calico;
mod segment;
mod stolen_node;

// --- deployment files ---
mod deploy;

// --- rules of this repository ---
mod dependencies;
mod glossary;
mod layering;
mod promises;
