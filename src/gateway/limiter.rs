//! Building blocks of every limit that identities share: fair shares, slots, and rates.
//!
//! [`fair_share`] has the rule. It applies to the bytes that a worker holds
//! ([`crate::proxy::budget`]), the quotas of identities ([`crate::proxy::quota`]) and the queue of
//! the audit log ([`crate::audit`]). [`token_bucket`] limits rates: the requests of an identity,
//! and similar lines of the log.

/// The atomics of this module. `every_order` compiles the same files with loom's atomics instead.
mod atomic {
    pub use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}
pub(crate) mod fair_share;
pub(crate) mod owners;
pub(crate) mod slots;
pub(crate) mod token_bucket;

#[cfg(test)]
mod every_order;
#[cfg(test)]
mod tests;
