//! `etcd-warden policy`: checks policies, prints role sets, explains decisions and the grants
//! behind them, and imports etcd's own users and roles.

mod call;
mod concurrency;
mod explain;
mod holders;
mod import;
mod txn;
mod words;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use etcd_warden_core::diagnostics::{Diagnostics, Severity};
use etcd_warden_core::policy::builtin;
use etcd_warden_gateway::policy_file;
use serde_json::json;

use super::exit;

/// Check, show and explain policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Report every error in policy files, with its source position. Exit code 0: no error; 64:
    /// wrong usage; 78: at least one error.
    Check(CheckArgs),
    /// List the built-in role sets, or print one of them.
    Show(ShowArgs),
    /// Explain whether an identity may make a call, and which grant allows it; or list the bindings
    /// that have rights on a key. Exit code 0: allowed; 1: denied.
    Explain(Box<ExplainArgs>),
    /// Convert etcd's own users and roles to a policy that grants the same rights. Exit code 1:
    /// etcd did not return them.
    Import(import::ImportArgs),
}

/// The output format of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Text for a terminal.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Arguments of `policy check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The policy files to check.
    #[arg(required = true, env = "ETCD_WARDEN_POLICY")]
    files: Vec<PathBuf>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Arguments of `policy show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The role set to print, named as in `include`. Without it, all role sets are listed.
    role_set: Option<String>,
}

/// Arguments of `policy explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The policy file.
    #[arg(long, env = "ETCD_WARDEN_POLICY")]
    policy: PathBuf,
    /// The certificate's common name (CN).
    #[arg(long)]
    cn: Option<String>,
    /// A URI subject alternative name. May be repeated.
    #[arg(long)]
    uri: Vec<String>,
    /// A DNS subject alternative name. May be repeated.
    #[arg(long)]
    dns: Vec<String>,
    /// An organization (O) of the subject. May be repeated.
    #[arg(long)]
    o: Vec<String>,
    /// The name of the client CA that issued the certificate.
    #[arg(long, default_value = "default")]
    ca: String,
    /// Instead of explaining a call, list the bindings that have rights on this key.
    #[arg(long, conflicts_with_all = ["cn", "uri", "dns", "o", "call"])]
    key: Option<String>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// The call, in the syntax of etcdctl: `put KEY --prev-kv`, `get KEY --prefix`, `txn 'mod("k")
    /// = "0"' then 'put k v'`, ...
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present = "key",
        value_name = "CALL"
    )]
    call: Vec<String>,
}

/// Runs one of the commands. Results go to `out`, errors go to `err`.
pub fn run(command: PolicyCommand, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let done = match command {
        PolicyCommand::Check(args) => check(&args, out),
        PolicyCommand::Show(args) => show(&args, out, err),
        PolicyCommand::Explain(args) => explain::run(&args, out, err),
        PolicyCommand::Import(args) => import::run(&args, out, err),
    };
    // A reader that closed the pipe (`| head`) is not an error of the policy.
    ExitCode::from(done.unwrap_or(0))
}

fn check(args: &CheckArgs, out: &mut dyn Write) -> std::io::Result<u8> {
    let mut found = Diagnostics::default();
    let mut good = Vec::new();
    for file in &args.files {
        match policy_file::load(file, 0, None) {
            Ok(policy) => {
                let (roles, bindings) = (policy.role_names().len(), policy.bindings().count());
                good.push(format!(
                    "{}: no errors, {roles} roles, {bindings} bindings, sha256 {}",
                    file.display(),
                    policy.hash
                ));
                found.append(policy.warnings().clone());
            }
            Err(errors) => found.append(errors),
        }
    }
    match args.output {
        Output::Json => writeln!(
            out,
            "{}",
            json!({ "ok": !found.has_errors(), "diagnostics": found.to_json() })
        )?,
        Output::Text => {
            if !found.is_empty() {
                writeln!(out, "{found}")?;
            }
            for line in good {
                writeln!(out, "{line}")?;
            }
            let (errors, warnings) = (found.count(Severity::Error), found.count(Severity::Warning));
            if errors + warnings > 0 {
                writeln!(out, "errors: {errors}, warnings: {warnings}")?;
            }
        }
    }
    Ok(if found.has_errors() { exit::CONFIG } else { 0 })
}

fn show(args: &ShowArgs, out: &mut dyn Write, err: &mut dyn Write) -> std::io::Result<u8> {
    let Some(name) = &args.role_set else {
        for set in builtin::ALL {
            writeln!(
                out,
                "{:<20} {}\n{:<20} roles: {}",
                set.name,
                set.summary,
                "",
                set.role_names().join(", ")
            )?;
        }
        return Ok(0);
    };
    if let Some(set) = builtin::find(name) {
        write!(out, "{}", set.text)?;
        return Ok(0);
    }
    let names: Vec<&str> = builtin::ALL.iter().map(|set| set.name).collect();
    writeln!(err, "error: there is no role set `{name}`; there are {}", names.join(", "))?;
    Ok(exit::USAGE)
}

#[cfg(test)]
mod tests;
