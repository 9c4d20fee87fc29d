//! Serves one client connection: TLS handshake, identity, one of the identity's connection slots,
//! and then the HTTP/2 session.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use etcd_warden_core::identity::Identity;
use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::policy::Mode;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::client::Client;
use super::judge::Caller;
use super::scheduler::scheduled;
use super::session;
use super::worker::{Accepted, Worker};
use crate::metrics::reason::Limit;
use crate::tls::{ALPN_H2, HandshakeFailure, ServerTls, handshake_failure};

/// Serves one connection to its end.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let shared = &worker.shared;
    let _counted = accepted.counted;
    let metrics = &shared.metrics;
    let peer = accepted.peer;
    // TLS handshake.
    let deadline = accepted.since + shared.config.limits.handshake_timeout;
    let established = timeout_at(deadline, Box::pin(handshake(&worker, accepted.stream)));
    let established = tokio::select! {
        established = established => established,
        () = accepted.handshake.given_up() => {
            metrics.limit_hit(Limit::Handshakes);
            metrics.handshake_failure(HandshakeFailure::Timeout);
            return tracing::info!(%peer, "too many handshakes at once; aborted this one");
        }
    };
    drop(accepted.handshake);
    let established = established.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    let Established { stream, tls } = match established {
        Ok(established) => established,
        Err(error) => return note_failure(shared, peer, &error),
    };
    // Identity.
    let Some((identity, chain)) = identity(&tls, &stream) else { return };
    let caller = Caller::of(shared.policy.current(), &identity);
    let quota = shared.quotas.of(&caller.principal.name);
    let queue = worker.scheduler.queue(&caller.principal.name);
    // One of the identity's connection slots. Shadow mode has no limits.
    let enforced = caller.principal.mode == Mode::Enforce;
    let Some(_slot) = quota
        .connections
        .try_acquire()
        .or_else(|| (!enforced).then(|| quota.connections.acquire_unchecked()))
    else {
        metrics.limit_hit(Limit::ConnectionsPerIdentity);
        let identity = Escaped(caller.principal.name.as_bytes());
        tracing::info!(%peer, %identity, "too many connections of this identity; closing this one");
        // In a flood, only some connections get a GOAWAY. The others are just closed.
        if let Some(_slot) = quota.overflow_connections.try_acquire() {
            Box::pin(scheduled(queue, send_goaway(stream))).await;
        }
        return;
    };
    // HTTP/2 session.
    metrics.connections.increment(1.0);
    let client = Rc::new(Client::new(worker.clone(), peer, identity, chain, caller, quota));
    let _membership = worker.clients.add(&client, tls.trust());
    // On the heap: a connection may last for days, and the state of the handshake must not make its
    // task larger for that time.
    let ended = match Box::pin(session::begin(client.clone(), stream)).await {
        Ok(Some(session)) => scheduled(queue, session.run()).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %client.peer, %error, "connection ended");
    }
    metrics.connections.decrement(1.0);
}

/// SETTINGS, then GOAWAY with ENHANCE_YOUR_CALM before any stream (RFC 9113, 3.4 and 6.8). gRPC
/// clients then reconnect with exponential backoff.
const GOAWAY: &[u8] =
    &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];

/// Closes a connection over the limit with a GOAWAY. For one second at most, reads and discards
/// everything that the client sends. If a socket is closed with unread bytes, the kernel resets the
/// connection, and the client might never see the GOAWAY.
async fn send_goaway(mut stream: TlsStream<TcpStream>) {
    let sent = async {
        stream.write_all(GOAWAY).await?;
        stream.shutdown().await?;
        let mut discarded = [0; 4096];
        while stream.read(&mut discarded).await? > 0 {
            tokio::task::yield_now().await;
        }
        std::io::Result::Ok(())
    };
    let _ = timeout(Duration::from_secs(1), sent).await;
}

/// A TLS connection with a client.
struct Established {
    stream: TlsStream<TcpStream>,
    /// The TLS configuration that verified the client.
    tls: Arc<ServerTls>,
}

/// The connection was closed before its first byte, or before the first byte after its PROXY
/// header.
#[derive(Debug, thiserror::Error)]
#[error("the connection was closed before its first byte")]
struct Probe;

/// Waits for the first byte without consuming it.
///
/// # Errors
/// The connection was closed before the first byte.
pub async fn first_byte(stream: &TcpStream) -> std::io::Result<()> {
    match stream.peek(&mut [0]).await {
        Ok(0) | Err(_) => Err(std::io::Error::new(ErrorKind::UnexpectedEof, Probe)),
        Ok(_) => Ok(()),
    }
}

/// Counts and logs a connection that ended before TLS was established.
pub fn note_failure(shared: &Shared, peer: SocketAddr, error: &std::io::Error) {
    let failure = handshake_failure(error);
    shared.metrics.handshake_failure(failure);
    // A port check of a load balancer or a scanner sends nothing. It may come every few seconds.
    if error.get_ref().is_some_and(|inner| inner.is::<Probe>()) {
        tracing::debug!(%peer, "connection was closed before its first byte");
    } else {
        let (failure, hint) =
            (failure.code(), Some(failure.hint()).filter(|hint| !hint.is_empty()));
        tracing::info!(%peer, failure, %error, hint, "handshake failed");
    }
}

/// Does the TLS handshake.
async fn handshake(worker: &Worker, stream: std::net::TcpStream) -> std::io::Result<Established> {
    let stream = TcpStream::from_std(stream)?;
    let tls = worker.shared.tls.current().server.clone();
    let stream = TlsAcceptor::from(tls.rustls_config()).accept(stream).await?;
    // rustls rejects a client that offers only other protocols, but accepts one that offers none.
    if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
        return Err(std::io::Error::other(rustls::Error::NoApplicationProtocol));
    }
    Ok(Established { stream, tls })
}

fn identity(
    tls: &ServerTls,
    stream: &TlsStream<TcpStream>,
) -> Option<(Arc<Identity>, Vec<CertificateDer<'static>>)> {
    // There is a chain, because the verifier requires one.
    let chain = stream.get_ref().1.peer_certificates()?;
    let proved = tls.trust().verify(chain).ok()?;
    let mut identity = Identity::from_certificate(chain.first()?, proved.ca);
    // A chain ends when the first of its certificates expires.
    identity.not_after =
        identity.not_after.min(i64::try_from(proved.not_after).unwrap_or(i64::MAX));
    Some((
        Arc::new(identity),
        chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
    ))
}
