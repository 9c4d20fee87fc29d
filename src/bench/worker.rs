//! One thread of the load: its own runtime, its own connections, and nothing shared with others while it sends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::mpsc::{Receiver, UnboundedSender};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, LocalSet};

use super::arrivals::{Arrivals, Gaps};
use super::book::{Book, Page};
use super::connection::{Connection, Door};
use super::dice::Dice;
use super::fan::Watcher;
use super::keys::Keys;
use super::mix::Mix;
use super::slot::{Scene, Slot};
use super::timer::Timer;
use super::zipf::Zipf;

/// Handshakes of one thread at a time.
const HANDSHAKES: usize = 32;

/// What a thread is to do in all slices.
pub struct Assignment {
    /// Which of the threads it is.
    pub thread: usize,
    /// How many there are.
    pub threads: usize,
    /// Its connections to each target.
    pub doors: Vec<Vec<Door>>,
    /// Streams at a time on each.
    pub streams: usize,
    /// Watchers of this thread.
    pub watchers: usize,
    /// The keys.
    pub keys: Arc<Keys>,
    /// Which of them are asked for.
    pub zipf: Arc<Zipf>,
    /// What is done.
    pub mix: Mix,
    /// Whether reads are serializable.
    pub serializable: bool,
    /// How long an answer may take.
    pub patience: Duration,
    /// The gaps of an open loop.
    pub gaps: Gaps,
    /// The seed of the run.
    pub seed: u64,
    /// Set when everybody is to stop.
    pub stop: Arc<AtomicBool>,
}

/// How fast it is to go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each stream sends as soon as it has its answer.
    Closed,
    /// So many requests per second over all threads, whatever the answers do.
    Open(f64),
}

/// When a slice ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// So long after its warm-up.
    After(Duration),
    /// After so many requests of each thread, warm-up not counted.
    Count(u64),
}

/// One slice.
#[derive(Clone, Copy, Debug)]
pub struct Go {
    /// When it begins.
    pub base: Instant,
    /// What is not measured, from its begin on.
    pub warm_up: Duration,
    /// How fast.
    pub pace: Pace,
    /// Until when.
    pub end: End,
    /// Which slice of the run it is, for chance.
    pub number: u64,
}

/// What a thread is told.
pub enum Order {
    /// To open watches at a target.
    Prepare(usize),
    /// To send.
    Go(Go),
    /// To wait until its watchers have seen this revision, and to end the slice.
    Settle(i64),
}

/// What it tells.
#[derive(Debug)]
pub enum News {
    /// Its connections, or its watches, are open.
    Ready,
    /// They are not.
    Failed(String),
    /// A second of measurements.
    Page(Page),
    /// All is sent and answered; the highest revision that watchers are to see.
    Done(i64),
    /// The slice is over.
    Settled,
}

/// Runs until nobody has orders any more.
pub fn run(assignment: Assignment, mut orders: Receiver<Order>, news: UnboundedSender<News>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(news.send(News::Failed(format!("no runtime: {error}")))),
    };
    LocalSet::new().block_on(&runtime, async {
        let assignment = Rc::new(assignment);
        let mut targets = Vec::new();
        for doors in &assignment.doors {
            let connections: Vec<Rc<Connection>> = doors.iter().map(|door| Rc::new(Connection::new(door.clone()))).collect();
            for some in connections.chunks(HANDSHAKES) {
                let opened = join_all(some.iter().map(|connection| connection.open())).await;
                if let Some(failure) = opened.into_iter().find_map(Result::err) {
                    return drop(news.send(News::Failed(failure.to_string())));
                }
            }
            targets.push(connections);
        }
        let _ = news.send(News::Ready);
        while let Some(order) = orders.recv().await {
            let Order::Prepare(target) = order else { continue };
            let connections = targets.get(target).cloned().unwrap_or_default();
            slice(&assignment, &connections, &mut orders, &news).await;
        }
    });
}

/// Prepare has been said.
async fn slice(assignment: &Rc<Assignment>, connections: &[Rc<Connection>], orders: &mut Receiver<Order>, news: &UnboundedSender<News>) {
    let mut watchers = Vec::new();
    for connection in connections.iter().cycle().take(assignment.watchers) {
        match Watcher::open(connection, &assignment.keys, assignment.patience).await {
            Ok(watcher) => watchers.push(watcher),
            Err(failure) => return drop(news.send(News::Failed(format!("a watcher: {failure}")))),
        }
    }
    let _ = news.send(News::Ready);
    let Some(Order::Go(go)) = orders.recv().await else { return };
    let book = Rc::new(Book::new(go.base, go.warm_up, news.clone(), News::Page));
    let (until, seen) = watch::channel(None);
    let mut watching = JoinSet::new();
    for watcher in watchers {
        let (assignment, book, seen) = (assignment.clone(), book.clone(), seen.clone());
        watching.spawn_local(async move { watcher.run(book, &assignment.keys, seen, assignment.patience).await });
    }
    let scene = Rc::new(Scene {
        keys: assignment.keys.clone(),
        zipf: assignment.zipf.clone(),
        mix: assignment.mix.clone(),
        serializable: assignment.serializable,
        patience: assignment.patience,
        book: book.clone(),
        highest: Cell::new(0),
        told: Cell::new(0),
        written: RefCell::new(vec![0; assignment.keys.data.len()]),
    });
    send(assignment, connections, &scene, go).await;
    let _ = news.send(News::Done(scene.told.get()));
    if let Some(Order::Settle(revision)) = orders.recv().await {
        let _ = until.send(Some(revision));
        while watching.join_next().await.is_some() {}
    }
    book.close();
    let _ = news.send(News::Settled);
}

/// Sends all of a slice, and waits for the answers.
async fn send(assignment: &Rc<Assignment>, connections: &[Rc<Connection>], scene: &Rc<Scene>, go: Go) {
    let jobs = Rc::new(Jobs {
        go,
        left: Cell::new(count(go.end)),
        stop: assignment.stop.clone(),
        due: RefCell::default(),
        bell: Notify::new(),
        over: Cell::new(false),
    });
    let mut slots = JoinSet::new();
    for number in 0..connections.len().saturating_mul(assignment.streams) {
        let Some(connection) = connections.get(number % connections.len().max(1)) else { continue };
        let chance = go.number.wrapping_mul(1 << 32).wrapping_add(u64::try_from(assignment.thread * 1_000_000 + number).unwrap_or(0));
        let mut slot = Slot::new(connection.clone(), assignment.thread, number, Dice::new(assignment.seed, chance));
        let (jobs, scene) = (jobs.clone(), scene.clone());
        slots.spawn_local(async move {
            while let Some(due) = jobs.next(&scene.book).await {
                scene.book.leaves(due);
                slot.work(&scene, due).await;
            }
            slot.end(&scene).await;
        });
    }
    if let Pace::Open(rate) = go.pace {
        let dice = Dice::new(assignment.seed, u64::MAX - go.number * 1024 - u64::try_from(assignment.thread).unwrap_or(0));
        let arrivals = Arrivals::new(assignment.gaps, rate, assignment.thread, assignment.threads, dice);
        jobs.dispatch(arrivals).await;
    }
    while slots.join_next().await.is_some() {}
}

const fn count(end: End) -> u64 {
    match end {
        End::Count(count) => count,
        End::After(_) => u64::MAX,
    }
}

/// What is to be done, and by whom.
struct Jobs {
    go: Go,
    left: Cell<u64>,
    stop: Arc<AtomicBool>,
    /// Of an open loop: what is due and not yet taken.
    due: RefCell<VecDeque<Duration>>,
    bell: Notify,
    over: Cell<bool>,
}

impl Jobs {
    /// The next job of one stream; `None` at the end.
    async fn next(&self, book: &Book) -> Option<Duration> {
        if self.go.pace == Pace::Closed {
            if let Some(early) = self.go.base.checked_duration_since(Instant::now()) {
                tokio::time::sleep(early).await;
            }
            let now = book.now();
            return self.admits(now).then_some(now);
        }
        loop {
            if let Some(due) = self.due.borrow_mut().pop_front() {
                return Some(due);
            }
            if self.over.get() {
                return None;
            }
            self.bell.notified().await;
        }
    }

    /// Hands out what is due when it is due.
    async fn dispatch(&self, arrivals: Arrivals) {
        // Without a timer nothing can be due: it would show as a slice without a request.
        if let Ok(timer) = Timer::new() {
            for (number, due) in arrivals.enumerate() {
                if !self.admits(due) || timer.until(self.go.base + due).await.is_err() {
                    break;
                }
                self.due.borrow_mut().push_back(due);
                self.bell.notify_one();
                if number % 64 == 63 {
                    tokio::task::yield_now().await;
                }
            }
        }
        self.over.set(true);
        self.bell.notify_waiters();
    }

    /// Whether what is due then still belongs to the slice; counts it.
    fn admits(&self, due: Duration) -> bool {
        let measured = due >= self.go.warm_up;
        let in_time = match self.go.end {
            End::After(time) => due < self.go.warm_up + time,
            End::Count(_) => !measured || self.left.get() > 0,
        };
        if in_time && measured {
            self.left.set(self.left.get().saturating_sub(1));
        }
        in_time && !self.stop.load(Ordering::Relaxed)
    }
}
