//! A byte stream whose HTTP/2 frames are inspected.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::cost::{CostLimits, Peer};
use super::layer::Layer;

/// Bytes that are read at once to complete a frame.
const PIECE: usize = 2048;

/// The capacity in bytes that an idle connection keeps in each buffer.
const KEPT_CAPACITY: usize = 1024;

/// The state of a connection, shared with the task that drives it.
pub type SharedLayer = Rc<RefCell<Layer>>;

/// Whether the stream has not taken all that was written to it. `h2` flushes last, when its queue
/// is empty.
pub type WriteBlocked = Rc<Cell<bool>>;

/// A byte stream of HTTP/2 whose frames are inspected.
pub struct InspectedStream<S> {
    stream: S,
    layer: SharedLayer,
    blocked: WriteBlocked,
    peer: Peer,
    /// Bytes that were read and not inspected.
    held: Vec<u8>,
    /// The number of bytes in `held` with which the inspection can continue.
    wanted: usize,
    /// Bytes that were inspected and did not fit into the reader's buffer.
    ready: Vec<u8>,
    /// When the allowance was last filled.
    filled: Instant,
}

impl<S> InspectedStream<S> {
    /// Wraps a stream.
    pub fn new(stream: S, limits: CostLimits) -> (Self, SharedLayer) {
        let layer = Rc::new(RefCell::new(Layer::new(limits)));
        let inspected = Self {
            stream,
            layer: layer.clone(),
            blocked: WriteBlocked::default(),
            peer: limits.peer,
            held: Vec::new(),
            wanted: 0,
            ready: Vec::new(),
            filled: Instant::now(),
        };
        (inspected, layer)
    }

    /// Whether writes are blocked. Remains readable after the stream was moved.
    #[must_use]
    pub fn write_blocked(&self) -> WriteBlocked {
        self.blocked.clone()
    }

    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.blocked.set(written.is_pending());
        written
    }

    /// Whether the held bytes can be inspected. Pending if the turn has ended, or if the peer was
    /// refused and nothing more is read.
    fn begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut layer = self.layer.borrow_mut();
        if let Some(refusal) = layer.refusal() {
            return match self.peer {
                // The session closes the connection.
                Peer::Client => Poll::Pending,
                Peer::Member => Poll::Ready(Err(io::Error::other(format!(
                    "too many HTTP/2 frames without effect: {refusal:?}"
                )))),
            };
        }
        if layer.end_turn() {
            // The runtime polls the I/O driver before it resumes this task.
            return pin!(tokio::task::yield_now()).poll(cx).map(|()| Ok(false));
        }
        if layer.account().is_low() {
            let passed = u64::try_from(self.filled.elapsed().as_millis()).unwrap_or(u64::MAX);
            layer.account().fill(passed);
            self.filled += Duration::from_millis(passed);
        }
        Poll::Ready(Ok(!self.held.is_empty() && self.held.len() >= self.wanted))
    }

    /// Inspects the held bytes.
    fn inspect(&mut self, cx: &Context<'_>) {
        let mut layer = self.layer.borrow_mut();
        let received = layer.receive(&mut self.held);
        self.ready.extend_from_slice(self.held.get(..received.passed).unwrap_or_default());
        self.held.drain(..received.taken);
        self.held.shrink_to(KEPT_CAPACITY);
        self.wanted = received.wanted;
        if layer.refusal().is_some() {
            cx.waker().wake_by_ref();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for InspectedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        loop {
            if !me.ready.is_empty() {
                let length = me.ready.len().min(buffer.remaining());
                buffer.put_slice(me.ready.get(..length).unwrap_or_default());
                me.ready.drain(..length);
                me.ready.shrink_to(KEPT_CAPACITY);
                return Poll::Ready(Ok(()));
            }
            if ready!(me.begin(cx))? {
                me.inspect(cx);
                continue;
            }
            if me.held.is_empty() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut me.stream).poll_read(cx, buffer))?;
                let arrived = buffer.filled_mut().get_mut(before..).unwrap_or_default();
                if arrived.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let mut layer = me.layer.borrow_mut();
                let received = layer.receive(arrived);
                me.held.extend_from_slice(arrived.get(received.taken..).unwrap_or_default());
                me.wanted = received.wanted;
                buffer.set_filled(before + received.passed);
                if layer.refusal().is_some() {
                    cx.waker().wake_by_ref();
                }
                if received.passed > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut piece = [0; PIECE];
                let mut piece = ReadBuf::new(&mut piece);
                ready!(Pin::new(&mut me.stream).poll_read(cx, &mut piece))?;
                if piece.filled().is_empty() {
                    // The stream ends within a frame, which h2 must see.
                    me.ready = std::mem::take(&mut me.held);
                } else {
                    me.held.extend_from_slice(piece.filled());
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for InspectedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        let written = ready!(self.note(written))?;
        self.layer.borrow_mut().sent(bytes.get(..written).unwrap_or(bytes));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        let written = ready!(self.note(written))?;
        let (mut layer, mut left) = (self.layer.borrow_mut(), written);
        for piece in pieces {
            let (sent, _) = piece.split_at(left.min(piece.len()));
            layer.sent(sent);
            left -= sent.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
