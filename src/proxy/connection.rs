//! One client connection: TLS, identity, HTTP/2, and the calls on it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::Request;
use rustls_pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::budget::{Hold, Share};
use super::call;
use super::forward::Forwarder;
use super::judge::Caller;
use super::lifetime::Lifetime;
use super::outbox::{Outbox, Paced, ROUND};
use super::quota::Quota;
use super::worker::{Accepted, Rate, Worker};
use crate::identity::Identity;
use crate::keyspace::Escaped;
use crate::metrics::reason::{Limit, Termination};
use crate::policy::Mode;
use crate::proxy_protocol;
use crate::tls::{ALPN_H2, ClientTrust, HandshakeFailure, ServerTls, handshake_failure};

/// Streams that a client may reset per second, and for how many seconds' worth it may do so at once. A client whose calls run into
/// their deadlines stays below; one that opens streams only to reset them makes etcd work for nothing (CVE-2023-44487).
const RESETS_PER_SECOND: u32 = 200;
const RESETS_AT_ONCE: u32 = 5;

/// Bytes of one request that a client may send before they were looked at.
pub const STREAM_WINDOW: usize = 256 * 1024;

/// A small piece of a body keeps the buffer that it was read into, which has about this size: where it stays, it is copied or counted so.
pub const READ_BUFFER: usize = 16 * 1024;

/// A client, from the end of the handshake to the end of the connection.
pub struct Client {
    /// The thread that serves it.
    pub worker: Rc<Worker>,
    /// What its certificate says.
    pub identity: Arc<Identity>,
    /// Where it calls from: the balancer's word for it, with PROXY protocol.
    pub peer: SocketAddr,
    /// Its way to etcd.
    pub forwarder: Forwarder,
    /// Cancelled when the connection is to end: what only waits ends, what is under way is finished.
    pub ending: CancellationToken,
    /// Cancelled when its certificate counts no more: nothing of it goes on but calls that etcd has already.
    pub over: CancellationToken,
    /// What it may make the worker hold, together with its other connections.
    pub share: Share,
    /// What it may leave unread, together with its other connections.
    pub unread: Share,
    /// What it was sent and has not taken yet.
    pub outbox: Rc<Outbox>,
    /// What it may have at once, together with its other connections on all workers.
    pub quota: Arc<Quota>,
    caller: RefCell<Rc<Caller>>,
    resets: Rate,
    /// It reset more streams than anybody needs to: its connection is to end at once.
    flooding: Cell<bool>,
    /// As TLS has verified it: the leaf, and what was sent with it.
    chain: Vec<CertificateDer<'static>>,
    /// Why the connection ends, if not because of a drain.
    left: Cell<Option<Termination>>,
    /// As [`Client::over`]: asked for each stream.
    is_over: Cell<bool>,
}

impl Client {
    /// The caller under the policy that counts now: one load of it unless it has changed.
    #[must_use]
    pub fn caller(&self) -> Rc<Caller> {
        let live = &self.worker.shared.policy;
        if self.caller.borrow().policy.generation != live.generation() {
            *self.caller.borrow_mut() = Rc::new(Caller::of(live.current(), &self.identity));
        }
        self.caller.borrow().clone()
    }

    /// Why its connection ends.
    #[must_use]
    pub fn why(&self) -> Termination {
        self.left.get().unwrap_or(Termination::Drain)
    }

    /// Asks another judge, and ends the connection if the client would not be let in now.
    pub fn judge_again(&self, trust: &ClientTrust) {
        let verdict = trust.verify(&self.chain).map_err(HandshakeFailure::code);
        // Two CAs may have changed their names: then bindings would mean somebody else.
        let same_ca = |()| trust.issuing_ca(&self.chain).filter(|ca| *ca == self.identity.ca).map(drop).ok_or("another_ca");
        if let Err(reason) = verdict.and_then(same_ca)
            && !self.is_over.get()
        {
            let (peer, identity, serial) = (self.peer, &self.caller.borrow().principal.name, &self.identity.serial);
            tracing::warn!(%peer, %identity, %serial, reason, "the certificate counts no more: its connection ends");
            self.end_identity();
        }
    }

    /// The connection is to end.
    fn end(&self, why: Termination) {
        self.left.set(Some(why));
        self.ending.cancel();
    }

    /// Its certificate counts no more.
    fn end_identity(&self) {
        self.is_over.set(true);
        self.over.cancel();
        self.end(Termination::Identity);
    }

    /// The client has reset a stream.
    pub fn was_reset(&self) {
        self.worker.shared.metrics.http2_resets.increment(1);
        if !self.resets.take() {
            self.flooding.set(true);
        }
    }
}

/// Serves one connection to its end.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let shared = &worker.shared;
    let _counted = accepted.counted;
    let metrics = &shared.metrics;
    let greeted =
        timeout(shared.config.limits.handshake_timeout, greet(&worker, accepted.stream, accepted.peer, accepted.speaks_for_others));
    let greeted = tokio::select! {
        greeted = greeted => greeted,
        () = accepted.handshake.given_up() => {
            metrics.limit_hit(Limit::Handshakes);
            metrics.handshake_failure(HandshakeFailure::Timeout);
            return tracing::info!(peer = %accepted.peer, "a handshake made room for others: too many at once");
        }
    };
    drop(accepted.handshake);
    let Greeted { stream, peer, tls } = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => {
            let failure = handshake_failure(&error);
            metrics.handshake_failure(failure);
            let failure = failure.code();
            tracing::info!(peer = %accepted.peer, failure, %error, "handshake failed");
            return;
        }
        Err(_) => {
            metrics.handshake_failure(HandshakeFailure::Timeout);
            tracing::info!(peer = %accepted.peer, failure = HandshakeFailure::Timeout.code(), "handshake failed");
            return;
        }
    };
    let Some((identity, chain)) = identity(&tls, &stream) else { return };
    let caller = Caller::of(shared.policy.current(), &identity);
    let quota = shared.quotas.of(&caller.principal.name);
    let enforced = caller.principal.mode == Mode::Enforce;
    let Some(_place) = quota.connections.place().or_else(|| (!enforced).then(|| quota.connections.occupy())) else {
        metrics.limit_hit(Limit::ConnectionsPerIdentity);
        tracing::info!(%peer, identity = %Escaped(caller.principal.name.as_bytes()), "one connection too many of this identity");
        // In a flood there is no time for everybody.
        if let Some(_place) = quota.leaving.place() {
            turn_away(stream).await;
        }
        return;
    };
    metrics.connections.increment(1.0);
    let client = Rc::new(Client {
        forwarder: Forwarder::new(worker.pool.clone(), shared.metrics.clone()),
        ending: shared.drain.child_token(),
        share: worker.budget.share(&caller.principal.name),
        unread: worker.unread.share(&caller.principal.name),
        outbox: Rc::default(),
        quota,
        caller: RefCell::new(Rc::new(caller)),
        identity,
        peer,
        resets: Rate::new(RESETS_PER_SECOND, RESETS_AT_ONCE),
        flooding: Cell::new(false),
        over: CancellationToken::new(),
        chain,
        left: Cell::new(None),
        is_over: Cell::new(false),
        worker: worker.clone(),
    });
    let _entry = worker.roll.enter(&client, tls.trust());
    if let Err(error) = speak_http2(&client, stream).await {
        tracing::debug!(peer = %client.peer, %error, "connection ended");
    }
    metrics.connections.decrement(1.0);
}

/// SETTINGS, then GOAWAY for ENHANCE_YOUR_CALM before any stream (RFC 9113, 3.4 and 6.8): gRPC clients come back, less and less often.
const CALM_DOWN: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];

/// Ends a connection that is one too many, and says so. What the client has sent is read and forgotten, for a second at most: a
/// connection that is closed with bytes unread is reset, and the client might never see why.
async fn turn_away(mut stream: TlsStream<TcpStream>) {
    let said = async {
        stream.write_all(CALM_DOWN).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _ = timeout(Duration::from_secs(1), said).await;
}

/// A client that has shown who it is.
struct Greeted {
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    /// What it was judged by.
    tls: Arc<ServerTls>,
}

/// PROXY header where one is due, then TLS.
async fn greet(worker: &Worker, stream: std::net::TcpStream, peer: SocketAddr, speaks_for_others: bool) -> std::io::Result<Greeted> {
    let mut stream = TcpStream::from_std(stream)?;
    let peer = if speaks_for_others { proxy_protocol::read(&mut stream).await?.unwrap_or(peer) } else { peer };
    let tls = worker.shared.tls.current().server.clone();
    let stream = TlsAcceptor::from(tls.rustls_config()).accept(stream).await?;
    // rustls refuses a client that offers other protocols, and takes one that offers none.
    if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
        return Err(std::io::Error::other(rustls::Error::NoApplicationProtocol));
    }
    Ok(Greeted { stream, peer, tls })
}

fn identity(tls: &ServerTls, stream: &TlsStream<TcpStream>) -> Option<(Arc<Identity>, Vec<CertificateDer<'static>>)> {
    // The verifier lets nobody through without a chain.
    let chain = stream.get_ref().1.peer_certificates()?;
    let ca = tls.issuing_ca(chain)?;
    let identity = Identity::from_certificate(chain.first()?, ca);
    Some((Arc::new(identity), chain.iter().map(|certificate| certificate.clone().into_owned()).collect()))
}

async fn speak_http2(client: &Rc<Client>, stream: TlsStream<TcpStream>) -> Result<(), h2::Error> {
    let limits = client.worker.shared.config.limits;
    let handshake = h2::server::Builder::new()
        .initial_window_size(u32::try_from(STREAM_WINDOW).unwrap_or(u32::MAX))
        .initial_connection_window_size(1024 * 1024)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_bytes)
        .max_send_buffer_size(ROUND)
        // A client's flood of resets ends its own connection (CVE-2023-44487).
        .max_pending_accept_reset_streams(64)
        .max_local_error_reset_streams(Some(1024))
        .handshake::<_, Bytes>(Paced::new(stream, client.outbox.clone()));
    let Ok(connection) = timeout(limits.handshake_timeout, handshake).await else { return Ok(()) };
    Session::new(client.clone(), connection?).run().await
}

type Http2 = Connection<Paced<TlsStream<TcpStream>>, Bytes>;

/// The HTTP/2 side of a connection.
struct Session {
    client: Rc<Client>,
    connection: Http2,
    pings: Option<h2::PingPong>,
    alive: Alive,
    draining: bool,
}

/// What is known of whether the other end is still there.
enum Alive {
    /// Nothing was asked since the last answer.
    Quiet,
    /// A ping is on its way.
    Asked,
}

impl Session {
    fn new(client: Rc<Client>, mut connection: Http2) -> Self {
        let pings = connection.ping_pong();
        Self { client, connection, pings, alive: Alive::Quiet, draining: false }
    }

    /// Runs calls and connection in one task: first every call that can go on, then the connection, so that the answers of
    /// many calls leave in one write.
    async fn run(mut self) -> Result<(), h2::Error> {
        let limits = self.client.worker.shared.config.limits;
        let mut calls = FuturesUnordered::new();
        let mut keepalive = std::pin::pin!(sleep_until(Instant::now() + limits.keepalive));
        let mut idle_since = Instant::now();
        let begun = Instant::now();
        let Lifetime { mut leave, end } = Lifetime::of(time_left(self.client.identity.not_after), limits.max_connection_age, dice());
        let mut timer = std::pin::pin!(sleep_until(begun + leave.map_or(end, |(when, _)| when)));
        let ending = self.client.ending.clone();
        let mut ended = std::pin::pin!(ending.cancelled());
        let mut flooded = false;
        let outbox = self.client.outbox.clone();
        let mut backlog = Hold::none(&self.client.unread);
        let over = poll_fn(|cx| {
            loop {
                while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {}
                if self.client.flooding.take() {
                    flooded = true;
                    self.connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                }
                if outbox.is_overflowing() {
                    return Poll::Ready(Ok(()));
                }
                match self.connection.poll_accept(cx) {
                    // h2 takes new streams until the client has answered the ping of its GOAWAY, which a client may never do.
                    Poll::Ready(Some(Ok((_, mut respond)))) if self.client.is_over.get() => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        outbox.give_stream();
                        calls.push(begin(&self.client, request, respond));
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending if outbox.goes_on() => {}
                    Poll::Pending => break,
                }
            }
            if !backlog.set(outbox.backlog()) && self.client.caller().principal.mode == Mode::Enforce {
                self.client.worker.shared.metrics.limit_hit(Limit::UnreadBytes);
                return Poll::Ready(Ok(()));
            }
            if !self.client.is_over.get() && timer.as_mut().poll(cx).is_ready() {
                match leave.take() {
                    Some((_, why)) => {
                        self.client.end(why);
                        timer.as_mut().reset(begun + end);
                        cx.waker().wake_by_ref();
                    }
                    None => self.client.end_identity(),
                }
            }
            if !self.draining && ended.as_mut().poll(cx).is_ready() {
                self.drain();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !calls.is_empty() {
                idle_since = Instant::now();
            }
            self.keep_alive(cx, keepalive.as_mut(), idle_since)
        })
        .await;
        let flooded =
            flooded || over.as_ref().is_err_and(|error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) && !error.is_remote());
        if flooded {
            self.client.worker.shared.metrics.limit_hit(Limit::Resets);
        }
        // The calls that are left see that their client is gone, and still have to be counted and written down.
        drop(self.connection);
        outbox.end();
        while calls.next().await.is_some() {}
        over
    }

    /// No new streams; those that are open see it and end themselves; unary calls finish.
    fn drain(&mut self) {
        self.draining = true;
        self.client.ending.cancel();
        self.connection.graceful_shutdown();
    }

    /// Finds clients that are gone without a word, and closes connections that nobody uses.
    fn keep_alive(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: std::pin::Pin<&mut Sleep>,
        idle_since: Instant,
    ) -> Poll<Result<(), h2::Error>> {
        let limits = self.client.worker.shared.config.limits;
        if let (Alive::Asked, Some(pings)) = (&self.alive, &mut self.pings)
            && pings.poll_pong(cx).is_ready()
        {
            self.alive = Alive::Quiet;
        }
        while timer.as_mut().poll(cx).is_ready() {
            if idle_since.elapsed() >= limits.idle_timeout && !self.draining {
                self.client.worker.shared.metrics.limit_hit(Limit::Idle);
                self.drain();
            }
            match self.alive {
                Alive::Asked => {
                    self.client.worker.shared.metrics.limit_hit(Limit::Keepalive);
                    return Poll::Ready(Ok(()));
                }
                Alive::Quiet => {
                    if let Some(pings) = &mut self.pings
                        && pings.send_ping(h2::Ping::opaque()).is_ok()
                    {
                        self.alive = Alive::Asked;
                    }
                }
            }
            timer.as_mut().reset(Instant::now() + limits.keepalive);
            // The ping and a shutdown are sent by the connection, which must be polled once more.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// The future of one call. A function of its own, so that all calls are one type and none is boxed.
fn begin(client: &Rc<Client>, request: Request<RecvStream>, respond: SendResponse<Bytes>) -> impl Future<Output = ()> + use<> {
    call::serve(client.clone(), request, respond)
}

/// Until a certificate ends.
fn time_left(not_after: i64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let end = Duration::from_secs(u64::try_from(not_after).unwrap_or(0));
    end.saturating_sub(now)
}

/// From 0 to 1. Nothing hangs on it but that clients do not come back all at once.
fn dice() -> f64 {
    let mut bytes = [0; 2];
    // Without randomness they do.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX)
}
