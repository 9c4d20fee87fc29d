//! An mTLS authorization gateway for etcd. This file turns arguments into an exit code; the
//! commands are in `cli`, their work in the crates of `src/`.
#![forbid(unsafe_code)]
// All output goes through `terminal`, which lets no control character of foreign text through.
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

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
