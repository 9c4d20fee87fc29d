//! One thread's share of a cluster: its nodes, and the pods on them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::mpsc::{Receiver, UnboundedSender};
use tokio::task::{JoinSet, LocalSet};

use super::central::{self, Controllers, HEALTH_PERIOD};
use super::client::Stage;
use super::cluster::Node;
use super::cni;
use super::made::Made;
use super::node::{MONITOR_PERIOD, Running};
use super::scene::Cluster;
use crate::bench::arrivals::{Arrivals, Gaps};
use crate::bench::book::{Book, Clock, Page};
use crate::bench::connection::Failure;
use crate::bench::dice::Dice;
use crate::bench::stop::Stop;
use crate::bench::timer::Timer;

/// What a thread is told.
pub(super) enum Order {
    Steady,
    Settle(i64),
}

/// What it tells.
pub(super) enum News {
    Page(Page),
    Up,
    Done(i64),
    Settled,
    Failed(String),
}

/// What all clients of one thread share.
pub(super) fn stage(
    cluster: &Cluster,
    made: &Arc<Made>,
    stop: &Arc<Stop>,
    base: Instant,
    notes: UnboundedSender<News>,
) -> Rc<Stage> {
    Rc::new(Stage {
        endpoint: cluster.target.endpoint.clone(),
        patience: cluster.patience,
        size: cluster.value_size,
        stop: stop.clone(),
        book: Rc::new(Book::new(base, Duration::ZERO, Duration::MAX, notes, News::Page)),
        made: made.clone(),
        endpoints_at: Cell::new(0),
    })
}

/// Runs one thread's share until it is told to end.
pub(super) fn work(
    cluster: &Arc<Cluster>,
    made: &Arc<Made>,
    thread: usize,
    base: Instant,
    stop: &Arc<Stop>,
    orders: Receiver<Order>,
    tell: &UnboundedSender<News>,
) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => LocalSet::new()
            .block_on(&runtime, live(cluster, made, thread, base, stop, orders, tell)),
        Err(error) => drop(tell.send(News::Failed(format!("no runtime: {error}")))),
    }
}

async fn live(
    cluster: &Arc<Cluster>,
    made: &Arc<Made>,
    thread: usize,
    base: Instant,
    stop: &Arc<Stop>,
    mut orders: Receiver<Order>,
    tell: &UnboundedSender<News>,
) {
    let stage = stage(cluster, made, stop, base, tell.clone());
    let clock = Clock::of(&stage.book);
    let mine: Vec<&Node> = cluster.nodes.iter().skip(thread).step_by(cluster.threads).collect();
    let (controllers, running) = tokio::join!(
        control(cluster, &stage, thread),
        join_all(mine.iter().map(|node| start(cluster, &stage, node)))
    );
    let running: Vec<Running> = running.into_iter().flatten().collect();
    let _ = tell.send(News::Up);
    if let Some(Order::Steady) = orders.recv().await {
        tokio::join!(
            pods(cluster, thread, &stage, &mine),
            monitor(cluster, &running, stop),
            operate(cluster, &stage, controllers.as_ref(), thread)
        );
    }
    let _ = tell.send(News::Done(stage.endpoints_at.get()));
    if let Some(Order::Settle(revision)) = orders.recv().await {
        settle(&stage, &running, revision).await;
    }
    drop(clock);
    stage.book.close();
    let _ = tell.send(News::Settled);
}

/// kube-controllers, on the first thread.
async fn control(cluster: &Cluster, stage: &Rc<Stage>, thread: usize) -> Option<Controllers> {
    if thread > 0 {
        return None;
    }
    let started = Controllers::start(stage, &cluster.controllers).await;
    stage.book.observe(
        "controllers in sync",
        Duration::ZERO,
        &started.as_ref().map(drop).map_err(Clone::clone),
    );
    started.ok()
}

/// A node starts when it is due.
async fn start(cluster: &Cluster, stage: &Rc<Stage>, node: &Node) -> Option<Running> {
    let share = f64::from(node.number) / crate::bench::figure::length(cluster.nodes.len());
    let due = cluster.spread.mul_f64(share);
    stage.stop.or(tokio::time::sleep_until((stage.book.base() + due).into())).await?;
    let started = Running::start(stage, node).await;
    stage.book.observe("node in sync", due, &started.as_ref().map(drop).map_err(Clone::clone));
    started.ok()
}

/// Pods come and go in turn, at times that are fixed beforehand, each on any of this thread's
/// nodes.
async fn pods(cluster: &Arc<Cluster>, thread: usize, stage: &Rc<Stage>, nodes: &[&Node]) {
    let (Ok(timer), false) = (Timer::new(), nodes.is_empty() || cluster.pods_per_second <= 0.0)
    else {
        return;
    };
    let begin = stage.book.now();
    let stream = u64::try_from(thread).unwrap_or_default();
    let mut dice = Dice::new(cluster.seed, stream);
    let rate = cluster.pods_per_second * 2.0;
    let arrivals = Arrivals::new(
        Gaps::Poisson,
        rate,
        thread,
        cluster.threads,
        Dice::new(cluster.seed, !stream),
    );
    let there: Rc<RefCell<VecDeque<(Node, u64)>>> = Rc::default();
    let mut tasks = JoinSet::new();
    for (number, at) in (0_u64..).zip(arrivals).take_while(|(_, at)| *at < cluster.time) {
        let due = begin + at;
        let Some(Ok(())) = stage.stop.or(timer.until(stage.book.base() + due)).await else { break };
        let (stage, there) = (stage.clone(), there.clone());
        // Also where it is not needed: how fast the answers come is not to change the nodes of
        // those after it.
        let place =
            usize::try_from(dice.below(u64::try_from(nodes.len()).unwrap_or(1))).unwrap_or(0);
        let goes = if number % 2 == 1 { there.borrow_mut().pop_front() } else { None };
        if let Some((node, pod)) = goes {
            tasks.spawn_local(async move {
                let gone = cni::delete(&stage, &node, pod).await;
                stage.book.observe("pod removed", due, &counted_before(gone));
            });
        } else {
            let Some(node) = nodes.get(place).map(|node| (*node).clone()) else { continue };
            // No pod of before has such a number.
            let pod = (1 << 40) + number;
            tasks.spawn_local(async move {
                let added = cni::add(&stage, &node, pod).await;
                stage.book.observe("pod added", due, &counted_before(added.clone()));
                if added.is_ok() {
                    there.borrow_mut().push_back((node, pod));
                }
            });
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// A wrong answer is noted where it came: here it is one failed pod more.
fn counted_before(result: Result<(), Failure>) -> Result<(), Failure> {
    result.map_err(|failure| {
        if let Failure::Wrong(what) = failure { Failure::NotGrpc(what) } else { failure }
    })
}

/// The address monitors, spread over their period.
async fn monitor(cluster: &Cluster, running: &[Running], stop: &Stop) {
    let begin = Instant::now();
    let gap = MONITOR_PERIOD.div_f64(crate::bench::figure::length(running.len().max(1)));
    for (number, node) in running.iter().cycle().enumerate() {
        let due = gap.mul_f64(crate::bench::figure::length(number));
        if due >= cluster.time
            || stop.or(tokio::time::sleep_until((begin + due).into())).await.is_none()
        {
            return;
        }
        node.look().await;
    }
}

/// kube-controllers' health checks, and somebody who looks with calicoctl as often.
async fn operate(
    cluster: &Cluster,
    stage: &Rc<Stage>,
    controllers: Option<&Controllers>,
    thread: usize,
) {
    let begin = Instant::now();
    while thread == 0 && begin.elapsed() < cluster.time && stage.goes_on().is_ok() {
        if let Some(controllers) = controllers {
            controllers.check().await;
        }
        central::calicoctl(stage, &cluster.calicoctl).await;
        stage
            .stop
            .or(tokio::time::sleep(HEALTH_PERIOD.min(cluster.time.saturating_sub(begin.elapsed()))))
            .await;
    }
}

/// Each Felix is to see the last endpoint that was written.
async fn settle(stage: &Rc<Stage>, running: &[Running], revision: i64) {
    let begin = Instant::now();
    let behind = || running.iter().filter(|node| node.felix.get() < revision).count();
    while behind() > 0 && begin.elapsed() < stage.patience {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let behind = behind();
    if behind > 0 {
        let why = format!("{behind} nodes did not see the endpoints up to revision {revision}");
        stage.book.observe("watch event", stage.book.now(), &Err(Failure::Wrong(why)));
    }
}
