//! `etcd-warden bench`.

mod calico;
mod credentials;
mod given;

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
use etcd_warden_tools::bench::stop::Stop;
use etcd_warden_tools::bench::tally::Tally;
use etcd_warden_tools::bench::witness::MetricsUrl;
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
    scene: Option<Scene>,
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    report: ReportArgs,
}

/// Whole scenes in place of a mix.
#[derive(Debug, Subcommand)]
enum Scene {
    /// What a Calico cluster of so many nodes puts on etcd: the storm at its start, then pods that
    /// come and go.
    Calico(Box<calico::CalicoArgs>),
}

/// Where the load goes, and as whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where, and as whom")]
struct Whom {
    /// An etcd or a proxy: `https://HOST:PORT`, or `http://` for plain text.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "compare",
        required_unless_present = "compare"
    )]
    endpoint: Option<Endpoint>,
    /// Several ways to one etcd, which get slices of the same load in turn: `NAME=URL,NAME=URL`.
    /// Each is compared with the first.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = given::named)]
    compare: Vec<(String, Endpoint)>,
    #[command(flatten)]
    credentials: Credentials,
    /// Processes whose CPU time and memory is looked at: `NAME=PID` of each target, or a number
    /// alone for one.
    #[arg(long, value_name = "PIDS", value_delimiter = ',', value_parser = given::pid)]
    pid: Vec<(Option<String>, u32)>,
    /// Where etcd's members tell what they have counted (`--listen-metrics-urls`), all of them: it
    /// must be what was sent.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    etcd_metrics: Vec<MetricsUrl>,
}

/// The load.
#[derive(Debug, Args)]
#[command(next_help_heading = "The load")]
struct What {
    /// What is done, with weights: range, put, txn, watch-fanout, lease, snapshot.
    #[arg(long, default_value = "range=8,put=1,txn=1")]
    mix: Mix,
    /// Keys that are read and written at random.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    value_size: u32,
    /// How much more popular some keys are than others; 0: not at all.
    #[arg(long, value_name = "EXPONENT", default_value_t = 0.99)]
    zipf: f64,
    /// Reads that any member answers from its memory. Calico and kube-apiserver read linearizably.
    #[arg(long)]
    serializable: bool,
    /// Connections to each target.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Streams at a time on each.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// Watchers of `watch-fanout`.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    watchers: u32,
    /// Each watcher watches a range of its own that holds all that is written: nobody serves two
    /// of them with one watch.
    #[arg(long)]
    own_ranges: bool,
    /// Threads that send; by default as many as there are processors, and 4 at most.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Open loop: requests per second, whatever the answers do. Without it, each stream sends when
    /// it has its answer (closed loop).
    #[arg(long, value_name = "PER SECOND", value_parser = given::rate, conflicts_with = "ramp")]
    rate: Option<f64>,
    /// Open loop at rising rates, until one is not sustained: `FROM..TO`, or `FROM..TO/STEPS`.
    /// `--time` is for each.
    #[arg(long, value_name = "RATES", value_parser = given::ramp, conflicts_with = "count")]
    ramp: Option<given::Rates>,
    /// A p99 above this does not count as sustained.
    #[arg(long, value_name = "TIME", value_parser = given::time, requires = "ramp")]
    limit_p99: Option<Duration>,
    /// The gaps between requests of an open loop.
    #[arg(long, value_enum, default_value_t)]
    gaps: Gaps,
    /// The measured time of each target, all its slices together.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = given::time, conflicts_with = "count")]
    time: Duration,
    /// Instead of a time: how many requests each target gets, exactly; those of the warm-up are
    /// not among them.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// What is not measured, at the start of each rate.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = given::time)]
    warm_up: Duration,
    /// With `--compare`: how many slices each target gets.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long an answer may take.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = given::time)]
    timeout: Duration,
    /// Of all chance: when requests of an open loop are due, and what each stream asks for, one
    /// after the other. In each round of `--compare` all targets get the same.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// What all keys begin with. They are removed at the end.
    #[arg(long, value_name = "KEY", default_value = "/etcd-warden-bench/", value_parser = given::prefix)]
    prefix: String,
    /// Go on where keys of others are below the prefix. They are left alone.
    #[arg(long)]
    force: bool,
}

/// Where the results go.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
struct ReportArgs {
    /// How results are written. Progress goes to standard error.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Write the whole report here too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the whole report here too, as one page of HTML that needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

impl ReportArgs {
    /// Before anything is sent: what keeps the report from being written would be seen only when
    /// the run is over.
    fn mistakes(&self) -> Option<ExitCode> {
        let folder = |file: &Path| {
            file.parent().filter(|folder| !folder.as_os_str().is_empty()).is_none_or(Path::is_dir)
        };
        let mut found = false;
        for (flag, file) in [("json", &self.json), ("html", &self.html)] {
            let Some(file) = file else { continue };
            let why = match (file.is_dir(), folder(file)) {
                (true, _) => "is a directory: name a file",
                (false, false) => "is in no directory that is there: make it first",
                (false, true) => continue,
            };
            terminal::err(format_args!("error: `--{flag} {}` {why}", file.display()));
            found = true;
        }
        found.then(|| ExitCode::from(exit::CONFIG))
    }
}

/// Runs it. Exit code 0: done, and all was right; 1: answers or counts were wrong, or it could not
/// be done; 78: files or addresses that cannot be used; 130: ended at once by a second signal.
///
/// # Errors
/// It could not be done.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    if let Some(Scene::Calico(args)) = args.scene {
        return calico::run(*args).await;
    }
    let plan = match given::plan(&args) {
        Ok(plan) => plan,
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| terminal::err(format_args!("error: {mistake}")));
            return Ok(ExitCode::from(exit::CONFIG));
        }
    };
    if let Some(mistakes) = args.report.mistakes() {
        return Ok(mistakes);
    }
    let settings = settings(&args, &plan);
    let quiet = args.report.quiet;
    let work = async |stop: &Arc<Stop>| {
        plan::run(&plan, stop, settings, &mut |progress| show(&progress, quiet)).await
    };
    let report = LocalSet::new().run_until(until_stopped(&plan.prefix, work)).await;
    finish(&args.report, report)
}

/// Runs something that a signal ends early and in order, and a second signal at once: then it gives
/// nothing.
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
            if !stop.is_wanted() {
                terminal::err(format_args!(
                    "ending, and removing the keys; another signal ends it at once"
                ));
                stop.want();
            }
        }
    };
    tokio::select! {
        done = work(&stop) => done.map(Some),
        () = twice => {
            terminal::err(format_args!("ended at once: keys of this run may be left below {prefix}"));
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
    // Last: a full disk does not keep the results from being seen.
    for (file, content) in [(&args.json, &json), (&args.html, &html::page(report, &json))] {
        if let Some(file) = file {
            std::fs::write(file, content)
                .map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
        }
    }
    Ok(if report.verification.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn settings(args: &BenchArgs, plan: &plan::Plan) -> BTreeMap<&'static str, String> {
    let what = &args.what;
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

/// What happens, on standard error.
fn show(progress: &Progress<'_>, quiet: bool) {
    if quiet {
        return;
    }
    match progress {
        Progress::Note(note) => terminal::err(format_args!("{note}")),
        // Slices of a comparison are many and short.
        Progress::Slice(target, Pace::Closed) => terminal::err(format_args!("{target}")),
        Progress::Slice(target, Pace::Open(rate)) => {
            terminal::err(format_args!("{target} at {rate:.0} per second"))
        }
        Progress::Second(second, tally) => {
            terminal::err(format_args!("  {second:>4} s  {}", line(tally)))
        }
    }
}

fn line(tally: &Tally) -> String {
    let mut all = etcd_warden_tools::bench::tally::Series::default();
    for series in tally.series.values() {
        // It grows as far as each of them.
        let _ = all.latency.add(&series.latency);
    }
    let quantiles = Quantiles::of(&all.latency);
    let time = |us: u64| text::Time(etcd_warden_tools::bench::figure::float(us)).to_string();
    let failed =
        if tally.failed() > 0 { format!(", {} failed", tally.failed()) } else { String::new() };
    let (p50, p99, p999) = (time(quantiles.p50), time(quantiles.p99), time(quantiles.p999));
    format!("{:>8} ok{failed}, p50 {p50}, p99 {p99}, p99.9 {p999}", tally.succeeded())
}
