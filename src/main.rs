//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_warden::cli::main()
}
