//! Connections to one admin listener, and which of them gives way: a client that sends nothing must
//! not keep a probe out.
//!
//! Each new connection is accepted. When too many have not sent a complete request, the oldest of
//! the address that has the most of them is closed. The same holds for connections whose client
//! does not read its response. A probe sends its request at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::origin_table::{Origin, OriginTable};

/// Connections at once whose request is not complete.
pub const MAX_WAITING: usize = 128;
/// Connections at once whose request is being answered.
pub const MAX_ANSWERING: usize = 64;

/// The connections to one admin listener.
#[derive(Clone, Default)]
pub struct AdminConnections(Arc<Mutex<Tables>>);

#[derive(Default)]
struct Tables {
    waiting: OriginTable<Arc<Notify>>,
    answering: OriginTable<Arc<Notify>>,
}

/// One connection, until this is dropped.
pub struct AdminConnection {
    connections: AdminConnections,
    origin: Origin,
    phase: Mutex<Phase>,
    evicted: Arc<Notify>,
}

/// The phase of a connection, with its ticket in the table of that phase.
#[derive(Clone, Copy)]
enum Phase {
    Waiting(u64),
    Answering(u64),
}

impl AdminConnections {
    /// Adds a connection that has sent nothing yet.
    pub fn add(&self, origin: Origin) -> AdminConnection {
        let evicted = Arc::<Notify>::default();
        let ticket = insert(&mut self.lock().waiting, MAX_WAITING, origin, &evicted);
        let phase = Mutex::new(Phase::Waiting(ticket));
        AdminConnection { connections: self.clone(), origin, phase, evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn insert(
    table: &mut OriginTable<Arc<Notify>>,
    max: usize,
    origin: Origin,
    evicted: &Arc<Notify>,
) -> u64 {
    if table.len() >= max
        && let Some(oldest) = table.evict()
    {
        oldest.notify_one();
    }
    table.insert(origin, evicted.clone())
}

impl AdminConnection {
    /// Notes that the request is complete: the connection counts as being answered.
    pub fn request_received(&self) {
        let mut tables = self.connections.lock();
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if let Phase::Waiting(ticket) = *phase {
            tables.waiting.remove(ticket);
            let ticket = insert(&mut tables.answering, MAX_ANSWERING, self.origin, &self.evicted);
            *phase = Phase::Answering(ticket);
        }
    }

    /// Waits until this connection must give way.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for AdminConnection {
    fn drop(&mut self) {
        let mut tables = self.connections.lock();
        match *self.phase.lock().unwrap_or_else(PoisonError::into_inner) {
            Phase::Waiting(ticket) => drop(tables.waiting.remove(ticket)),
            Phase::Answering(ticket) => drop(tables.answering.remove(ticket)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn evicts_the_oldest_of_the_busiest_address_in_each_phase() {
        let origin = |last| Origin::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, last)));
        let connections = AdminConnections::default();
        let probe = connections.add(origin(1));
        let silent: Vec<AdminConnection> =
            (0..MAX_WAITING).map(|_| connections.add(origin(2))).collect();
        let is_evicted =
            |connection: &AdminConnection| connection.evicted().now_or_never().is_some();
        assert!(is_evicted(&silent[0]));
        assert!(!is_evicted(&silent[1]) && !is_evicted(&probe));
        probe.request_received();
        let slow: Vec<AdminConnection> =
            (0..MAX_ANSWERING).map(|_| connections.add(origin(2))).collect();
        slow.iter().for_each(AdminConnection::request_received);
        assert!(is_evicted(&slow[0]));
        assert!(!is_evicted(&slow[1]) && !is_evicted(&probe));
        drop((probe, silent, slow));
        let tables = connections.lock();
        assert!(tables.waiting.is_empty() && tables.answering.is_empty());
    }
}
