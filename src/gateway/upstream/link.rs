//! One HTTP/2 connection to a member.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::Class;
use super::dial::{ConnectError, Socket, dial};
use super::members::Member;
use super::pace::Pace;
use super::window::Window;
use crate::http2::cost::Terms;
use crate::http2::io::Watched;
use crate::tls::Tls;

/// Streams that one connection carries at most, whatever more etcd would take. Older etcd over TLS
/// takes 250.
pub const MAX_STREAMS: u32 = 200;

/// Bytes of one answer that etcd may send before they were passed on to the client.
#[must_use]
pub const fn stream_window(class: Class) -> u32 {
    match class {
        // One window is what a client that stops reading costs us, so unary calls get no more than
        // their speed needs.
        Class::Unary => 256 * 1024,
        Class::Long | Class::Own => 64 * 1024,
        Class::Bulk => 512 * 1024,
    }
}

/// The connection window: no set of streams can use it up, because it holds the windows of them
/// all.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const _: () = assert!(CONNECTION_WINDOW / MAX_STREAMS >= stream_window(Class::Bulk));

/// What h2 may keep of DATA frames that are smaller than what it takes to keep one (256 bytes).
/// There is no end to that: above it h2 ends the connection, which others share, and how many such
/// frames etcd sends for whom is for one client to say. It is no bound either: small frames that
/// come for a stream which was given up are never taken off (h2 0.4.20, `Streams::recv_data`,
/// `Recv::recv_data`: "ignored"), so that each connection would end some day. The bound is that
/// nothing waits in h2 ([`crate::proxy::inflow`]), and the price of tiny ones ([`Terms::MEMBER`]).
const SMALL_DATA: usize = usize::MAX;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A live connection to a member. Clones share it.
#[derive(Clone)]
pub struct Link {
    send: SendRequest<Bytes>,
    load: Rc<Load>,
    /// Of the certificates that it was opened with ([`Tls::upstream_generation`]).
    pub generation: u64,
}

/// Holds a connection without keeping it open: one that was retired ends with its last stream,
/// unless it is cut before.
pub struct Leash(Weak<Load>);

#[derive(Default)]
struct Load {
    streams: Cell<u32>,
    window: Window,
    closed: Cell<bool>,
    /// Tells the driver that a stream was opened while there was none, so that it pings again.
    busy: tokio::sync::Notify,
    /// Tells the driver to end now, whatever is open.
    cut: tokio::sync::Notify,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The member said that it was pinged too often, at this interval.
    TooManyPings(Duration),
    /// h2 ended it: the member broke the protocol, or a bound of h2's was too narrow.
    Ours,
    /// In any other way.
    Other,
}

/// A place for one stream on a link, given back when it is dropped: hold it until the answer has
/// ended.
#[must_use = "the place is given back when this is dropped"]
pub struct Place(Rc<Load>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
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
    /// Opens a connection and spawns the task that drives it on this thread. `on_close` runs when
    /// it has ended.
    ///
    /// # Errors
    /// What failed first.
    pub async fn open(
        member: &Member,
        tls: &Tls,
        class: Class,
        on_close: impl FnOnce(Close) + 'static,
    ) -> Result<Link, ConnectError> {
        let connected = timeout(CONNECT_TIMEOUT, Self::connect(member, tls, class, on_close)).await;
        connected.unwrap_or(Err(ConnectError::Timeout(CONNECT_TIMEOUT.as_secs())))
    }

    async fn connect(
        member: &Member,
        tls: &Tls,
        class: Class,
        on_close: impl FnOnce(Close) + 'static,
    ) -> Result<Link, ConnectError> {
        let (generation, pace) = (tls.upstream_generation, member.pace.clone());
        match dial(&member.endpoint, &member.first_address, tls).await? {
            Socket::Plain(tcp) => Self::handshake(tcp, class, generation, pace, on_close).await,
            Socket::Tls(stream) => {
                Self::handshake(*stream, class, generation, pace, on_close).await
            }
        }
    }

    async fn handshake<S>(
        stream: S,
        class: Class,
        generation: u64,
        pace: Arc<Pace>,
        on_close: impl FnOnce(Close) + 'static,
    ) -> Result<Link, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (stream, seen) = Watched::new(stream, Terms::MEMBER);
        let load = Rc::new(Load { window: Window::behind(stream.behind()), ..Load::default() });
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(stream_window(class))
            .initial_connection_window_size(CONNECTION_WINDOW)
            // None before etcd has said how many it takes.
            .initial_max_send_streams(0)
            .max_frame_size(64 * 1024)
            .max_header_list_size(64 * 1024)
            .enable_push(false)
            // What etcd had sent of an answer before it heard that its caller has gone comes all
            // the same, and each such frame counts as an error of the peer's, whose
            // number ends the connection: clients decide how many there are, and others share it.
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_DATA)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| ConnectError::Http2(error.to_string()))?;
        greeted(&mut connection).await?;
        let driven = load.clone();
        tokio::task::spawn_local(async move {
            let close = drive(connection, &driven, &pace).await;
            if let Some(refusal) = seen.borrow().refusal() {
                tracing::warn!(
                    ?refusal,
                    "a member sends too many frames for nothing: its connection is closed"
                );
            }
            driven.closed.set(true);
            driven.window.end();
            on_close(close);
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

    /// Takes the connection out of use: it refused a stream, because it is ending, or its
    /// certificate was replaced. Streams that are open go on; it ends with the last of them.
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

    /// What it was sent and may not have read, and whether it takes more.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.load.window
    }

    /// The h2 handle, to send one request with.
    #[must_use]
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.send.clone()
    }
}

/// Waits for etcd's SETTINGS, which come first (RFC 9113, 3.4): streams that are opened before may
/// be more than etcd takes, and would then wait behind those that stay, or be refused.
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

/// Runs the connection until it ends, pinging while streams are open: a member that hangs must not
/// hold its callers for ever. The connection has a task of its own: what it shares one with would
/// be polled whenever something is sent or comes.
async fn drive<S>(
    mut connection: h2::client::Connection<S, Bytes>,
    load: &Load,
    pace: &Pace,
) -> Close
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let pings = connection.ping_pong();
    let window = load.window.clone();
    let mut driven = tokio::task::spawn_local(poll_fn(move |cx| {
        let polled = connection.poll_unpin(cx);
        window.driven();
        polled
    }));
    let interval = Cell::new(pace.interval());
    let watchdog = async {
        let Some(mut pings) = pings else { return std::future::pending().await };
        loop {
            if load.streams.get() == 0 {
                load.busy.notified().await;
            }
            interval.set(pace.interval());
            tokio::time::sleep(interval.get()).await;
            if load.streams.get() > 0
                && !matches!(timeout(PING_TIMEOUT, pings.ping(h2::Ping::opaque())).await, Ok(Ok(_)))
            {
                return;
            }
        }
    };
    let mut close = Close::Other;
    tokio::select! {
        // First, so that what the member said is seen before the ping that it did not answer.
        biased;
        ended = &mut driven => if let Ok(Err(error)) = ended {
            tracing::debug!(%error, "connection to etcd ended");
            // gRPC's servers say so, with the debug data "too_many_pings" (gRFC A8, "Server Enforcement").
            if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) {
                close = Close::TooManyPings(interval.get());
            } else if error.is_library() {
                tracing::warn!(%error, streams = load.streams.get(), "HTTP/2 of the proxy has ended a connection to etcd, and the calls on it");
                close = Close::Ours;
            }
        },
        () = load.cut.notified() => tracing::warn!("what was said over a connection to etcd cannot be trusted any more: it is closed"),
        () = watchdog => tracing::warn!("etcd did not answer a ping within {} s: closing the connection", PING_TIMEOUT.as_secs()),
    }
    driven.abort();
    close
}
