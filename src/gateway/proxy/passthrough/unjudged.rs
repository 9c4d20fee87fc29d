//! Messages of one stream that shadow mode has forwarded and not judged yet.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;
use etcd_warden_core::wire::frame::FrameFault;

/// Most messages that wait. A client that sends them in one burst may exceed what
/// [`crate::proxy::message_pace`] judges meanwhile.
const MAX_MESSAGES: usize = 16_384;
/// Most bytes that wait, unless one message alone is larger. A message may have 2 MiB, and it waits
/// while etcd is asked about a lease.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// A message or the framing error after the last one, and `C`, the client's rights at the moment of
/// forwarding.
pub(super) type Item<C> = (C, Result<Bytes, FrameFault>);

/// The queue. Messages beyond its bounds are not recorded.
pub(super) struct Unjudged<C>(RefCell<Queue<C>>);

struct Queue<C> {
    items: VecDeque<Item<C>>,
    bytes: usize,
}

impl<C> Default for Unjudged<C> {
    fn default() -> Self {
        Self(RefCell::new(Queue { items: VecDeque::new(), bytes: 0 }))
    }
}

fn length<C>(item: &Item<C>) -> usize {
    item.1.as_ref().map_or(0, Bytes::len)
}

impl<C: Clone> Unjudged<C> {
    /// Adds an item. False: there is no room for it.
    #[must_use]
    pub(super) fn push(&self, item: Item<C>) -> bool {
        let mut queue = self.0.borrow_mut();
        let bytes = queue.bytes.saturating_add(length(&item));
        let fits = queue.items.len() < MAX_MESSAGES && bytes <= MAX_BYTES;
        if !fits && !queue.items.is_empty() {
            return false;
        }
        queue.bytes = bytes;
        queue.items.push_back(item);
        true
    }

    /// The oldest item. It stays in the queue.
    pub(super) fn first(&self) -> Option<Item<C>> {
        self.0.borrow().items.front().cloned()
    }

    /// Removes the oldest item.
    pub(super) fn remove_first(&self) {
        let mut queue = self.0.borrow_mut();
        if let Some(item) = queue.items.pop_front() {
            queue.bytes = queue.bytes.saturating_sub(length(&item));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Item<()> {
        ((), Ok(Bytes::from(vec![0; bytes])))
    }

    #[test]
    fn bounds_the_number_of_messages() {
        let queue = Unjudged::default();
        assert!((0..MAX_MESSAGES).all(|_| queue.push(message(5))));
        assert!(!queue.push(message(5)));
        queue.remove_first();
        assert!(queue.push(message(5)));
    }

    #[test]
    fn bounds_the_bytes_and_accepts_one_message_of_any_size() {
        let queue = Unjudged::default();
        assert!(queue.push(message(MAX_BYTES + 1)));
        assert!(!queue.push(message(0)) && queue.first().is_some());
        queue.remove_first();
        assert!(queue.push(message(MAX_BYTES)) && !queue.push(message(1)));
    }
}
