//! One thread's share of the cluster: its nodes and their pods.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::mpsc::{Receiver, UnboundedSender};
use tokio::task::{JoinSet, LocalSet};

use super::central::{self, Controllers, HEALTH_PERIOD};
use super::client::ClientContext;
use super::cluster::Node;
use super::cni;
use super::created_keys::CreatedKeys;
use super::node::{MONITOR_PERIOD, RunningNode};
use super::run::Cluster;
use crate::bench::arrivals::{Arrivals, Gaps};
use crate::bench::connection::Failure;
use crate::bench::recorder::{Recorder, Second, Ticker};
use crate::bench::rng::Rng;
use crate::bench::stop::Stop;
use crate::bench::timer::Timer;

/// Commands to a thread.
pub(super) enum Command {
    Steady,
    Settle(i64),
}

/// Messages from a thread.
pub(super) enum Update {
    Second(Second),
    Up,
    Done(i64),
    Settled,
    Failed(String),
}

/// Creates the state that all clients of one thread share.
pub(super) fn context(
    cluster: &Cluster,
    created: &Arc<CreatedKeys>,
    stop: &Arc<Stop>,
    base: Instant,
    notes: UnboundedSender<Update>,
) -> Rc<ClientContext> {
    Rc::new(ClientContext {
        endpoint: cluster.target.endpoint.clone(),
        request_timeout: cluster.request_timeout,
        size: cluster.value_size,
        stop: stop.clone(),
        recorder: Rc::new(Recorder::new(
            base,
            Duration::ZERO,
            Duration::MAX,
            notes,
            Update::Second,
        )),
        created: created.clone(),
        endpoint_revision: Cell::new(0),
    })
}

/// Runs one thread's share to the end.
pub(super) fn work(
    cluster: &Arc<Cluster>,
    created: &Arc<CreatedKeys>,
    thread: usize,
    base: Instant,
    stop: &Arc<Stop>,
    commands: Receiver<Command>,
    sender: &UnboundedSender<Update>,
) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => LocalSet::new()
            .block_on(&runtime, live(cluster, created, thread, base, stop, commands, sender)),
        Err(error) => {
            drop(sender.send(Update::Failed(format!("cannot create a runtime: {error}"))));
        }
    }
}

async fn live(
    cluster: &Arc<Cluster>,
    created: &Arc<CreatedKeys>,
    thread: usize,
    base: Instant,
    stop: &Arc<Stop>,
    mut commands: Receiver<Command>,
    sender: &UnboundedSender<Update>,
) {
    let context = context(cluster, created, stop, base, sender.clone());
    let ticker = Ticker::of(&context.recorder);
    let mine: Vec<&Node> = cluster.nodes.iter().skip(thread).step_by(cluster.threads).collect();
    let (controllers, running) = tokio::join!(
        control(cluster, &context, thread),
        join_all(mine.iter().map(|node| start(cluster, &context, node)))
    );
    let running: Vec<RunningNode> = running.into_iter().flatten().collect();
    let _ = sender.send(Update::Up);
    if let Some(Command::Steady) = commands.recv().await {
        tokio::join!(
            pods(cluster, thread, &context, &mine),
            monitor(cluster, &running, stop),
            operate(cluster, &context, controllers.as_ref(), thread)
        );
    }
    let _ = sender.send(Update::Done(context.endpoint_revision.get()));
    if let Some(Command::Settle(revision)) = commands.recv().await {
        settle(&context, &running, revision).await;
    }
    drop(ticker);
    context.recorder.close();
    let _ = sender.send(Update::Settled);
}

/// Starts kube-controllers, on the first thread only.
async fn control(
    cluster: &Cluster,
    context: &Rc<ClientContext>,
    thread: usize,
) -> Option<Controllers> {
    if thread > 0 {
        return None;
    }
    let started = Controllers::start(context, &cluster.controllers).await;
    context.recorder.record_event(
        "controllers in sync",
        Duration::ZERO,
        &started.as_ref().map(drop).map_err(Clone::clone),
    );
    started.ok()
}

/// Starts a node when it is due.
async fn start(cluster: &Cluster, context: &Rc<ClientContext>, node: &Node) -> Option<RunningNode> {
    let share = f64::from(node.number) / crate::bench::convert::length(cluster.nodes.len());
    let due = cluster.spread.mul_f64(share);
    context.stop.or(tokio::time::sleep_until((context.recorder.base() + due).into())).await?;
    let started = RunningNode::start(context, node).await;
    context.recorder.record_event(
        "node in sync",
        due,
        &started.as_ref().map(drop).map_err(Clone::clone),
    );
    started.ok()
}

/// Adds and deletes pods in turn, at predetermined times, each on a random node of this thread.
async fn pods(cluster: &Arc<Cluster>, thread: usize, context: &Rc<ClientContext>, nodes: &[&Node]) {
    let (Ok(timer), false) = (Timer::new(), nodes.is_empty() || cluster.pods_per_second <= 0.0)
    else {
        return;
    };
    let begin = context.recorder.now();
    let stream = u64::try_from(thread).unwrap_or_default();
    let mut rng = Rng::new(cluster.seed, stream);
    let rate = cluster.pods_per_second * 2.0;
    let arrivals = Arrivals::new(
        Gaps::Poisson,
        rate,
        thread,
        cluster.threads,
        Rng::new(cluster.seed, !stream),
    );
    let there: Rc<RefCell<VecDeque<(Node, u64)>>> = Rc::default();
    let mut tasks = JoinSet::new();
    for (number, at) in (0_u64..).zip(arrivals).take_while(|(_, at)| *at < cluster.time) {
        let due = begin + at;
        let Some(Ok(())) = context.stop.or(timer.until(context.recorder.base() + due)).await else {
            break;
        };
        let (context, there) = (context.clone(), there.clone());
        // Drawn even if it is not used, so that response times do not change the nodes of later
        // pods.
        let place =
            usize::try_from(rng.below(u64::try_from(nodes.len()).unwrap_or(1))).unwrap_or(0);
        let goes = if number % 2 == 1 { there.borrow_mut().pop_front() } else { None };
        if let Some((node, pod)) = goes {
            tasks.spawn_local(async move {
                let gone = cni::delete(&context, &node, pod).await;
                context.recorder.record_event("pod removed", due, &counted_before(gone));
            });
        } else {
            let Some(node) = nodes.get(place).map(|node| (*node).clone()) else { continue };
            // Higher than the number of any initial pod.
            let pod = (1 << 40) + number;
            tasks.spawn_local(async move {
                let added = cni::add(&context, &node, pod).await;
                context.recorder.record_event("pod added", due, &counted_before(added.clone()));
                if added.is_ok() {
                    there.borrow_mut().push_back((node, pod));
                }
            });
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// A wrong response has been recorded by its request. Here it only makes one more failed pod.
fn counted_before(result: Result<(), Failure>) -> Result<(), Failure> {
    result.map_err(|failure| {
        if let Failure::Wrong(what) = failure { Failure::NotGrpc(what) } else { failure }
    })
}

/// Runs the address monitors, spread over their period.
async fn monitor(cluster: &Cluster, running: &[RunningNode], stop: &Stop) {
    let begin = Instant::now();
    let gap = MONITOR_PERIOD.div_f64(crate::bench::convert::length(running.len().max(1)));
    for (number, node) in running.iter().cycle().enumerate() {
        let due = gap.mul_f64(crate::bench::convert::length(number));
        if due >= cluster.time
            || stop.or(tokio::time::sleep_until((begin + due).into())).await.is_none()
        {
            return;
        }
        node.look().await;
    }
}

/// Sends kube-controllers' health checks and, at the same interval, a command of calicoctl.
async fn operate(
    cluster: &Cluster,
    context: &Rc<ClientContext>,
    controllers: Option<&Controllers>,
    thread: usize,
) {
    let begin = Instant::now();
    while thread == 0 && begin.elapsed() < cluster.time && context.check_stop().is_ok() {
        if let Some(controllers) = controllers {
            controllers.check().await;
        }
        central::calicoctl(context, &cluster.calicoctl).await;
        context
            .stop
            .or(tokio::time::sleep(HEALTH_PERIOD.min(cluster.time.saturating_sub(begin.elapsed()))))
            .await;
    }
}

/// Waits until each Felix has seen the last endpoint that was written.
async fn settle(context: &Rc<ClientContext>, running: &[RunningNode], revision: i64) {
    let begin = Instant::now();
    let behind = || running.iter().filter(|node| node.felix.get() < revision).count();
    while behind() > 0 && begin.elapsed() < context.request_timeout {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let behind = behind();
    if behind > 0 {
        let why = format!("{behind} nodes did not see the endpoints up to revision {revision}");
        context.recorder.record_event(
            "watch event",
            context.recorder.now(),
            &Err(Failure::Wrong(why)),
        );
    }
}
