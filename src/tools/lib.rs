//! The tools that an operator runs beside the gateway. Nothing here listens.
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

pub mod probe_tls;
pub mod doctor;
pub mod bench;
// --- what is made for clients: their certificates, and Calico's own files ---
pub mod certs;
pub mod calico;
