//! Number of bytes that a connection to etcd can send immediately.
//!
//! There are two limits: etcd's flow-control window must be open, and the socket must accept what
//! h2 writes. h2 does not report the window in time, because it assigns none to a stream before the
//! stream's head was sent. So this module counts. Bytes passed to h2 beyond either limit would wait
//! there, where no permit is checked again. With both limits, after a permit was withdrawn, etcd
//! can only receive bytes that the kernel had accepted, and bytes that were passed to h2 in the
//! same turn in which the socket filled up.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::http2::io::WriteBlocked;

/// Bytes for which etcd's window is always open. Every HTTP/2 connection starts with a window of
/// 65,535 bytes (RFC 9113, 6.9.2), and grpc-go returns credit after it has read a quarter of it
/// (`internal/transport/flowcontrol.go`).
const ALWAYS_OPEN: usize = 48 * 1024;

/// Counts the bytes that were sent over a connection and that etcd may not have read yet. Clones
/// share the count.
///
/// Capacity that a stream requests from h2 is counted as well, from before the request
/// ([`Window::take`]) until it is given back: h2 reserves it in the window, used or not. Before a
/// stream requests more than is available, it must wait until h2 has sent what it holds
/// ([`Window::drained`]).
///
/// etcd reads frames in the order in which they were written. So etcd has read a request when its
/// response begins, or when the response to a later request begins. A cancelled request has no
/// response of its own. Its bytes are counted until a later request has one. Otherwise a client
/// that cancels requests while etcd reads nothing could exhaust the window unnoticed.
#[derive(Clone, Default)]
pub struct Window(Rc<WindowState>);

#[derive(Default)]
struct WindowState {
    /// Bytes that etcd may not have read.
    unread: Cell<usize>,
    /// Requests sent.
    requests: Cell<u64>,
    /// A request number, and bytes of cancelled requests up to this number. The response to any
    /// later request gives them back.
    cancelled: Cell<(u64, usize)>,
    /// Bytes of requests that were cancelled after `cancelled` was set. They become the next value
    /// of `cancelled`. So two entries are enough for any number of requests.
    cancelled_since: Cell<usize>,
    /// True while the socket has not accepted all that was written to it.
    behind: WriteBlocked,
    /// True if a request was passed to h2 since the connection was last driven until it was idle.
    fresh: Cell<bool>,
    /// Number of times that the connection was driven until it was idle.
    drains: Cell<u64>,
    ended: Cell<bool>,
    /// True if a task waits in [`Window::drained`].
    awaited: Cell<bool>,
    drained: Notify,
}

/// Number of a request on its connection, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestNumber(u64);

impl Window {
    /// Creates the window of a new connection. Its socket sets `behind`.
    pub(super) fn new(behind: WriteBlocked) -> Self {
        Self(Rc::new(WindowState { behind, ..WindowState::default() }))
    }

    /// Records that the head of a request was passed to h2.
    pub fn begin(&self) -> RequestNumber {
        self.0.fresh.set(true);
        self.0.requests.set(self.0.requests.get().saturating_add(1));
        RequestNumber(self.0.requests.get())
    }

    /// True if etcd's window is open for `bytes` more and the socket accepts data.
    pub fn has_room(&self, bytes: usize) -> bool {
        !self.is_behind() && self.0.unread.get().saturating_add(bytes) <= ALWAYS_OPEN
    }

    /// True if the socket has not accepted all that was written. Pass nothing more to h2 then.
    pub fn is_behind(&self) -> bool {
        self.0.behind.get()
    }

    /// Waits until the socket has accepted all that was passed to h2 so far, or until the
    /// connection has ended.
    pub async fn drained(&self) {
        let before = self.0.drains.get();
        let is_fresh = || self.0.fresh.get() && self.0.drains.get() == before;
        while !self.0.ended.get() && (self.is_behind() || is_fresh()) {
            self.0.awaited.set(true);
            self.0.drained.notified().await;
        }
    }

    /// Records that the connection was polled until it was idle.
    pub(super) fn driven(&self) {
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

    /// Records that the connection has ended, and wakes all tasks in [`Window::drained`].
    pub(super) fn end(&self) {
        self.0.ended.set(true);
        self.0.behind.set(false);
        self.0.drained.notify_waiters();
    }

    /// Counts bytes that were written, or for which h2 was asked for capacity.
    pub fn take(&self, bytes: usize) {
        self.0.unread.set(self.0.unread.get().saturating_add(bytes));
    }

    /// Returns bytes of a request that was answered, or capacity that was not used.
    pub fn give_back(&self, bytes: usize) {
        self.0.unread.set(self.0.unread.get().saturating_sub(bytes));
    }

    /// Marks bytes as those of a cancelled request, which sends nothing more.
    pub fn give_up(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if self.0.cancelled.get().1 == 0 {
            self.0.cancelled.set((self.0.requests.get(), bytes));
        } else {
            self.0.cancelled_since.set(self.0.cancelled_since.get().saturating_add(bytes));
        }
    }

    /// Records that the response to a request has begun.
    pub fn answered(&self, request: RequestNumber) {
        let (last, bytes) = self.0.cancelled.get();
        if bytes > 0 && request.0 > last {
            self.give_back(bytes);
            self.0.cancelled.set((self.0.requests.get(), self.0.cancelled_since.take()));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn begin(window: &Window, bytes: usize) -> RequestNumber {
        let request = window.begin();
        window.take(bytes);
        request
    }

    #[test]
    fn a_response_gives_the_bytes_of_its_request_back() {
        let window = Window::default();
        let request = begin(&window, ALWAYS_OPEN);
        assert!(!window.has_room(1));
        window.answered(request);
        window.give_back(ALWAYS_OPEN);
        assert!(window.has_room(ALWAYS_OPEN) && !window.has_room(ALWAYS_OPEN + 1));
    }

    #[test]
    fn cancelled_bytes_count_until_a_later_request_is_answered() {
        let window = Window::default();
        let before = begin(&window, 0);
        begin(&window, ALWAYS_OPEN);
        window.give_up(ALWAYS_OPEN);
        // etcd may have answered it before it read the cancelled request.
        window.answered(before);
        assert!(!window.has_room(1));
        let after = begin(&window, 0);
        window.answered(after);
        assert!(window.has_room(ALWAYS_OPEN));
    }

    #[test]
    fn bytes_cancelled_later_need_a_response_to_a_later_request() {
        let window = Window::default();
        begin(&window, 1000);
        window.give_up(1000);
        let between = begin(&window, 0);
        begin(&window, ALWAYS_OPEN);
        window.give_up(ALWAYS_OPEN);
        window.answered(between);
        assert!(window.has_room(0) && !window.has_room(1), "only the first 1000 are given back");
        window.answered(between);
        assert!(!window.has_room(1));
        let last = begin(&window, 0);
        window.answered(last);
        assert!(window.has_room(ALWAYS_OPEN));
    }

    #[tokio::test]
    async fn has_no_room_while_the_socket_is_behind() {
        let behind = WriteBlocked::default();
        let window = Window::new(behind.clone());
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
    async fn drained_waits_for_one_round_only() {
        let window = Window::default();
        let _ = window.begin();
        let mut waits = Box::pin(window.drained());
        assert!(waits.as_mut().now_or_never().is_none());
        window.driven();
        // A request that begins later does not delay an earlier waiter.
        let _ = window.begin();
        assert!(waits.now_or_never().is_some());
        let mut waits = Box::pin(window.drained());
        assert!(waits.as_mut().now_or_never().is_none());
        window.end();
        assert!(waits.now_or_never().is_some(), "the end of the connection wakes all waiters");
    }
}
