//! One worker: a thread with a current-thread runtime and its own connections to etcd. So a request
//! never crosses threads between the client's socket and etcd's.

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
use super::connection_set::{self, ConnectionSet};
use super::handshakes::Handshake;
use super::lease_lookup::LeaseLookups;
use super::scheduler::Scheduler;
use crate::metrics::RoleCounters;
use crate::upstream::pool::Pool;
use crate::upstream::warm;

/// Bytes that an identity may always leave unread while the budget has room: a full send queue and
/// one response that waits for it.
const MIN_UNREAD: usize = 1024 * 1024;

/// Number of task polls after which the runtime polls the I/O driver (tokio's default is 61). A
/// busy connection takes about a millisecond per poll, so events of other connections are noticed
/// within about 16 ms.
const EVENT_INTERVAL: u32 = 16;

/// A socket on its way to a worker.
pub struct Accepted {
    /// The socket, before any byte of TLS was read.
    pub stream: std::net::TcpStream,
    /// The client's address. With the PROXY protocol, the one that the load balancer reports.
    pub peer: SocketAddr,
    /// When the socket was accepted.
    pub since: tokio::time::Instant,
    /// Counts the connection until this is dropped.
    pub counted: Counted,
    /// The handshake, which may be aborted to make room for another.
    pub handshake: Handshake,
}

/// Counts one connection until it is dropped.
pub struct Counted(Vec<Arc<AtomicUsize>>);

impl Counted {
    /// Counts the connection in each of `counts`.
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

/// The listener's handle to a running worker.
pub struct WorkerHandle {
    /// Sends sockets to the worker.
    pub sockets: mpsc::Sender<Accepted>,
    /// The number of the worker's connections.
    pub connections: Arc<AtomicUsize>,
}

/// The state that the connections of one worker share.
pub struct Worker {
    /// The state that all workers share.
    pub shared: Arc<Shared>,
    /// The worker's connections to etcd.
    pub pool: Rc<Pool>,
    /// Lookups of the keys of leases.
    pub lease_lookups: Rc<LeaseLookups>,
    /// The connected clients.
    pub clients: ConnectionSet,
    /// Shares the worker's time between identities.
    pub scheduler: Scheduler,
    /// The metric handles of each role.
    pub roles: RoleTable,
    /// The budget for held bytes of requests.
    pub budget: Budget,
    /// The budget for unread bytes of responses.
    pub unread: Budget,
}

/// Starts a worker thread. After the handle was dropped, the thread ends with its last connection.
///
/// # Errors
/// The operating system provides no thread, or no epoll instance.
pub fn start(
    shared: Arc<Shared>,
    number: usize,
) -> std::io::Result<(WorkerHandle, JoinHandle<()>)> {
    // Each socket in the channel is a handshake in progress, and their number is limited to the
    // same value. So the channel is never full.
    let (sockets, mut arrivals) =
        mpsc::channel::<Accepted>(shared.config.limits.max_handshakes.max(1));
    let connections = Arc::new(AtomicUsize::new(0));
    let runtime = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        // A LocalRuntime cannot be sent to another thread, so it is created here, and the result is
        // sent back.
        let local = match Builder::new_current_thread()
            .enable_all()
            .event_interval(EVENT_INTERVAL)
            .build_local(LocalOptions::default())
        {
            Ok(local) => local,
            Err(error) => return drop(runtime.0.send(Err(error))),
        };
        drop(runtime.0.send(Ok(())));
        local.block_on(async move {
            let worker = Worker::new(shared);
            tokio::task::spawn_local(worker.scheduler.run());
            tokio::task::spawn_local(worker.pool.clone().keep_renewed());
            tokio::task::spawn_local(connection_set::verify_on_trust_change(worker.clone()));
            tokio::task::spawn_local(connection_set::update_on_policy_change(worker.clone()));
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
    runtime.1.recv().unwrap_or_else(|_| {
        Err(std::io::Error::other("the worker thread ended before it had started"))
    })?;
    Ok((WorkerHandle { sockets, connections }, thread))
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Rc<Self> {
        let limits = shared.config.limits;
        let pool = Pool::new(shared.members.clone(), shared.tls.clone(), shared.metrics.clone());
        Rc::new(Self {
            lease_lookups: LeaseLookups::new(pool.clone(), limits.max_request_bytes),
            pool,
            clients: ConnectionSet::default(),
            scheduler: Scheduler::default(),
            roles: RoleTable::default(),
            budget: Budget::new(
                limits.max_held_bytes,
                limits.max_request_bytes.saturating_add(etcd_warden_core::wire::frame::HEADER),
            ),
            unread: Budget::new(limits.max_unread_bytes, MIN_UNREAD),
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
    /// Counts one decision under the role whose grant allowed it.
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
        let index = role.and_then(|index| usize::try_from(index).ok());
        let named = index.and_then(|index| {
            Some((roles.by_index.get_mut(index)?, policy.role_names().get(index)?))
        });
        let counters = match named {
            Some((counters, name)) => counters.get_or_insert_with(|| shared.metrics.role(name)),
            None => roles.none.get_or_insert_with(|| shared.metrics.role("none")),
        };
        counters.count(method, decision, mode);
    }
}
