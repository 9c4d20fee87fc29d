//! `etcd-warden demo`: a real etcd, throwaway certificates, the proxy in front, and what each of
//! the nine roles that Calico documents may and may not do. Nothing in it is played: verdicts are
//! what the client got, reasons are what the audit wrote.
//!
//! ```text
//! script    who calls what, and what is expected
//! stage     etcd, certificates and two proxies: one that enforces, one in shadow mode
//! call      a call, made with etcd-client and written as for etcdctl
//! witness   what the audit file says about a call
//! report    all of it together, as the reader gets it
//! ```

mod call;
mod report;
mod script;
mod stage;
mod witness;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use etcd_warden_gateway::terminal;
use tokio::signal::unix::{SignalKind, signal};

use crate::etcd::find::{NAMED_BY, Version};
use crate::etcd::{Programs, Release, Source, find};
use call::{Call, Outcome};
use report::{Ink, Report, Row, ShadowRow};
use script::{Component, Verdict};
use stage::{Proxy, Stage};

/// An etcd on `PATH` that is older than this is not taken.
const LEAST_ETCD: Version = Version::new(3, 5, 0);

/// Flags of `etcd-warden demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// The etcd to run: the program, or its folder. Otherwise `etcd` on PATH from 3.5 on,
    /// otherwise a pinned release is built.
    #[arg(long, value_name = "PATH", env = NAMED_BY)]
    etcd: Option<PathBuf>,
    /// End after the report, with 1 if any verdict was not the expected one, instead of staying up
    /// to be played with.
    #[arg(long)]
    once: bool,
    /// How the report is written.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people; in colour on a terminal, unless NO_COLOR is set.
    Text,
    /// One JSON document.
    Json,
}

/// Runs the demo. Ends with 0 if every verdict was the expected one, else with 1.
///
/// # Errors
/// When there is no etcd, or the stage cannot be set.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let stage = Stage::set(&etcd_programs(args.etcd).await?).await?;
    let report = play(&stage).await?;
    let ink = if wants_colour() { Ink::Colour } else { Ink::Plain };
    match args.output {
        Output::Text => terminal::coloured(&report.text(ink))?,
        Output::Json => terminal::coloured(&format!("{}\n", report.json()))?,
    }
    if !args.once {
        // Shadow mode let everything through, also what deletes everything.
        stage.seed().await?;
        if args.output == Output::Text {
            terminal::coloured(&report.invitation(ink))?;
        }
        stop_requested().await?;
    }
    stage.strike().await;
    Ok(if report.as_expected() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn etcd_programs(named: Option<PathBuf>) -> anyhow::Result<Programs> {
    let source = named.map_or(Source::PathOr(LEAST_ETCD, Release::newest()), Source::Named);
    Ok(tokio::task::spawn_blocking(move || find(&source)).await??)
}

/// Every call under enforcement; then the refused ones again, in shadow mode.
async fn play(stage: &Stage) -> anyhow::Result<Report> {
    let mut report = Report::new(stage);
    for component in script::COMPONENTS {
        for &(expected, call) in component.calls {
            report.rows.push(enforced(stage, component, call, expected).await?);
        }
    }
    for component in script::COMPONENTS {
        for &(_, call) in
            component.calls.iter().filter(|(expected, _)| *expected == Verdict::Refused)
        {
            report.shadow.push(shadowed(stage, component, call).await?);
        }
    }
    report.audit = stage.enforcing.witness.all_lines()?;
    report.audit.extend(stage.shadow.witness.all_lines()?);
    Ok(report)
}

async fn enforced(
    stage: &Stage,
    component: &'static Component,
    call: Call,
    expected: Verdict,
) -> anyhow::Result<Row> {
    let (outcome, testimony) = ask(stage, &stage.enforcing, component, call).await?;
    let verdict = match (&outcome, testimony.decision.as_str()) {
        (Outcome::Passed, "allow") => Some(Verdict::Allowed),
        (Outcome::Refused, "deny") => Some(Verdict::Refused),
        _ => None,
    };
    Ok(Row { component, call, expected, verdict, outcome, testimony })
}

async fn shadowed(
    stage: &Stage,
    component: &'static Component,
    call: Call,
) -> anyhow::Result<ShadowRow> {
    let (outcome, testimony) = ask(stage, &stage.shadow, component, call).await?;
    Ok(ShadowRow { component, call, outcome, testimony })
}

async fn ask(
    stage: &Stage,
    proxy: &Proxy,
    component: &Component,
    call: Call,
) -> anyhow::Result<(Outcome, witness::Testimony)> {
    let mut client = stage.client(proxy, component.common_name).await?;
    let mark = proxy.witness.mark()?;
    let outcome = call.make(&mut client).await;
    let testimony = proxy.witness.testimony(mark, component.common_name, call.method()).await;
    Ok((outcome, testimony.with_context(|| format!("{}: {call}", component.name))?))
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
