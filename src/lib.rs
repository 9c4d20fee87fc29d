//! etcd-warden: an mTLS authorization gateway for etcd. The modules stand in the order of a request's life.
#![forbid(unsafe_code)]

pub mod config;
// --- who is calling, and what is asked for (pure) ---
pub mod access;
pub mod identity;
pub mod keyspace;
pub mod method;
pub mod wire;
// --- the decision (pure) ---
pub mod authorize;
pub mod policy;
// --- what happened ---
pub mod audit;
pub mod metrics;
pub mod telemetry;
// --- operate ---
pub mod admin;
pub mod systemd;
