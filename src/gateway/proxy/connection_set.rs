//! The connected clients of one worker. When the client CAs or the revocation lists change, each
//! client's chain is verified again, by the same verifier that decides on new handshakes. A client
//! that it no longer accepts is disconnected.
//!
//! A separate task does this. Each chain takes about 0.1 ms, and the task yields to requests after
//! each of them. Connections themselves do not check for such changes.

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
pub struct ConnectionSet {
    clients: RefCell<BTreeMap<u64, Weak<Client>>>,
    next: Cell<u64>,
}

/// One client of the set, until it is dropped.
#[must_use = "the client is removed when this is dropped"]
pub struct Membership<'s> {
    set: &'s ConnectionSet,
    number: u64,
}

impl ConnectionSet {
    /// Adds a client whose handshake was verified by `verified_by`. If another verifier is in
    /// effect by now, verifies the client again at once: the task may already be past it.
    pub fn add(&self, client: &Rc<Client>, verified_by: &Arc<ClientTrust>) -> Membership<'_> {
        let number = self.next.replace(self.next.get().wrapping_add(1));
        self.clients.borrow_mut().insert(number, Rc::downgrade(client));
        let now = client.worker.shared.tls.current();
        if !Arc::ptr_eq(now.server.trust(), verified_by) {
            client.verify_again(now.server.trust());
        }
        Membership { set: self, number }
    }

    fn all(&self) -> Vec<Weak<Client>> {
        self.clients.borrow().values().cloned().collect()
    }
}

impl Drop for Membership<'_> {
    fn drop(&mut self) {
        self.set.clients.borrow_mut().remove(&self.number);
    }
}

/// After each change of the policy, updates the clients whose certificates have expired. They may
/// stay connected in shadow mode, but must be disconnected if they are enforced now. A client
/// without an open call would not notice that by itself.
pub async fn update_on_policy_change(worker: Rc<Worker>) {
    let mut changes = worker.shared.policy.subscribe();
    while changes.changed().await.is_ok() {
        for client in worker.clients.all() {
            if let Some(client) =
                client.upgrade().filter(|client| lifetime::has_ended(client.identity.not_after))
            {
                let _ = client.caller();
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Verifies all clients again after each change of the client CAs or the revocation lists.
pub async fn verify_on_trust_change(worker: Rc<Worker>) {
    let mut changes = worker.shared.tls.trust_changes();
    while changes.changed().await.is_ok() {
        let now = worker.shared.tls.current();
        let clients = worker.clients.all();
        for client in clients {
            // The trust has changed again: the next pass verifies all clients with the newer one.
            if changes.has_changed().unwrap_or(true) {
                break;
            }
            if let Some(client) = client.upgrade() {
                client.verify_again(now.server.trust());
            }
            tokio::task::yield_now().await;
        }
    }
}
