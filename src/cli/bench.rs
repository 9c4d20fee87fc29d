//! `etcd-warden bench`: arguments, progress and output. The work is in `etcd_warden_tools::bench`.

mod calico;
mod credentials;
mod plan_args;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use etcd_warden_gateway::config::Endpoint;
use etcd_warden_gateway::terminal;
use etcd_warden_tools::bench::arrivals::Gaps;
use etcd_warden_tools::bench::mix::{Kind, Mix};
use etcd_warden_tools::bench::plan::{self, Progress};
use etcd_warden_tools::bench::quantiles::Quantiles;
use etcd_warden_tools::bench::report::{Report, html, text};
use etcd_warden_tools::bench::server_counts::MetricsUrl;
use etcd_warden_tools::bench::stop::Stop;
use etcd_warden_tools::bench::tally::Tally;
use etcd_warden_tools::bench::worker::Pace;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use self::credentials::Credentials;
use super::exit;
use super::policy::Output;

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    workload: Option<Workload>,
    #[command(flatten)]
    targets: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// Fixed workloads, instead of a mix of operations.
#[derive(Debug, Subcommand)]
enum Workload {
    /// The load of a Calico cluster: the start of all nodes at once or over time, then pods that
    /// are created and deleted.
    Calico(Box<calico::CalicoArgs>),
}

/// The servers under test, and the certificates of the clients.
#[derive(Debug, Args)]
#[command(next_help_heading = "Targets and identities")]
struct TargetArgs {
    /// The etcd or proxy to test: `https://HOST:PORT`, or `http://` for plain text.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "compare",
        required_unless_present = "compare"
    )]
    endpoint: Option<Endpoint>,
    /// Compare several ways to one etcd: `NAME=URL,NAME=URL`. They get slices of the same load in
    /// turn, and each is compared with the first.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = plan_args::named)]
    compare: Vec<(String, Endpoint)>,
    #[command(flatten)]
    credentials: Credentials,
    /// Processes whose CPU time and memory are measured: `NAME=PID` for each target, or a single
    /// number for `--endpoint`.
    #[arg(long, value_name = "PIDS", value_delimiter = ',', value_parser = plan_args::pid)]
    pid: Vec<(Option<String>, u32)>,
    /// The metrics URLs of all etcd members (`--listen-metrics-urls`). etcd's own counts must
    /// match what was sent.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    etcd_metrics: Vec<MetricsUrl>,
}

/// The load.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
struct LoadArgs {
    /// Operations with weights: range, put, txn, watch-fanout, lease, snapshot.
    #[arg(long, default_value = "range=8,put=1,txn=1")]
    mix: Mix,
    /// Number of keys that are read and written at random.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Size of each value in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    value_size: u32,
    /// Exponent of the Zipf distribution of keys; 0 makes all keys equally popular.
    #[arg(long, value_name = "EXPONENT", default_value_t = 0.99)]
    zipf: f64,
    /// Use serializable reads, which any member answers from memory. Calico and kube-apiserver use
    /// linearizable reads.
    #[arg(long)]
    serializable: bool,
    /// Connections per target.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Concurrent streams per connection.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// Number of watchers of `watch-fanout`.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    watchers: u32,
    /// Give each watcher a different range that contains all written keys, so that a proxy cannot
    /// merge the watches.
    #[arg(long)]
    own_ranges: bool,
    /// Threads that send. Default: the number of processors, at most 4.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Open loop: send this many requests per second, whatever the response times. Without it, each
    /// stream waits for its response before it sends again (closed loop).
    #[arg(long, value_name = "PER SECOND", value_parser = plan_args::rate, conflicts_with = "ramp")]
    rate: Option<f64>,
    /// Open loop at rising rates until one is not sustained: `FROM..TO` or `FROM..TO/STEPS`.
    /// `--time` applies to each rate.
    #[arg(long, value_name = "RATES", value_parser = plan_args::ramp, conflicts_with = "count")]
    ramp: Option<plan_args::Rates>,
    /// A rate with a p99 latency above this is not sustained.
    #[arg(long, value_name = "TIME", value_parser = plan_args::time, requires = "ramp")]
    limit_p99: Option<Duration>,
    /// Distribution of the gaps between requests of an open loop.
    #[arg(long, value_enum, default_value_t)]
    gaps: Gaps,
    /// Measured time per target, all its slices together.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = plan_args::time, conflicts_with = "count")]
    time: Duration,
    /// Send exactly this many requests to each target, instead of measuring for a time. Requests of
    /// the warm-up are not counted.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Unmeasured time at the start of each rate.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = plan_args::time)]
    warm_up: Duration,
    /// With `--compare`: number of slices per target.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Timeout of a request.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = plan_args::time)]
    timeout: Duration,
    /// Seed of all random choices: the times of requests in an open loop, and the requests of each
    /// stream. In each round of `--compare` all targets get the same requests.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Prefix of all keys. They are deleted at the end.
    #[arg(long, value_name = "KEY", default_value = "/etcd-warden-bench/", value_parser = plan_args::prefix)]
    prefix: String,
    /// Run even if keys of other clients exist below the prefix. They are not changed.
    #[arg(long)]
    force: bool,
}

/// The outputs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
struct ReportArgs {
    /// Output format. Progress is written to standard error.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Also write the full report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the full report to this file, as a self-contained HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
}

impl ReportArgs {
    /// Checks the output files. Without this, the report would be lost at the end of the run.
    fn check(&self) -> Option<ExitCode> {
        let folder = |file: &Path| {
            file.parent().filter(|folder| !folder.as_os_str().is_empty()).is_none_or(Path::is_dir)
        };
        let mut found = false;
        for (flag, file) in [("json", &self.json), ("html", &self.html)] {
            let Some(file) = file else { continue };
            let why = match (file.is_dir(), folder(file)) {
                (true, _) => "is a directory: name a file",
                (false, false) => "is in a directory that does not exist: create it first",
                (false, true) => continue,
            };
            terminal::err(format_args!("error: `--{flag} {}` {why}", file.display()));
            found = true;
        }
        found.then(|| ExitCode::from(exit::CONFIG))
    }
}

/// Runs `bench`. Exit code 0: completed, and everything was right; 1: wrong responses or counts, or
/// not completed; 78: unusable files or addresses; 130: interrupted by a second signal.
///
/// # Errors
/// The run could not be completed.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    if let Some(Workload::Calico(args)) = args.workload {
        return calico::run(*args).await;
    }
    let plan = match plan_args::plan(&args) {
        Ok(plan) => plan,
        Err(errors) => {
            errors.iter().for_each(|error| terminal::err(format_args!("error: {error}")));
            return Ok(ExitCode::from(exit::CONFIG));
        }
    };
    if let Some(code) = args.report.check() {
        return Ok(code);
    }
    let settings = settings(&args, &plan);
    let quiet = args.report.quiet;
    let work = async |stop: &Arc<Stop>| {
        plan::run(&plan, stop, settings, &mut |progress| show(&progress, quiet)).await
    };
    let report = LocalSet::new().run_until(until_stopped(&plan.prefix, work)).await;
    finish(&args.report, report)
}

/// Runs `work`. The first signal asks it to stop in an orderly way; after a second one, the result
/// is `None`.
async fn until_stopped<T>(
    prefix: &str,
    work: impl AsyncFnOnce(&Arc<Stop>) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let stop = Arc::new(Stop::default());
    let signals = signal(SignalKind::interrupt())
        .and_then(|interrupt| Ok((interrupt, signal(SignalKind::terminate())?)));
    let (mut interrupt, mut terminate) = signals.map_err(|error| error.to_string())?;
    let twice = async {
        for _ in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !stop.is_requested() {
                terminal::err(format_args!(
                    "stopping and deleting the keys; another signal stops at once"
                ));
                stop.request();
            }
        }
    };
    tokio::select! {
        done = work(&stop) => done.map(Some),
        () = twice => {
            terminal::err(format_args!("stopped at once: keys may be left below {prefix}"));
            Ok(None)
        }
    }
}

fn finish(args: &ReportArgs, report: Result<Option<Report>, String>) -> anyhow::Result<ExitCode> {
    let Some(report) = report.map_err(anyhow::Error::msg)? else {
        return Ok(ExitCode::from(exit::INTERRUPTED));
    };
    let report = &report;
    let json = serde_json::to_string_pretty(report)?;
    match args.output {
        Output::Text => terminal::out(format_args!("{report}"))?,
        Output::Json => terminal::out(format_args!("{json}\n"))?,
    }
    // Last, so that the results are result even if the disk is full.
    for (file, content) in [(&args.json, &json), (&args.html, &html::page(report, &json))] {
        if let Some(file) = file {
            std::fs::write(file, content)
                .map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
        }
    }
    Ok(if report.verification.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn settings(args: &BenchArgs, plan: &plan::Plan) -> BTreeMap<&'static str, String> {
    let what = &args.load;
    let pace = |pace: &Pace| match pace {
        Pace::Closed => "closed loop".to_owned(),
        Pace::Open(rate) => format!("{rate:.0}"),
    };
    let mut settings = BTreeMap::from([
        ("mix", what.mix.to_string()),
        ("keys", what.keys.to_string()),
        ("value-size", what.value_size.to_string()),
        ("zipf", what.zipf.to_string()),
        ("serializable", what.serializable.to_string()),
        ("connections", what.connections.to_string()),
        ("streams", what.streams.to_string()),
        ("threads", plan.threads.to_string()),
        ("identities", plan.identities.len().to_string()),
        ("rate", plan.paces.iter().map(pace).collect::<Vec<_>>().join(", ")),
        ("warm-up", format!("{:?}", what.warm_up)),
        ("rounds", plan.rounds.to_string()),
        ("seed", what.seed.to_string()),
        ("timeout", format!("{:?}", what.timeout)),
    ]);
    match plan.length {
        plan::Length::Time(time) => settings.insert("time", format!("{time:?}")),
        plan::Length::Count(count) => settings.insert("count", count.to_string()),
    };
    if what.mix.has(Kind::WatchFanout) {
        settings.extend([
            ("watchers", what.watchers.to_string()),
            ("own-ranges", what.own_ranges.to_string()),
        ]);
    }
    settings
}

/// Writes progress to standard error.
fn show(progress: &Progress<'_>, quiet: bool) {
    if quiet {
        return;
    }
    match progress {
        Progress::Note(note) => terminal::err(format_args!("{note}")),
        // A comparison has many short slices.
        Progress::Slice(target, Pace::Closed) => terminal::err(format_args!("{target}")),
        Progress::Slice(target, Pace::Open(rate)) => {
            terminal::err(format_args!("{target} at {rate:.0} per second"));
        }
        Progress::Second(second, tally) => {
            terminal::err(format_args!("  {second:>4} s  {}", line(tally)));
        }
    }
}

fn line(tally: &Tally) -> String {
    let mut all = etcd_warden_tools::bench::tally::Series::default();
    for series in tally.series.values() {
        // The histogram grows as needed, so this cannot fail.
        let _ = all.latency.add(&series.latency);
    }
    let quantiles = Quantiles::of(&all.latency);
    let time = |us: u64| text::Time(etcd_warden_tools::bench::convert::float(us)).to_string();
    let failed =
        if tally.failed() > 0 { format!(", {} failed", tally.failed()) } else { String::new() };
    let (p50, p99, p999) = (time(quantiles.p50), time(quantiles.p99), time(quantiles.p999));
    format!("{:>8} ok{failed}, p50 {p50}, p99 {p99}, p99.9 {p999}", tally.succeeded())
}
