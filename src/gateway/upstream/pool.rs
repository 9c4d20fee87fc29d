//! One worker's connections to the members.

mod class_pool;
mod member_uris;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_warden_core::method::Method;
use http::Uri;
use http::uri::PathAndQuery;
use tokio::sync::Notify;

use self::class_pool::ClassPool;
use self::member_uris::MemberUris;
use super::Class;
use super::dial::ConnectError;
use super::link::{Close, Link, StreamSlot};
use super::members::{Member, MemberIndex, Members};
use super::renewal::{self, Renewable, RenewalError};
use crate::member_health::Health;
use crate::metrics::Metrics;
use crate::metrics::reason::UpstreamFailure;
use crate::tls::LiveTls;

/// Connections per member and class that are opened even if the first is not full. etcd serves two
/// connections in parallel.
pub(crate) const SPREAD: usize = 2;

/// The method or path of a request.
#[derive(Clone, Debug)]
pub enum Target {
    /// A method of etcd.
    Method(Method),
    /// The path that the client sent, unchanged (shadow mode).
    Path(PathAndQuery),
}

/// All connections of one worker thread.
pub struct Pool {
    /// The members that the connections lead to.
    pub members: Arc<Members>,
    tls: Arc<LiveTls>,
    metrics: Arc<Metrics>,
    /// By member and class.
    class_pools: Vec<[ClassPool; Class::ALL.len()]>,
    /// By member.
    uris: Vec<Option<MemberUris>>,
    /// Notified when certificates were replaced while a connection was opened with the old ones.
    opened_late: Notify,
    /// Notified when a connection has ended.
    closed: Rc<Notify>,
}

impl Pool {
    /// A pool without connections; [`super::warm`] opens the first ones.
    pub fn new(members: Arc<Members>, tls: Arc<LiveTls>, metrics: Arc<Metrics>) -> Rc<Self> {
        let class_pools = members.iter().map(|_| Default::default()).collect();
        let uris = members.iter().map(|(_, member)| MemberUris::of(&member.endpoint)).collect();
        Rc::new(Self {
            members,
            tls,
            metrics,
            class_pools,
            uris,
            opened_late: Notify::new(),
            closed: Rc::default(),
        })
    }

    /// The URI of `target` at `member`; `None` if there is no such member or URI.
    pub fn uri(&self, member: MemberIndex, target: &Target) -> Option<Uri> {
        self.uris.get(member.0)?.as_ref()?.uri(target)
    }

    /// A connection to `member` and a slot for one stream on it.
    ///
    /// # Errors
    /// No connection could be opened. The member is then down until a health check succeeds.
    pub async fn link(
        self: &Rc<Self>,
        member: MemberIndex,
        class: Class,
    ) -> Result<(Link, StreamSlot), ConnectError> {
        let class_pool = self.class_pool(member, class)?;
        if let Some(found) = class_pool.take() {
            if class_pool.wants_another() {
                self.open_in_background(member, class);
            }
            return Ok(found);
        }
        let since = Instant::now();
        let _opening = class_pool.opening.lock().await;
        if let Some(found) = class_pool.take() {
            return Ok(found);
        }
        if let Some(error) = class_pool.failure_since(since) {
            return Err(error);
        }
        // On the heap: each request's future contains this one, and few open a connection.
        Box::pin(self.open(member, class)).await?;
        class_pool.take().ok_or(ConnectError::Http2("the connection closed at once".to_owned()))
    }

    fn class_pool(&self, member: MemberIndex, class: Class) -> Result<&ClassPool, ConnectError> {
        let class_pool = self.class_pools.get(member.0).and_then(|pools| pools.get(class as usize));
        class_pool.ok_or_else(|| ConnectError::Tcp("no such member".to_owned()))
    }

    /// Opens a connection if this class has none. A failure has the same effects as one in
    /// [`Pool::link`], but is not returned.
    pub(super) async fn warm(&self, member: MemberIndex, class: Class) {
        let Ok(class_pool) = self.class_pool(member, class) else { return };
        if class_pool.is_empty() {
            let _opening = class_pool.opening.lock().await;
            if class_pool.is_empty() {
                let _ = self.open(member, class).await;
            }
        }
    }

    /// Waits until a connection has ended. Returns at once if one has ended since the previous
    /// call.
    pub(super) async fn link_closed(&self) {
        self.closed.notified().await;
    }

    fn open_in_background(self: &Rc<Self>, member: MemberIndex, class: Class) {
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let Ok(class_pool) = pool.class_pool(member, class) else { return };
            if !class_pool.opens_another.replace(true) {
                // A failure affects no call: the existing connections stay in use.
                let _ = pool.open(member, class).await;
                class_pool.opens_another.set(false);
            }
        });
    }

    async fn open(&self, index: MemberIndex, class: Class) -> Result<(), ConnectError> {
        let class_pool = self.class_pool(index, class)?;
        let Some(member) = self.members.at(index) else { return Ok(()) };
        match self.connect(class_pool, index, member, class).await {
            Ok(link) => {
                class_pool.add(link);
                Ok(())
            }
            Err(error) => {
                self.note_failure(member, &error);
                class_pool.failed(error.clone());
                Err(error)
            }
        }
    }

    /// Opens a connection with the current certificates. The caller puts it into use.
    async fn connect(
        &self,
        class_pool: &ClassPool,
        index: MemberIndex,
        member: &Member,
        class: Class,
    ) -> Result<Link, ConnectError> {
        let gauge = self.metrics.upstream_connections(class.name());
        let (members, metrics, closed) =
            (self.members.clone(), self.metrics.clone(), self.closed.clone());
        let on_close = move |close| {
            closed.notify_one();
            metrics.upstream_connections(class.name()).decrement(1.0);
            match (close, members.at(index)) {
                (Close::TooManyPings(interval), Some(member)) => {
                    metrics.upstream_failure(UpstreamFailure::TooManyPings);
                    slow_down_pings(member, interval);
                }
                (Close::Protocol, _) => metrics.upstream_failure(UpstreamFailure::Protocol),
                _ => {}
            }
        };
        let link = Link::open(member, &self.tls.current(), class, on_close).await?;
        gauge.increment(1.0);
        class_pool.opened(&link);
        if link.generation != self.tls.current().upstream_generation {
            self.opened_late.notify_one();
        }
        Ok(link)
    }

    /// Replaces connections whenever the certificates towards etcd change, as [`super::renewal`]
    /// describes. It runs for as long as the worker.
    pub async fn keep_renewed(self: Rc<Self>) {
        let changes = self.tls.upstream_changes();
        let pools: Vec<_> = self
            .members
            .iter()
            .flat_map(|(index, member)| {
                let pool = &self;
                Class::ALL.map(|class| {
                    let class_pool = pool.class_pool(index, class).ok()?;
                    Some(RenewablePool { pool, class_pool, index, member, class })
                })
            })
            .flatten()
            .collect();
        renewal::keep_renewed(&pools, &self.tls, changes, &self.opened_late).await;
    }

    fn note_failure(&self, member: &Member, error: &ConnectError) {
        self.metrics.upstream_failure(error.into());
        if let ConnectError::Http2(_) | ConnectError::Timeout(_) = error {
            member.first_address.skip();
        }
        if member.set_health(Health::Down) {
            self.metrics.member_health(&member.name, Health::Down);
            tracing::warn!(member = %member.name, %error, "etcd member is down");
        }
    }
}

/// A [`ClassPool`] with everything that is needed to open a connection in it.
struct RenewablePool<'p> {
    pool: &'p Pool,
    class_pool: &'p ClassPool,
    index: MemberIndex,
    member: &'p Member,
    class: Class,
}

impl Renewable for RenewablePool<'_> {
    type Connection = Link;

    fn has_older(&self, generation: u64) -> bool {
        self.class_pool.has_older(generation)
    }

    async fn open(&self) -> Result<Link, RenewalError> {
        let Self { pool, class_pool, index, member, class } = *self;
        pool.connect(class_pool, index, member, class).await.map_err(|error| {
            pool.metrics.upstream_failure((&error).into());
            tracing::warn!(
                member = %member.name,
                class = class.name(),
                %error,
                "cannot renew connection to etcd"
            );
            match error {
                ConnectError::Untrusted(_) => RenewalError::Untrusted,
                _ => RenewalError::Failed,
            }
        })
    }

    fn replace_older(&self, generation: u64, new: Link) {
        self.class_pool.add(new);
        self.class_pool.retire_older(generation);
    }

    fn close_older(&self, generation: u64) {
        self.class_pool.close_older(generation);
    }
}

/// Doubles the ping interval of a member. Logged once per member, not once per connection.
fn slow_down_pings(member: &Member, interval: Duration) {
    if member.ping_interval.slow_down(interval) {
        tracing::warn!(
            member = %member.name,
            interval_seconds = interval.as_secs(),
            "etcd closed a connection for too many pings (its `--grpc-keepalive-min-time` is \
             longer than the interval): pinging it less often"
        );
    }
}
