//! Accepting connections, and handing each to the worker that has the fewest, when it has said
//! something and its handshake may begin.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::arrivals::Arrivals;
use super::connection::{first_byte, note_failure};
use super::handshakes::{Handshake, Handshakes};
use super::worker::{Accepted, Counted, WorkerHandle};
use crate::crowd::Origin;
use crate::metrics::reason::Limit;
use crate::proxy_protocol;

/// The listening socket, bound.
pub struct Listener {
    socket: TcpListener,
}

/// A socket whose handshake has not begun.
struct Newcomer<S = TcpStream> {
    stream: S,
    /// Its other end: the balancer's word for it, with PROXY protocol.
    peer: SocketAddr,
    since: Instant,
}

/// A socket, or why it is none any more.
type Arrived = Result<Newcomer, (SocketAddr, io::Error)>;

impl Listener {
    /// Binds the address. Port 0 lets the system choose.
    ///
    /// # Errors
    /// The address is in use, or not this machine's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        // A restart must not wait for the old connections' TIME_WAIT; a second live listener is
        // still refused.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // Every node of a cluster comes back at once after a restart; the kernel cuts this to
        // net.core.somaxconn.
        socket.listen(4096)?;
        Ok(Self { socket: TcpListener::from_std(socket.into())? })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until the drain begins. It leaves no socket in the kernel's queue: only who is
    /// accepted has an address, and only by that can a flood be told from the rest.
    pub async fn run(self, shared: &Shared, workers: &[WorkerHandle]) {
        let limits = shared.config.limits;
        let mut handshakes = Handshakes::new(limits.max_handshakes, limits.handshake_timeout);
        let (mut unnamed, mut silent) =
            (Arrivals::new(limits.max_handshakes), Arrivals::new(limits.max_handshakes));
        loop {
            while let Some((newcomer, handshake)) = handshakes.begin_next() {
                hand_over(workers, newcomer, handshake);
            }
            tokio::select! {
                biased;
                () = shared.drain.cancelled() => return,
                () = handshakes.change() => {}
                arrived = unnamed.next() => match arrived {
                    Ok(newcomer) => await_first_byte(shared, &mut silent, newcomer),
                    Err((peer, error)) => note_failure(shared, peer, &error),
                },
                arrived = silent.next() => match arrived {
                    Ok(newcomer) => await_handshake(shared, &mut handshakes, newcomer),
                    Err((peer, error)) => note_failure(shared, peer, &error),
                },
                accepted = self.socket.accept() => match accepted {
                    // Those who are connected matter more.
                    Ok(_) if shared.quotas.has_all_connections() => shared.metrics.limit_hit(Limit::Connections),
                    Ok((stream, peer)) => {
                        let _ = stream.set_nodelay(true);
                        let newcomer = Newcomer { stream, peer, since: Instant::now() };
                        if speaks_for_others(shared, peer) {
                            await_name(shared, &mut unnamed, newcomer);
                        } else {
                            await_first_byte(shared, &mut silent, newcomer);
                        }
                    }
                    // Usually out of descriptors: give others time to close some.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }
}

fn speaks_for_others(shared: &Shared, peer: SocketAddr) -> bool {
    shared.config.proxy_protocol_from.iter().any(|network| network.contains(peer.ip()))
}

/// A balancer's address is that of all its clients. Whose share it is the balancer says at once:
/// until then, it is nobody's.
fn await_name(shared: &Shared, unnamed: &mut Arrivals<Arrived>, newcomer: Newcomer) {
    let Newcomer { mut stream, peer, since } = newcomer;
    let named = within(shared, peer, since, async move {
        first_byte(&stream).await?;
        let client = proxy_protocol::read(&mut stream).await?;
        Ok(Newcomer { stream, peer: client.unwrap_or(peer), since })
    });
    note_lost(shared, unnamed.enter(peer, named));
}

fn await_first_byte(shared: &Shared, silent: &mut Arrivals<Arrived>, newcomer: Newcomer) {
    let (peer, since) = (newcomer.peer, newcomer.since);
    let spoken = within(shared, peer, since, async move {
        first_byte(&newcomer.stream).await.map(|()| newcomer)
    });
    note_lost(shared, silent.enter(peer, spoken));
}

/// What is awaited counts into the time of the handshake.
fn within(
    shared: &Shared,
    peer: SocketAddr,
    since: Instant,
    awaited: impl Future<Output = io::Result<Newcomer>> + Send + 'static,
) -> impl Future<Output = Arrived> + Send + 'static {
    let end = since + shared.config.limits.handshake_timeout;
    async move {
        timeout_at(end, awaited)
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
    let lost = handshakes.arrive(Origin::from(peer.ip()), Newcomer { stream, peer, since });
    note_lost(shared, lost.map(|lost| lost.peer));
}

fn note_lost(shared: &Shared, lost: Option<SocketAddr>) {
    if let Some(peer) = lost {
        shared.metrics.limit_hit(Limit::Handshakes);
        tracing::info!(%peer, "a connection made room for others before its handshake began: too many at once");
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
    // A worker that is gone takes no sockets; the connection is closed by being dropped.
    let _ = worker.sockets.try_send(Accepted { stream, peer, since, counted, handshake });
}
