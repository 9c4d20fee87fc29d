//! `etcd-warden doctor`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use etcd_warden_gateway::config::{self, ServeArgs};
use etcd_warden_gateway::terminal;
use etcd_warden_tools::doctor;
use etcd_warden_tools::doctor::report::Verdict;
use etcd_warden_tools::doctor::thief::Thief;

use super::exit;
use super::policy::Output;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The configuration file of `serve`; the environment counts as it does there.
    #[arg(long, value_name = "FILE", env = "ETCD_WARDEN_CONFIG")]
    config: Option<PathBuf>,
    /// A component's certificate and key, which must open the proxy alone: `CERTIFICATE,KEY`, or a
    /// folder with `etcd-cert` and `etcd-key`.
    #[arg(long, value_name = "FILES")]
    stolen: Vec<OsString>,
    /// How results are written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Looks at the deployment. Exit code 0: nothing is wrong; 1: something is; 78: the configuration
/// cannot be read.
///
/// # Errors
/// Standard output takes nothing more; else what goes wrong is a finding.
pub async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let serve = ServeArgs::of_file(args.config);
    // Its variable has been read by clap.
    let variables = std::env::vars_os().filter(|(name, _)| name != "ETCD_WARDEN_CONFIG");
    let loaded = config::load(&serve, variables);
    let thieves: Vec<_> = args.stolen.iter().map(|written| Thief::read(written.as_ref())).collect();
    let mut mistakes: Vec<String> =
        thieves.iter().filter_map(|thief| thief.as_ref().err()).map(ToString::to_string).collect();
    let (config, _) = match loaded {
        Ok(loaded) if mistakes.is_empty() => loaded,
        loaded => {
            mistakes.extend(loaded.err().map(|mistakes| mistakes.to_string()));
            terminal::err(format_args!("{}", mistakes.join("\n")));
            return Ok(ExitCode::from(exit::CONFIG));
        }
    };
    let thieves: Vec<Thief> = thieves.into_iter().flatten().collect();
    let report = doctor::examine(&config, &thieves).await;
    match args.output {
        Output::Text => terminal::out(format_args!("{report}\n"))?,
        Output::Json => terminal::out(format_args!("{:#}\n", report.to_json()))?,
    }
    Ok(if report.verdict() == Verdict::Wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
