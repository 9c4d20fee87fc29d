//! `etcd-warden bench`: load on any etcd or proxy, measured so that neither a stall of the server
//! nor a noisy machine goes unnoticed.
//!
//! ```text
//! Plan ─▶ fixture        checks for foreign keys, writes all keys, deletes them at the end
//!      ─▶ server_counts  etcd's own counts, before and after
//!      ─▶ workers        threads (worker), each with its own runtime, connections and streams
//!                        (request_stream, watchers); slice after slice (jobs): targets in
//!                        turn, rates of a ramp one after the other
//!      ─▶ tally          histograms per second, added up ─▶ report: text, JSON, HTML
//! ```
//!
//! In an open loop the time of every request is fixed before the first one is sent (`arrivals`),
//! and latency counts from that time. A stall of the server therefore delays all requests that were
//! due meanwhile, as it would delay real clients. Only successes have latencies; failures are
//! counted by code. Every response is checked: a Range has the value that was written, revisions
//! increase, a guarded Txn takes the expected branch, and watchers miss no version of a key.

pub mod arrivals;
pub mod recorder;
pub mod calico;
pub mod connection;
pub mod workers;
pub mod rng;
pub mod failure;
pub mod watchers;
pub mod convert;
pub mod fixture;
pub mod identity;
pub mod jobs;
pub mod keys;
pub mod mix;
pub mod plan;
pub mod process;
pub mod quantiles;
pub mod ramp;
pub mod ratio;
pub mod report;
pub mod request_stream;
pub mod stop;
pub mod tally;
pub mod timeline;
pub mod timer;
pub mod watch;
pub mod server_counts;
pub mod worker;
pub mod zipf;
