//! etcd-warden: an mTLS authorization gateway for etcd. The modules stand in the order of a request's life.
#![forbid(unsafe_code)]
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
// --- a real etcd and throwaway certificates: for the demo, the tests and the benches ---
pub mod etcd;
pub mod pki;
