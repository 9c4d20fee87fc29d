//! A byte stream whose frames are looked at.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::cost::{Peer, Terms};
use super::layer::Layer;

/// Bytes that are read at once where a frame has to be put together.
const PIECE: usize = 2048;

/// Bytes of room that an idle connection keeps for that.
const KEPT: usize = 1024;

/// What is known of a connection, for the one who drives it.
pub type Seen = Rc<RefCell<Layer>>;

/// Whether a stream has not taken all that was written to it. `h2` flushes last of all, when its
/// queue is empty.
pub type Behind = Rc<Cell<bool>>;

/// A byte stream of HTTP/2.
pub struct Watched<S> {
    stream: S,
    seen: Seen,
    behind: Behind,
    peer: Peer,
    /// Bytes that came and were not looked at.
    held: Vec<u8>,
    /// How many it takes to go on with those.
    wanted: usize,
    /// Bytes that were looked at, and did not fit.
    ready: Vec<u8>,
    /// When time was last turned into allowance.
    filled: Instant,
}

impl<S> Watched<S> {
    /// Watches a stream.
    pub fn new(stream: S, terms: Terms) -> (Self, Seen) {
        let seen = Rc::new(RefCell::new(Layer::new(terms)));
        let watched = Self {
            stream,
            seen: seen.clone(),
            behind: Behind::default(),
            peer: terms.peer,
            held: Vec::new(),
            wanted: 0,
            ready: Vec::new(),
            filled: Instant::now(),
        };
        (watched, seen)
    }

    /// Whether it is behind, also after it was given away.
    #[must_use]
    pub fn behind(&self) -> Behind {
        self.behind.clone()
    }

    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.behind.set(written.is_pending());
        written
    }

    /// Whether what is held can be looked at. False as well where the turn has ended, or nothing
    /// more is to be read.
    fn begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut layer = self.seen.borrow_mut();
        if let Some(refusal) = layer.refusal() {
            return match self.peer {
                // Its session ends it.
                Peer::Client => Poll::Pending,
                Peer::Member => {
                    Poll::Ready(Err(io::Error::other(format!("too much for nothing: {refusal:?}"))))
                }
            };
        }
        if layer.end_turn() {
            // Woken only when the thread has looked for what has come for others.
            return pin!(tokio::task::yield_now()).poll(cx).map(|()| Ok(false));
        }
        if layer.ledger().is_low() {
            let passed = u64::try_from(self.filled.elapsed().as_millis()).unwrap_or(u64::MAX);
            layer.ledger().fill(passed);
            self.filled += Duration::from_millis(passed);
        }
        Poll::Ready(Ok(!self.held.is_empty() && self.held.len() >= self.wanted))
    }

    /// Looks at what is held.
    fn look(&mut self, cx: &Context<'_>) {
        let mut layer = self.seen.borrow_mut();
        let received = layer.receive(&mut self.held);
        self.ready.extend_from_slice(self.held.get(..received.passed).unwrap_or_default());
        self.held.drain(..received.taken);
        self.held.shrink_to(KEPT);
        self.wanted = received.wanted;
        if layer.refusal().is_some() {
            cx.waker().wake_by_ref();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
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
                me.ready.shrink_to(KEPT);
                return Poll::Ready(Ok(()));
            }
            if ready!(me.begin(cx))? {
                me.look(cx);
                continue;
            }
            if me.held.is_empty() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut me.stream).poll_read(cx, buffer))?;
                let came = buffer.filled_mut().get_mut(before..).unwrap_or_default();
                if came.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let mut layer = me.seen.borrow_mut();
                let received = layer.receive(came);
                me.held.extend_from_slice(came.get(received.taken..).unwrap_or_default());
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
                    // It ends inside a frame, and h2 is to see that.
                    me.ready = std::mem::take(&mut me.held);
                } else {
                    me.held.extend_from_slice(piece.filled());
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        let written = ready!(self.note(written))?;
        self.seen.borrow_mut().sent(bytes.get(..written).unwrap_or(bytes));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        let written = ready!(self.note(written))?;
        let (mut layer, mut left) = (self.seen.borrow_mut(), written);
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
