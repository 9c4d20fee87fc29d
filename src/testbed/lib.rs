//! Runs a real etcd with throwaway certificates, for the demo, tests and benchmarks. Not for
//! production.
#![forbid(unsafe_code)]
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
        reason = "a unit test that meets the unexpected must fail at once, at that line"
    )
)]

pub mod etcd;
pub mod pki;
pub mod gateway;
pub mod demo;
