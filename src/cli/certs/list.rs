//! `certs list`.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_core::printable::Printable;
use etcd_warden_gateway::policy_file;
use etcd_warden_tools::certs::found::{Found, Sight, look};
use etcd_warden_tools::certs::reading::{Kind, Reading, read, read_server};
use etcd_warden_tools::certs::server;
use serde_json::json;

use crate::cli::policy::Output;

/// Arguments of `certs list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Folders, files (PEM, DER, manifests with Secrets) or `https://HOST:PORT`.
    #[arg(required = true, value_name = "DIR|FILE|URL")]
    places: Vec<String>,
    /// A policy: what it calls each certificate, and the roles that it gives.
    #[arg(long, value_name = "FILE", env = "ETCD_WARDEN_POLICY")]
    policy: Option<PathBuf>,
    /// The name of the client CA, as bindings with `ca` see it.
    #[arg(long, default_value = "default")]
    ca: String,
    /// How results are written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs `certs list`: whether there is anything wrong with any of them.
pub(super) fn run(args: &ListArgs, out: &mut dyn Write) -> Result<bool, Diagnostics> {
    let mut wrong = Diagnostics::default();
    let policy = args.policy.as_ref().and_then(|path| {
        policy_file::load(path, 0, None).map_err(|mistakes| wrong.append(mistakes)).ok()
    });
    let mut sight = Sight::default();
    let mut servers = Vec::new();
    for place in &args.places {
        if place.starts_with("https://") {
            match server::chain(place) {
                Ok(chain) => servers.push(Found::at_server(place, chain)),
                Err(mistakes) => wrong.append(mistakes),
            }
            continue;
        }
        match look(place.as_ref()) {
            Ok(seen) => {
                sight.certificates.extend(seen.certificates);
                sight.others.extend(seen.others);
                sight.cut.extend(seen.cut);
            }
            Err(mistakes) => wrong.append(mistakes),
        }
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    let now = SystemTime::now();
    let readings: Vec<Reading> = sight
        .certificates
        .iter()
        .map(|found| read(found, policy.as_ref(), &args.ca, now))
        .chain(servers.iter().map(|found| read_server(found, &args.ca, now)))
        .collect();
    let _ = match args.output {
        Output::Json => json(&readings, &sight, out),
        Output::Text => text(&readings, &sight, policy.is_some(), out),
    };
    Ok(!sight.cut.is_empty() || readings.iter().any(|reading| !reading.problems.is_empty()))
}

fn json(readings: &[Reading], sight: &Sight, out: &mut dyn Write) -> std::io::Result<()> {
    let others: Vec<_> = sight
        .others
        .iter()
        .map(|other| json!({ "file": other.file.display().to_string(), "what": other.what }))
        .collect();
    let cut: Vec<String> = sight.cut.iter().map(|folder| folder.display().to_string()).collect();
    writeln!(out, "{}", json!({ "certificates": readings, "others": others, "unfinished": cut }))
}

fn text(
    readings: &[Reading],
    sight: &Sight,
    with_policy: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let mut rows =
        vec![["PLACE", "NAME", "COMPONENT", "NODE", "ROLES", "ENDS", "DAYS"].map(str::to_owned)];
    let shown = |text: &Option<String>| {
        text.as_deref().filter(|text| !text.is_empty()).unwrap_or("-").escape_debug().to_string()
    };
    for reading in readings {
        let name = match reading.kind {
            Kind::Client => reading.name().to_owned(),
            Kind::Server => format!("{} (server)", reading.name()),
            Kind::Ca => format!("{} (CA)", reading.name()),
        };
        let roles = match &reading.roles {
            Some(roles) if !roles.is_empty() => roles.join(","),
            Some(_) => "none".to_owned(),
            None => "-".to_owned(),
        };
        rows.push([
            reading.place.escape_debug().to_string(),
            name.escape_debug().to_string(),
            shown(&reading.component),
            shown(&reading.node),
            roles,
            reading.not_after.split('T').next().unwrap_or_default().to_owned(),
            reading.days_left.to_string(),
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
    let problems = std::iter::once(None).chain(readings.iter().map(Some));
    for (row, reading) in rows.iter().zip(problems) {
        let cells =
            row.iter().zip(&widths).enumerate().filter(|(column, _)| with_policy || *column != 4);
        let line: Vec<String> =
            cells.map(|(_, (cell, width))| format!("{cell:<width$}", width = *width)).collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
        if let Some(reading) = reading {
            if reading.copies > 0 {
                writeln!(out, "    and {} copies", reading.copies)?;
            }
            for problem in &reading.problems {
                writeln!(out, "    problem: {}", Printable(problem))?;
            }
        }
    }
    for other in &sight.others {
        writeln!(
            out,
            "skipped: {}: {}",
            Printable(&other.file.display().to_string()),
            Printable(&other.what)
        )?;
    }
    for folder in &sight.cut {
        writeln!(
            out,
            "problem: {}: a run of `certs` was cut here before all its files were in place: `certs issue --missing` or `certs renew` goes on with it",
            Printable(&folder.display().to_string())
        )?;
    }
    Ok(())
}
