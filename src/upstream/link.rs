//! One HTTP/2 connection to a member.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Class;
use crate::config::Endpoint;
use crate::metrics::reason::UpstreamFailure;
use crate::tls::{self, Tls, server_name};

/// Streams that one connection carries at most, whatever more etcd would take. Older etcd over TLS takes 250.
pub const MAX_STREAMS: u32 = 200;

/// Bytes of one answer that etcd may send before they were passed on to the client.
#[must_use]
pub const fn stream_window(class: Class) -> u32 {
    match class {
        // One window is what a client that stops reading costs us, so unary calls get no more than their speed needs.
        Class::Unary => 256 * 1024,
        Class::Long => 64 * 1024,
        Class::Bulk => 512 * 1024,
    }
}

/// The connection window: no set of streams can use it up, because it holds the windows of them all.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const _: () = assert!(CONNECTION_WINDOW / MAX_STREAMS >= stream_window(Class::Bulk));

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// etcd permits a ping every 5 s at most, and only while a stream is open; it answers others with GOAWAY.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A live connection to a member. Clones share it.
#[derive(Clone)]
pub struct Link {
    send: SendRequest<Bytes>,
    load: Rc<Load>,
    /// Of the certificates that it was opened with ([`Tls::upstream_generation`]).
    pub generation: u64,
}

/// Holds a connection without keeping it open: one that was retired ends with its last stream, unless it is cut before.
pub struct Leash(Weak<Load>);

#[derive(Default)]
struct Load {
    streams: Cell<u32>,
    closed: Cell<bool>,
    /// Tells the driver that a stream was opened while there was none, so that it pings again.
    busy: tokio::sync::Notify,
    /// Tells the driver to end now, whatever is open.
    cut: tokio::sync::Notify,
}

/// A place for one stream on a link, given back when it is dropped: hold it until the answer has ended.
#[must_use = "the place is given back when this is dropped"]
pub struct Place(Rc<Load>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP.
    #[error("cannot connect: {0}")]
    Tcp(String),
    /// TLS.
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    /// What answers there is not the etcd that `cacert` vouches for.
    #[error("its certificate is not trusted: {0}")]
    Untrusted(String),
    /// HTTP/2.
    #[error("HTTP/2 preface failed: {0}")]
    Http2(String),
    /// Nothing for five seconds.
    #[error("no connection within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
}

impl From<&ConnectError> for UpstreamFailure {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::Tcp(_) => UpstreamFailure::Connect,
            ConnectError::Tls(_) | ConnectError::Untrusted(_) => UpstreamFailure::Tls,
            ConnectError::Http2(_) => UpstreamFailure::Protocol,
            ConnectError::Timeout => UpstreamFailure::Timeout,
        }
    }
}

impl ConnectError {
    /// What tokio-rustls' `connect` failed of.
    fn of_handshake(error: &std::io::Error) -> Self {
        if tls::distrusts(error) { ConnectError::Untrusted(error.to_string()) } else { ConnectError::Tls(error.to_string()) }
    }
}

impl Leash {
    /// Whether the connection has ended.
    #[must_use]
    pub fn is_loose(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Ends the connection and all that is open on it.
    pub fn cut(&self) {
        if let Some(load) = self.0.upgrade() {
            load.closed.set(true);
            load.cut.notify_one();
        }
    }
}

impl Link {
    /// Opens a connection and spawns the task that drives it on this thread. `on_close` runs when it has ended.
    ///
    /// # Errors
    /// What failed first.
    pub async fn open(endpoint: &Endpoint, tls: &Tls, class: Class, on_close: impl FnOnce() + 'static) -> Result<Link, ConnectError> {
        timeout(CONNECT_TIMEOUT, Self::connect(endpoint, tls, class, on_close)).await.unwrap_or(Err(ConnectError::Timeout))
    }

    async fn connect(endpoint: &Endpoint, tls: &Tls, class: Class, on_close: impl FnOnce() + 'static) -> Result<Link, ConnectError> {
        let tcp = TcpStream::connect((&*endpoint.host, endpoint.port)).await.map_err(|error| ConnectError::Tcp(error.to_string()))?;
        tcp.set_nodelay(true).map_err(|error| ConnectError::Tcp(error.to_string()))?;
        let generation = tls.upstream_generation;
        match tls.upstream.as_ref().filter(|_| endpoint.tls) {
            None => Self::handshake(tcp, class, generation, on_close).await,
            Some(tls) => {
                let name = server_name(endpoint).map_err(|error| ConnectError::Tls(error.to_string()))?;
                let connected = TlsConnector::from(tls.rustls_config()).connect(name, tcp).await;
                let stream = connected.map_err(|error| ConnectError::of_handshake(&error))?;
                Self::handshake(stream, class, generation, on_close).await
            }
        }
    }

    async fn handshake<S>(stream: S, class: Class, generation: u64, on_close: impl FnOnce() + 'static) -> Result<Link, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(stream_window(class))
            .initial_connection_window_size(CONNECTION_WINDOW)
            // None before etcd has said how many it takes.
            .initial_max_send_streams(0)
            .max_frame_size(64 * 1024)
            .max_header_list_size(64 * 1024)
            .enable_push(false)
            // What etcd had sent of an answer before it heard that its caller has gone comes all the same, and each such frame counts as an
            // error of the peer's, whose number ends the connection: clients decide how many there are, and others share it.
            .max_local_error_reset_streams(None)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| ConnectError::Http2(error.to_string()))?;
        greeted(&mut connection).await?;
        let load = Rc::new(Load::default());
        let driven = load.clone();
        tokio::task::spawn_local(async move {
            drive(connection, &driven).await;
            driven.closed.set(true);
            on_close();
        });
        Ok(Link { send, load, generation })
    }

    /// Streams that are open now.
    #[must_use]
    pub fn streams(&self) -> u32 {
        self.load.streams.get()
    }

    /// A hold on the connection that does not keep it open.
    #[must_use]
    pub fn leash(&self) -> Leash {
        Leash(Rc::downgrade(&self.load))
    }

    /// Takes the connection out of use: it refused a stream, because it is ending, or its certificate was replaced. Streams that are
    /// open go on; it ends with the last of them.
    pub fn retire(&self) {
        self.load.closed.set(true);
    }

    /// Whether the connection has ended, or takes no more streams.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.load.closed.get()
    }

    /// Whether one more stream may be opened: under our own bound and the peer's.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let peers = u32::try_from(self.send.current_max_send_streams()).unwrap_or(u32::MAX);
        !self.is_closed() && self.streams() < peers.min(MAX_STREAMS)
    }

    /// Takes a place. Check [`Link::has_room`] first.
    pub fn place(&self) -> Place {
        if self.load.streams.replace(self.load.streams.get().saturating_add(1)) == 0 {
            self.load.busy.notify_one();
        }
        Place(self.load.clone())
    }

    /// The h2 handle, to send one request with.
    #[must_use]
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.send.clone()
    }
}

/// Waits for etcd's SETTINGS, which come first (RFC 9113, 3.4): streams that are opened before may be more than etcd takes, and would
/// then wait behind those that stay, or be refused.
async fn greeted<S>(connection: &mut h2::client::Connection<S, Bytes>) -> Result<(), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let closed = |why: &str| ConnectError::Http2(why.to_owned());
    poll_fn(|cx| match connection.poll_unpin(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(closed("the connection was closed at once"))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(closed(&error.to_string()))),
        Poll::Pending if connection.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Runs the connection until it ends, pinging while streams are open: a member that hangs must not hold its callers for ever. The connection
/// has a task of its own: what it shares one with would be polled whenever something is sent or comes.
async fn drive<S>(mut connection: h2::client::Connection<S, Bytes>, load: &Load)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let pings = connection.ping_pong();
    let mut driven = tokio::task::spawn_local(connection);
    let watchdog = async {
        let Some(mut pings) = pings else { return std::future::pending().await };
        loop {
            if load.streams.get() == 0 {
                load.busy.notified().await;
            }
            tokio::time::sleep(PING_INTERVAL).await;
            if load.streams.get() > 0 && !matches!(timeout(PING_TIMEOUT, pings.ping(h2::Ping::opaque())).await, Ok(Ok(_))) {
                return;
            }
        }
    };
    tokio::select! {
        ended = &mut driven => if let Ok(Err(error)) = ended {
            tracing::debug!(%error, "connection to etcd ended");
        },
        () = load.cut.notified() => tracing::warn!("what was said over a connection to etcd cannot be trusted any more: it is closed"),
        () = watchdog => tracing::warn!("etcd did not answer a ping within {} s: closing the connection", PING_TIMEOUT.as_secs()),
    }
    driven.abort();
}
