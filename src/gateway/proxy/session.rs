//! The HTTP/2 side of one connection: its calls, and the end of it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use etcd_warden_core::policy::Mode;
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
use super::outbox::{Outbox, Paced, READ_ROUND, ROUND};
use super::part::{Part, Parts};
use super::rejections;
use super::turn::{Turn, in_turns};
use crate::http2::cost::Terms;
use crate::http2::frame::RST_STREAM;
use crate::http2::io::{Seen, Watched};
use crate::http2::layer::Refusal;
use crate::metrics::reason::Limit;

/// Bytes of one request that a client may send before they were looked at.
pub const STREAM_WINDOW: usize = 256 * 1024;

/// A small piece of a body keeps the buffer that it was read into, which has about this size: where
/// it stays, it is copied or counted so.
pub const READ_BUFFER: usize = 16 * 1024;

/// What h2 may keep of DATA frames that are smaller than what it takes to keep one (256 bytes):
/// some 8,000 on a connection. Those that come together are one ([`crate::http2`]).
const SMALL_DATA: usize = 2 * 1024 * 1024;

type Http2 = Connection<Paced<Watched<TlsStream<TcpStream>>>, Bytes>;

/// Begins to speak HTTP/2 with a client. `None`: it did not begin in time.
///
/// # Errors
/// What the client did against the protocol, or the network.
pub async fn begin(
    client: Rc<Client>,
    stream: TlsStream<TcpStream>,
) -> Result<Option<Box<Session>>, h2::Error> {
    let limits = client.worker.shared.config.limits;
    let terms = if client.caller().principal.mode == Mode::Shadow {
        Terms::SHADOWED
    } else {
        Terms::ENFORCED
    };
    let (stream, seen) = Watched::new(stream, terms);
    let turn = Rc::<Turn>::default();
    let handshake = h2::server::Builder::new()
        .initial_window_size(u32::try_from(STREAM_WINDOW).unwrap_or(u32::MAX))
        .initial_connection_window_size(1024 * 1024)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_bytes)
        .max_send_buffer_size(ROUND)
        // Floods are counted below h2, where they have a price, and are not taken for busy clients:
        // no round of reading has so many.
        .max_pending_accept_reset_streams(READ_ROUND)
        .max_local_error_reset_streams(None)
        .data_frame_budget(SMALL_DATA)
        .handshake::<_, Bytes>(Paced::new(stream, client.outbox.clone(), turn.clone()));
    let Ok(connection) = timeout(limits.handshake_timeout, handshake).await else {
        return Ok(None);
    };
    Ok(Some(Box::new(Session::new(client, connection?, turn, seen))))
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
    turn: Rc<Turn>,
    /// What its frames are.
    seen: Seen,
    /// The client is to go for them.
    refused: bool,
    /// h2 has refused something.
    rejected: Cell<bool>,
    ending: Pin<Box<WaitForCancellationFutureOwned>>,
    keepalive: Keepalive,
    term: Term,
}

/// What the connection has for the session.
#[expect(
    clippy::large_enum_variant,
    reason = "a request is moved once, and never stored in this form"
)]
enum Next {
    Request(Request<RecvStream>, SendResponse<Bytes>),
    /// Something moved: calls may go on.
    Again,
    Over(Result<(), h2::Error>),
}

/// Ready when a call has ended.
fn one_of<C: Future<Output = ()>>(
    calls: &mut FuturesUnordered<C>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    match calls.poll_next_unpin(cx) {
        Poll::Ready(Some(())) => Poll::Ready(()),
        // Without any there is nothing to wait for but the next one.
        Poll::Ready(None) | Poll::Pending => Poll::Pending,
    }
}

impl Session {
    fn new(client: Rc<Client>, mut connection: Http2, turn: Rc<Turn>, seen: Seen) -> Self {
        let limits = client.worker.shared.config.limits;
        let mut parts = Parts::new();
        Self {
            keepalive: Keepalive::new(connection.ping_pong(), limits.keepalive),
            term: Term::begin(client.identity.not_after, limits.max_connection_age),
            outbox: client.outbox.clone(),
            backlog: Hold::none(&client.unread),
            draining: false,
            turn,
            seen,
            refused: false,
            rejected: Cell::new(false),
            ending: Box::pin(client.ending.clone().cancelled_owned()),
            client,
            connection,
            connected: parts.part(),
            parts,
        }
    }

    /// Runs calls and connection in one task: first every call that can go on, then the connection,
    /// so that the answers of many calls leave in one write. A call that gives h2 something to
    /// send wakes the connection with it.
    ///
    /// # Errors
    /// What the client did against the protocol, or the network.
    pub async fn run(mut self: Box<Self>) -> Result<(), h2::Error> {
        let mut calls = FuturesUnordered::new();
        let turn = self.turn.clone();
        let (called, connected, beside) =
            (self.parts.part(), self.connected.clone(), self.parts.part());
        let parts = std::mem::take(&mut self.parts);
        let over = poll_fn(|cx| {
            parts.poll(cx, || {
                turn.begin();
                loop {
                    while called.poll(|cx| one_of(&mut calls, cx)).is_ready() {}
                    if self.outbox.is_overflowing() {
                        return Poll::Ready(Ok(()));
                    }
                    self.refuse();
                    match connected.poll(|cx| self.next(cx)) {
                        Poll::Ready(Next::Request(request, respond)) => {
                            calls.push(in_turns(
                                turn.clone(),
                                call::serve(self.client.clone(), request, respond),
                            ));
                            called.wake();
                        }
                        Poll::Ready(Next::Again) => {}
                        Poll::Ready(Next::Over(how)) => return Poll::Ready(how),
                        // What it has for the calls they see in the task's next turn. Where this
                        // turn's budget (tokio's coop) is spent,
                        // whatever is polled wakes at once: to go on here would never end.
                        Poll::Pending => break,
                    }
                }
                if !self.backlog.set(self.outbox.backlog())
                    && self.client.caller().principal.mode == Mode::Enforce
                {
                    self.limit_hit(Limit::UnreadBytes);
                    return Poll::Ready(Ok(()));
                }
                self.keepalive.note(!calls.is_empty());
                beside.poll(|cx| self.tend(cx))
            })
        })
        .await;
        self.note_rejected();
        // The calls that are left see that their client is gone, and still have to be counted and
        // written down.
        drop(self.connection);
        self.outbox.end();
        poll_fn(|cx| {
            turn.begin();
            while let Poll::Ready(ended) = calls.poll_next_unpin(cx) {
                if ended.is_none() {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
        over
    }

    /// Ends the connection of a client that floods, or breaks what h2 does not look at.
    fn refuse(&mut self) {
        let Some(refusal) = self.seen.borrow().refusal().filter(|_| !self.refused) else { return };
        self.refused = true;
        let code = match refusal {
            Refusal::Flood(kind) => {
                let limit = if kind == RST_STREAM { Limit::Resets } else { Limit::Frames };
                self.limit_hit(limit);
                rejections::flood(&self.client, limit, kind);
                h2::Reason::ENHANCE_YOUR_CALM
            }
            Refusal::Broken { code, what } => {
                rejections::broken(&self.client, code, what);
                code.into()
            }
        };
        self.connection.abrupt_shutdown(code);
        self.connected.wake();
    }

    /// What h2 has refused by itself leaves a trace.
    fn note_rejected(&self) {
        if let Some(rejected) = self.seen.borrow_mut().rejected().filter(|_| !self.refused) {
            rejections::by_h2(&self.client, &rejected, !self.rejected.replace(true));
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        Poll::Ready(match self.connection.poll_accept(cx) {
            // h2 takes new streams until the client has answered the ping of its GOAWAY, which a
            // client may never do.
            Poll::Ready(Some(Ok((_, mut respond)))) if self.client.is_over() => {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                Next::Again
            }
            // etcd resets it, and nothing in it was to be judged.
            Poll::Ready(Some(Ok((_, mut respond))))
                if self.seen.borrow_mut().take_malformed(respond.stream_id().as_u32()) =>
            {
                respond.send_reset(h2::Reason::PROTOCOL_ERROR);
                Next::Again
            }
            // Its path may be another one. The client may come back.
            Poll::Ready(Some(Ok((_, mut respond)))) if self.is_unread() => {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                if !self.draining {
                    self.drain();
                }
                Next::Again
            }
            Poll::Ready(Some(Ok((request, respond)))) => {
                self.outbox.give_stream();
                Next::Request(request, respond)
            }
            Poll::Ready(Some(Err(error))) => Next::Over(Err(error)),
            Poll::Ready(None) => Next::Over(Ok(())),
            Poll::Pending => {
                self.note_rejected();
                let yielded = self.seen.borrow_mut().has_yielded();
                if !self.outbox.goes_on() {
                    return Poll::Pending;
                }
                // Its frames have used up the turn, and what is left of them wakes it.
                if yielded {
                    return Poll::Pending;
                }
                // Where this turn is used up, or its budget (`tokio::select!` looks at it), calls
                // stand still, and what waits would wait for ever.
                if self.turn.is_over() || !coop::has_budget_remaining() {
                    self.connected.wake();
                    return Poll::Pending;
                }
                Next::Again
            }
        })
    }

    /// Whether a request may have another path than `h2` says, and that matters.
    fn is_unread(&self) -> bool {
        self.seen.borrow().has_unread_heads()
            && self.client.caller().principal.mode == Mode::Enforce
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
            Poll::Ready(Found::Idle(so_long))
                if so_long >= limits.idle_timeout && !self.draining =>
            {
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
