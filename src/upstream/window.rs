//! How much of its window etcd must have open on a connection, known without asking `h2`, which assigns none to a stream before its
//! head was sent.

use std::cell::Cell;
use std::rc::Rc;

/// Bytes for which etcd has a window, whatever it does: every HTTP/2 connection begins with one of 65,535 bytes (RFC 9113, 6.9.2), and grpc-go
/// gives back what it has read when that is a quarter of it (`internal/transport/flowcontrol.go`).
const ALWAYS_OPEN: usize = 48 * 1024;

/// The bytes that one connection was sent and that etcd may not have read yet. Clones share them.
///
/// etcd reads frames in the order in which they were written. Bytes are read when their own request is answered, or when one is answered that
/// was begun after the last of them was written. A request that was given up has only the second way: until then its bytes count, or
/// a client that gives up requests while etcd reads nothing could use up the window unseen.
#[derive(Clone, Default)]
pub struct Window(Rc<Unread>);

#[derive(Default)]
struct Unread {
    /// All that count.
    bytes: Cell<usize>,
    /// Requests begun.
    begun: Cell<u64>,
    /// Of requests that were given up: bytes that an answer to a request above this number gives back.
    given_up: Cell<(u64, usize)>,
    /// Those given up since: they wait for the answer after that one, so that two numbers are enough for any number of requests.
    given_up_since: Cell<usize>,
}

/// Which request of a connection it is, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(u64);

impl Window {
    /// The head of a request was written.
    #[must_use]
    pub fn begin(&self) -> Begun {
        self.0.begun.set(self.0.begun.get().saturating_add(1));
        Begun(self.0.begun.get())
    }

    /// Whether so many bytes more find a window that is open.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.0.bytes.get().saturating_add(bytes) <= ALWAYS_OPEN
    }

    /// So many bytes were written.
    pub fn take(&self, bytes: usize) {
        self.0.bytes.set(self.0.bytes.get().saturating_add(bytes));
    }

    /// So many bytes are of a request that was answered.
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
}
