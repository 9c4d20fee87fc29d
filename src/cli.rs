//! The command line: one binary, one subcommand for each thing that an operator does.

#[cfg(feature = "tools")]
mod bench;
#[cfg(feature = "tools")]
mod calico;
#[cfg(feature = "tools")]
mod certs;
#[cfg(feature = "tools")]
mod doctor;
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
    /// Serve: judge the requests of clients and forward what the policy grants.
    Serve(Box<ServeArgs>),
    /// Show it at work: a real etcd, throwaway certificates, allowed and refused calls of every
    /// Calico component.
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Look at a deployment as its operator and as a thief would: ways around the proxy,
    /// certificates, etcd, keys without an owner.
    #[cfg(feature = "tools")]
    Doctor(doctor::DoctorArgs),
    /// Put load on any etcd or proxy, measure it, and check every answer. Exit code 0: done, and
    /// all was right; 1: answers or counts were wrong; 130: ended at once by a second signal.
    #[cfg(feature = "tools")]
    Bench(Box<bench::BenchArgs>),
    /// Check, show and explain policies.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Change Calico's own files.
    #[cfg(feature = "tools")]
    #[command(subcommand)]
    Calico(calico::CalicoCommand),
    /// Issue, list and renew certificates of components, from your own CA.
    #[cfg(feature = "tools")]
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Print completions for a shell.
    Completions(shell::CompletionsArgs),
    /// Write the manual pages into a folder.
    Man(shell::ManArgs),
}

/// Exit codes, as `sysexits.h` names them.
pub mod exit {
    /// `EX_USAGE`: the command line.
    pub const USAGE: u8 = 64;
    /// `EX_CONFIG`: a configuration or a policy.
    pub const CONFIG: u8 = 78;
    /// Ended at once by SIGINT, as shells write it.
    #[cfg(feature = "tools")]
    pub const INTERRUPTED: u8 = 130;
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not mistakes.
            let code =
                if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
            let shown = error.render();
            if error.use_stderr() {
                terminal::err(format_args!("{}", shown.to_string().trim_end()));
            } else {
                let _ = terminal::out(format_args!("{shown}"));
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
        #[cfg(feature = "tools")]
        Command::Calico(command) => calico::run(command, &mut std::io::stdin(), out, err),
        #[cfg(feature = "tools")]
        Command::Certs(command) => certs::run(command, out, err),
    }
}
