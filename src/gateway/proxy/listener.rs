//! Accepts connections. When the first byte has arrived and the handshake may begin, the connection
//! goes to the worker with the fewest connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::connection::{first_byte, note_failure};
use super::handshakes::{Handshake, Handshakes};
use super::pending::PendingSockets;
use super::worker::{Accepted, Counted, WorkerHandle};
use crate::metrics::reason::Limit;
use crate::origin_table::Origin;
use crate::proxy_protocol;

/// The listening socket, bound.
pub struct Listener {
    socket: TcpListener,
}

/// A socket whose handshake has not begun.
struct Newcomer<S = TcpStream> {
    stream: S,
    /// The client's address. With the PROXY protocol, the one that the load balancer reports.
    peer: SocketAddr,
    since: Instant,
}

/// A socket that is ready for its next phase, or why it was closed.
type Ready = Result<Newcomer, (SocketAddr, io::Error)>;

impl Listener {
    /// Binds the address. Port 0 lets the system choose.
    ///
    /// # Errors
    /// The address is in use, or not one of this machine.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        // A restart must not wait for old connections in TIME_WAIT. A second listener on the
        // address still fails.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // After a restart all nodes of a cluster reconnect at once. The kernel lowers this to
        // net.core.somaxconn.
        socket.listen(4096)?;
        Ok(Self { socket: TcpListener::from_std(socket.into())? })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// The operating system does not report it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until the drain begins. Every socket is accepted at once and none waits in the
    /// kernel's queue: the address of a socket is known only then, and only the address
    /// distinguishes a flood from other clients.
    pub async fn run(self, shared: &Shared, workers: &[WorkerHandle]) {
        let limits = shared.config.limits;
        let mut handshakes = Handshakes::new(limits.max_handshakes, limits.handshake_timeout);
        let (mut without_header, mut without_byte) = (
            PendingSockets::new(limits.max_handshakes),
            PendingSockets::new(limits.max_handshakes),
        );
        loop {
            while let Some((newcomer, handshake)) = handshakes.begin_next() {
                hand_over(workers, newcomer, handshake);
            }
            tokio::select! {
                biased;
                () = shared.drain.cancelled() => return,
                () = handshakes.change() => {}
                ready = without_header.next() => match ready {
                    Ok(newcomer) => await_first_byte(shared, &mut without_byte, newcomer),
                    Err((peer, error)) => note_failure(shared, peer, &error),
                },
                ready = without_byte.next() => match ready {
                    Ok(newcomer) => await_handshake(shared, &mut handshakes, newcomer),
                    Err((peer, error)) => note_failure(shared, peer, &error),
                },
                accepted = self.socket.accept() => match accepted {
                    // Close the new connection: connected clients take precedence.
                    Ok(_) if shared.quotas.connections_full() => {
                        shared.metrics.limit_hit(Limit::Connections);
                    }
                    Ok((stream, peer)) => {
                        let _ = stream.set_nodelay(true);
                        let newcomer = Newcomer { stream, peer, since: Instant::now() };
                        if expects_proxy_header(shared, peer) {
                            await_proxy_header(shared, &mut without_header, newcomer);
                        } else {
                            await_first_byte(shared, &mut without_byte, newcomer);
                        }
                    }
                    // Usually there are no file descriptors left. Wait until connections end.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }
}

fn expects_proxy_header(shared: &Shared, peer: SocketAddr) -> bool {
    shared.config.proxy_protocol_from.iter().any(|network| network.contains(peer.ip()))
}

/// Waits for the PROXY header. Until it arrives, only the address of the load balancer is known,
/// which all its clients share. So the socket is not yet charged to an address among the
/// handshakes.
fn await_proxy_header(shared: &Shared, pending: &mut PendingSockets<Ready>, newcomer: Newcomer) {
    let Newcomer { mut stream, peer, since } = newcomer;
    let with_header = within(shared, peer, since, async move {
        first_byte(&stream).await?;
        let client = proxy_protocol::read(&mut stream).await?;
        Ok(Newcomer { stream, peer: client.unwrap_or(peer), since })
    });
    note_evicted(shared, pending.add(peer, with_header));
}

fn await_first_byte(shared: &Shared, pending: &mut PendingSockets<Ready>, newcomer: Newcomer) {
    let (peer, since) = (newcomer.peer, newcomer.since);
    let with_byte = within(shared, peer, since, async move {
        first_byte(&newcomer.stream).await.map(|()| newcomer)
    });
    note_evicted(shared, pending.add(peer, with_byte));
}

/// Limits a wait by the handshake timeout, counted from when the socket was accepted.
fn within(
    shared: &Shared,
    peer: SocketAddr,
    since: Instant,
    awaited: impl Future<Output = io::Result<Newcomer>> + Send + 'static,
) -> impl Future<Output = Ready> + Send + 'static {
    let deadline = since + shared.config.limits.handshake_timeout;
    async move {
        timeout_at(deadline, awaited)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| (peer, error))
    }
}

fn await_handshake(
    shared: &Shared,
    handshakes: &mut Handshakes<Newcomer<std::net::TcpStream>>,
    newcomer: Newcomer,
) {
    let Newcomer { stream, peer, since } = newcomer;
    let Ok(stream) = stream.into_std() else { return };
    let evicted = handshakes.add(Origin::from(peer.ip()), Newcomer { stream, peer, since });
    note_evicted(shared, evicted.map(|evicted| evicted.peer));
}

fn note_evicted(shared: &Shared, evicted: Option<SocketAddr>) {
    if let Some(peer) = evicted {
        shared.metrics.limit_hit(Limit::Handshakes);
        tracing::info!(%peer, "too many connections before their handshake; closed this one");
    }
}

fn hand_over(
    workers: &[WorkerHandle],
    newcomer: Newcomer<std::net::TcpStream>,
    handshake: Handshake,
) {
    let Some(worker) =
        workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))
    else {
        return;
    };
    let Newcomer { stream, peer, since } = newcomer;
    let counted = Counted::in_each(vec![Arc::clone(&worker.connections)]);
    // If the worker thread has ended, the socket is dropped, which closes it.
    let _ = worker.sockets.try_send(Accepted { stream, peer, since, counted, handshake });
}
