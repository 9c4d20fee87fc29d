//! One worker's connections to the members.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_warden_core::method::Method;
use http::Uri;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};

use super::Class;
use super::dial::ConnectError;
use super::link::{Close, Leash, Link, Place};
use super::members::{Member, MemberIndex, Members};
use crate::config::Endpoint;
use crate::member_health::Health;
use crate::metrics::Metrics;
use crate::metrics::reason::UpstreamFailure;
use crate::tls::LiveTls;

/// Connections per member and class before all of them are full: etcd serves two in parallel.
pub const SPREAD: usize = 2;
/// Streams of one connection before another is opened for those that come: few connections gather
/// more requests, and more answers, into one write.
const COMFORTABLE: u32 = 64;

/// Until a connection that could not be renewed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// Where a request goes at a member.
#[derive(Clone, Debug)]
pub enum Target {
    /// A method of etcd.
    Method(Method),
    /// A path as it came.
    Path(PathAndQuery),
}

/// A member's scheme and authority, with the path of each method behind them: a request only copies
/// what was put together once.
struct Origin {
    scheme: Scheme,
    authority: Authority,
    methods: Vec<Uri>,
}

/// All connections of one worker thread.
pub struct Pool {
    /// The members behind the connections.
    pub members: Arc<Members>,
    tls: Arc<LiveTls>,
    metrics: Arc<Metrics>,
    lanes: Vec<[Lane; Class::ALL.len()]>,
    origins: Vec<Option<Origin>>,
    /// A connection was opened with certificates that were replaced meanwhile.
    outdated: tokio::sync::Notify,
    /// A connection has ended.
    closed: Rc<tokio::sync::Notify>,
}

/// The connections to one member for one class of calls.
#[derive(Default)]
struct Lane {
    links: RefCell<Vec<Link>>,
    /// Every connection with streams on it, also those that take no more, and the generation of
    /// its certificates.
    open: RefCell<Vec<(u64, Leash)>>,
    /// One connection is opened at a time; those who wait then find room on it, or share its
    /// failure.
    opening: tokio::sync::Mutex<()>,
    failed: RefCell<Option<(Instant, ConnectError)>>,
    next_is_opening: Cell<bool>,
}

impl Pool {
    /// A pool without any connection yet; [`super::warm`] opens the first.
    #[must_use]
    pub fn new(members: Arc<Members>, tls: Arc<LiveTls>, metrics: Arc<Metrics>) -> Rc<Self> {
        let lanes = members.iter().map(|_| Default::default()).collect();
        let origins = members.iter().map(|(_, member)| Origin::of(&member.endpoint)).collect();
        Rc::new(Self {
            members,
            tls,
            metrics,
            lanes,
            origins,
            outdated: tokio::sync::Notify::new(),
            closed: Rc::default(),
        })
    }

    /// The URI of a target at a member.
    #[must_use]
    pub fn uri(&self, member: MemberIndex, target: &Target) -> Option<Uri> {
        let origin = self.origins.get(member.0)?.as_ref()?;
        match target {
            Target::Method(method) => origin.methods.get(method.index()).cloned(),
            Target::Path(path) => origin.uri(path.clone()),
        }
    }

    /// A connection to `member` with room for one more stream, and the place on it.
    ///
    /// # Errors
    /// Why no connection could be opened; the member counts as down until a health check says
    /// otherwise.
    pub async fn link(
        self: &Rc<Self>,
        member: MemberIndex,
        class: Class,
    ) -> Result<(Link, Place), ConnectError> {
        let lane = self.lane(member, class)?;
        if let Some(found) = lane.take() {
            if lane.wants_another() {
                self.open_in_background(member, class);
            }
            return Ok(found);
        }
        let since = Instant::now();
        let _turn = lane.opening.lock().await;
        if let Some(found) = lane.take() {
            return Ok(found);
        }
        if let Some((when, error)) = lane.failed.borrow().as_ref()
            && *when >= since
        {
            return Err(error.clone());
        }
        // On the heap: a request has this in it, and hardly one opens a connection.
        Box::pin(self.open(member, class)).await?;
        lane.take().ok_or(ConnectError::Http2("the connection closed at once".to_owned()))
    }

    fn lane(&self, member: MemberIndex, class: Class) -> Result<&Lane, ConnectError> {
        let lane = self.lanes.get(member.0).and_then(|lanes| lanes.get(class as usize));
        lane.ok_or_else(|| ConnectError::Tcp("no such member".to_owned()))
    }

    /// Opens a connection if there is none of this class. A failure counts like one of a call, and
    /// is left to [`Pool::link`] to report.
    pub(super) async fn warm(&self, member: MemberIndex, class: Class) {
        let Ok(lane) = self.lane(member, class) else { return };
        if lane.is_cold() {
            let _turn = lane.opening.lock().await;
            if lane.is_cold() {
                let _ = self.open(member, class).await;
            }
        }
    }

    /// Waits for the end of a connection that has ended since this was last asked.
    pub(super) async fn link_closed(&self) {
        self.closed.notified().await;
    }

    fn open_in_background(self: &Rc<Self>, member: MemberIndex, class: Class) {
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let Ok(lane) = pool.lane(member, class) else { return };
            if !lane.next_is_opening.replace(true) {
                // A failure here harms nobody: the links that are there go on.
                let _ = pool.open(member, class).await;
                lane.next_is_opening.set(false);
            }
        });
    }

    async fn open(&self, index: MemberIndex, class: Class) -> Result<(), ConnectError> {
        let lane = self.lane(index, class)?;
        let Some(member) = self.members.at(index) else { return Ok(()) };
        let opened = self.connect(lane, index, class).await;
        if let Err(error) = &opened {
            self.note_failure(member, error);
            *lane.failed.borrow_mut() = Some((Instant::now(), error.clone()));
        }
        opened
    }

    /// One connection more on a lane, with the certificates that count now.
    async fn connect(
        &self,
        lane: &Lane,
        index: MemberIndex,
        class: Class,
    ) -> Result<(), ConnectError> {
        let Some(member) = self.members.at(index) else { return Ok(()) };
        let gauge = self.metrics.upstream_connections(class.name());
        let (members, metrics, closed) =
            (self.members.clone(), self.metrics.clone(), self.closed.clone());
        let on_close = move |close| {
            closed.notify_one();
            metrics.upstream_connections(class.name()).decrement(1.0);
            match (close, members.at(index)) {
                (Close::TooManyPings(interval), Some(member)) => {
                    metrics.upstream_failure(UpstreamFailure::TooManyPings);
                    note_too_many_pings(member, interval);
                }
                (Close::Ours, _) => metrics.upstream_failure(UpstreamFailure::Protocol),
                _ => {}
            }
        };
        let link = Link::open(member, &self.tls.current(), class, on_close).await?;
        gauge.increment(1.0);
        let mut open = lane.open.borrow_mut();
        open.retain(|(_, leash)| !leash.is_loose());
        open.push((link.generation, link.leash()));
        if link.generation != self.tls.current().upstream_generation {
            self.outdated.notify_one();
        }
        lane.links.borrow_mut().push(link);
        Ok(())
    }

    /// Renews connections whenever the certificates of the way to etcd change, for as long as the
    /// worker lives.
    pub async fn keep_renewed(self: Rc<Self>) {
        let mut changes = self.tls.upstream_changes();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.outdated.notified() => {}
            }
            while !self.renew().await {
                let _ = tokio::time::timeout(RENEW_AGAIN, changes.changed()).await;
            }
        }
    }

    /// Replaces the connections that were opened with older certificates. The new one comes first,
    /// and only then do the old ones take no more streams: a certificate that etcd refuses ends
    /// nothing. But where the member itself is not trusted any more, nothing of what is open
    /// goes on. False: some could not be replaced yet.
    async fn renew(&self) -> bool {
        let lanes = self
            .members
            .iter()
            .flat_map(|(index, member)| Class::ALL.map(|class| (index, member, class)));
        let renewed = lanes.map(async |(index, member, class)| {
            let Ok(lane) = self.lane(index, class) else { return true };
            let generation = self.tls.current().upstream_generation;
            if !lane.has_older(generation) {
                return true;
            }
            match self.connect(lane, index, class).await {
                Ok(()) => lane.retire_older(generation),
                Err(error) => {
                    self.metrics.upstream_failure((&error).into());
                    tracing::warn!(member = %member.name, class = class.name(), %error, "a connection to etcd cannot be renewed");
                    if let ConnectError::Untrusted(_) = error {
                        lane.cut_older(generation);
                    }
                    return false;
                }
            }
            true
        });
        futures_util::future::join_all(renewed).await.into_iter().all(|renewed| renewed)
    }

    fn note_failure(&self, member: &Member, error: &ConnectError) {
        self.metrics.upstream_failure(error.into());
        if let ConnectError::Http2(_) | ConnectError::Timeout(_) = error {
            member.first_address.pass_over();
        }
        if member.set_health(Health::Down) {
            self.metrics.member_health(&member.name, Health::Down);
            tracing::warn!(member = %member.name, %error, "etcd member is down");
        }
    }
}

/// Pings the member less often from now on; said once for each member, not for each of its
/// connections.
fn note_too_many_pings(member: &Member, interval: Duration) {
    if member.pace.slow_down(interval) {
        tracing::warn!(
            member = %member.name,
            "etcd closed a connection because of too many pings: connections to it are pinged less often from now on. Its \
             `--grpc-keepalive-min-time` is longer than {} s",
            interval.as_secs()
        );
    }
}

impl Origin {
    fn of(endpoint: &Endpoint) -> Option<Self> {
        let mut origin = Self {
            scheme: if endpoint.tls { Scheme::HTTPS } else { Scheme::HTTP },
            authority: endpoint.authority().parse().ok()?,
            methods: Vec::new(),
        };
        origin.methods = Method::ALL
            .iter()
            .map(|method| origin.uri(PathAndQuery::from_static(method.path())))
            .collect::<Option<_>>()?;
        Some(origin)
    }

    fn uri(&self, path: PathAndQuery) -> Option<Uri> {
        let mut parts = Parts::default();
        (parts.scheme, parts.authority, parts.path_and_query) =
            (Some(self.scheme.clone()), Some(self.authority.clone()), Some(path));
        Uri::from_parts(parts).ok()
    }
}

impl Lane {
    /// The first link that is comfortable, or else the least loaded one with room, and a place on
    /// it. Forgets links that have ended.
    fn take(&self) -> Option<(Link, Place)> {
        let mut links = self.links.borrow_mut();
        links.retain(|link| !link.is_closed());
        let with_room = || links.iter().filter(|link| link.has_room());
        let link = with_room()
            .find(|link| link.streams() < COMFORTABLE)
            .or_else(|| with_room().min_by_key(|link| link.streams()))?;
        Some((link.clone(), link.place()))
    }

    /// Whether streams may still be opened on a connection with certificates from before
    /// `generation`.
    fn has_older(&self, generation: u64) -> bool {
        self.links.borrow().iter().any(|link| link.generation < generation && !link.is_closed())
    }

    fn retire_older(&self, generation: u64) {
        let mut links = self.links.borrow_mut();
        links.iter().filter(|link| link.generation < generation).for_each(Link::retire);
        links.retain(|link| !link.is_closed());
    }

    fn cut_older(&self, generation: u64) {
        self.open
            .borrow()
            .iter()
            .filter(|(of, _)| *of < generation)
            .for_each(|(_, leash)| leash.cut());
        self.links.borrow_mut().retain(|link| !link.is_closed());
    }

    /// Whether no connection would take a stream.
    fn is_cold(&self) -> bool {
        self.links.borrow().iter().all(Link::is_closed)
    }

    fn wants_another(&self) -> bool {
        let links = self.links.borrow();
        !self.next_is_opening.get()
            && links.len() < SPREAD
            && links.iter().all(|link| link.streams() >= COMFORTABLE)
    }
}
