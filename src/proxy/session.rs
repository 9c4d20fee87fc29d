//! The HTTP/2 side of one connection: its calls, and the end of it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::Request;
use tokio::net::TcpStream;
use tokio::task::coop;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::budget::Hold;
use super::call;
use super::client::Client;
use super::keepalive::{Found, Keepalive};
use super::lifetime::{Due, Term};
use super::outbox::{Outbox, Paced, ROUND};
use super::part::{Part, Parts};
use crate::metrics::reason::Limit;
use crate::policy::Mode;

/// Bytes of one request that a client may send before they were looked at.
pub const STREAM_WINDOW: usize = 256 * 1024;

/// A small piece of a body keeps the buffer that it was read into, which has about this size: where it stays, it is copied or counted so.
pub const READ_BUFFER: usize = 16 * 1024;

type Http2 = Connection<Paced<TlsStream<TcpStream>>, Bytes>;

/// Begins to speak HTTP/2 with a client. `None`: it did not begin in time.
///
/// # Errors
/// What the client did against the protocol, or the network.
pub async fn begin(client: Rc<Client>, stream: TlsStream<TcpStream>) -> Result<Option<Box<Session>>, h2::Error> {
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
    let Ok(connection) = timeout(limits.handshake_timeout, handshake).await else { return Ok(None) };
    Ok(Some(Box::new(Session::new(client, connection?))))
}

/// An HTTP/2 connection with a client.
pub struct Session {
    client: Rc<Client>,
    /// Its calls, the connection, and what is due beside them.
    parts: Parts,
    connection: Http2,
    /// Wakes it.
    connected: Part,
    outbox: Rc<Outbox>,
    /// What the outbox holds, counted as the client's.
    backlog: Hold,
    /// The client was told to go: no new streams.
    draining: bool,
    /// The client has reset too many streams.
    flooded: bool,
    ending: Pin<Box<WaitForCancellationFutureOwned>>,
    keepalive: Keepalive,
    term: Term,
}

/// What the connection has for the session.
#[expect(clippy::large_enum_variant, reason = "a request is moved once, and never stored in this form")]
enum Next {
    Request(Request<RecvStream>, SendResponse<Bytes>),
    /// Something moved: calls may go on.
    Again,
    Over(Result<(), h2::Error>),
}

/// Ready when a call has ended.
fn one_of<C: Future<Output = ()>>(calls: &mut FuturesUnordered<C>, cx: &mut Context<'_>) -> Poll<()> {
    match calls.poll_next_unpin(cx) {
        Poll::Ready(Some(())) => Poll::Ready(()),
        // Without any there is nothing to wait for but the next one.
        Poll::Ready(None) | Poll::Pending => Poll::Pending,
    }
}

impl Session {
    fn new(client: Rc<Client>, mut connection: Http2) -> Self {
        let limits = client.worker.shared.config.limits;
        let mut parts = Parts::new();
        Self {
            keepalive: Keepalive::new(connection.ping_pong(), limits.keepalive),
            term: Term::begin(client.identity.not_after, limits.max_connection_age),
            outbox: client.outbox.clone(),
            backlog: Hold::none(&client.unread),
            draining: false,
            flooded: false,
            ending: Box::pin(client.ending.clone().cancelled_owned()),
            client,
            connection,
            connected: parts.part(),
            parts,
        }
    }

    /// Runs calls and connection in one task: first every call that can go on, then the connection, so that the answers of
    /// many calls leave in one write. A call that gives h2 something to send wakes the connection with it.
    ///
    /// # Errors
    /// What the client did against the protocol, or the network.
    pub async fn run(mut self: Box<Self>) -> Result<(), h2::Error> {
        let mut calls = FuturesUnordered::new();
        let (called, connected, beside) = (self.parts.part(), self.connected.clone(), self.parts.part());
        let parts = std::mem::take(&mut self.parts);
        let over = poll_fn(|cx| {
            parts.poll(cx, || {
                loop {
                    while called.poll(|cx| one_of(&mut calls, cx)).is_ready() {}
                    if self.outbox.is_overflowing() {
                        return Poll::Ready(Ok(()));
                    }
                    self.end_flood();
                    match connected.poll(|cx| self.next(cx)) {
                        Poll::Ready(Next::Request(request, respond)) => {
                            calls.push(call::serve(self.client.clone(), request, respond));
                            called.wake();
                        }
                        Poll::Ready(Next::Again) => {}
                        Poll::Ready(Next::Over(how)) => return Poll::Ready(how),
                        // What it has for the calls they see in the task's next turn. Where this turn's budget (tokio's coop) is spent,
                        // whatever is polled wakes at once: to go on here would never end.
                        Poll::Pending => break,
                    }
                }
                if !self.backlog.set(self.outbox.backlog()) && self.client.caller().principal.mode == Mode::Enforce {
                    self.limit_hit(Limit::UnreadBytes);
                    return Poll::Ready(Ok(()));
                }
                self.keepalive.note(!calls.is_empty());
                beside.poll(|cx| self.tend(cx))
            })
        })
        .await;
        let by_h2 = over.as_ref().is_err_and(|error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) && !error.is_remote());
        if self.flooded || by_h2 {
            self.limit_hit(Limit::Resets);
        }
        // The calls that are left see that their client is gone, and still have to be counted and written down.
        drop(self.connection);
        self.outbox.end();
        while calls.next().await.is_some() {}
        over
    }

    fn end_flood(&mut self) {
        if self.client.is_flooding() {
            self.flooded = true;
            self.connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
            self.connected.wake();
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        Poll::Ready(match self.connection.poll_accept(cx) {
            // h2 takes new streams until the client has answered the ping of its GOAWAY, which a client may never do.
            Poll::Ready(Some(Ok((_, mut respond)))) if self.client.is_over() => {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                Next::Again
            }
            Poll::Ready(Some(Ok((request, respond)))) => {
                self.outbox.give_stream();
                Next::Request(request, respond)
            }
            Poll::Ready(Some(Err(error))) => Next::Over(Err(error)),
            Poll::Ready(None) => Next::Over(Ok(())),
            Poll::Pending if self.outbox.goes_on() => {
                // Where this turn's budget is spent, calls stand still (`tokio::select!` looks at it), and what waits would wait for ever.
                if !coop::has_budget_remaining() {
                    self.connected.wake();
                    return Poll::Pending;
                }
                Next::Again
            }
            Poll::Pending => return Poll::Pending,
        })
    }

    /// What is due beside the calls. Ready when the connection is to end without more ado.
    fn tend(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if !self.client.is_over() {
            let client = &self.client;
            match self.term.poll_due(cx, || client.caller().principal.mode == Mode::Enforce) {
                Poll::Ready(Due::Leave(why)) => self.client.end(why),
                Poll::Ready(Due::End) => self.client.end_identity(),
                Poll::Pending => {}
            }
        }
        if !self.draining && self.ending.as_mut().poll(cx).is_ready() {
            self.drain();
        }
        let limits = self.client.worker.shared.config.limits;
        match self.keepalive.poll(cx) {
            Poll::Ready(Found::Gone) => {
                self.limit_hit(Limit::Keepalive);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Found::Idle(so_long)) if so_long >= limits.idle_timeout && !self.draining => {
                self.limit_hit(Limit::Idle);
                self.drain();
            }
            _ => {}
        }
        Poll::Pending
    }

    /// No new streams; those that are open see it and end themselves; unary calls finish.
    fn drain(&mut self) {
        self.draining = true;
        self.client.ending.cancel();
        self.connection.graceful_shutdown();
        self.connected.wake();
    }

    fn limit_hit(&self, limit: Limit) {
        self.client.worker.shared.metrics.limit_hit(limit);
    }
}
