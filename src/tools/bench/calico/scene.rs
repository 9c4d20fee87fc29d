//! A cluster on threads: the storm at its start, pods that come and go, and its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};

use super::client::{Client, Names};
use super::cluster::{self, IPAM, Node, R};
use super::life::{News, Order, stage, work};
use super::made::Made;
use crate::bench::connection::{Connection, Door, Failure};
use crate::bench::crew::Slice;
use crate::bench::ground::{self, GroundError, Operator};
use crate::bench::identity::Identity;
use crate::bench::plan::{Progress, Target};
use crate::bench::process::usage;
use crate::bench::report::{self, Measured, Report, Step, Verification};
use crate::bench::stop::Stop;
use crate::bench::tally::Tally;
use crate::bench::witness::{self, MetricsUrl};
use crate::bench::worker::Pace;

/// What all keys of this load begin with: what calicoctl may read, and no more is asked for.
fn prefixes() -> [String; 2] {
    [format!("{R}/"), format!("{IPAM}/")]
}

/// Keys written beforehand, at a time.
const AT_ONCE: usize = 64;

const PREPARE: Names =
    Names { read: "prepare", list: "prepare", write: "prepare", watch: "prepare" };

/// All that is asked for, checked.
pub struct Cluster {
    /// Where all of it calls.
    pub target: Target,
    /// The nodes, each with its certificates.
    pub nodes: Vec<Node>,
    /// As whom kube-controllers call.
    pub controllers: Identity,
    /// As whom calicoctl calls.
    pub calicoctl: Identity,
    /// Who writes what is there beforehand, and removes all at the end.
    pub operator: Identity,
    /// Threads.
    pub threads: usize,
    /// Over which the starts of the nodes are spread; zero: all at once.
    pub spread: Duration,
    /// How long pods come and go.
    pub time: Duration,
    /// Pods that come, and as many that go, per second.
    pub pods_per_second: f64,
    /// Pods that run on each node before.
    pub pods_per_node: u64,
    /// NetworkPolicies that are there before.
    pub policies: u32,
    /// Bytes of each value.
    pub value_size: usize,
    /// How long an answer may take.
    pub patience: Duration,
    /// The seed of all chance.
    pub seed: u64,
    /// Where etcd's members tell what they have counted.
    pub etcd_metrics: Vec<MetricsUrl>,
    /// Whether keys that are there already are no reason to refuse.
    pub force: bool,
}

/// Runs it. On a `LocalSet`.
///
/// # Errors
/// Why it could not begin.
pub async fn run(
    cluster: Arc<Cluster>,
    stop: &Arc<Stop>,
    settings: BTreeMap<&'static str, String>,
    say: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, String> {
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let door =
        Door { endpoint: cluster.target.endpoint.clone(), tls: cluster.operator.tls.clone() };
    let operator = Operator::new(Connection::new(door), cluster.patience);
    for prefix in prefixes() {
        ground::look(&operator, &prefix, cluster.force, |_| false)
            .await
            .map_err(|error| error.to_string())?;
    }
    say(Progress::Note(format!(
        "writing what is there before {} nodes start",
        cluster.nodes.len()
    )));
    let made = Arc::new(Made::default());
    let ran = match prepare(&cluster, &made, stop).await {
        // A report of nothing says that it was stopped, and whether its keys are gone.
        Err(Failure::Stopped) => Ok(Default::default()),
        Err(failure) => Err(format!("writing what is there before: {failure}")),
        Ok(()) => measure(&cluster, &made, stop, say).await,
    };
    say(Progress::Note("removing the keys".to_owned()));
    let cleaned = clean(&operator, &made, cluster.force).await;
    let (measured, verification) = ground::leave(ran, cleaned, "/calico/")?;
    let target = report::target(
        &cluster.target.name,
        &cluster.target.endpoint.to_string(),
        measured.as_slice(),
    );
    let steps = vec![Step {
        name: "the cluster".to_owned(),
        offered: None,
        sustained: None,
        targets: vec![target],
        ratios: Vec::new(),
    }];
    let stopped = stop.is_wanted();
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

/// Makes what is not there, and never writes over anything.
async fn prepare(cluster: &Cluster, made: &Arc<Made>, stop: &Arc<Stop>) -> Result<(), Failure> {
    // Nobody reads these notes.
    let (notes, _) = page_channel();
    let stage = stage(cluster, made, stop, Instant::now(), notes);
    let client = Client::new(&stage, &cluster.operator, PREPARE);
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

/// Removes what was made, and looks whether anything is left that nobody knows of.
async fn clean(operator: &Operator, made: &Made, force: bool) -> Result<(), GroundError> {
    made.clean(operator).await?;
    if !force {
        for prefix in prefixes() {
            ground::look(operator, &prefix, false, |_| false).await?;
        }
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a second of measurements from each thread: none may be lost, and no thread may wait"
)]
fn page_channel() -> (UnboundedSender<News>, UnboundedReceiver<News>) {
    unbounded_channel()
}

async fn measure(
    cluster: &Arc<Cluster>,
    made: &Arc<Made>,
    stop: &Arc<Stop>,
    say: &mut dyn FnMut(Progress<'_>),
) -> Result<(Option<Measured>, Verification), String> {
    let before = witness::handled(&cluster.etcd_metrics).await?;
    let look = |pid: Option<u32>| pid.and_then(usage);
    let (theirs, own) = (look(cluster.target.pid), usage(std::process::id()));
    say(Progress::Slice("the storm", Pace::Closed));
    let slice = on_threads(cluster, made, stop, say).await?;
    let mut verification = Verification {
        wrong_answers: slice.total.wrong,
        examples: slice.total.examples.clone(),
        ..Verification::default()
    };
    witness::confirm(&cluster.etcd_metrics, &before, &slice.total.sent, &mut verification).await;
    let after = look(cluster.target.pid);
    let usage = theirs.zip(after).map(|(before, after)| (after.since(&before), after.resident));
    let own = own
        .zip(crate::bench::process::usage(std::process::id()))
        .map(|(before, after)| after.since(&before));
    Ok((
        Some(Measured { at: Duration::ZERO, measured: slice.until, slice, usage, own }),
        verification,
    ))
}

/// Runs the cluster. When it comes back, for whatever reason, no thread makes keys any more.
async fn on_threads(
    cluster: &Arc<Cluster>,
    made: &Arc<Made>,
    stop: &Arc<Stop>,
    say: &mut dyn FnMut(Progress<'_>),
) -> Result<Slice, String> {
    let (tell, mut news) = page_channel();
    let base = Instant::now();
    let (mut orders, mut threads, mut failed) = (Vec::new(), Vec::new(), None);
    for thread in 0..cluster.threads {
        // One order is given when the one before is done.
        let (order, given) = channel(4);
        let (cluster, made, stop, tell) =
            (cluster.clone(), made.clone(), stop.clone(), tell.clone());
        let begun = std::thread::Builder::new()
            .name(format!("calico-{thread}"))
            .spawn(move || work(&cluster, &made, thread, base, &stop, given, &tell));
        match begun {
            Ok(begun) => threads.push(begun),
            Err(error) => failed = Some(format!("no thread: {error}")),
        }
        orders.push(order);
    }
    drop(tell);
    let heard = match failed {
        None => listen(&orders, &mut news, base, say).await,
        Some(why) => Err(why),
    };
    if heard.is_err() {
        stop.want();
    }
    drop(orders);
    // Each thread has its end of the channel until it ends: to join it would keep signals waiting.
    while news.recv().await.is_some() {}
    for thread in threads {
        // One that panicked has said so.
        let _ = thread.join();
    }
    heard
}

/// Adds up what the threads tell, and lets each phase begin when all have ended the one before.
async fn listen(
    orders: &[Sender<Order>],
    news: &mut UnboundedReceiver<News>,
    base: Instant,
    say: &mut dyn FnMut(Progress<'_>),
) -> Result<Slice, String> {
    let all = |order: fn(i64) -> Order, revision: i64| {
        orders.iter().for_each(|one| drop(one.try_send(order(revision))))
    };
    let mut slice = Slice::default();
    let (mut up, mut done, mut settled, mut endpoints) = (0, 0, 0, 0);
    let mut clock =
        tokio::time::interval_at((base + Duration::from_secs(1)).into(), Duration::from_secs(1));
    while settled < orders.len() {
        tokio::select! {
            news = news.recv() => match news {
                Some(News::Page(page)) => slice.add(page.second, &page.tally, page.until),
                Some(News::Up) => {
                    up += 1;
                    if up == orders.len() {
                        say(Progress::Slice("all nodes are up; pods come and go", Pace::Closed));
                        all(|_| Order::Steady, 0);
                    }
                }
                Some(News::Done(revision)) => {
                    endpoints = endpoints.max(revision);
                    done += 1;
                    if done == orders.len() {
                        all(Order::Settle, endpoints);
                    }
                }
                Some(News::Settled) => settled += 1,
                Some(News::Failed(why)) => return Err(why),
                None => return Err("a thread of the load ended".to_owned()),
            },
            _ = clock.tick() => if let Some(second) = base.elapsed().as_secs().checked_sub(2) {
                say(Progress::Second(second, slice.timeline.second(second).unwrap_or(&Tally::default())));
            }
        }
    }
    Ok(slice)
}
