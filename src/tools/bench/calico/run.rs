//! Runs a cluster on threads: the start of all nodes, pods that are created and deleted, the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};

use super::client::{Client, OperationNames};
use super::cluster::{self, IPAM, Node, R};
use super::created_keys::CreatedKeys;
use super::node_loop::{Command, Update, context, work};
use crate::bench::connection::{Connection, Destination, Failure};
use crate::bench::fixture::{self, FixtureError, Operator};
use crate::bench::identity::Identity;
use crate::bench::plan::{Progress, Target};
use crate::bench::process::usage;
use crate::bench::report::{self, MeasuredSlice, Report, Step, Verification};
use crate::bench::server_counts::{self, MetricsUrl};
use crate::bench::stop::Stop;
use crate::bench::tally::Tally;
use crate::bench::worker::Pace;
use crate::bench::workers::Slice;

/// The prefixes of all keys of this load. Only these are listed, which calicoctl may read.
fn prefixes() -> [String; 2] {
    [format!("{R}/"), format!("{IPAM}/")]
}

/// Initial keys that are written concurrently.
const AT_ONCE: usize = 64;

const PREPARE: OperationNames =
    OperationNames { read: "prepare", list: "prepare", write: "prepare", watch: "prepare" };

/// The checked arguments of a run.
pub struct Cluster {
    /// The server under test.
    pub target: Target,
    /// The nodes with their identities.
    pub nodes: Vec<Node>,
    /// The identity of kube-controllers.
    pub controllers: Identity,
    /// The identity of calicoctl.
    pub calicoctl: Identity,
    /// The identity that writes the initial keys and deletes all keys.
    pub operator: Identity,
    /// Threads that send.
    pub threads: usize,
    /// Time over which the nodes start; zero starts all at once.
    pub spread: Duration,
    /// How long pods are created and deleted.
    pub time: Duration,
    /// Pods created per second; the same number is deleted.
    pub pods_per_second: f64,
    /// Pods per node at the start.
    pub pods_per_node: u64,
    /// NetworkPolicies at the start.
    pub policies: u32,
    /// Bytes of each value.
    pub value_size: usize,
    /// Timeout of a request.
    pub request_timeout: Duration,
    /// Seed of all random choices.
    pub seed: u64,
    /// Metrics URLs of all etcd members.
    pub etcd_metrics: Vec<MetricsUrl>,
    /// Run even if keys exist below the prefixes.
    pub force: bool,
}

/// Runs the cluster. Must be called on a `LocalSet`.
///
/// # Errors
/// Why the run could not start or continue.
pub async fn run(
    cluster: Arc<Cluster>,
    stop: &Arc<Stop>,
    settings: BTreeMap<&'static str, String>,
    notify: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, String> {
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let destination = Destination {
        endpoint: cluster.target.endpoint.clone(),
        tls: cluster.operator.tls.clone(),
    };
    let operator = Operator::new(Connection::new(destination), cluster.request_timeout);
    for prefix in prefixes() {
        fixture::find_leftovers(&operator, &prefix, cluster.force, |_| false)
            .await
            .map_err(|error| error.to_string())?;
    }
    notify(Progress::Note(format!("writing the initial keys of {} nodes", cluster.nodes.len())));
    let created = Arc::new(CreatedKeys::default());
    let result = match prepare(&cluster, &created, stop).await {
        // An empty report still says that the run was stopped, and whether keys are left.
        Err(Failure::Stopped) => Ok(Default::default()),
        Err(failure) => Err(format!("writing the initial keys: {failure}")),
        Ok(()) => measure(&cluster, &created, stop, notify).await,
    };
    notify(Progress::Note("deleting the keys".to_owned()));
    let cleaned = clean(&operator, &created, cluster.force).await;
    let (measured, verification) = fixture::with_cleanup(result, cleaned, "/calico/")?;
    let target = report::target_report(
        &cluster.target.name,
        &cluster.target.endpoint.to_string(),
        measured.as_slice(),
    );
    let steps = vec![Step {
        name: "cluster".to_owned(),
        offered: None,
        sustained: None,
        targets: vec![target],
        ratios: Vec::new(),
    }];
    let stopped = stop.is_requested();
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        started,
        settings,
        steps,
        knee: None,
        verification,
        stopped,
    })
}

/// Creates the initial keys that do not exist. Never overwrites a key.
async fn prepare(
    cluster: &Cluster,
    created: &Arc<CreatedKeys>,
    stop: &Arc<Stop>,
) -> Result<(), Failure> {
    // These measurements are not used.
    let (notes, _) = channel_of_seconds();
    let context = context(cluster, created, stop, Instant::now(), notes);
    let client = Client::new(&context, &cluster.operator, PREPARE);
    let keys: Vec<Vec<u8>> =
        cluster::before(&cluster.nodes, cluster.policies, cluster.pods_per_node).collect();
    for some in keys.chunks(AT_ONCE) {
        join_all(some.iter().map(|key| client.write(key, 0)))
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
    }
    Ok(())
}

/// Deletes all created keys, and checks that no other keys are left.
async fn clean(
    operator: &Operator,
    created: &CreatedKeys,
    force: bool,
) -> Result<(), FixtureError> {
    created.clean(operator).await?;
    if !force {
        for prefix in prefixes() {
            fixture::find_leftovers(operator, &prefix, false, |_| false).await?;
        }
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "one message per second and thread: none may be lost, and no thread may wait"
)]
fn channel_of_seconds() -> (UnboundedSender<Update>, UnboundedReceiver<Update>) {
    unbounded_channel()
}

async fn measure(
    cluster: &Arc<Cluster>,
    created: &Arc<CreatedKeys>,
    stop: &Arc<Stop>,
    notify: &mut dyn FnMut(Progress<'_>),
) -> Result<(Option<MeasuredSlice>, Verification), String> {
    let before = server_counts::handled(&cluster.etcd_metrics).await?;
    let look = |pid: Option<u32>| pid.and_then(usage);
    let (target_before, own_before) = (look(cluster.target.pid), usage(std::process::id()));
    notify(Progress::Slice("start of all nodes", Pace::Closed));
    let slice = on_threads(cluster, created, stop, notify).await?;
    let mut verification = Verification {
        wrong_answers: slice.total.wrong,
        examples: slice.total.examples.clone(),
        ..Verification::default()
    };
    server_counts::verify(&cluster.etcd_metrics, &before, &slice.total.sent, &mut verification)
        .await;
    let after = look(cluster.target.pid);
    let usage =
        target_before.zip(after).map(|(before, after)| (after.since(&before), after.resident));
    let own = own_before
        .zip(crate::bench::process::usage(std::process::id()))
        .map(|(before, after)| after.since(&before));
    Ok((
        Some(MeasuredSlice { at: Duration::ZERO, measured: slice.until, slice, usage, own }),
        verification,
    ))
}

/// Runs the threads. After it returns, with whatever result, no thread creates keys.
async fn on_threads(
    cluster: &Arc<Cluster>,
    created: &Arc<CreatedKeys>,
    stop: &Arc<Stop>,
    notify: &mut dyn FnMut(Progress<'_>),
) -> Result<Slice, String> {
    let (sender, mut updates) = channel_of_seconds();
    let base = Instant::now();
    let (mut commands, mut threads, mut failed) = (Vec::new(), Vec::new(), None);
    for thread in 0..cluster.threads {
        // Each command is sent after the one before is done, so this never fills up.
        let (command, given) = channel(4);
        let (cluster, created, stop, sender) =
            (cluster.clone(), created.clone(), stop.clone(), sender.clone());
        let thread_handle = std::thread::Builder::new()
            .name(format!("calico-{thread}"))
            .spawn(move || work(&cluster, &created, thread, base, &stop, given, &sender));
        match thread_handle {
            Ok(thread_handle) => threads.push(thread_handle),
            Err(error) => failed = Some(format!("cannot start a thread: {error}")),
        }
        commands.push(command);
    }
    drop(sender);
    let result = match failed {
        None => listen(&commands, &mut updates, base, notify).await,
        Some(why) => Err(why),
    };
    if result.is_err() {
        stop.request();
    }
    drop(commands);
    // A thread closes its end of the channel when it ends. Waiting for that, unlike a join, lets
    // signals be handled.
    while updates.recv().await.is_some() {}
    for thread in threads {
        // A panic has been reported by the thread.
        let _ = thread.join();
    }
    result
}

/// Adds up the measurements of all threads, and starts each phase when all have ended the one
/// before.
async fn listen(
    commands: &[Sender<Command>],
    updates: &mut UnboundedReceiver<Update>,
    base: Instant,
    notify: &mut dyn FnMut(Progress<'_>),
) -> Result<Slice, String> {
    let all = |command: fn(i64) -> Command, revision: i64| {
        commands.iter().for_each(|one| drop(one.try_send(command(revision))));
    };
    let mut slice = Slice::default();
    let (mut up, mut done, mut settled, mut endpoints) = (0, 0, 0, 0);
    let mut ticker =
        tokio::time::interval_at((base + Duration::from_secs(1)).into(), Duration::from_secs(1));
    while settled < commands.len() {
        tokio::select! {
            updates = updates.recv() => match updates {
                Some(Update::Second(second)) => slice.add(second.number, &second.tally, second.until),
                Some(Update::Up) => {
                    up += 1;
                    if up == commands.len() {
                        notify(Progress::Slice("all nodes are up; creating and deleting pods", Pace::Closed));
                        all(|_| Command::Steady, 0);
                    }
                }
                Some(Update::Done(revision)) => {
                    endpoints = endpoints.max(revision);
                    done += 1;
                    if done == commands.len() {
                        all(Command::Settle, endpoints);
                    }
                }
                Some(Update::Settled) => settled += 1,
                Some(Update::Failed(why)) => return Err(why),
                None => return Err("a thread of the load has ended".to_owned()),
            },
            _ = ticker.tick() => if let Some(second) = base.elapsed().as_secs().checked_sub(2) {
                notify(Progress::Second(second, slice.timeline.second(second).unwrap_or(&Tally::default())));
            }
        }
    }
    Ok(slice)
}
