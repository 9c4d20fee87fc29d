//! One worker's connections to one member for one class of calls.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use super::SPREAD;
use crate::upstream::dial::ConnectError;
use crate::upstream::link::{Link, StreamSlot, WeakLink};

/// Streams on one connection above which a second connection is opened. Few connections let one
/// write carry more requests, and one read more responses.
const COMFORTABLE: u32 = 64;

/// Connections to one member for one class of calls.
#[derive(Default)]
pub(super) struct ClassPool {
    /// The connections that take new streams.
    links: RefCell<Vec<Link>>,
    /// All open connections, including retired ones, with the generation of their certificates.
    open: RefCell<Vec<(u64, WeakLink)>>,
    /// Held while a connection is opened, so that only one is opened at a time. Those that wait
    /// then use it, or fail with its error.
    pub(super) opening: tokio::sync::Mutex<()>,
    failed: RefCell<Option<(Instant, ConnectError)>>,
    /// A further connection is being opened in the background.
    pub(super) opens_another: Cell<bool>,
}

impl ClassPool {
    /// The first connection below [`COMFORTABLE`], else the least loaded one that takes a stream,
    /// with a slot on it.
    pub(super) fn take(&self) -> Option<(Link, StreamSlot)> {
        let mut links = self.links.borrow_mut();
        links.retain(|link| !link.is_closed());
        let free = || links.iter().filter(|link| link.has_free_slot());
        let link = free()
            .find(|link| link.streams() < COMFORTABLE)
            .or_else(|| free().min_by_key(|link| link.streams()))?;
        Some((link.clone(), link.take_slot()))
    }

    /// Notes a connection that was opened, also if it is not put into use.
    pub(super) fn opened(&self, link: &Link) {
        let mut open = self.open.borrow_mut();
        open.retain(|(_, link)| !link.is_closed());
        open.push((link.generation, link.downgrade()));
    }

    /// Puts a connection into use.
    pub(super) fn add(&self, link: Link) {
        self.links.borrow_mut().push(link);
    }

    /// Notes why no connection could be opened.
    pub(super) fn failed(&self, error: ConnectError) {
        *self.failed.borrow_mut() = Some((Instant::now(), error));
    }

    /// The last failure, if it happened at `since` or later.
    pub(super) fn failure_since(&self, since: Instant) -> Option<ConnectError> {
        self.failed
            .borrow()
            .as_ref()
            .filter(|(when, _)| *when >= since)
            .map(|(_, error)| error.clone())
    }

    /// True if new streams may still use a connection with certificates older than `generation`.
    pub(super) fn has_older(&self, generation: u64) -> bool {
        self.links.borrow().iter().any(|link| link.generation < generation && !link.is_closed())
    }

    /// Takes connections older than `generation` out of use; their streams continue.
    pub(super) fn retire_older(&self, generation: u64) {
        let mut links = self.links.borrow_mut();
        links.iter().filter(|link| link.generation < generation).for_each(Link::retire);
        links.retain(|link| !link.is_closed());
    }

    /// Closes connections older than `generation`, with their streams.
    pub(super) fn close_older(&self, generation: u64) {
        self.open
            .borrow()
            .iter()
            .filter(|(of, _)| *of < generation)
            .for_each(|(_, link)| link.close());
        self.links.borrow_mut().retain(|link| !link.is_closed());
    }

    /// True if no connection takes new streams.
    pub(super) fn is_empty(&self) -> bool {
        self.links.borrow().iter().all(Link::is_closed)
    }

    /// True if a further connection should be opened: all are busy, and there are fewer than
    /// [`SPREAD`].
    pub(super) fn wants_another(&self) -> bool {
        let links = self.links.borrow();
        !self.opens_another.get()
            && links.len() < SPREAD
            && links.iter().all(|link| link.streams() >= COMFORTABLE)
    }
}
