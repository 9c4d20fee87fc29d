//! `certs list`: arguments and output.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_core::printable::Printable;
use etcd_warden_gateway::policy_file;
use etcd_warden_tools::certs::inventory::{FoundCertificate, Inventory, scan};
use etcd_warden_tools::certs::server;
use etcd_warden_tools::certs::summary::{Kind, Summary, summarize, summarize_server};
use serde_json::json;

use crate::cli::policy::Output;

/// Arguments of `certs list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Directories, files (PEM, DER, manifests with Secrets) or `https://HOST:PORT`.
    #[arg(required = true, value_name = "DIR|FILE|URL")]
    places: Vec<String>,
    /// A policy, to show the component and the roles that it gives to each certificate.
    #[arg(long, value_name = "FILE", env = "ETCD_WARDEN_POLICY")]
    policy: Option<PathBuf>,
    /// The name of the client CA, for bindings with `ca`.
    #[arg(long, default_value = "default")]
    ca: String,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs `certs list`. True if at least one certificate has a problem.
pub(super) fn run(args: &ListArgs, out: &mut dyn Write) -> Result<bool, Diagnostics> {
    let mut wrong = Diagnostics::default();
    let policy = args.policy.as_ref().and_then(|path| {
        policy_file::load(path, 0, None).map_err(|errors| wrong.append(errors)).ok()
    });
    let mut inventory = Inventory::default();
    let mut servers = Vec::new();
    for place in &args.places {
        if place.starts_with("https://") {
            match server::chain(place) {
                Ok(chain) => servers.push(FoundCertificate::at_server(place, chain)),
                Err(errors) => wrong.append(errors),
            }
            continue;
        }
        match scan(place.as_ref()) {
            Ok(seen) => {
                inventory.certificates.extend(seen.certificates);
                inventory.others.extend(seen.others);
                inventory.unfinished.extend(seen.unfinished);
            }
            Err(errors) => wrong.append(errors),
        }
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    let now = SystemTime::now();
    let summaries: Vec<Summary> = inventory
        .certificates
        .iter()
        .map(|found| summarize(found, policy.as_ref(), &args.ca, now))
        .chain(servers.iter().map(|found| summarize_server(found, &args.ca, now)))
        .collect();
    let _ = match args.output {
        Output::Json => json(&summaries, &inventory, out),
        Output::Text => text(&summaries, &inventory, policy.is_some(), out),
    };
    Ok(!inventory.unfinished.is_empty()
        || summaries.iter().any(|summary| !summary.problems.is_empty()))
}

fn json(summaries: &[Summary], inventory: &Inventory, out: &mut dyn Write) -> std::io::Result<()> {
    let others: Vec<_> = inventory
        .others
        .iter()
        .map(|other| json!({ "file": other.file.display().to_string(), "what": other.what }))
        .collect();
    let cut: Vec<String> =
        inventory.unfinished.iter().map(|folder| folder.display().to_string()).collect();
    writeln!(out, "{}", json!({ "certificates": summaries, "others": others, "unfinished": cut }))
}

fn text(
    summaries: &[Summary],
    inventory: &Inventory,
    with_policy: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let mut rows =
        vec![["PLACE", "NAME", "COMPONENT", "NODE", "ROLES", "ENDS", "DAYS"].map(str::to_owned)];
    let shown = |text: &Option<String>| {
        text.as_deref().filter(|text| !text.is_empty()).unwrap_or("-").escape_debug().to_string()
    };
    for summary in summaries {
        let name = match summary.kind {
            Kind::Client => summary.name().to_owned(),
            Kind::Server => format!("{} (server)", summary.name()),
            Kind::Ca => format!("{} (CA)", summary.name()),
        };
        let roles = match &summary.roles {
            Some(roles) if !roles.is_empty() => roles.join(","),
            Some(_) => "none".to_owned(),
            None => "-".to_owned(),
        };
        rows.push([
            summary.place.escape_debug().to_string(),
            name.escape_debug().to_string(),
            shown(&summary.component),
            shown(&summary.node),
            roles,
            summary.not_after.split('T').next().unwrap_or_default().to_owned(),
            summary.days_left.to_string(),
        ]);
    }
    let widths: Vec<usize> = (0..7)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let problems = std::iter::once(None).chain(summaries.iter().map(Some));
    for (row, summary) in rows.iter().zip(problems) {
        let cells =
            row.iter().zip(&widths).enumerate().filter(|(column, _)| with_policy || *column != 4);
        let line: Vec<String> =
            cells.map(|(_, (cell, width))| format!("{cell:<width$}", width = *width)).collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
        if let Some(summary) = summary {
            if summary.copies > 0 {
                writeln!(out, "    and {} copies", summary.copies)?;
            }
            for problem in &summary.problems {
                writeln!(out, "    problem: {}", Printable(problem))?;
            }
        }
    }
    for other in &inventory.others {
        writeln!(
            out,
            "skipped: {}: {}",
            Printable(&other.file.display().to_string()),
            Printable(&other.what)
        )?;
    }
    for folder in &inventory.unfinished {
        writeln!(
            out,
            "problem: {}: an earlier run of `certs` was interrupted before all its files were in \
             place: run `certs issue --missing` or `certs renew` to complete it",
            Printable(&folder.display().to_string())
        )?;
    }
    Ok(())
}
