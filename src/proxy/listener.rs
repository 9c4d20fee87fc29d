//! Accepting connections and handing each to the worker that has the fewest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;

use super::Shared;
use super::handshakes::Handshakes;
use super::worker::{Accepted, Counted, WorkerHandle};
use crate::metrics::reason::Limit;

/// The listening socket, bound.
pub struct Listener {
    socket: TcpListener,
    connections: Arc<AtomicUsize>,
}

impl Listener {
    /// Binds the address. Port 0 lets the system choose.
    ///
    /// # Errors
    /// The address is in use, or not this machine's.
    pub fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        // A restart must not wait for the old connections' TIME_WAIT; a second live listener is still refused.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // Every node of a cluster comes back at once after a restart; the kernel cuts this to net.core.somaxconn.
        socket.listen(4096)?;
        Ok(Self { socket: TcpListener::from_std(socket.into())?, connections: Arc::default() })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until the drain begins. Whoever comes above the cap is closed at once: those who are connected matter more.
    pub async fn run(self, shared: &Shared, workers: &[WorkerHandle]) {
        let limits = shared.config.limits;
        let mut handshakes = Handshakes::new(limits.max_handshakes, limits.handshake_timeout);
        loop {
            tokio::select! {
                biased;
                () = shared.drain.cancelled() => return,
                () = handshakes.room() => {}
            }
            let accepted = tokio::select! {
                biased;
                () = shared.drain.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.hand_over(shared, workers, stream, peer, &mut handshakes),
                // Usually out of descriptors: give others time to close some.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn hand_over(
        &self,
        shared: &Shared,
        workers: &[WorkerHandle],
        stream: tokio::net::TcpStream,
        peer: SocketAddr,
        handshakes: &mut Handshakes,
    ) {
        if self.connections.load(Ordering::Relaxed) >= shared.config.limits.max_connections {
            shared.metrics.limit_hit(Limit::Connections);
            return;
        }
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { return };
        let Some(worker) = workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed)) else { return };
        let speaks_for_others = shared.config.proxy_protocol_from.iter().any(|network| network.contains(peer.ip()));
        let counted = Counted::in_each(vec![self.connections.clone(), worker.connections.clone()]);
        // A worker that is gone takes no sockets; the connection is closed by being dropped.
        let _ = worker.sockets.try_send(Accepted { stream, peer, speaks_for_others, counted, handshake: handshakes.begin() });
    }
}
