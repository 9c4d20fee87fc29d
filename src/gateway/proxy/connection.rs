//! One client connection, from its first byte on: TLS, identity, a place among the connections of
//! that identity.

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
use super::rounds::in_rounds;
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
    let greeted = Box::pin(greet(&worker, accepted.stream));
    let greeted = timeout_at(accepted.since + shared.config.limits.handshake_timeout, greeted);
    let greeted = tokio::select! {
        greeted = greeted => greeted,
        () = accepted.handshake.given_up() => {
            metrics.limit_hit(Limit::Handshakes);
            metrics.handshake_failure(HandshakeFailure::Timeout);
            return tracing::info!(%peer, "a handshake made room for others: too many at once");
        }
    };
    drop(accepted.handshake);
    let Greeted { stream, tls } = match greeted.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    {
        Ok(greeted) => greeted,
        Err(error) => return note_failure(shared, peer, &error),
    };
    let Some((identity, chain)) = identity(&tls, &stream) else { return };
    let caller = Caller::of(shared.policy.current(), &identity);
    let quota = shared.quotas.of(&caller.principal.name);
    let line = worker.rounds.line(&caller.principal.name);
    let enforced = caller.principal.mode == Mode::Enforce;
    let Some(_place) =
        quota.connections.place().or_else(|| (!enforced).then(|| quota.connections.occupy()))
    else {
        metrics.limit_hit(Limit::ConnectionsPerIdentity);
        tracing::info!(%peer, identity = %Escaped(caller.principal.name.as_bytes()), "one connection too many of this identity");
        // In a flood there is no time for everybody.
        if let Some(_place) = quota.leaving.place() {
            Box::pin(in_rounds(line, turn_away(stream))).await;
        }
        return;
    };
    metrics.connections.increment(1.0);
    let client = Rc::new(Client::new(worker.clone(), peer, identity, chain, caller, quota));
    let _entry = worker.roll.enter(&client, tls.trust());
    // A connection lasts for days, and what it begins with is to leave nothing in its task.
    let ended = match Box::pin(session::begin(client.clone(), stream)).await {
        Ok(Some(session)) => in_rounds(line, session.run()).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %client.peer, %error, "connection ended");
    }
    metrics.connections.decrement(1.0);
}

/// SETTINGS, then GOAWAY for ENHANCE_YOUR_CALM before any stream (RFC 9113, 3.4 and 6.8): gRPC
/// clients come back, less and less often.
const CALM_DOWN: &[u8] =
    &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];

/// Ends a connection that is one too many, and says so. What the client has sent is read and
/// forgotten, for a second at most: a connection that is closed with bytes unread is reset, and the
/// client might never see why.
async fn turn_away(mut stream: TlsStream<TcpStream>) {
    let said = async {
        stream.write_all(CALM_DOWN).await?;
        stream.shutdown().await?;
        let mut forgotten = [0; 4096];
        while stream.read(&mut forgotten).await? > 0 {
            tokio::task::yield_now().await;
        }
        std::io::Result::Ok(())
    };
    let _ = timeout(Duration::from_secs(1), said).await;
}

/// A client that has shown who it is.
struct Greeted {
    stream: TlsStream<TcpStream>,
    /// What it was judged by.
    tls: Arc<ServerTls>,
}

/// A connection that ended before its first byte, or before the first behind its PROXY header.
#[derive(Debug, thiserror::Error)]
#[error("the connection ended before its first byte")]
struct Probe;

/// Waits for the first byte, which stays unread.
///
/// # Errors
/// The connection ended before it.
pub async fn first_byte(stream: &TcpStream) -> std::io::Result<()> {
    match stream.peek(&mut [0]).await {
        Ok(0) | Err(_) => Err(std::io::Error::new(ErrorKind::UnexpectedEof, Probe)),
        Ok(_) => Ok(()),
    }
}

/// Counts a connection that ended before TLS was established, and says why in the log.
pub fn note_failure(shared: &Shared, peer: SocketAddr, error: &std::io::Error) {
    let failure = handshake_failure(error);
    shared.metrics.handshake_failure(failure);
    // What looks whether the port is open (a balancer's check, a scanner) says nothing, and comes
    // every few seconds.
    if error.get_ref().is_some_and(|inner| inner.is::<Probe>()) {
        tracing::debug!(%peer, "a connection ended before its first byte");
    } else {
        let (failure, hint) =
            (failure.code(), Some(failure.hint()).filter(|hint| !hint.is_empty()));
        tracing::info!(%peer, failure, %error, hint, "handshake failed");
    }
}

/// TLS.
async fn greet(worker: &Worker, stream: std::net::TcpStream) -> std::io::Result<Greeted> {
    let stream = TcpStream::from_std(stream)?;
    let tls = worker.shared.tls.current().server.clone();
    let stream = TlsAcceptor::from(tls.rustls_config()).accept(stream).await?;
    // rustls refuses a client that offers other protocols, and takes one that offers none.
    if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
        return Err(std::io::Error::other(rustls::Error::NoApplicationProtocol));
    }
    Ok(Greeted { stream, tls })
}

fn identity(
    tls: &ServerTls,
    stream: &TlsStream<TcpStream>,
) -> Option<(Arc<Identity>, Vec<CertificateDer<'static>>)> {
    // The verifier lets nobody through without a chain.
    let chain = stream.get_ref().1.peer_certificates()?;
    let proved = tls.trust().verify(chain).ok()?;
    let mut identity = Identity::from_certificate(chain.first()?, proved.ca);
    // A chain ends with the first of its certificates.
    identity.not_after =
        identity.not_after.min(i64::try_from(proved.not_after).unwrap_or(i64::MAX));
    Some((
        Arc::new(identity),
        chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
    ))
}
