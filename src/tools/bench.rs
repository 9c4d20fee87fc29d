//! `etcd-warden bench`: load on any etcd or proxy, measured so that neither a stall nor a noisy
//! machine can hide.
//!
//! ```text
//!   Plan ─▶ ground   the prefix: nothing foreign there, all keys written; removed again at the end
//!        ─▶ witness  etcd's own counts, before and after
//!        ─▶ crew     threads (worker), each with a runtime, connections and streams (slot, fan) of its own
//!                    slice after slice (jobs): targets in turn, rates of a ramp one after the other
//!        ─▶ tally    seconds of histograms, added up ─▶ report: text, JSON, HTML
//! ```
//!
//! In an open loop every request has its time before the first is sent (`arrivals`), and its
//! latency counts from then: who waits for a server that stands still is late for all that was due
//! meanwhile. Only successes have latencies; failures are counted by their code. Every answer is
//! read: a Range has the value that was written, revisions grow, a guarded Txn takes the branch
//! that it has to, watchers miss no version of a key.

pub mod arrivals;
pub mod book;
pub mod calico;
pub mod connection;
pub mod crew;
pub mod dice;
pub mod failure;
pub mod fan;
pub mod figure;
pub mod ground;
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
pub mod slot;
pub mod stop;
pub mod tally;
pub mod timeline;
pub mod timer;
pub mod watch;
pub mod witness;
pub mod worker;
pub mod zipf;
