//! The HTTP/2 session of one client connection. It runs the calls and ends the connection.

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

use super::backpressure::{PacedStream, READ_BATCH, SendQueue, WRITE_BATCH};
use super::budget::Reservation;
use super::call;
use super::client::Client;
use super::keepalive::{Keepalive, Liveness};
use super::lifetime::{Due, LifetimeTimer};
use super::limits::STREAM_WINDOW;
use super::poll_budget::{PollBudget, budgeted};
use super::rejections;
use super::wake_set::{Subtask, WakeSet};
use crate::http2::cost::CostLimits;
use crate::http2::frame::RST_STREAM;
use crate::http2::io::{InspectedStream, SharedLayer};
use crate::http2::layer::Refusal;
use crate::metrics::reason::Limit;

/// Limit on DATA frames below 256 bytes that `h2` may keep on a connection. Each is charged with
/// 256 bytes, so about 8,000 frames. Small frames that arrive together are combined
/// ([`crate::http2`]).
const SMALL_DATA: usize = 2 * 1024 * 1024;

type Http2 = Connection<PacedStream<InspectedStream<TlsStream<TcpStream>>>, Bytes>;

/// Does the HTTP/2 handshake with a client. Returns `None` after a timeout.
///
/// # Errors
/// A protocol error of the client, or a network error.
pub async fn begin(
    client: Rc<Client>,
    stream: TlsStream<TcpStream>,
) -> Result<Option<Box<Session>>, h2::Error> {
    let limits = client.worker.shared.config.limits;
    let mode = client.caller().principal.mode;
    let (stream, layer) = InspectedStream::new(stream, cost_limits(mode));
    let budget = Rc::<PollBudget>::default();
    let handshake = h2::server::Builder::new()
        .initial_window_size(u32::try_from(STREAM_WINDOW).unwrap_or(u32::MAX))
        .initial_connection_window_size(1024 * 1024)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_bytes)
        .max_send_buffer_size(WRITE_BATCH)
        // The layer below h2 detects floods by the cost of frames. h2's own limit is above the
        // number of resets in a read batch, so that h2 never treats a busy client as a flood.
        .max_pending_accept_reset_streams(READ_BATCH)
        .max_local_error_reset_streams(None)
        .data_frame_budget(SMALL_DATA)
        .handshake::<_, Bytes>(PacedStream::new(stream, client.send_queue.clone(), budget.clone()));
    let Ok(connection) = timeout(limits.handshake_timeout, handshake).await else {
        return Ok(None);
    };
    Ok(Some(Box::new(Session::new(client, connection?, budget, layer, mode))))
}

/// The cost that the frames of a client may cause.
const fn cost_limits(mode: Mode) -> CostLimits {
    match mode {
        Mode::Enforce => CostLimits::ENFORCED,
        Mode::Shadow => CostLimits::SHADOWED,
    }
}

/// The HTTP/2 session of a client connection.
pub struct Session {
    client: Rc<Client>,
    /// The subtasks: the calls, the connection, and the housekeeping.
    subtasks: WakeSet,
    connection: Http2,
    /// The subtask that polls the connection.
    connected: Subtask,
    send_queue: Rc<SendQueue>,
    /// The backlog of the send queue, charged to the identity.
    backlog: Reservation,
    /// True if GOAWAY was sent, so the client opens no new streams.
    draining: bool,
    budget: Rc<PollBudget>,
    /// The layer that inspects the connection's frames below `h2`.
    layer: SharedLayer,
    /// The mode whose frame limits `layer` has.
    mode: Mode,
    /// True if the connection was shut down because of its frames.
    refused: bool,
    /// True if `h2` has rejected a frame or a stream.
    rejected: Cell<bool>,
    ending: Pin<Box<WaitForCancellationFutureOwned>>,
    keepalive: Keepalive,
    lifetime: LifetimeTimer,
}

/// The result of polling the connection.
#[expect(
    clippy::large_enum_variant,
    reason = "a request is moved once, and never stored in this form"
)]
enum Next {
    Request(Request<RecvStream>, SendResponse<Bytes>),
    /// Something has changed, so calls may continue.
    Again,
    Ended(Result<(), h2::Error>),
}

/// Polls the calls. Ready if one of them has ended.
fn poll_calls<C: Future<Output = ()>>(
    calls: &mut FuturesUnordered<C>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    match calls.poll_next_unpin(cx) {
        Poll::Ready(Some(())) => Poll::Ready(()),
        // `None`: there are no calls, and the next one wakes this.
        Poll::Ready(None) | Poll::Pending => Poll::Pending,
    }
}

impl Session {
    fn new(
        client: Rc<Client>,
        mut connection: Http2,
        budget: Rc<PollBudget>,
        layer: SharedLayer,
        mode: Mode,
    ) -> Self {
        let limits = client.worker.shared.config.limits;
        let mut subtasks = WakeSet::new();
        Self {
            keepalive: Keepalive::new(connection.ping_pong(), limits.keepalive),
            lifetime: LifetimeTimer::start(client.identity.not_after, limits.max_connection_age),
            send_queue: client.send_queue.clone(),
            backlog: Reservation::empty(&client.unread),
            draining: false,
            budget,
            layer,
            mode,
            refused: false,
            rejected: Cell::new(false),
            ending: Box::pin(client.ending.clone().cancelled_owned()),
            client,
            connection,
            connected: subtasks.subtask(),
            subtasks,
        }
    }

    /// Runs the calls and the connection in one task. Each turn polls first the woken calls and
    /// then the connection, so that the responses of several calls leave in one write. A call that
    /// passes bytes to `h2` also wakes the connection.
    ///
    /// # Errors
    /// A protocol error of the client, or a network error.
    pub async fn run(mut self: Box<Self>) -> Result<(), h2::Error> {
        let mut calls = FuturesUnordered::new();
        let budget = self.budget.clone();
        let (calling, connected, housekeeping) =
            (self.subtasks.subtask(), self.connected.clone(), self.subtasks.subtask());
        let subtasks = std::mem::take(&mut self.subtasks);
        let ended = poll_fn(|cx| {
            subtasks.poll(cx, || {
                budget.begin();
                self.follow_mode();
                loop {
                    // The calls.
                    while calling.poll(|cx| poll_calls(&mut calls, cx)).is_ready() {}
                    if self.send_queue.is_overflowing() {
                        return Poll::Ready(Ok(()));
                    }
                    // The connection.
                    self.refuse();
                    match connected.poll(|cx| self.next(cx)) {
                        Poll::Ready(Next::Request(request, respond)) => {
                            calls.push(budgeted(
                                budget.clone(),
                                call::serve(self.client.clone(), request, respond),
                            ));
                            calling.wake();
                        }
                        Poll::Ready(Next::Again) => {}
                        Poll::Ready(Next::Ended(result)) => return Poll::Ready(result),
                        // Calls that the connection has woken are polled in the task's next turn.
                        // Continuing here might never end: once tokio's coop budget is spent,
                        // everything that is polled wakes itself at once.
                        Poll::Pending => break,
                    }
                }
                // The housekeeping.
                if !self.backlog.resize(self.send_queue.backlog())
                    && self.client.caller().principal.mode == Mode::Enforce
                {
                    self.limit_hit(Limit::UnreadBytes);
                    return Poll::Ready(Ok(()));
                }
                self.keepalive.note(!calls.is_empty());
                housekeeping.poll(|cx| self.housekeeping(cx))
            })
        })
        .await;
        self.note_rejected();
        // Poll the remaining calls until they end: they find that their client is gone and record
        // it.
        drop(self.connection);
        self.send_queue.end();
        poll_fn(|cx| {
            budget.begin();
            while let Poll::Ready(ended) = calls.poll_next_unpin(cx) {
                if ended.is_none() {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
        ended
    }

    /// Applies the frame limits of the client's current mode.
    fn follow_mode(&mut self) {
        let mode = self.client.caller().principal.mode;
        if mode != self.mode {
            self.mode = mode;
            self.layer.borrow_mut().set_limits(cost_limits(mode));
        }
    }

    /// Shuts the connection down if the client floods it or violates a rule that `h2` does not
    /// check.
    fn refuse(&mut self) {
        let Some(refusal) = self.layer.borrow().refusal().filter(|_| !self.refused) else { return };
        self.refused = true;
        let code = match refusal {
            Refusal::Flood(kind) => {
                let limit = if kind == RST_STREAM { Limit::Resets } else { Limit::Frames };
                self.limit_hit(limit);
                rejections::flood(&self.client, limit, kind);
                h2::Reason::ENHANCE_YOUR_CALM
            }
            Refusal::ProtocolError { code, what } => {
                rejections::protocol_error(&self.client, code, what);
                code.into()
            }
        };
        self.connection.abrupt_shutdown(code);
        self.connected.wake();
    }

    /// Records the frames and streams that `h2` itself has rejected.
    fn note_rejected(&self) {
        if let Some(rejected) = self.layer.borrow_mut().rejected().filter(|_| !self.refused) {
            rejections::by_h2(&self.client, &rejected, !self.rejected.replace(true));
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        Poll::Ready(match self.connection.poll_accept(cx) {
            // h2 accepts new streams until the client acknowledges the PING behind its GOAWAY,
            // which a client may never do.
            Poll::Ready(Some(Ok((_, mut respond)))) if self.client.is_over() => {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                Next::Again
            }
            // The request is malformed. etcd resets such a stream too. There is nothing to judge.
            Poll::Ready(Some(Ok((_, mut respond))))
                if self.layer.borrow_mut().take_malformed(respond.stream_id().as_u32()) =>
            {
                respond.send_reset(h2::Reason::PROTOCOL_ERROR);
                Next::Again
            }
            // The path that h2 reports may differ from the path that the client sent. Refuse the
            // request; the client may reconnect.
            Poll::Ready(Some(Ok((_, mut respond)))) if self.has_unread_head() => {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                if !self.draining {
                    self.drain();
                }
                Next::Again
            }
            Poll::Ready(Some(Ok((request, respond)))) => {
                self.send_queue.add_stream();
                Next::Request(request, respond)
            }
            Poll::Ready(Some(Err(error))) => Next::Ended(Err(error)),
            Poll::Ready(None) => Next::Ended(Ok(())),
            Poll::Pending => {
                self.note_rejected();
                let yielded = self.layer.borrow_mut().has_yielded();
                if !self.send_queue.next_batch() {
                    return Poll::Pending;
                }
                // The frames have used up the turn. The remaining frames wake the task.
                if yielded {
                    return Poll::Pending;
                }
                // Once the budget of this turn or tokio's coop budget (which `tokio::select!`
                // checks) is spent, calls make no progress. To continue would loop forever.
                if self.budget.is_spent() || !coop::has_budget_remaining() {
                    self.connected.wake();
                    return Poll::Pending;
                }
                Next::Again
            }
        })
    }

    /// True if the client is enforced and a request may have another path than `h2` reports.
    fn has_unread_head(&self) -> bool {
        self.layer.borrow().has_unread_heads()
            && self.client.caller().principal.mode == Mode::Enforce
    }

    /// Checks the lifetime, the drain and the keepalive of the connection. Ready if the connection
    /// must end at once.
    fn housekeeping(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if !self.client.is_over() {
            let client = &self.client;
            match self.lifetime.poll_due(cx, || client.caller().principal.mode == Mode::Enforce) {
                Poll::Ready(Due::Leave(reason)) => self.client.end(reason),
                Poll::Ready(Due::End) => self.client.end_identity(),
                Poll::Pending => {}
            }
        }
        if !self.draining && self.ending.as_mut().poll(cx).is_ready() {
            self.drain();
        }
        let limits = self.client.worker.shared.config.limits;
        match self.keepalive.poll(cx) {
            Poll::Ready(Liveness::PeerDead) => {
                self.limit_hit(Limit::Keepalive);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Liveness::Idle(duration))
                if duration >= limits.idle_timeout && !self.draining =>
            {
                self.limit_hit(Limit::Idle);
                self.drain();
            }
            _ => {}
        }
        Poll::Pending
    }

    /// Begins to end the connection: sends GOAWAY. Open streams end themselves, and unary calls
    /// finish.
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
