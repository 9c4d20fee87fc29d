//! The open streams and other long calls, for `/debug/streams`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use etcd_warden_core::method::Method;

/// All open long calls.
#[derive(Default)]
pub struct OpenStreams {
    open: Arc<Mutex<HashMap<u64, Arc<OpenStream>>>>,
    next: AtomicU64,
}

/// One open long call.
pub struct OpenStream {
    /// The name of the principal that made the call.
    pub identity: Arc<str>,
    /// The method that it calls.
    pub method: Method,
    /// When it began.
    pub since: Instant,
    /// The number of live watches, on a Watch stream.
    pub watches: AtomicUsize,
}

/// Lists a call until it is dropped.
#[must_use = "the call is removed from the list when this is dropped"]
pub struct Registration {
    open: Arc<Mutex<HashMap<u64, Arc<OpenStream>>>>,
    id: u64,
    /// The listed call.
    pub stream: Arc<OpenStream>,
}

impl OpenStreams {
    /// Adds a call to the list.
    pub fn register(&self, identity: Arc<str>, method: Method) -> Registration {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(OpenStream {
            identity,
            method,
            since: Instant::now(),
            watches: AtomicUsize::new(0),
        });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, stream.clone());
        Registration { open: self.open.clone(), id, stream }
    }

    /// All open calls, oldest first.
    pub fn list(&self) -> Vec<Arc<OpenStream>> {
        let mut streams: Vec<_> =
            self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        streams.sort_by_key(|stream| stream.since);
        streams
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
