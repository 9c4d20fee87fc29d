//! `etcd-warden certs`: certificates for components from the operator's CA, what they say, and
//! their renewal.

mod authority;
mod issue;
mod list;
mod progress;
mod renew;

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;
use etcd_warden_core::diagnostics::Diagnostics;

use super::exit;

/// Issue, list and renew certificates.
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Issue certificates for components, or for components of each node. Exit code 0: all are in
    /// place; 78: nothing was written.
    Issue(Box<issue::IssueArgs>),
    /// Show what certificates say: their names, what the policy makes of them, their end, and what
    /// is wrong. Exit code 1: something is.
    List(list::ListArgs),
    /// Issue anew what ends soon, with the same names, in the same place. Exit code 1: something
    /// that is due could not be renewed.
    Renew(Box<renew::RenewArgs>),
}

/// Runs one of the commands. Results go to `out`, what is wrong or worth a note goes to `err`.
pub fn run(command: CertsCommand, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let done = match command {
        CertsCommand::Issue(args) => issue::run(&args, out, err).map(|()| false),
        CertsCommand::List(args) => list::run(&args, out),
        CertsCommand::Renew(args) => renew::run(&args, out, err),
    };
    match done {
        Ok(wrong) => ExitCode::from(u8::from(wrong)),
        Err(mistakes) => {
            // Whoever closed this does not want to hear it.
            let _ = write!(err, "{mistakes}");
            ExitCode::from(exit::CONFIG)
        }
    }
}

/// Tells what is no mistake.
fn tell(notes: Option<Diagnostics>, err: &mut dyn Write) {
    if let Some(notes) = notes.filter(|notes| !notes.is_empty()) {
        let _ = writeln!(err, "{notes}");
    }
}
