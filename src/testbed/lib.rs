//! A real etcd and throwaway certificates: for the demo, the tests and the benches. Never where a
//! cluster runs.
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
        reason = "a unit test that meets the unexpected is to fail at once, and at that place"
    )
)]

pub mod etcd;
pub mod pki;
pub mod gateway;
pub mod demo;
