//! `etcd-warden calico segment`: arguments and output. The work is in `etcd_warden_tools::calico`.

mod files;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_core::printable::Printable;
use etcd_warden_gateway::terminal::Plain;
use etcd_warden_tools::calico::{
    self, CompactionPeriod, Component, Deviation, Endpoints, Options, PerNode, Segmented,
};
use serde_json::json;
use similar::TextDiff;

use super::exit;
use super::policy::Output;
use files::Target;

/// Exit code of `--check` for a manifest that is not segmented.
const NOT_SEGMENTED: u8 = 1;

/// Change Calico's manifests.
#[derive(Debug, Subcommand)]
pub enum CalicoCommand {
    /// Give each component of Calico's hosted manifest (calico-etcd.yaml of 3.20 to 3.31) its own
    /// certificate. Every other byte of the manifest is kept. Exit code 0: done, or segmented; 1:
    /// `--check` found something missing; 64: wrong usage; 78: the manifest is not understood, and
    /// nothing was written.
    Segment(Box<SegmentArgs>),
}

/// Arguments of `calico segment`.
#[derive(Debug, Args)]
pub struct SegmentArgs {
    /// The manifest; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// URLs of the gateways, separated by commas, as the nodes' host network reaches them:
    /// https://HOST:23790. Port 2379 of an etcd host is etcd itself.
    #[arg(
        long,
        value_name = "URLS",
        required_unless_present = "check",
        value_parser = Endpoints::parse
    )]
    endpoints: Option<Endpoints>,
    /// Use certificates per node for calico-node and cni: `host-path=DIRECTORY`. On every node this
    /// directory must contain the directories `calico-node` and `cni`.
    #[arg(long, value_name = "FORM", value_parser = PerNode::parse)]
    per_node: Option<PerNode>,
    /// The Secret of a component, if not the default: `calico-node=NAME`, `cni=NAME`,
    /// `calico-kube-controllers=NAME`. May be repeated.
    #[arg(long, value_name = "COMPONENT=NAME", value_parser = calico::secret)]
    secret: Vec<(Component, String)>,
    /// How often kube-controllers compact etcd, as a Go duration; `0` for never. Without it, the
    /// manifest's setting is kept.
    #[arg(long, value_name = "TIME", value_parser = CompactionPeriod::parse)]
    compaction_period: Option<CompactionPeriod>,
    /// Print a diff. Writes nothing.
    #[arg(long, conflicts_with_all = ["out", "policy_out", "force"])]
    diff: bool,
    /// Report whether the manifest is segmented, and what is missing. Writes nothing.
    #[arg(long, conflicts_with_all = ["diff", "out", "policy_out", "force"])]
    check: bool,
    /// Output format of `--check`.
    #[arg(short, long, value_enum, default_value_t, requires = "check")]
    output: Output,
    /// Write the new manifest to this file. Default: standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the policy for the new manifest to this file. Default: standard output, or standard
    /// error if the manifest goes to standard output.
    #[arg(long, value_name = "FILE")]
    policy_out: Option<PathBuf>,
    /// Replace existing files.
    #[arg(long)]
    force: bool,
}

/// Runs the command. Results go to `out`, errors and notes go to `err`.
pub fn run(
    command: CalicoCommand,
    input: &mut dyn Read,
    out: &mut Plain<'_>,
    err: &mut dyn Write,
) -> ExitCode {
    let CalicoCommand::Segment(args) = command;
    // A reader that closed the pipe (`| head`) is not an error of the manifest.
    ExitCode::from(segment(&args, input, out, err).unwrap_or(0))
}

fn segment(
    args: &SegmentArgs,
    input: &mut dyn Read,
    out: &mut Plain<'_>,
    err: &mut dyn Write,
) -> std::io::Result<u8> {
    let options = match options(args) {
        Ok(options) => options,
        Err(error) => {
            writeln!(err, "error: {error}")?;
            return Ok(exit::USAGE);
        }
    };
    let name = args.manifest.display().to_string();
    let text = match files::read(&args.manifest, input, calico::MAX_BYTES) {
        Ok(text) => text,
        Err(error) => {
            writeln!(err, "{}", Diagnostics::about(&name, error, None))?;
            return Ok(exit::CONFIG);
        }
    };
    if args.check {
        let checked = calico::check(&name, &text, &options);
        return print_check(&name, checked, args.output, out, err);
    }
    match calico::segment(&name, &text, &options) {
        Err(errors) => {
            write!(err, "{errors}")?;
            writeln!(err, "{} is unchanged: nothing was written", Printable(&name))?;
            Ok(exit::CONFIG)
        }
        Ok(done) if args.diff => {
            let diff = TextDiff::from_lines(&text, &done.text);
            write!(
                out,
                "{}",
                diff.unified_diff().context_radius(3).header(&name, &format!("{name} (segmented)"))
            )?;
            hand_over(&done, err)?;
            Ok(0)
        }
        Ok(done) => write_out(args, &done, out, err),
    }
}

fn options(args: &SegmentArgs) -> Result<Options, String> {
    if let (Some(out), Some(policy_out)) = (&args.out, &args.policy_out)
        && files::are_one(out, policy_out)
    {
        return Err("`--out` and `--policy-out` name the same file".to_owned());
    }
    let mut options = Options {
        endpoints: args.endpoints.clone(),
        per_node: args.per_node.clone(),
        compaction_period: args.compaction_period.clone(),
        ..Options::default()
    };
    for (component, name) in &args.secret {
        if args.per_node.is_some() && component.is_on_nodes() {
            return Err(format!(
                "`--secret {component}=...` and `--per-node` both set the certificate of {component}"
            ));
        }
        if options.secrets.insert(*component, name.clone()).is_some() {
            return Err(format!("`--secret {component}=...` is given twice"));
        }
    }
    Ok(options)
}

/// Prints the result of `--check`.
fn print_check(
    name: &str,
    checked: Result<Vec<Deviation>, Diagnostics>,
    output: Output,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> std::io::Result<u8> {
    let code = match &checked {
        Ok(deviations) if deviations.is_empty() => 0,
        Ok(_) => NOT_SEGMENTED,
        Err(_) => exit::CONFIG,
    };
    match (output, checked) {
        (Output::Json, Ok(deviations)) => {
            let one = |deviation: &Deviation| {
                let Deviation { position, object, field, message } = deviation;
                json!({
                    "line": position.line,
                    "column": position.column,
                    "object": object,
                    "field": field,
                    "message": message,
                })
            };
            let missing: Vec<_> = deviations.iter().map(one).collect();
            writeln!(
                out,
                "{}",
                json!({ "segmented": deviations.is_empty(), "missing": missing, "diagnostics": [] })
            )?;
        }
        (Output::Json, Err(errors)) => {
            writeln!(
                out,
                "{}",
                json!({ "segmented": null, "missing": [], "diagnostics": errors.to_json() })
            )?;
        }
        (Output::Text, Ok(deviations)) => {
            let name = Printable(name);
            for deviation in &deviations {
                writeln!(out, "{name}:{deviation}")?;
            }
            match deviations.len() {
                0 => writeln!(out, "{name}: segmented")?,
                count => writeln!(out, "{name}: not segmented, missing: {count}")?,
            }
        }
        (Output::Text, Err(errors)) => write!(err, "{errors}")?,
    }
    Ok(code)
}

/// Writes manifest and policy: to files both or neither.
fn write_out(
    args: &SegmentArgs,
    done: &Segmented,
    out: &mut Plain<'_>,
    err: &mut dyn Write,
) -> std::io::Result<u8> {
    // A manifest may contain keys, so the new one gets the permissions of the old one.
    let pairs = [
        (&args.out, &done.text, Some(args.manifest.as_path())),
        (&args.policy_out, &done.policy, None),
    ];
    let mut targets = Vec::new();
    let mut errors = Vec::new();
    for (path, text, like) in pairs {
        let Some(path) = path else { continue };
        match Target::prepare(path, text, like, args.force) {
            Ok(target) => targets.push(target),
            Err(error) => errors.push(error),
        }
    }
    let written = if errors.is_empty() { files::finish(targets) } else { Err(errors) };
    if let Err(errors) = written {
        for error in errors {
            writeln!(err, "error: {}", Printable(&error))?;
        }
        return Ok(exit::USAGE);
    }
    if args.out.is_none() {
        out.verbatim(done.text.as_bytes())?;
    }
    if args.policy_out.is_none() {
        if args.out.is_some() { write!(out, "{}", done.policy)? } else { hand_over(done, err)? }
    }
    if args.out.is_some() || args.policy_out.is_some() {
        notes(done, err)?;
    }
    Ok(0)
}

/// Writes policy and notes to standard error, because the manifest has standard output.
fn hand_over(done: &Segmented, err: &mut dyn Write) -> std::io::Result<()> {
    writeln!(err, "{}", done.policy)?;
    notes(done, err)
}

fn notes(done: &Segmented, err: &mut dyn Write) -> std::io::Result<()> {
    done.notes.iter().try_for_each(|note| writeln!(err, "note: {}", Printable(note)))
}

#[cfg(test)]
mod tests;
