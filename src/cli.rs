//! The command line: one binary, one subcommand for each thing that an operator does.

#[cfg(feature = "tools")]
mod bench;
#[cfg(feature = "tools")]
mod calico;
#[cfg(feature = "tools")]
mod certs;
#[cfg(feature = "tools")]
mod doctor;
mod mode;
mod policy;
mod serve;
mod shell;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use etcd_warden_gateway::config::ServeArgs;
use etcd_warden_gateway::terminal::{self, Plain};
#[cfg(feature = "demo")]
use etcd_warden_testbed::demo::DemoArgs;

/// What `--version` prints; `-V` prints its first line.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("BUILD_COMMIT"),
    "\nfeatures: ",
    env!("BUILD_FEATURES"),
    "\ncompiler: ",
    env!("BUILD_RUSTC"),
    "\nTLS: ",
    env!("BUILD_TLS"),
);

/// An mTLS authorization gateway for etcd.
#[derive(Debug, Parser)]
#[command(version, long_version = LONG_VERSION, about, max_term_width = 120, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway: authorize the requests of clients and forward those that the policy grants.
    Serve(Box<ServeArgs>),
    /// Show the gateway at work with a real etcd and throwaway certificates: allowed and denied
    /// calls of every Calico component.
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Examine a deployment: ways to etcd that bypass the gateway (tried with stolen certificates,
    /// too), certificates, etcd, and keys that no role covers. Changes nothing.
    #[cfg(feature = "tools")]
    Doctor(doctor::DoctorArgs),
    /// Put load on any etcd or proxy, measure it, and check every response. Exit code 0: completed
    /// without errors; 1: wrong responses or counts, or not completed; 130: interrupted by a second
    /// signal.
    #[cfg(feature = "tools")]
    Bench(Box<bench::BenchArgs>),
    /// Check, show, explain and import policies.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Show or override the mode of a running gateway: shadow, enforce, or the policy's own modes.
    /// Exit code 0: shown, or in effect; 1: not in effect, or there is no gateway.
    Mode(mode::ModeArgs),
    /// Change Calico's manifests.
    #[cfg(feature = "tools")]
    #[command(subcommand)]
    Calico(calico::CalicoCommand),
    /// Issue, list and renew client certificates from your own CA.
    #[cfg(feature = "tools")]
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Print shell completions.
    Completions(shell::CompletionsArgs),
    /// Write manual pages to a directory.
    Man(shell::ManArgs),
}

/// Exit codes. Names and values are those of `sysexits.h` where it has one.
pub mod exit {
    /// `EX_USAGE`: wrong command line.
    pub const USAGE: u8 = 64;
    /// `EX_CONFIG`: errors in a configuration, a policy or another input file.
    pub const CONFIG: u8 = 78;
    /// Interrupted by a signal: 128 + SIGINT, as in shells.
    #[cfg(feature = "tools")]
    pub const INTERRUPTED: u8 = 130;
}

/// Parses the arguments and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Clap returns help and version as errors, too.
            let code =
                if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
            let text = error.render();
            if error.use_stderr() {
                terminal::err(format_args!("{}", text.to_string().trim_end()));
            } else {
                let _ = terminal::out(format_args!("{text}"));
            }
            return code;
        }
    };
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let (out, err) = (&mut Plain::new(&mut stdout), &mut Plain::new(&mut stderr));
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => serve::on_runtime(etcd_warden_testbed::demo::run(args)),
        #[cfg(feature = "tools")]
        Command::Doctor(args) => serve::on_runtime(doctor::run(args)),
        #[cfg(feature = "tools")]
        Command::Bench(args) => serve::on_runtime(bench::run(*args)),
        Command::Completions(args) => shell::completions(&args, out),
        Command::Man(args) => shell::man(&args),
        Command::Policy(command) => policy::run(command, out, err),
        Command::Mode(args) => serve::on_runtime(mode::run(args, out, err)),
        #[cfg(feature = "tools")]
        Command::Calico(command) => calico::run(command, &mut std::io::stdin(), out, err),
        #[cfg(feature = "tools")]
        Command::Certs(command) => certs::run(command, out, err),
    }
}
