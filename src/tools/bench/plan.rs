//! A run from its first key to its report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use etcd_warden_gateway::config::Endpoint;

use super::arrivals::Gaps;
use super::connection::{Connection, Door, Failure};
use super::crew::{Crew, Slice};
use super::figure;
use super::ground::{self, GroundError, Operator};
use super::identity::Identity;
use super::keys::Keys;
use super::mix::{Kind, Mix};
use super::process::{Usage, usage};
use super::ramp::{self, Shown};
use super::report::{self, Measured, Report, Step, Verification};
use super::stop::Stop;
use super::tally::Tally;
use super::witness::{self, MetricsUrl};
use super::worker::{Assignment, End, Go, Pace};
use super::zipf::Zipf;

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    /// How reports call it.
    pub name: String,
    /// Its URL.
    pub endpoint: Endpoint,
    /// The process whose CPU time and memory is looked at.
    pub pid: Option<u32>,
}

/// All that is asked for, checked.
pub struct Plan {
    /// One, or several that are compared.
    pub targets: Vec<Target>,
    /// Who calls: connection after connection takes the next one.
    pub identities: Vec<Identity>,
    /// Who writes the keys beforehand, and removes them.
    pub operator: Identity,
    /// What is done.
    pub mix: Mix,
    /// How many keys are read and written at random.
    pub keys: u64,
    /// Bytes of each value.
    pub value_size: usize,
    /// The exponent of their popularity.
    pub zipf: f64,
    /// Whether reads are serializable.
    pub serializable: bool,
    /// Connections to each target.
    pub connections: usize,
    /// Streams at a time on each.
    pub streams: usize,
    /// Threads that send.
    pub threads: usize,
    /// Watchers that each write of `watch-fanout` goes to.
    pub watchers: usize,
    /// Whether each of them watches a range of its own.
    pub own_ranges: bool,
    /// The gaps of an open loop.
    pub gaps: Gaps,
    /// One pace, or the rates of a ramp.
    pub paces: Vec<Pace>,
    /// Whether it is a ramp, which ends with the first rate that is not sustained.
    pub ramp: bool,
    /// What a sustained rate may have as its p99.
    pub limit_p99: Option<Duration>,
    /// The seed of all chance.
    pub seed: u64,
    /// How long an answer may take.
    pub patience: Duration,
    /// What is not measured at the start of each pace.
    pub warm_up: Duration,
    /// All slices of one target together: a time, or a number of requests.
    pub length: Length,
    /// Slices of each target, in turn.
    pub rounds: u32,
    /// Where etcd's members tell what they have counted.
    pub etcd_metrics: Vec<MetricsUrl>,
    /// What all keys begin with.
    pub prefix: String,
    /// Whether keys of others below the prefix are no reason to refuse.
    pub force: bool,
}

/// How long all slices of one target and one pace are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// A time.
    Time(Duration),
    /// Requests.
    Count(u64),
}

/// What happens while it runs, for whoever looks on.
pub enum Progress<'p> {
    /// A slice of this target begins at this pace.
    Slice(&'p str, Pace),
    /// A second of it is over.
    Second(u64, &'p Tally),
    /// Something else.
    Note(String),
}

/// Runs it. On a `LocalSet`.
///
/// # Errors
/// Why it could not begin, or not go on.
pub async fn run(
    plan: &Plan,
    stop: &Arc<Stop>,
    settings: BTreeMap<&'static str, String>,
    say: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, String> {
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let first = plan.targets.first().ok_or("there is no target")?;
    let connect = |target: &Target, who: &Identity| {
        Operator::new(
            Connection::new(Door { endpoint: target.endpoint.clone(), tls: who.tls.clone() }),
            plan.patience,
        )
    };
    if plan.targets.len() > 1 {
        let somebody = plan.identities.first().unwrap_or(&plan.operator);
        let all: Vec<_> = plan
            .targets
            .iter()
            .map(|target| (target.name.clone(), connect(target, somebody)))
            .collect();
        ground::one_cluster(&all, &plan.prefix).await.map_err(|error| error.to_string())?;
    }
    let operator = connect(first, &plan.operator);
    let keys = Arc::new(Keys::new(&plan.prefix, plan.keys, plan.value_size, plan.serializable));
    let left = ground::look(&operator, &keys.prefix, plan.force, |key| keys.is_ours(key))
        .await
        .map_err(|error| error.to_string())?;
    say(Progress::Note(format!(
        "writing {} keys of {} bytes below {}",
        plan.keys, plan.value_size, plan.prefix
    )));
    // From here on keys may be there, whatever happens.
    let ran = match ground::prepare(&operator, &keys, &left, stop).await {
        Ok(()) => measure(plan, &keys, stop, say).await,
        // A report of nothing says that it was stopped, and whether its keys are gone.
        Err(GroundError::Failed { failure: Failure::Stopped, .. }) => Ok(Default::default()),
        Err(error) => Err(error.to_string()),
    };
    say(Progress::Note("removing the keys".to_owned()));
    let cleaned = ground::clean(&operator, &keys).await;
    let (steps, verification) = ground::leave(ran, cleaned, &plan.prefix)?;
    let knee = steps
        .iter()
        .filter(|step| step.sustained == Some(true))
        .filter_map(|step| step.offered)
        .reduce(f64::max);
    let stopped = stop.is_wanted();
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
    say: &mut dyn FnMut(Progress<'_>),
) -> Result<(Vec<Step>, Verification), String> {
    let before = witness::handled(&plan.etcd_metrics).await?;
    let mut crew = Crew::assemble(assignments(plan, keys, stop)).await?;
    let began = Instant::now();
    let (mut steps, mut verification, mut total) =
        (Vec::new(), Verification::default(), Tally::default());
    for (number, pace) in (0_u64..).zip(&plan.paces) {
        let first = number * u64::from(plan.rounds);
        let slices = match rounds(plan, *pace, &mut crew, began, first, stop, say).await {
            Ok(slices) => slices,
            Err(why) => {
                crew.dismiss().await;
                return Err(why);
            }
        };
        for measured in slices.iter().flatten() {
            total.add(&measured.slice.total);
            verification.mistakes.extend(lost_events(plan, &measured.slice.total));
        }
        let step = step(plan, *pace, &slices, !stop.is_wanted());
        let sustained = step.sustained;
        steps.push(step);
        if sustained == Some(false) || stop.is_wanted() {
            break;
        }
    }
    crew.dismiss().await;
    verification.wrong_answers = total.wrong;
    verification.examples = total.examples;
    witness::confirm(&plan.etcd_metrics, &before, &total.sent, &mut verification).await;
    Ok((steps, verification))
}

/// One pace: the targets in turn, round after round, of which the first has this number. Each of
/// several has its warm-up in the first.
async fn rounds(
    plan: &Plan,
    pace: Pace,
    crew: &mut Crew,
    began: Instant,
    first: u64,
    stop: &Stop,
    say: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Vec<Measured>>, String> {
    let mut slices: Vec<Vec<Measured>> = plan.targets.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.rounds {
        let mut order: Vec<(usize, &Target)> = plan.targets.iter().enumerate().collect();
        // There and back: what changes steadily meets first and last alike.
        if round % 2 == 1 {
            order.reverse();
        }
        for (place, target) in order {
            if stop.is_wanted() {
                break;
            }
            say(Progress::Slice(&target.name, pace));
            let warm_up =
                if round == 0 || plan.targets.len() == 1 { plan.warm_up } else { Duration::ZERO };
            // The same number, and with it the same chance, for all targets: each gets what the
            // others get.
            let go = Go {
                base: Instant::now(),
                warm_up,
                pace,
                end: end(plan, round),
                number: first + u64::from(round),
            };
            let at = began.elapsed();
            let looked = |pid: Option<u32>| pid.and_then(usage);
            let (theirs, own) = (looked(target.pid), usage(std::process::id()));
            let tick = |slice: &Slice, elapsed: Duration| {
                // The second before the last: what ended in it has been told by every thread.
                if let Some(second) = elapsed.as_secs().checked_sub(2) {
                    say(Progress::Second(
                        second,
                        slice.timeline.second(second).unwrap_or(&Tally::default()),
                    ));
                }
            };
            let slice = crew.slice(place, go, tick).await?;
            let used = |before: Option<Usage>, after: Option<Usage>| {
                after.zip(before).map(|(after, before)| (after.since(&before), after.resident))
            };
            // One that was stopped has no planned end.
            let planned = if stop.is_wanted() { Duration::ZERO } else { planned(plan) };
            let measured = slice.until.saturating_sub(warm_up).max(planned);
            let measured = Measured {
                at,
                measured,
                usage: used(theirs, looked(target.pid)),
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

/// The measured time of one slice.
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
            End::Count(figure::share(count, u64::from(plan.rounds), u64::from(round)))
        }
    }
}

fn step(plan: &Plan, pace: Pace, slices: &[Vec<Measured>], whole: bool) -> Step {
    let targets: Vec<report::Target> = plan
        .targets
        .iter()
        .zip(slices)
        .map(|(target, slices)| report::target(&target.name, &target.endpoint.to_string(), slices))
        .collect();
    let names: Vec<String> = plan.targets.iter().map(|target| target.name.clone()).collect();
    let offered = if let Pace::Open(rate) = pace { Some(rate) } else { None };
    // A rate that was not measured to its end has shown nothing.
    let sustained = (plan.ramp && whole).then(|| {
        let limit = plan.limit_p99.map(figure::micros);
        targets.iter().all(|target| {
            let p99_us =
                target.series.iter().map(|series| series.latency_us.p99).max().unwrap_or(0);
            let due = target.ok + target.failed + target.not_sent;
            // An event that did not come is a failure too.
            let failed = target
                .series
                .iter()
                .flat_map(|series| &series.failures)
                .map(|failed| failed.count)
                .sum();
            ramp::sustained(Shown { due, in_time: target.in_time, failed, p99_us }, limit)
        })
    });
    let name = offered.map_or_else(
        || "closed loop".to_owned(),
        |rate| format!("{rate:.0} requests per second due"),
    );
    Step { name, offered, sustained, ratios: report::ratios(&names, slices), targets }
}

/// Whether all watchers together have had each event, as far as its write has an answer.
fn lost_events(plan: &Plan, tally: &Tally) -> Option<String> {
    // What is noted of writes and events is without the warm-up, in both alike: they are due at the
    // same time.
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
    let doors = |target: &Target, thread: usize| -> Vec<Door> {
        let mine = (0..plan.connections).filter(|number| number % threads == thread);
        mine.zip(plan.identities.iter().cycle().skip(thread).step_by(threads))
            .map(|(_, identity)| Door {
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
            doors: plan.targets.iter().map(|target| doors(target, thread)).collect(),
            streams: plan.streams,
            watchers: (thread..watchers)
                .step_by(threads)
                .map(|number| keys.watched_range(plan.own_ranges.then_some(number)))
                .collect(),
            keys: keys.clone(),
            zipf: zipf.clone(),
            mix: plan.mix.clone(),
            serializable: plan.serializable,
            patience: plan.patience,
            gaps: plan.gaps,
            seed: plan.seed,
            stop: stop.clone(),
        })
        .collect()
}
