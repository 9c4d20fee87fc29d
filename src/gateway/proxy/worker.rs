//! One thread that serves connections: a current-thread runtime with connections to etcd of its
//! own, so that a request never crosses threads between its two sockets.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use etcd_warden_core::authorize::Decision;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::{Mode, Policy};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::budget::Budget;
use super::connection;
use super::handshakes::Handshake;
use super::lease_questions::Questions;
use super::roll::{self, Roll};
use super::rounds::Rounds;
use crate::metrics::RoleCounters;
use crate::upstream::pool::Pool;
use crate::upstream::warm;

/// Unread bytes that everybody may leave while there is room: a full outbox, and one answer that
/// waits for it.
const ONE_UNREAD: usize = 1024 * 1024;

/// Polls of tasks after which the thread looks for what has come, where there is always something
/// to poll (tokio's own number is 61): one connection that is never done has a turn of about a
/// millisecond, and others are noticed after so many.
const POLLS_PER_LOOK: u32 = 16;

/// A socket on its way to a worker.
pub struct Accepted {
    /// The socket, before any byte of TLS was read.
    pub stream: std::net::TcpStream,
    /// Its other end: the balancer's word for it, with PROXY protocol.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub since: tokio::time::Instant,
    /// Counts the connection until it is dropped.
    pub counted: Counted,
    /// Its handshake, which may have to make room for others.
    pub handshake: Handshake,
}

/// One connection more in some count, until it is dropped.
pub struct Counted(Vec<Arc<AtomicUsize>>);

impl Counted {
    /// Counts in each of these.
    #[must_use]
    pub fn in_each(counts: Vec<Arc<AtomicUsize>>) -> Self {
        for count in &counts {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Self(counts)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A running worker, seen from the listener.
pub struct WorkerHandle {
    /// Where its sockets go in.
    pub sockets: mpsc::Sender<Accepted>,
    /// Its connections now.
    pub connections: Arc<AtomicUsize>,
}

/// What the connections of one thread share.
pub struct Worker {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Connections to etcd.
    pub pool: Rc<Pool>,
    /// Its questions to etcd about leases.
    pub questions: Rc<Questions>,
    /// Who is connected.
    pub roll: Roll,
    /// Whose turn it is.
    pub rounds: Rounds,
    /// Metric handles by role.
    pub roles: RoleTable,
    /// Bytes of incomplete requests.
    pub budget: Budget,
    /// Bytes of answers that nobody reads.
    pub unread: Budget,
}

/// Starts a worker thread. It ends with its last connection, after the handle was dropped.
///
/// # Errors
/// The operating system has no thread for it, or no epoll instance.
pub fn start(
    shared: Arc<Shared>,
    number: usize,
) -> std::io::Result<(WorkerHandle, JoinHandle<()>)> {
    // What the listener hands over is a handshake, of which there are so many at once: what a
    // worker has yet to take is among them.
    let (sockets, mut arrivals) =
        mpsc::channel::<Accepted>(shared.config.limits.max_handshakes.max(1));
    let connections = Arc::new(AtomicUsize::new(0));
    let runtime = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        // A LocalRuntime cannot cross threads, so it is made here, and whether that worked is told
        // back.
        let local = match Builder::new_current_thread()
            .enable_all()
            .event_interval(POLLS_PER_LOOK)
            .build_local(LocalOptions::default())
        {
            Ok(local) => local,
            Err(error) => return drop(runtime.0.send(Err(error))),
        };
        drop(runtime.0.send(Ok(())));
        local.block_on(async move {
            let worker = Worker::new(shared);
            tokio::task::spawn_local(worker.rounds.keep_going());
            tokio::task::spawn_local(worker.pool.clone().keep_renewed());
            tokio::task::spawn_local(roll::call_at_each_change(worker.clone()));
            tokio::task::spawn_local(roll::call_at_each_policy(worker.clone()));
            warm::start(&worker.pool).await;
            tokio::task::spawn_local(warm::keep(worker.pool.clone()));
            let tasks = TaskTracker::new();
            while let Some(accepted) = arrivals.recv().await {
                tokio::task::spawn_local(
                    tasks.track_future(connection::serve(worker.clone(), accepted)),
                );
            }
            tasks.close();
            tasks.wait().await;
        });
    })?;
    runtime
        .1
        .recv()
        .unwrap_or_else(|_| Err(std::io::Error::other("the worker thread ended at once")))?;
    Ok((WorkerHandle { sockets, connections }, thread))
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Rc<Self> {
        let limits = shared.config.limits;
        let pool = Pool::new(shared.members.clone(), shared.tls.clone(), shared.metrics.clone());
        Rc::new(Self {
            questions: Questions::new(pool.clone(), limits.max_request_bytes),
            pool,
            roll: Roll::default(),
            rounds: Rounds::default(),
            roles: RoleTable::default(),
            budget: Budget::new(
                limits.max_held_bytes,
                limits.max_request_bytes.saturating_add(etcd_warden_core::wire::frame::HEADER),
            ),
            unread: Budget::new(limits.max_unread_bytes, ONE_UNREAD),
            shared,
        })
    }
}

/// The metric handles of each role, resolved once per policy generation.
#[derive(Default)]
pub struct RoleTable {
    roles: RefCell<Roles>,
}

#[derive(Default)]
struct Roles {
    generation: Option<u64>,
    by_index: Vec<Option<Arc<RoleCounters>>>,
    none: Option<Arc<RoleCounters>>,
}

impl RoleTable {
    /// Counts one decision under the role whose grant made it.
    pub fn count(
        &self,
        shared: &Shared,
        policy: &Policy,
        role: Option<u32>,
        method: Option<Method>,
        decision: Decision,
        mode: Mode,
    ) {
        let mut roles = self.roles.borrow_mut();
        if roles.generation != Some(policy.generation) {
            *roles = Roles {
                generation: Some(policy.generation),
                by_index: vec![None; policy.role_names().len()],
                none: None,
            };
        }
        let slot = role.and_then(|index| usize::try_from(index).ok());
        let named = slot.and_then(|index| {
            Some((roles.by_index.get_mut(index)?, policy.role_names().get(index)?))
        });
        let counters = match named {
            Some((counters, name)) => counters.get_or_insert_with(|| shared.metrics.role(name)),
            None => roles.none.get_or_insert_with(|| shared.metrics.role("none")),
        };
        counters.count(method, decision, mode);
    }
}
