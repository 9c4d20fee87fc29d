//! `etcd-warden calico`: Calico's hosted manifest, with a certificate of its own for each
//! component.

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

/// What `--check` ends with where a manifest is not segmented.
const NOT_SEGMENTED: u8 = 1;

/// Change Calico's own files.
#[derive(Debug, Subcommand)]
pub enum CalicoCommand {
    /// Give each component of Calico's hosted manifest (calico-etcd.yaml of 3.20 to 3.31) a
    /// certificate of its own, and leave every other byte as it is. Exit code 0: done, or
    /// segmented; 1: `--check` found something; 64: wrong usage; 78: not understood, nothing
    /// written.
    Segment(Box<SegmentArgs>),
}

/// Arguments of `calico segment`.
#[derive(Debug, Args)]
pub struct SegmentArgs {
    /// The manifest; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// URLs of the proxies, with commas between, as every node's own network reaches them: https://HOST:23790. On an etcd host 2379 is etcd
    /// itself.
    #[arg(long, value_name = "URLS", required_unless_present = "check", value_parser = Endpoints::parse)]
    endpoints: Option<Endpoints>,
    /// Certificates of single nodes for calico-node and cni: `host-path=DIRECTORY`, with folders
    /// of these names in it on every node.
    #[arg(long, value_name = "FORM", value_parser = PerNode::parse)]
    per_node: Option<PerNode>,
    /// Another name for a component's Secret: `calico-node=NAME`, `cni=NAME`,
    /// `calico-kube-controllers=NAME`; may be given several times.
    #[arg(long, value_name = "COMPONENT=NAME", value_parser = calico::secret)]
    secret: Vec<(Component, String)>,
    /// How often kube-controllers compact etcd, as Go writes times; `0` for never. Without it,
    /// this is left alone.
    #[arg(long, value_name = "TIME", value_parser = CompactionPeriod::parse)]
    compaction_period: Option<CompactionPeriod>,
    /// Show what would change, and write nothing.
    #[arg(long, conflicts_with_all = ["out", "policy_out", "force"])]
    diff: bool,
    /// Say whether the manifest is segmented, and what is missing; write nothing.
    #[arg(long, conflicts_with_all = ["diff", "out", "policy_out", "force"])]
    check: bool,
    /// How the result of `--check` is written.
    #[arg(short, long, value_enum, default_value_t, requires = "check")]
    output: Output,
    /// Where the new manifest goes; without, to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the policy that goes with it goes; without, to standard output, or to standard error
    /// where that has the manifest.
    #[arg(long, value_name = "FILE")]
    policy_out: Option<PathBuf>,
    /// Write over files that are there.
    #[arg(long)]
    force: bool,
}

/// Runs the command. Results go to `out`, what is wrong or left to do goes to `err`.
pub fn run(
    command: CalicoCommand,
    input: &mut dyn Read,
    out: &mut Plain<'_>,
    err: &mut dyn Write,
) -> ExitCode {
    let CalicoCommand::Segment(args) = command;
    // A reader that went away (`| head`) is no mistake of the manifest.
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
        Err(mistake) => {
            writeln!(err, "error: {mistake}")?;
            return Ok(exit::USAGE);
        }
    };
    let name = args.manifest.display().to_string();
    let text = match files::read(&args.manifest, input, calico::MAX_BYTES) {
        Ok(text) => text,
        Err(mistake) => {
            writeln!(err, "{}", Diagnostics::about(&name, mistake, None))?;
            return Ok(exit::CONFIG);
        }
    };
    if args.check {
        let checked = calico::check(&name, &text, &options);
        return tell(&name, checked, args.output, out, err);
    }
    match calico::segment(&name, &text, &options) {
        Err(mistakes) => {
            write!(err, "{mistakes}")?;
            writeln!(err, "{} is left as it is: nothing was written", Printable(&name))?;
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
        return Err("`--out` and `--policy-out` are one file".to_owned());
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
                "`--secret {component}=...` and `--per-node` both say where {component} has its certificate from"
            ));
        }
        if options.secrets.insert(*component, name.clone()).is_some() {
            return Err(format!("`--secret {component}=...` is given twice"));
        }
    }
    Ok(options)
}

/// The result of `--check`.
fn tell(
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
                json!({ "line": position.line, "column": position.column, "object": object, "field": field, "message": message })
            };
            let missing: Vec<_> = deviations.iter().map(one).collect();
            writeln!(
                out,
                "{}",
                json!({ "segmented": deviations.is_empty(), "missing": missing, "diagnostics": [] })
            )?;
        }
        (Output::Json, Err(mistakes)) => {
            writeln!(
                out,
                "{}",
                json!({ "segmented": null, "missing": [], "diagnostics": mistakes.to_json() })
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
        (Output::Text, Err(mistakes)) => write!(err, "{mistakes}")?,
    }
    Ok(code)
}

/// Manifest and policy to where they belong: to files, both or neither.
fn write_out(
    args: &SegmentArgs,
    done: &Segmented,
    out: &mut Plain<'_>,
    err: &mut dyn Write,
) -> std::io::Result<u8> {
    // A manifest may hold keys: whoever may not read the old one may not read the new one.
    let pairs = [
        (&args.out, &done.text, Some(args.manifest.as_path())),
        (&args.policy_out, &done.policy, None),
    ];
    let mut targets = Vec::new();
    let mut mistakes = Vec::new();
    for (path, text, like) in pairs {
        let Some(path) = path else { continue };
        match Target::prepare(path, text, like, args.force) {
            Ok(target) => targets.push(target),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    let written = if mistakes.is_empty() { files::finish(targets) } else { Err(mistakes) };
    if let Err(mistakes) = written {
        for mistake in mistakes {
            writeln!(err, "error: {}", Printable(&mistake))?;
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

/// What goes beside the manifest, where that has standard output for itself.
fn hand_over(done: &Segmented, err: &mut dyn Write) -> std::io::Result<()> {
    writeln!(err, "{}", done.policy)?;
    notes(done, err)
}

fn notes(done: &Segmented, err: &mut dyn Write) -> std::io::Result<()> {
    done.notes.iter().try_for_each(|note| writeln!(err, "note: {}", Printable(note)))
}

#[cfg(test)]
mod tests;
