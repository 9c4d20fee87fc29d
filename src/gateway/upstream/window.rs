//! What a connection to etcd takes now: how much of its window etcd must have open, known without
//! asking `h2`, which assigns none to a stream before its head was sent; and whether the socket has
//! taken what `h2` was given. What is handed to `h2` beyond either would wait there, where no
//! permit is asked again. So what goes out after a permit has gone is what the kernel had taken,
//! and what was handed to `h2` in the turn in which the socket filled up: all of it with a window
//! that etcd had opened.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::http2::io::Behind;

/// Bytes for which etcd has a window, whatever it does: every HTTP/2 connection begins with one of
/// 65,535 bytes (RFC 9113, 6.9.2), and grpc-go gives back what it has read when that is a quarter
/// of it (`internal/transport/flowcontrol.go`).
const ALWAYS_OPEN: usize = 48 * 1024;

/// The bytes that one connection was sent and that etcd may not have read yet. Clones share them.
///
/// Capacity that a stream has asked of `h2` counts as well, from before it asks ([`Window::take`])
/// until it is given back: `h2` takes it out of the window for that stream, whether it is used or
/// not. What is asked beyond the room that there is must wait first until what was promised to
/// others is out ([`Window::drained`]).
///
/// etcd reads frames in the order in which they were written. Bytes are read when their own request
/// is answered, or when one is answered that was begun after the last of them was written. A
/// request that was given up has only the second way: until then its bytes count, or a client that
/// gives up requests while etcd reads nothing could use up the window unseen.
#[derive(Clone, Default)]
pub struct Window(Rc<Unread>);

#[derive(Default)]
struct Unread {
    /// All that count.
    bytes: Cell<usize>,
    /// Requests begun.
    begun: Cell<u64>,
    /// Of requests that were given up: bytes that an answer to a request above this number gives
    /// back.
    given_up: Cell<(u64, usize)>,
    /// Those given up since: they wait for the answer after that one, so that two numbers are
    /// enough for any number of requests.
    given_up_since: Cell<usize>,
    /// The socket has not taken all that it was given.
    behind: Behind,
    /// A request was begun since the connection was last driven to the end of what it had.
    fresh: Cell<bool>,
    /// How often it was driven so far.
    drains: Cell<u64>,
    ended: Cell<bool>,
    /// Somebody waits for that.
    awaited: Cell<bool>,
    drained: Notify,
}

/// Which request of a connection it is, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(u64);

impl Window {
    /// Of a connection that begins.
    #[must_use]
    pub fn behind(behind: Behind) -> Self {
        Self(Rc::new(Unread { behind, ..Unread::default() }))
    }

    /// The head of a request was handed to `h2`.
    #[must_use]
    pub fn begin(&self) -> Begun {
        self.0.fresh.set(true);
        self.0.begun.set(self.0.begun.get().saturating_add(1));
        Begun(self.0.begun.get())
    }

    /// Whether so many bytes more find a window that is open, and a socket that takes them.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        !self.is_behind() && self.0.bytes.get().saturating_add(bytes) <= ALWAYS_OPEN
    }

    /// Whether the socket has not taken all that it was given: nothing more is to be handed to
    /// `h2`.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.0.behind.get()
    }

    /// Waits until the socket has taken all that `h2` was given until now, or the connection has
    /// ended.
    pub async fn drained(&self) {
        let before = self.0.drains.get();
        let is_fresh = || self.0.fresh.get() && self.0.drains.get() == before;
        while !self.0.ended.get() && (self.is_behind() || is_fresh()) {
            self.0.awaited.set(true);
            self.0.drained.notified().await;
        }
    }

    /// The connection was driven as far as it goes.
    pub fn driven(&self) {
        if self.is_behind() {
            return;
        }
        self.0.fresh.set(false);
        self.0.drains.set(self.0.drains.get().wrapping_add(1));
        if self.0.awaited.get() {
            self.0.awaited.set(false);
            self.0.drained.notify_waiters();
        }
    }

    /// The connection has ended: it takes nothing, and nobody waits for it.
    pub fn end(&self) {
        self.0.ended.set(true);
        self.0.behind.set(false);
        self.0.drained.notify_waiters();
    }

    /// So many bytes were written, or are asked of `h2`.
    pub fn take(&self, bytes: usize) {
        self.0.bytes.set(self.0.bytes.get().saturating_add(bytes));
    }

    /// So many bytes are of a request that was answered, or were asked for and not used.
    pub fn give_back(&self, bytes: usize) {
        self.0.bytes.set(self.0.bytes.get().saturating_sub(bytes));
    }

    /// So many bytes are of a request that was given up, and nothing more of it is written.
    pub fn give_up(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if self.0.given_up.get().1 == 0 {
            self.0.given_up.set((self.0.begun.get(), bytes));
        } else {
            self.0.given_up_since.set(self.0.given_up_since.get().saturating_add(bytes));
        }
    }

    /// The answer to a request has begun.
    pub fn answered(&self, request: Begun) {
        let (last, bytes) = self.0.given_up.get();
        if bytes > 0 && request.0 > last {
            self.give_back(bytes);
            self.0.given_up.set((self.0.begun.get(), self.0.given_up_since.take()));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// A request of so many bytes.
    fn begin(window: &Window, bytes: usize) -> Begun {
        let begun = window.begin();
        window.take(bytes);
        begun
    }

    #[test]
    fn bytes_of_an_answered_request_are_given_back() {
        let window = Window::default();
        let request = begin(&window, ALWAYS_OPEN);
        assert!(!window.has_room(1));
        window.answered(request);
        window.give_back(ALWAYS_OPEN);
        assert!(window.has_room(ALWAYS_OPEN) && !window.has_room(ALWAYS_OPEN + 1));
    }

    #[test]
    fn bytes_given_up_count_until_a_later_request_is_answered() {
        let window = Window::default();
        let before = begin(&window, 0);
        begin(&window, ALWAYS_OPEN);
        window.give_up(ALWAYS_OPEN);
        // It may have been answered before etcd read the others.
        window.answered(before);
        assert!(!window.has_room(1));
        let after = begin(&window, 0);
        window.answered(after);
        assert!(window.has_room(ALWAYS_OPEN));
    }

    #[test]
    fn bytes_given_up_later_wait_for_an_answer_to_a_later_request() {
        let window = Window::default();
        begin(&window, 1000);
        window.give_up(1000);
        let between = begin(&window, 0);
        begin(&window, ALWAYS_OPEN);
        window.give_up(ALWAYS_OPEN);
        window.answered(between);
        assert!(window.has_room(0) && !window.has_room(1), "the first thousand alone");
        window.answered(between);
        assert!(!window.has_room(1));
        let last = begin(&window, 0);
        window.answered(last);
        assert!(window.has_room(ALWAYS_OPEN));
    }

    #[tokio::test]
    async fn nothing_is_handed_over_before_the_socket_has_taken_what_was() {
        let behind = Behind::default();
        let window = Window::behind(behind.clone());
        assert!(window.drained().now_or_never().is_some() && window.has_room(0));
        behind.set(true);
        assert!(!window.has_room(0));
        let mut waits = Box::pin(window.drained());
        assert!(waits.as_mut().now_or_never().is_none());
        window.driven();
        assert!(waits.as_mut().now_or_never().is_none());
        behind.set(false);
        window.driven();
        assert!(waits.now_or_never().is_some() && window.has_room(0));
    }

    #[tokio::test]
    async fn who_asks_for_more_than_there_is_waits_for_one_round() {
        let window = Window::default();
        let _ = window.begin();
        let mut waits = Box::pin(window.drained());
        assert!(waits.as_mut().now_or_never().is_none());
        window.driven();
        // What others begin meanwhile holds nobody up who was there before.
        let _ = window.begin();
        assert!(waits.now_or_never().is_some());
        let mut waits = Box::pin(window.drained());
        assert!(waits.as_mut().now_or_never().is_none());
        window.end();
        assert!(waits.now_or_never().is_some(), "nobody waits for what has ended");
    }
}
