//! `etcd-warden certs`: arguments and output. The work is in `etcd_warden_tools::certs`.

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
    /// Issue certificates for components, or for the components of each node. Exit code 0: all are
    /// in place; 78: errors, and nothing was written.
    Issue(Box<issue::IssueArgs>),
    /// List certificates: names, roles by a policy, expiry and problems. Exit code 1: at least one
    /// problem.
    List(list::ListArgs),
    /// Renew certificates that expire soon, with the same names, in the same files. Exit code 1: a
    /// due certificate could not be renewed.
    Renew(Box<renew::RenewArgs>),
}

/// Runs one of the commands. Results go to `out`; errors and notes go to `err`.
pub fn run(command: CertsCommand, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let done = match command {
        CertsCommand::Issue(args) => issue::run(&args, out, err).map(|()| false),
        CertsCommand::List(args) => list::run(&args, out),
        CertsCommand::Renew(args) => renew::run(&args, out, err),
    };
    match done {
        Ok(wrong) => ExitCode::from(u8::from(wrong)),
        Err(errors) => {
            // If standard error is closed, nothing can report that.
            let _ = write!(err, "{errors}");
            ExitCode::from(exit::CONFIG)
        }
    }
}

/// Writes notes, if there are any.
fn print_notes(notes: Option<Diagnostics>, err: &mut dyn Write) {
    if let Some(notes) = notes.filter(|notes| !notes.is_empty()) {
        let _ = writeln!(err, "{notes}");
    }
}
