//! Backpressure from a client's socket. `h2` queues everything that is passed to it, and continues
//! to read even if the client reads nothing. So while its queue is not empty, this module passes
//! nothing to `h2` and reads nothing for it. A connection then makes the proxy hold at most one
//! batch in each direction, for any number of streams.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::poll_budget::PollBudget;

/// Bytes of responses that are passed to `h2` in one batch. `h2` must write all of them before the
/// next batch.
pub const WRITE_BATCH: usize = 128 * 1024;

/// Bytes that are read in one batch. The responses to them are written before the next batch.
pub const READ_BATCH: usize = 16 * 1024;

/// Bytes that a stream is charged until its end is written: its state in `h2`, its head and its
/// trailers.
const STREAM: usize = 1024;

/// Bytes that TLS and `h2` hold in their own buffers, besides the batch.
const BUFFERS: usize = 64 * 1024;

/// Waiting responses that are woken for one batch. More than one, because each may have only a few
/// bytes to send.
const WAKE_AT_ONCE: usize = 64;

/// Counts the bytes that `h2` holds for one connection, and decides whether it may get more.
#[derive(Default)]
pub struct SendQueue {
    /// True if the socket did not accept all that was written.
    blocked: Cell<bool>,
    /// Bytes passed to `h2` in this batch.
    given: Cell<usize>,
    /// Bytes read in this batch.
    read: Cell<usize>,
    /// True if a read was postponed.
    unread: Cell<bool>,
    /// True if the connection must end, because the budget does not cover what it holds.
    overflowing: Cell<bool>,
    /// True if the connection has ended.
    ended: Cell<bool>,
    /// Number of responses that wait.
    waiting: Cell<usize>,
    /// Wakes waiting responses for the next batch.
    next: Notify,
}

impl SendQueue {
    /// True if a response may be passed to `h2` now.
    pub fn may_send(&self) -> bool {
        self.ended.get() || (!self.blocked.get() && self.given.get() < WRITE_BATCH)
    }

    /// Waits until a response may be passed to `h2`.
    pub async fn ready(&self) {
        let _waiting = Waiting::among(&self.waiting);
        while !self.may_send() {
            self.next.notified().await;
        }
    }

    /// Counts bytes that were passed to `h2`.
    pub fn add(&self, bytes: usize) {
        self.given.set(self.given.get().saturating_add(bytes));
    }

    /// Charges a stream that was opened.
    pub fn add_stream(&self) {
        self.add(STREAM);
    }

    /// Begins the next batch, unless the socket is blocked. Call this after the connection was
    /// polled until it was pending. Returns true if a response or a read was waiting, and the
    /// connection must be polled again.
    pub fn next_batch(&self) -> bool {
        if self.blocked.get() {
            return false;
        }
        self.given.set(0);
        self.read.set(0);
        let waiting = self.waiting.get();
        for _ in 0..waiting.min(WAKE_AT_ONCE) {
            self.next.notify_one();
        }
        self.unread.take() || waiting > 0
    }

    /// True if the socket does not accept more bytes, because the client does not read.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Bytes that wait for the client to read them.
    pub fn backlog(&self) -> usize {
        if self.blocked.get() { self.given.get().saturating_add(BUFFERS) } else { 0 }
    }

    /// Records that the connection must end, because the budget does not cover what it holds.
    pub fn overflow(&self) {
        self.overflowing.set(true);
    }

    /// True if the connection must end.
    pub fn is_overflowing(&self) -> bool {
        self.overflowing.get()
    }

    /// Records that the connection has ended, and wakes all waiting responses.
    pub fn end(&self) {
        self.ended.set(true);
        self.next.notify_waiters();
    }
}

/// Counts one waiting response until it is dropped.
struct Waiting<'o>(&'o Cell<usize>);

impl<'o> Waiting<'o> {
    fn among(count: &'o Cell<usize>) -> Self {
        count.set(count.get().saturating_add(1));
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A byte stream that is read and written as its [`SendQueue`] and [`PollBudget`] allow.
pub struct PacedStream<S> {
    stream: S,
    queue: Rc<SendQueue>,
    budget: Rc<PollBudget>,
}

impl<S> PacedStream<S> {
    /// Wraps a stream.
    pub fn new(stream: S, queue: Rc<SendQueue>, budget: Rc<PollBudget>) -> Self {
        Self { stream, queue, budget }
    }

    /// Records whether a write is blocked. When its queue is empty, `h2` flushes last, so a flush
    /// that is ready means that nothing is blocked.
    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.queue.blocked.set(written.is_pending());
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // No waker is kept: the session calls `SendQueue::next_batch` after each poll.
        if self.queue.blocked.get()
            || self.queue.read.get() >= READ_BATCH
            || !self.budget.may_read()
        {
            self.queue.unread.set(true);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let more = buffer.filled().len().saturating_sub(before);
        self.queue.read.set(self.queue.read.get().saturating_add(more));
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.note(written)
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn the_next_batch_begins_when_all_is_written() {
        let queue = SendQueue::default();
        queue.add(WRITE_BATCH);
        assert!(!queue.may_send());
        let mut waits = std::pin::pin!(queue.ready());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        queue.blocked.set(true);
        assert!(!queue.next_batch());
        assert_eq!(queue.backlog(), WRITE_BATCH + BUFFERS);
        queue.blocked.set(false);
        assert!(queue.next_batch());
        assert!(waits.as_mut().poll(&mut cx).is_ready());
        assert!(!queue.next_batch() && queue.backlog() == 0);
    }

    #[test]
    fn nothing_waits_for_a_connection_that_has_ended() {
        let queue = SendQueue::default();
        queue.blocked.set(true);
        let mut waits: Vec<_> = (0..WAKE_AT_ONCE * 3).map(|_| Box::pin(queue.ready())).collect();
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
        queue.end();
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_some()));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_not_read() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let queue = Rc::new(SendQueue::default());
        let mut paced = PacedStream::new(ours, queue.clone(), Rc::default());
        theirs.write_all(&[1; 100]).await.unwrap();
        assert!(paced.write_all(&[2; 5000]).now_or_never().is_none());
        assert!(queue.is_blocked());
        assert!(paced.read(&mut [0; 100]).now_or_never().is_none());
        theirs.read_exact(&mut [0; 1000]).await.unwrap();
        paced.write_all(&[3; 10]).await.unwrap();
        paced.flush().await.unwrap();
        assert!(queue.next_batch(), "a read was postponed");
        assert_eq!(paced.read(&mut [0; 100]).await.unwrap(), 100);
    }

    #[tokio::test]
    async fn each_read_batch_is_answered_before_the_next() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let queue = Rc::new(SendQueue::default());
        let mut paced = PacedStream::new(ours, queue.clone(), Rc::default());
        theirs.write_all(&[1; 10 * READ_BATCH]).await.unwrap();
        let mut buffer = vec![0; READ_BATCH];
        assert_eq!(paced.read(&mut buffer).await.unwrap(), READ_BATCH);
        assert!(paced.read(&mut buffer).now_or_never().is_none());
        assert!(queue.next_batch());
        assert_eq!(paced.read(&mut buffer).await.unwrap(), READ_BATCH);
    }
}
