//! Which long calls are open: for `/debug/streams`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use etcd_warden_core::method::Method;

/// All open long calls.
#[derive(Default)]
pub struct Registry {
    open: Arc<Mutex<HashMap<u64, Arc<Entry>>>>,
    next: AtomicU64,
}

/// One open call.
pub struct Entry {
    /// Who made it.
    pub identity: Arc<str>,
    /// What it calls.
    pub method: Method,
    /// Since when.
    pub since: Instant,
    /// Live watches on it, if it is a Watch stream.
    pub watches: AtomicUsize,
}

/// Removes the entry when the call ends.
#[must_use = "the entry is removed when this is dropped"]
pub struct Registered {
    open: Arc<Mutex<HashMap<u64, Arc<Entry>>>>,
    id: u64,
    /// The entry.
    pub entry: Arc<Entry>,
}

impl Registry {
    /// Notes an open call.
    pub fn register(&self, identity: Arc<str>, method: Method) -> Registered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry {
            identity,
            method,
            since: Instant::now(),
            watches: AtomicUsize::new(0),
        });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, entry.clone());
        Registered { open: self.open.clone(), id, entry }
    }

    /// All open calls, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> =
            self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        entries.sort_by_key(|entry| entry.since);
        entries
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
