//! One thread of the load: its own runtime, its own connections, and nothing shared with others
//! while it sends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::mpsc::{Receiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use super::arrivals::{Arrivals, Gaps};
use super::book::{Book, Clock, Page};
use super::connection::{Connection, Door};
use super::dice::Dice;
use super::fan::Watcher;
use super::figure;
use super::jobs::Jobs;
use super::keys::Keys;
use super::mix::Mix;
use super::slot::{Scene, Slot};
use super::stop::Stop;
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
    /// What each watcher of this thread watches: first key, and the one behind the last.
    pub watchers: Vec<[Vec<u8>; 2]>,
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
    pub stop: Arc<Stop>,
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
    /// After so many requests of all threads together, warm-up not counted.
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

impl Go {
    /// What one of several threads has of it.
    #[must_use]
    pub fn of_thread(self, thread: usize, threads: usize) -> Self {
        let number = |of: usize| u64::try_from(of).unwrap_or(u64::MAX);
        match self.end {
            End::Count(count) => Self {
                end: End::Count(figure::share(count, number(threads), number(thread))),
                ..self
            },
            End::After(_) => self,
        }
    }

    /// When its time is over, counted from its begin; never for a number of requests.
    #[must_use]
    pub const fn until(&self) -> Duration {
        match self.end {
            End::After(time) => self.warm_up.saturating_add(time),
            End::Count(_) => Duration::MAX,
        }
    }
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
            let connections: Vec<Rc<Connection>> =
                doors.iter().map(|door| Rc::new(Connection::new(door.clone()))).collect();
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
async fn slice(
    assignment: &Rc<Assignment>,
    connections: &[Rc<Connection>],
    orders: &mut Receiver<Order>,
    news: &UnboundedSender<News>,
) {
    let mut watchers = Vec::new();
    for (connection, range) in connections.iter().cycle().zip(&assignment.watchers) {
        // Nothing is sent then, and nobody misses the others.
        if assignment.stop.is_wanted() {
            break;
        }
        match Watcher::open(connection, range, assignment.patience).await {
            Ok(watcher) => watchers.push(watcher),
            Err(failure) => return drop(news.send(News::Failed(format!("a watcher: {failure}")))),
        }
    }
    let _ = news.send(News::Ready);
    let Some(Order::Go(go)) = orders.recv().await else { return };
    let go = go.of_thread(assignment.thread, assignment.threads);
    let book = Rc::new(Book::new(go.base, go.warm_up, go.until(), news.clone(), News::Page));
    let clock = Clock::of(&book);
    let (until, seen) = watch::channel(None);
    let mut watching = JoinSet::new();
    for watcher in watchers {
        let (assignment, book, seen) = (assignment.clone(), book.clone(), seen.clone());
        watching.spawn_local(async move {
            watcher.run(book, &assignment.keys, seen, assignment.patience).await
        });
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
    drop(clock);
    book.close();
    let _ = news.send(News::Settled);
}

/// Sends all of a slice, and waits for the answers.
async fn send(
    assignment: &Rc<Assignment>,
    connections: &[Rc<Connection>],
    scene: &Rc<Scene>,
    go: Go,
) {
    let jobs =
        Rc::new(Jobs::new(go, assignment.stop.clone(), assignment.patience, scene.book.clone()));
    let mut slots = JoinSet::new();
    for number in 0..connections.len().saturating_mul(assignment.streams) {
        let Some(connection) = connections.get(number % connections.len().max(1)) else { continue };
        let chance = go
            .number
            .wrapping_mul(1 << 32)
            .wrapping_add(u64::try_from(assignment.thread * 1_000_000 + number).unwrap_or(0));
        let mut slot = Slot::new(
            connection.clone(),
            assignment.thread,
            number,
            Dice::new(assignment.seed, chance),
        );
        let (jobs, scene) = (jobs.clone(), scene.clone());
        slots.spawn_local(async move {
            while let Some(due) = jobs.next().await {
                scene.book.leaves(due);
                slot.work(&scene, due).await;
            }
            slot.end(&scene).await;
        });
    }
    if let Pace::Open(rate) = go.pace {
        let dice = Dice::new(
            assignment.seed,
            u64::MAX - go.number * 1024 - u64::try_from(assignment.thread).unwrap_or(0),
        );
        let arrivals =
            Arrivals::new(assignment.gaps, rate, assignment.thread, assignment.threads, dice);
        jobs.dispatch(arrivals).await;
    }
    while slots.join_next().await.is_some() {}
    jobs.close();
}
