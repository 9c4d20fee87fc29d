//! Who is connected to one worker. When the client CAs or the revocation lists change, the roll is
//! called: every chain is judged again, by the judge of handshakes, and whoever would not be let in
//! now is let in no longer.
//!
//! One judge for both, so that no list of reasons can differ. Calling the roll is a task of its
//! own, which lets requests pass between two chains (each takes some 0.1 ms); a connection itself
//! never looks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::client::Client;
use super::lifetime;
use super::worker::Worker;
use crate::tls::ClientTrust;

/// The clients of one worker.
#[derive(Default)]
pub struct Roll {
    clients: RefCell<BTreeMap<u64, Weak<Client>>>,
    next: Cell<u64>,
}

/// One client on the roll, until it is dropped.
#[must_use = "the client is struck off when this is dropped"]
pub struct Entry<'r> {
    roll: &'r Roll,
    number: u64,
}

impl Roll {
    /// Puts a client on the roll, whose handshake was judged by `judged`. If another judge counts
    /// by now, it is asked at once: the roll may have been called already.
    pub fn enter(&self, client: &Rc<Client>, judged: &Arc<ClientTrust>) -> Entry<'_> {
        let number = self.next.replace(self.next.get().wrapping_add(1));
        self.clients.borrow_mut().insert(number, Rc::downgrade(client));
        let now = client.worker.shared.tls.current();
        if !Arc::ptr_eq(now.server.trust(), judged) {
            client.judge_again(now.server.trust());
        }
        Entry { roll: self, number }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.roll.clients.borrow_mut().remove(&self.number);
    }
}

impl Roll {
    fn clients(&self) -> Vec<Weak<Client>> {
        self.clients.borrow().values().cloned().collect()
    }
}

/// At each change of the policy, has every client look for its own: one whose certificate has ended
/// in shadow mode may be enforced now, and need not have anything open that would notice.
pub async fn call_at_each_policy(worker: Rc<Worker>) {
    let mut changes = worker.shared.policy.subscribe();
    while changes.changed().await.is_ok() {
        for client in worker.roll.clients() {
            if let Some(client) =
                client.upgrade().filter(|client| lifetime::has_ended(client.identity.not_after))
            {
                let _ = client.caller();
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Calls the roll at each change, for as long as the worker lives.
pub async fn call_at_each_change(worker: Rc<Worker>) {
    let mut changes = worker.shared.tls.trust_changes();
    while changes.changed().await.is_ok() {
        let now = worker.shared.tls.current();
        let clients = worker.roll.clients();
        for client in clients {
            // Still another judge: everybody is asked again, so that nobody needs to be asked by
            // this one.
            if changes.has_changed().unwrap_or(true) {
                break;
            }
            if let Some(client) = client.upgrade() {
                client.judge_again(now.server.trust());
            }
            tokio::task::yield_now().await;
        }
    }
}
