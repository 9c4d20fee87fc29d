//! One HTTP/2 connection to a member.

mod driver;

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::timeout;

pub(crate) use self::driver::Close;
use super::Class;
use super::dial::{ConnectError, MemberSocket, dial};
use super::members::Member;
use super::ping_interval::PingInterval;
use super::window::Window;
use crate::http2::cost::CostLimits;
use crate::http2::io::InspectedStream;
use crate::tls::Tls;

/// Limit on concurrent streams of one connection. Older releases of etcd accept 250 over TLS.
const MAX_STREAMS: u32 = 200;

/// Flow-control window of one stream: bytes of a response that etcd may send before the client has
/// read them.
pub const fn stream_window(class: Class) -> u32 {
    match class {
        // A client that stops reading costs one window, so unary calls get no more than their
        // throughput needs.
        Class::Unary => 256 * 1024,
        Class::Long | Class::Own => 64 * 1024,
        Class::Bulk => 512 * 1024,
    }
}

/// Flow-control window of the connection. It is larger than the windows of all its streams
/// together, so that no set of streams can use it up.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const _: () = assert!(CONNECTION_WINDOW / MAX_STREAMS >= stream_window(Class::Bulk));

/// h2's budget for queued DATA frames of less than 256 bytes: unlimited. Over the budget, h2 closes
/// the connection, which several clients share. But the calls of one client decide how many such
/// frames etcd sends. Also, a finite budget would end every connection at some time: h2 never gives
/// back the part that it charged for streams that were reset (h2 0.4.20, `Streams::recv_data`,
/// `Recv::recv_data`: "ignored").
///
/// Two other rules limit these frames: nothing waits in h2 ([`crate::proxy::response_body`]), and
/// tiny frames have a cost ([`CostLimits::MEMBER`]).
const SMALL_DATA: usize = usize::MAX;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An open connection to a member. Clones share it.
#[derive(Clone)]
pub struct Link {
    send: SendRequest<Bytes>,
    state: Rc<LinkState>,
    /// Generation of the certificates with which it was opened ([`Tls::upstream_generation`]).
    pub generation: u64,
}

/// A reference to a connection that does not keep it open: a retired connection still ends with its
/// last stream.
pub(super) struct WeakLink(Weak<LinkState>);

/// The state that the handles of a connection and its driver share.
#[derive(Default)]
struct LinkState {
    /// Number of open streams.
    streams: Cell<u32>,
    window: Window,
    /// True if no new streams are allowed.
    closed: Cell<bool>,
    /// Notifies the driver that the first stream was opened, so that it pings again.
    busy: Notify,
    /// Notifies the driver to close the connection now, with all its streams.
    close: Notify,
}

/// A slot for one stream on a connection. Hold it until the response has ended.
#[must_use = "the slot is released when this is dropped"]
pub struct StreamSlot(Rc<LinkState>);

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

impl WeakLink {
    /// True if the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Closes the connection and its streams.
    pub(super) fn close(&self) {
        if let Some(state) = self.0.upgrade() {
            state.closed.set(true);
            state.close.notify_one();
        }
    }
}

impl Link {
    /// Opens a connection within 5 s, and spawns the task that drives it on this thread. `on_close`
    /// runs after the connection has ended.
    ///
    /// # Errors
    /// The first step that failed.
    pub(super) async fn open(
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
        let (generation, pings) = (tls.upstream_generation, member.ping_interval.clone());
        match dial(&member.endpoint, &member.first_address, tls).await? {
            MemberSocket::Plain(tcp) => {
                Self::handshake(tcp, class, generation, pings, on_close).await
            }
            MemberSocket::Tls(stream) => {
                Self::handshake(*stream, class, generation, pings, on_close).await
            }
        }
    }

    async fn handshake<S>(
        stream: S,
        class: Class,
        generation: u64,
        pings: Arc<PingInterval>,
        on_close: impl FnOnce(Close) + 'static,
    ) -> Result<Link, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (stream, seen) = InspectedStream::new(stream, CostLimits::MEMBER);
        let state = Rc::new(LinkState {
            window: Window::new(stream.write_blocked()),
            ..LinkState::default()
        });
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(stream_window(class))
            .initial_connection_window_size(CONNECTION_WINDOW)
            // None until etcd has announced its limit.
            .initial_max_send_streams(0)
            .max_frame_size(64 * 1024)
            .max_header_list_size(64 * 1024)
            .enable_push(false)
            // No limit: etcd may send frames of a response before it receives our reset of the
            // stream. h2 counts each of them as an error of the peer and would close the connection
            // at a limit. But clients decide how many calls they cancel, and other clients share
            // the connection.
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_DATA)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| ConnectError::Http2(error.to_string()))?;
        driver::wait_for_settings(&mut connection).await?;
        let driven = state.clone();
        tokio::task::spawn_local(async move {
            let close = driver::drive(connection, &driven, &pings).await;
            if let Some(refusal) = seen.borrow().refusal() {
                tracing::warn!(
                    ?refusal,
                    "closing connection to etcd: too many frames without payload"
                );
            }
            driven.closed.set(true);
            driven.window.end();
            on_close(close);
        });
        Ok(Link { send, state, generation })
    }

    /// Open streams.
    pub(super) fn streams(&self) -> u32 {
        self.state.streams.get()
    }

    pub(super) fn downgrade(&self) -> WeakLink {
        WeakLink(Rc::downgrade(&self.state))
    }

    /// Takes the connection out of use, because etcd announced its end (GOAWAY) or its certificates
    /// were replaced. Open streams continue, and the connection ends with the last of them.
    pub fn retire(&self) {
        self.state.closed.set(true);
    }

    /// True if the connection has ended or was retired.
    pub fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    /// True if another stream may be opened, within our limit and etcd's.
    pub(super) fn has_free_slot(&self) -> bool {
        let etcds = u32::try_from(self.send.current_max_send_streams()).unwrap_or(u32::MAX);
        !self.is_closed() && self.streams() < etcds.min(MAX_STREAMS)
    }

    /// Takes a slot. Check [`Link::has_free_slot`] first.
    pub(super) fn take_slot(&self) -> StreamSlot {
        if self.state.streams.replace(self.state.streams.get().saturating_add(1)) == 0 {
            self.state.busy.notify_one();
        }
        StreamSlot(self.state.clone())
    }

    /// The window, which limits the bytes that may be sent now.
    pub fn window(&self) -> &Window {
        &self.state.window
    }

    /// The h2 handle for one request.
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.send.clone()
    }
}
