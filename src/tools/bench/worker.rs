//! One thread of the load. It has its own runtime and connections, and shares nothing with other
//! threads while it sends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::mpsc::{Receiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use super::arrivals::{Arrivals, Gaps};
use super::connection::{Connection, Destination};
use super::convert;
use super::jobs::Jobs;
use super::keys::Keys;
use super::mix::Mix;
use super::recorder::{Recorder, Second, Ticker};
use super::request_stream::{RequestStream, SliceContext};
use super::rng::Rng;
use super::stop::Stop;
use super::watchers::Watcher;
use super::zipf::Zipf;

/// Concurrent handshakes of one thread.
const HANDSHAKES: usize = 32;

/// The work of one thread in all slices.
pub struct Assignment {
    /// Index of the thread.
    pub thread: usize,
    /// Number of threads.
    pub threads: usize,
    /// Its connections to each target.
    pub destinations: Vec<Vec<Destination>>,
    /// Concurrent streams per connection.
    pub streams: usize,
    /// The range of each watcher of this thread: first key and range end.
    pub watchers: Vec<[Vec<u8>; 2]>,
    /// The keys.
    pub keys: Arc<Keys>,
    /// The distribution of keys.
    pub zipf: Arc<Zipf>,
    /// The operations and their weights.
    pub mix: Mix,
    /// Use serializable reads.
    pub serializable: bool,
    /// Timeout of a request.
    pub request_timeout: Duration,
    /// Distribution of the gaps of an open loop.
    pub gaps: Gaps,
    /// Seed of the run.
    pub seed: u64,
    /// Ends the run early.
    pub stop: Arc<Stop>,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Closed loop: each stream sends again when it has its response.
    Closed,
    /// Open loop: this many requests per second over all threads, whatever the response times.
    Open(f64),
}

/// The end of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// This long after the warm-up.
    After(Duration),
    /// After this many requests of all threads, warm-up not counted.
    Count(u64),
}

/// The parameters of one slice.
#[derive(Clone, Copy, Debug)]
pub struct SliceSpec {
    /// Start time.
    pub base: Instant,
    /// Unmeasured time at the start.
    pub warm_up: Duration,
    /// When requests are sent.
    pub pace: Pace,
    /// When it ends.
    pub end: End,
    /// Number of the slice within the run; seeds random choices.
    pub number: u64,
}

impl SliceSpec {
    /// The part of one of several threads.
    #[must_use]
    pub fn of_thread(self, thread: usize, threads: usize) -> Self {
        let number = |of: usize| u64::try_from(of).unwrap_or(u64::MAX);
        match self.end {
            End::Count(count) => Self {
                end: End::Count(convert::share(count, number(threads), number(thread))),
                ..self
            },
            End::After(_) => self,
        }
    }

    /// The planned end, from the start; `Duration::MAX` for a number of requests.
    #[must_use]
    pub const fn until(&self) -> Duration {
        match self.end {
            End::After(time) => self.warm_up.saturating_add(time),
            End::Count(_) => Duration::MAX,
        }
    }
}

/// Commands to a thread.
pub enum Command {
    /// Open the watches at a target.
    Prepare(usize),
    /// Send the load of a slice.
    Send(SliceSpec),
    /// Wait until the watchers have seen this revision, and end the slice.
    Settle(i64),
}

/// Messages from a thread.
#[derive(Debug)]
pub enum Update {
    /// Its connections, or its watches, are open.
    Ready,
    /// They could not be opened.
    Failed(String),
    /// The measurements of one second.
    Second(Second),
    /// All requests are answered. The highest revision that watchers must see.
    Done(i64),
    /// The slice has ended.
    Settled,
}

/// Runs until the command channel is closed.
pub fn run(
    assignment: Assignment,
    mut commands: Receiver<Command>,
    updates: UnboundedSender<Update>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return drop(updates.send(Update::Failed(format!("cannot create a runtime: {error}"))));
        }
    };
    LocalSet::new().block_on(&runtime, async {
        let assignment = Rc::new(assignment);
        let mut targets = Vec::new();
        for destinations in &assignment.destinations {
            let connections: Vec<Rc<Connection>> = destinations
                .iter()
                .map(|destination| Rc::new(Connection::new(destination.clone())))
                .collect();
            for some in connections.chunks(HANDSHAKES) {
                let opened = join_all(some.iter().map(|connection| connection.open())).await;
                if let Some(failure) = opened.into_iter().find_map(Result::err) {
                    return drop(updates.send(Update::Failed(failure.to_string())));
                }
            }
            targets.push(connections);
        }
        let _ = updates.send(Update::Ready);
        while let Some(command) = commands.recv().await {
            let Command::Prepare(target) = command else { continue };
            let connections = targets.get(target).cloned().unwrap_or_default();
            slice(&assignment, &connections, &mut commands, &updates).await;
        }
    });
}

/// Runs one slice, after `Prepare` was received.
async fn slice(
    assignment: &Rc<Assignment>,
    connections: &[Rc<Connection>],
    commands: &mut Receiver<Command>,
    updates: &UnboundedSender<Update>,
) {
    let mut watchers = Vec::new();
    for (connection, range) in connections.iter().cycle().zip(&assignment.watchers) {
        // A stopped run sends nothing, so the remaining watches are not needed.
        if assignment.stop.is_requested() {
            break;
        }
        match Watcher::open(connection, range, assignment.request_timeout).await {
            Ok(watcher) => watchers.push(watcher),
            Err(failure) => {
                return drop(updates.send(Update::Failed(format!("a watcher: {failure}"))));
            }
        }
    }
    let _ = updates.send(Update::Ready);
    let Some(Command::Send(spec)) = commands.recv().await else { return };
    let spec = spec.of_thread(assignment.thread, assignment.threads);
    let recorder = Rc::new(Recorder::new(
        spec.base,
        spec.warm_up,
        spec.until(),
        updates.clone(),
        Update::Second,
    ));
    let ticker = Ticker::of(&recorder);
    let (until, seen) = watch::channel(None);
    let mut watching = JoinSet::new();
    for watcher in watchers {
        let (assignment, recorder, seen) = (assignment.clone(), recorder.clone(), seen.clone());
        watching.spawn_local(async move {
            watcher.run(recorder, &assignment.keys, seen, assignment.request_timeout).await;
        });
    }
    let context = Rc::new(SliceContext {
        keys: assignment.keys.clone(),
        zipf: assignment.zipf.clone(),
        mix: assignment.mix.clone(),
        serializable: assignment.serializable,
        request_timeout: assignment.request_timeout,
        recorder: recorder.clone(),
        highest: Cell::new(0),
        last_watched: Cell::new(0),
        written: RefCell::new(vec![0; assignment.keys.data.len()]),
    });
    send(assignment, connections, &context, spec).await;
    let _ = updates.send(Update::Done(context.last_watched.get()));
    if let Some(Command::Settle(revision)) = commands.recv().await {
        let _ = until.send(Some(revision));
        while watching.join_next().await.is_some() {}
    }
    drop(ticker);
    recorder.close();
    let _ = updates.send(Update::Settled);
}

/// Sends all requests of a slice, and waits for the responses.
async fn send(
    assignment: &Rc<Assignment>,
    connections: &[Rc<Connection>],
    context: &Rc<SliceContext>,
    spec: SliceSpec,
) {
    let jobs = Rc::new(Jobs::new(
        spec,
        assignment.stop.clone(),
        assignment.request_timeout,
        context.recorder.clone(),
    ));
    let mut streams = JoinSet::new();
    for number in 0..connections.len().saturating_mul(assignment.streams) {
        let Some(connection) = connections.get(number % connections.len().max(1)) else { continue };
        let chance = spec
            .number
            .wrapping_mul(1 << 32)
            .wrapping_add(u64::try_from(assignment.thread * 1_000_000 + number).unwrap_or(0));
        let mut stream = RequestStream::new(
            connection.clone(),
            assignment.thread,
            number,
            Rng::new(assignment.seed, chance),
        );
        let (jobs, context) = (jobs.clone(), context.clone());
        streams.spawn_local(async move {
            while let Some(due) = jobs.next().await {
                context.recorder.record_sent(due);
                stream.work(&context, due).await;
            }
            stream.end(&context).await;
        });
    }
    if let Pace::Open(rate) = spec.pace {
        let rng = Rng::new(
            assignment.seed,
            u64::MAX - spec.number * 1024 - u64::try_from(assignment.thread).unwrap_or(0),
        );
        let arrivals =
            Arrivals::new(assignment.gaps, rate, assignment.thread, assignment.threads, rng);
        jobs.dispatch(arrivals).await;
    }
    while streams.join_next().await.is_some() {}
    jobs.close();
}
