//! `etcd-warden doctor`: arguments and output. The checks are in `etcd_warden_tools::doctor`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use etcd_warden_gateway::config::{self, ServeArgs};
use etcd_warden_gateway::terminal;
use etcd_warden_tools::doctor;
use etcd_warden_tools::doctor::report::Severity;
use etcd_warden_tools::doctor::stolen::StolenCertificate;

use super::exit;
use super::policy::Output;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The configuration file of `serve`. Environment variables apply as they do for `serve`.
    #[arg(long, value_name = "FILE", env = "ETCD_WARDEN_CONFIG")]
    config: Option<PathBuf>,
    /// A client certificate and its key, to test what an attacker who steals them can reach without
    /// the gateway: `CERTIFICATE,KEY`, or a directory with `etcd-cert` and `etcd-key`. May be
    /// repeated.
    #[arg(long, value_name = "FILES")]
    stolen: Vec<OsString>,
    /// How results are written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Examines the deployment. Exit code 0: no problem found; 1: at least one problem; 78: the
/// configuration cannot be read.
///
/// # Errors
/// Standard output cannot be written. Every other failure is a finding of the report.
pub async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let serve = ServeArgs::of_file(args.config);
    // Clap has read this variable.
    let variables = std::env::vars_os().filter(|(name, _)| name != "ETCD_WARDEN_CONFIG");
    let loaded = config::load(&serve, variables);
    let stolen: Vec<_> =
        args.stolen.iter().map(|written| StolenCertificate::read(written.as_ref())).collect();
    let mut errors: Vec<String> = stolen
        .iter()
        .filter_map(|certificate| certificate.as_ref().err())
        .map(ToString::to_string)
        .collect();
    let (config, _) = match loaded {
        Ok(loaded) if errors.is_empty() => loaded,
        loaded => {
            errors.extend(loaded.err().map(|errors| errors.to_string()));
            terminal::err(format_args!("{}", errors.join("\n")));
            return Ok(ExitCode::from(exit::CONFIG));
        }
    };
    let stolen: Vec<StolenCertificate> = stolen.into_iter().flatten().collect();
    let report = doctor::examine(&config, &stolen).await;
    match args.output {
        Output::Text => terminal::out(format_args!("{report}\n"))?,
        Output::Json => terminal::out(format_args!("{:#}\n", report.to_json()))?,
    }
    Ok(if report.severity() == Severity::Wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
