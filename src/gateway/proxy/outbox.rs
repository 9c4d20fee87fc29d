//! What a client was sent and has not taken yet.
//!
//! h2 queues whatever it is given, and reads on while a client takes nothing. So nothing is given
//! to it, and nothing is read for it, while its queue is not empty: what one connection makes us
//! hold is one round of either, however many streams it has.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::turn::Turn;

/// Bytes of answers that h2 is given before it must have written them all.
pub const ROUND: usize = 128 * 1024;

/// Bytes that are read before what they led to was written.
pub const READ_ROUND: usize = 16 * 1024;

/// What a stream costs until its end is written: its state in h2, its head and its trailers.
const STREAM: usize = 1024;

/// What TLS and HTTP/2 hold of a queue in buffers of their own.
const BUFFERS: usize = 64 * 1024;

/// Answers that go on in one round, of those that wait: each may turn out to have only a little to
/// say.
const CALLED_IN: usize = 64;

/// The outbox of one connection.
#[derive(Default)]
pub struct Outbox {
    /// There was more to write than the socket took.
    blocked: Cell<bool>,
    given: Cell<usize>,
    read: Cell<usize>,
    /// Reading was put off.
    unread: Cell<bool>,
    overflowing: Cell<bool>,
    ended: Cell<bool>,
    waiting: Cell<usize>,
    next: Notify,
}

impl Outbox {
    /// Whether an answer may be given to h2 now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ended.get() || (!self.blocked.get() && self.given.get() < ROUND)
    }

    /// Waits until there may be room.
    pub async fn room(&self) {
        let _waiting = Waiting::among(&self.waiting);
        while !self.has_room() {
            self.next.notified().await;
        }
    }

    /// Bytes were given to h2.
    pub fn give(&self, bytes: usize) {
        self.given.set(self.given.get().saturating_add(bytes));
    }

    /// A stream was opened.
    pub fn give_stream(&self) {
        self.give(STREAM);
    }

    /// The connection was driven as far as it goes. True: what waited can go on now, and it must be
    /// driven again.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        if self.blocked.get() {
            return false;
        }
        self.given.set(0);
        self.read.set(0);
        let waiting = self.waiting.get();
        for _ in 0..waiting.min(CALLED_IN) {
            self.next.notify_one();
        }
        self.unread.take() || waiting > 0
    }

    /// Whether the client does not take what is there for it.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Bytes that wait for the client to take them.
    #[must_use]
    pub fn backlog(&self) -> usize {
        if self.blocked.get() { self.given.get().saturating_add(BUFFERS) } else { 0 }
    }

    /// There is no room for what the connection makes us hold: it is to end.
    pub fn overflow(&self) {
        self.overflowing.set(true);
    }

    /// Whether the connection is to end.
    #[must_use]
    pub fn is_overflowing(&self) -> bool {
        self.overflowing.get()
    }

    /// The connection has ended: nobody waits any longer.
    pub fn end(&self) {
        self.ended.set(true);
        self.next.notify_waiters();
    }
}

/// One more that waits, until it is dropped.
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

/// A connection's bytes, read and written as its outbox allows.
pub struct Paced<S> {
    stream: S,
    outbox: Rc<Outbox>,
    turn: Rc<Turn>,
}

impl<S> Paced<S> {
    /// Paces a stream.
    pub fn new(stream: S, outbox: Rc<Outbox>, turn: Rc<Turn>) -> Self {
        Self { stream, outbox, turn }
    }

    /// h2 flushes last of all, when its queue is empty.
    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.outbox.blocked.set(written.is_pending());
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever drives the connection asks `Outbox::goes_on`: nobody else is woken for this.
        if self.outbox.blocked.get()
            || self.outbox.read.get() >= READ_ROUND
            || !self.turn.may_read()
        {
            self.outbox.unread.set(true);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let more = buffer.filled().len().saturating_sub(before);
        self.outbox.read.set(self.outbox.read.get().saturating_add(more));
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
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
    fn a_round_has_an_end_and_the_next_begins_when_all_is_written() {
        let outbox = Outbox::default();
        outbox.give(ROUND);
        assert!(!outbox.has_room());
        let mut waits = std::pin::pin!(outbox.room());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        outbox.blocked.set(true);
        assert!(!outbox.goes_on());
        assert_eq!(outbox.backlog(), ROUND + BUFFERS);
        outbox.blocked.set(false);
        assert!(outbox.goes_on());
        assert!(waits.as_mut().poll(&mut cx).is_ready());
        assert!(!outbox.goes_on() && outbox.backlog() == 0);
    }

    #[test]
    fn nobody_waits_for_a_connection_that_has_ended() {
        let outbox = Outbox::default();
        outbox.blocked.set(true);
        let mut waits: Vec<_> = (0..CALLED_IN * 3).map(|_| Box::pin(outbox.room())).collect();
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
        outbox.end();
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_some()));
    }

    #[tokio::test]
    async fn who_takes_nothing_is_not_read_and_who_takes_it_is_read_again() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let outbox = Rc::new(Outbox::default());
        let mut paced = Paced::new(ours, outbox.clone(), Rc::default());
        theirs.write_all(&[1; 100]).await.unwrap();
        assert!(paced.write_all(&[2; 5000]).now_or_never().is_none());
        assert!(outbox.is_blocked());
        assert!(paced.read(&mut [0; 100]).now_or_never().is_none());
        theirs.read_exact(&mut [0; 1000]).await.unwrap();
        paced.write_all(&[3; 10]).await.unwrap();
        paced.flush().await.unwrap();
        assert!(outbox.goes_on(), "there is something to be read");
        assert_eq!(paced.read(&mut [0; 100]).await.unwrap(), 100);
    }

    #[tokio::test]
    async fn what_is_read_is_answered_before_more_is_read() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let outbox = Rc::new(Outbox::default());
        let mut paced = Paced::new(ours, outbox.clone(), Rc::default());
        theirs.write_all(&[1; 10 * READ_ROUND]).await.unwrap();
        let mut buffer = vec![0; READ_ROUND];
        assert_eq!(paced.read(&mut buffer).await.unwrap(), READ_ROUND);
        assert!(paced.read(&mut buffer).now_or_never().is_none());
        assert!(outbox.goes_on());
        assert_eq!(paced.read(&mut buffer).await.unwrap(), READ_ROUND);
    }
}
