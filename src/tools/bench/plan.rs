//! A run, from writing the first key to the report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use etcd_warden_gateway::config::Endpoint;

use super::arrivals::Gaps;
use super::connection::{Connection, Destination, Failure};
use super::convert;
use super::fixture::{self, FixtureError, Operator};
use super::identity::Identity;
use super::keys::Keys;
use super::mix::{Kind, Mix};
use super::process::{Usage, usage};
use super::ramp::{self, RateResult};
use super::report::{self, MeasuredSlice, Report, Step, Verification};
use super::server_counts::{self, MetricsUrl};
use super::stop::Stop;
use super::tally::Tally;
use super::worker::{Assignment, End, Pace, SliceSpec};
use super::workers::{Slice, Workers};
use super::zipf::Zipf;

/// A server under test.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name in reports.
    pub name: String,
    /// Its URL.
    pub endpoint: Endpoint,
    /// The process whose CPU time and memory are measured.
    pub pid: Option<u32>,
}

/// The checked arguments of a run.
pub struct Plan {
    /// One target, or several to compare.
    pub targets: Vec<Target>,
    /// The identities that send the load; the connections use them in turn.
    pub identities: Vec<Identity>,
    /// The identity that writes and deletes the keys.
    pub operator: Identity,
    /// The operations and their weights.
    pub mix: Mix,
    /// Number of keys that are read and written at random.
    pub keys: u64,
    /// Bytes of each value.
    pub value_size: usize,
    /// Exponent of the Zipf distribution of keys.
    pub zipf: f64,
    /// Use serializable reads.
    pub serializable: bool,
    /// Connections per target.
    pub connections: usize,
    /// Concurrent streams per connection.
    pub streams: usize,
    /// Threads that send.
    pub threads: usize,
    /// Number of watchers that receive each write of `watch-fanout`.
    pub watchers: usize,
    /// Give each watcher a different range.
    pub own_ranges: bool,
    /// Distribution of the gaps of an open loop.
    pub gaps: Gaps,
    /// One pace, or the rates of a ramp.
    pub paces: Vec<Pace>,
    /// True for a ramp, which ends with the first rate that is not sustained.
    pub ramp: bool,
    /// The largest p99 of a sustained rate.
    pub limit_p99: Option<Duration>,
    /// Seed of all random choices.
    pub seed: u64,
    /// Timeout of a request.
    pub request_timeout: Duration,
    /// Unmeasured time at the start of each pace.
    pub warm_up: Duration,
    /// Length of all slices of one target together.
    pub length: Length,
    /// Number of slices per target.
    pub rounds: u32,
    /// Metrics URLs of all etcd members.
    pub etcd_metrics: Vec<MetricsUrl>,
    /// Prefix of all keys.
    pub prefix: String,
    /// Run even if foreign keys exist below the prefix.
    pub force: bool,
}

/// The length of all slices of one target at one pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// A time.
    Time(Duration),
    /// A number of requests.
    Count(u64),
}

/// Progress of a run, for display.
pub enum Progress<'p> {
    /// A slice of this target starts at this pace.
    Slice(&'p str, Pace),
    /// The tally of a completed second.
    Second(u64, &'p Tally),
    /// Another message.
    Note(String),
}

/// Runs the plan. Must be called on a `LocalSet`.
///
/// # Errors
/// Why the run could not start or continue.
pub async fn run(
    plan: &Plan,
    stop: &Arc<Stop>,
    settings: BTreeMap<&'static str, String>,
    notify: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, String> {
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let first = plan.targets.first().ok_or("there is no target")?;
    let connect = |target: &Target, who: &Identity| {
        Operator::new(
            Connection::new(Destination {
                endpoint: target.endpoint.clone(),
                tls: who.tls.clone(),
            }),
            plan.request_timeout,
        )
    };
    if plan.targets.len() > 1 {
        let client = plan.identities.first().unwrap_or(&plan.operator);
        let all: Vec<_> = plan
            .targets
            .iter()
            .map(|target| (target.name.clone(), connect(target, client)))
            .collect();
        fixture::check_same_cluster(&all, &plan.prefix).await.map_err(|error| error.to_string())?;
    }
    let operator = connect(first, &plan.operator);
    let keys = Arc::new(Keys::new(&plan.prefix, plan.keys, plan.value_size, plan.serializable));
    let left =
        fixture::find_leftovers(&operator, &keys.prefix, plan.force, |key| keys.is_ours(key))
            .await
            .map_err(|error| error.to_string())?;
    notify(Progress::Note(format!(
        "writing {} keys of {} bytes below {}",
        plan.keys, plan.value_size, plan.prefix
    )));
    // From here on the keys must be deleted, whatever happens.
    let result = match fixture::prepare(&operator, &keys, &left, stop).await {
        Ok(()) => measure(plan, &keys, stop, notify).await,
        // An empty report still says that the run was stopped, and whether keys are left.
        Err(FixtureError::Failed { failure: Failure::Stopped, .. }) => Ok(Default::default()),
        Err(error) => Err(error.to_string()),
    };
    notify(Progress::Note("deleting the keys".to_owned()));
    let cleaned = fixture::clean(&operator, &keys).await;
    let (steps, verification) = fixture::with_cleanup(result, cleaned, &plan.prefix)?;
    let knee = steps
        .iter()
        .filter(|step| step.sustained == Some(true))
        .filter_map(|step| step.offered)
        .reduce(f64::max);
    let stopped = stop.is_requested();
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        started,
        settings,
        steps,
        knee,
        verification,
        stopped,
    })
}

async fn measure(
    plan: &Plan,
    keys: &Arc<Keys>,
    stop: &Arc<Stop>,
    notify: &mut dyn FnMut(Progress<'_>),
) -> Result<(Vec<Step>, Verification), String> {
    let before = server_counts::handled(&plan.etcd_metrics).await?;
    let mut workers = Workers::start(assignments(plan, keys, stop)).await?;
    let began = Instant::now();
    let (mut steps, mut verification, mut total) =
        (Vec::new(), Verification::default(), Tally::default());
    for (number, pace) in (0_u64..).zip(&plan.paces) {
        let first = number * u64::from(plan.rounds);
        let slices = match rounds(plan, *pace, &mut workers, began, first, stop, notify).await {
            Ok(slices) => slices,
            Err(why) => {
                workers.shut_down().await;
                return Err(why);
            }
        };
        for measured in slices.iter().flatten() {
            total.add(&measured.slice.total);
            verification.errors.extend(lost_events(plan, &measured.slice.total));
        }
        let step = step(plan, *pace, &slices, !stop.is_requested());
        let sustained = step.sustained;
        steps.push(step);
        if sustained == Some(false) || stop.is_requested() {
            break;
        }
    }
    workers.shut_down().await;
    verification.wrong_answers = total.wrong;
    verification.examples = total.examples;
    server_counts::verify(&plan.etcd_metrics, &before, &total.sent, &mut verification).await;
    Ok((steps, verification))
}

/// Measures one pace: all targets in turn, round after round. `first` is the number of the first
/// slice. With several targets, only the first round has a warm-up.
async fn rounds(
    plan: &Plan,
    pace: Pace,
    workers: &mut Workers,
    began: Instant,
    first: u64,
    stop: &Stop,
    notify: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Vec<MeasuredSlice>>, String> {
    let mut slices: Vec<Vec<MeasuredSlice>> = plan.targets.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.rounds {
        let mut order: Vec<(usize, &Target)> = plan.targets.iter().enumerate().collect();
        // Reverse every second round, so that a steady drift affects all targets alike.
        if round % 2 == 1 {
            order.reverse();
        }
        for (place, target) in order {
            if stop.is_requested() {
                break;
            }
            notify(Progress::Slice(&target.name, pace));
            let warm_up =
                if round == 0 || plan.targets.len() == 1 { plan.warm_up } else { Duration::ZERO };
            // All targets of a round have the same number, and with it the same random choices.
            let spec = SliceSpec {
                base: Instant::now(),
                warm_up,
                pace,
                end: end(plan, round),
                number: first + u64::from(round),
            };
            let at = began.elapsed();
            let usage_of = |pid: Option<u32>| pid.and_then(usage);
            let (target_before, own) = (usage_of(target.pid), usage(std::process::id()));
            let tick = |slice: &Slice, elapsed: Duration| {
                // The second before the last is complete: every thread has reported it.
                if let Some(second) = elapsed.as_secs().checked_sub(2) {
                    notify(Progress::Second(
                        second,
                        slice.timeline.second(second).unwrap_or(&Tally::default()),
                    ));
                }
            };
            let slice = workers.slice(place, spec, tick).await?;
            let used = |before: Option<Usage>, after: Option<Usage>| {
                after.zip(before).map(|(after, before)| (after.since(&before), after.resident))
            };
            // A stopped slice has no planned end.
            let planned = if stop.is_requested() { Duration::ZERO } else { planned(plan) };
            let measured = slice.until.saturating_sub(warm_up).max(planned);
            let measured = MeasuredSlice {
                at,
                measured,
                usage: used(target_before, usage_of(target.pid)),
                own: used(own, usage(std::process::id())).map(|(cpu, _)| cpu),
                slice,
            };
            if let Some(slices) = slices.get_mut(place) {
                slices.push(measured);
            }
        }
    }
    Ok(slices)
}

/// The planned time of one slice.
fn planned(plan: &Plan) -> Duration {
    match plan.length {
        Length::Time(time) => time / plan.rounds.max(1),
        Length::Count(_) => Duration::ZERO,
    }
}

fn end(plan: &Plan, round: u32) -> End {
    match plan.length {
        Length::Time(_) => End::After(planned(plan)),
        Length::Count(count) => {
            End::Count(convert::share(count, u64::from(plan.rounds), u64::from(round)))
        }
    }
}

fn step(plan: &Plan, pace: Pace, slices: &[Vec<MeasuredSlice>], whole: bool) -> Step {
    let targets: Vec<report::TargetReport> = plan
        .targets
        .iter()
        .zip(slices)
        .map(|(target, slices)| {
            report::target_report(&target.name, &target.endpoint.to_string(), slices)
        })
        .collect();
    let names: Vec<String> = plan.targets.iter().map(|target| target.name.clone()).collect();
    let offered = if let Pace::Open(rate) = pace { Some(rate) } else { None };
    // A rate that was not measured to its end is not judged.
    let sustained = (plan.ramp && whole).then(|| {
        let limit = plan.limit_p99.map(convert::micros);
        targets.iter().all(|target| {
            let p99_us =
                target.series.iter().map(|series| series.latency_us.p99).max().unwrap_or(0);
            let due = target.ok + target.failed + target.not_sent;
            // A missing watch event is a failure, too.
            let failed = target
                .series
                .iter()
                .flat_map(|series| &series.failures)
                .map(|failed| failed.count)
                .sum();
            ramp::sustained(RateResult { due, in_time: target.in_time, failed, p99_us }, limit)
        })
    });
    let name = offered.map_or_else(
        || "closed loop".to_owned(),
        |rate| format!("{rate:.0} requests per second due"),
    );
    Step { name, offered, sustained, ratios: report::ratios(&names, slices), targets }
}

/// Checks that all watchers together received every event, as far as the writes have responses.
fn lost_events(plan: &Plan, tally: &Tally) -> Option<String> {
    // Both counts leave out the warm-up in the same way, because an event is due when its write is.
    let events = tally.series.get("watch-event").map_or(0, |events| events.latency.len());
    let puts = tally.series.get("watch-put")?;
    let watchers = u64::try_from(plan.watchers).unwrap_or(0);
    let least = puts.latency.len() * watchers;
    let most = (puts.latency.len() + puts.failed()) * watchers;
    let bad = !(least..=most).contains(&events);
    bad.then(|| format!("{watchers} watchers had {events} events of {} writes", puts.latency.len()))
}

fn assignments(plan: &Plan, keys: &Arc<Keys>, stop: &Arc<Stop>) -> Vec<Assignment> {
    let zipf = Arc::new(Zipf::new(plan.keys, plan.zipf));
    let threads = plan.threads.min(plan.connections).max(1);
    let destinations = |target: &Target, thread: usize| -> Vec<Destination> {
        let mine = (0..plan.connections).filter(|number| number % threads == thread);
        mine.zip(plan.identities.iter().cycle().skip(thread).step_by(threads))
            .map(|(_, identity)| Destination {
                endpoint: target.endpoint.clone(),
                tls: identity.tls.clone(),
            })
            .collect()
    };
    let watchers = if plan.mix.has(Kind::WatchFanout) { plan.watchers } else { 0 };
    (0..threads)
        .map(|thread| Assignment {
            thread,
            threads,
            destinations: plan.targets.iter().map(|target| destinations(target, thread)).collect(),
            streams: plan.streams,
            watchers: (thread..watchers)
                .step_by(threads)
                .map(|number| keys.watched_range(plan.own_ranges.then_some(number)))
                .collect(),
            keys: keys.clone(),
            zipf: zipf.clone(),
            mix: plan.mix.clone(),
            serializable: plan.serializable,
            request_timeout: plan.request_timeout,
            gaps: plan.gaps,
            seed: plan.seed,
            stop: stop.clone(),
        })
        .collect()
}
