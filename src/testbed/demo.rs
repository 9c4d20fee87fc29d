//! `etcd-warden demo`: starts a real etcd with throwaway certificates and the gateway, and shows
//! what each of the nine roles documented by Calico may do. Nothing is simulated: results are those of
//! the client, reasons are read from the audit log.
//!
//! ```text
//! script         the calls of each component, and the expected results
//! stage          etcd, certificates and two gateways: one that enforces, one in shadow mode
//! call           a call, made with etcd-client and shown in the syntax of etcdctl
//! audit_reader   the audit record of a call
//! report         the report with all calls
//! ```

mod call;
mod report;
mod script;
mod stage;
mod audit_reader;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use etcd_warden_gateway::terminal;
use tokio::signal::unix::{SignalKind, signal};

use crate::etcd::find::{NAMED_BY, Version};
use crate::etcd::{Programs, Release, Source, find};
use call::{Call, Outcome};
use report::{Report, Row, ShadowRow, Style};
use script::{CallResult, Component};
use stage::{Gateway, Stage};

/// The oldest etcd on `PATH` that is used.
const LEAST_ETCD: Version = Version::new(3, 5, 0);

/// Flags of `etcd-warden demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// The etcd to run: the program, or its directory. Default: `etcd` 3.5 or newer on PATH, else a
    /// pinned release that is built.
    #[arg(long, value_name = "PATH", env = NAMED_BY)]
    etcd: Option<PathBuf>,
    /// Exit after the report instead of keeping everything running. Exit code 1: a result was not
    /// the expected one.
    #[arg(long)]
    once: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// The output format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Text; in colour on a terminal, unless NO_COLOR is set.
    Text,
    /// One JSON document.
    Json,
}

/// Runs the demo. Exit code 0: all results were the expected ones; else 1.
///
/// # Errors
/// There is no etcd, or a component could not be started.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let stage = Stage::start(&etcd_programs(args.etcd).await?).await?;
    let report = run_calls(&stage).await?;
    let style = if wants_colour() { Style::Colour } else { Style::Plain };
    match args.output {
        Output::Text => terminal::coloured(&report.text(style))?,
        Output::Json => terminal::coloured(&format!("{}\n", report.json()))?,
    }
    if !args.once {
        // In shadow mode every call was forwarded, including those that delete keys.
        stage.seed().await?;
        if args.output == Output::Text {
            terminal::coloured(&report.next_steps(style))?;
        }
        stop_requested().await?;
    }
    stage.stop().await;
    Ok(if report.as_expected() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn etcd_programs(named: Option<PathBuf>) -> anyhow::Result<Programs> {
    let source = named.map_or(Source::PathOr(LEAST_ETCD, Release::newest()), Source::Named);
    Ok(tokio::task::spawn_blocking(move || find(&source)).await??)
}

/// Makes every call with enforcement; then the denied ones again in shadow mode.
async fn run_calls(stage: &Stage) -> anyhow::Result<Report> {
    let mut report = Report::new(stage);
    for component in script::COMPONENTS {
        for &(expected, call) in component.calls {
            report.rows.push(enforced(stage, component, call, expected).await?);
        }
    }
    for component in script::COMPONENTS {
        for &(_, call) in
            component.calls.iter().filter(|(expected, _)| *expected == CallResult::Refused)
        {
            report.shadow.push(shadowed(stage, component, call).await?);
        }
    }
    report.audit = stage.enforcing.audit_reader.all_lines()?;
    report.audit.extend(stage.shadow.audit_reader.all_lines()?);
    Ok(report)
}

async fn enforced(
    stage: &Stage,
    component: &'static Component,
    call: Call,
    expected: CallResult,
) -> anyhow::Result<Row> {
    let (outcome, record) = call_through(stage, &stage.enforcing, component, call).await?;
    let actual = match (&outcome, record.decision.as_str()) {
        (Outcome::Passed, "allow") => Some(CallResult::Allowed),
        (Outcome::Refused, "deny") => Some(CallResult::Refused),
        _ => None,
    };
    Ok(Row { component, call, expected, actual, outcome, record })
}

async fn shadowed(
    stage: &Stage,
    component: &'static Component,
    call: Call,
) -> anyhow::Result<ShadowRow> {
    let (outcome, record) = call_through(stage, &stage.shadow, component, call).await?;
    Ok(ShadowRow { component, call, outcome, record })
}

async fn call_through(
    stage: &Stage,
    gateway: &Gateway,
    component: &Component,
    call: Call,
) -> anyhow::Result<(Outcome, audit_reader::AuditRecord)> {
    let mut client = stage.client(gateway, component.common_name).await?;
    let mark = gateway.audit_reader.mark()?;
    let outcome = call.make(&mut client).await;
    let record = gateway.audit_reader.record(mark, component.common_name, call.method()).await;
    Ok((outcome, record.with_context(|| format!("{}: {call}", component.name))?))
}

async fn stop_requested() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped,
        _ = terminate.recv() => Ok(()),
    }
}

fn wants_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
