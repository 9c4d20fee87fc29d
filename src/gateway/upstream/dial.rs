//! TCP and TLS to a member.
//!
//! A name may have several addresses, and one of them may drop packets. So addresses are tried as
//! in RFC 8305 (Happy Eyeballs): the next attempt starts when the previous one has failed or has
//! taken 250 ms, and the first one to finish its TLS handshake is used. The handshake is part of
//! the attempt, because an address that accepts TCP and then stays silent is as useless as one that
//! drops packets. If a peer completes TLS but then does not respond, the next connection starts
//! with the next address ([`FirstAddress`]).

use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Endpoint;
use crate::metrics::reason::UpstreamFailure;
use crate::tls::{self, Tls, server_name};

/// "Connection Attempt Delay" (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// A connected socket, after the TLS handshake if there is one.
pub(super) enum MemberSocket {
    /// `insecure-plaintext-upstream`.
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Index of the address that the next connection tries first, modulo the number of addresses.
#[derive(Debug, Default)]
pub struct FirstAddress(AtomicUsize);

impl FirstAddress {
    /// Makes the next connection start with the next address, because this one did not answer.
    pub(super) fn skip(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn rotate(&self, addresses: &mut [SocketAddr]) {
        if let Some(count) = self.0.load(Ordering::Relaxed).checked_rem(addresses.len()) {
            addresses.rotate_left(count);
        }
    }
}

/// Why no connection could be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// DNS or TCP.
    #[error("cannot connect: {0}")]
    Tcp(String),
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    /// No CA in `cacert` issued the server certificate, or it is not valid for this endpoint.
    #[error("TLS handshake failed: {0}")]
    Untrusted(String),
    #[error("HTTP/2 preface failed: {0}")]
    Http2(String),
    /// Timeout in seconds.
    #[error("no connection within {0} s")]
    Timeout(u64),
}

impl From<&ConnectError> for UpstreamFailure {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::Tcp(_) => UpstreamFailure::Connect,
            ConnectError::Tls(_) | ConnectError::Untrusted(_) => UpstreamFailure::Tls,
            ConnectError::Http2(_) => UpstreamFailure::Protocol,
            ConnectError::Timeout(_) => UpstreamFailure::Timeout,
        }
    }
}

impl ConnectError {
    /// For an error of tokio-rustls' `connect`.
    fn of_handshake(error: &std::io::Error) -> Self {
        let why = tls::describe_handshake_error(error);
        if tls::is_untrusted(error) { ConnectError::Untrusted(why) } else { ConnectError::Tls(why) }
    }

    /// The error to report if two addresses failed: the untrusted certificate, else the first.
    fn or(self, later: Self) -> Self {
        let is_untrusted = |error: &Self| matches!(error, ConnectError::Untrusted(_));
        if is_untrusted(&later) && !is_untrusted(&self) { later } else { self }
    }
}

/// Connects to the first address of `endpoint` that answers. The caller sets the timeout.
///
/// # Errors
/// Why no address could be used.
pub(super) async fn dial(
    endpoint: &Endpoint,
    from: &FirstAddress,
    tls: &Tls,
) -> Result<MemberSocket, ConnectError> {
    let resolved = lookup_host((&*endpoint.host, endpoint.port))
        .await
        .map_err(|error| ConnectError::Tcp(error.to_string()))?;
    let mut addresses = interleave_families(resolved);
    from.rotate(&mut addresses);
    first_connected(addresses, |address| attempt(address, endpoint, tls)).await
}

async fn attempt(
    address: SocketAddr,
    endpoint: &Endpoint,
    tls: &Tls,
) -> Result<MemberSocket, ConnectError> {
    let tcp =
        TcpStream::connect(address).await.map_err(|error| ConnectError::Tcp(error.to_string()))?;
    tcp.set_nodelay(true).map_err(|error| ConnectError::Tcp(error.to_string()))?;
    let Some(tls) = tls.upstream.as_ref().filter(|_| endpoint.tls) else {
        return Ok(MemberSocket::Plain(tcp));
    };
    let name = server_name(endpoint).map_err(|error| ConnectError::Tls(error.to_string()))?;
    let connected = TlsConnector::from(tls.rustls_config()).connect(name, tcp).await;
    connected
        .map(|stream| MemberSocket::Tls(Box::new(stream)))
        .map_err(|error| ConnectError::of_handshake(&error))
}

/// Keeps the order of the resolver (RFC 6724) but alternates between IPv4 and IPv6 (RFC 8305,
/// section 4), so that a family without a route does not delay the other one.
fn interleave_families(resolved: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut resolved = resolved.peekable();
    let first_is_v6 = resolved.peek().is_some_and(SocketAddr::is_ipv6);
    let (first, other): (Vec<_>, Vec<_>) =
        resolved.partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut interleaved = Vec::new();
    loop {
        let pair = [first.next(), other.next()];
        if pair == [None, None] {
            return interleaved;
        }
        interleaved.extend(pair.into_iter().flatten());
    }
}

/// Result of the first attempt that succeeds. The other attempts are dropped.
async fn first_connected<T, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let mut untried = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failed: Option<ConnectError> = None;
    loop {
        match untried.next() {
            Some(address) => attempts.push(attempt(address)),
            None if attempts.is_empty() => {
                return Err(failed
                    .unwrap_or_else(|| ConnectError::Tcp("the name has no address".to_owned())));
            }
            None => {}
        }
        let next_is_due = async {
            if untried.len() > 0 {
                sleep(NEXT_ADDRESS_AFTER).await;
            } else {
                pending::<()>().await;
            }
        };
        tokio::select! {
            Some(ended) = attempts.next() => match ended {
                Ok(connected) => return Ok(connected),
                Err(error) => failed = Some(match failed.take() {
                    Some(before) => before.or(error),
                    None => error,
                }),
            },
            () = next_is_due => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| address(text)).collect()
    }

    fn tcp(why: &str) -> ConnectError {
        ConnectError::Tcp(why.to_owned())
    }

    #[test]
    fn families_alternate_and_keep_their_order() {
        let resolved = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"]);
        assert_eq!(
            interleave_families(resolved.into_iter()),
            addresses(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"])
        );
        let resolved = addresses(&["127.0.0.1:1", "127.0.0.2:1"]);
        assert_eq!(interleave_families(resolved.clone().into_iter()), resolved);
    }

    #[test]
    fn skip_moves_on_to_the_next_address() {
        let from = FirstAddress::default();
        let all = addresses(&["127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"]);
        for round in 0..7 {
            let mut rotated = all.clone();
            from.rotate(&mut rotated);
            assert_eq!(rotated.first(), all.get(round % 3));
            from.skip();
        }
        from.rotate(&mut []);
    }

    #[tokio::test]
    async fn a_silent_address_does_not_block_the_next() {
        for silent in 1..4 {
            let all = addresses(&["127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1", "127.0.0.4:1"]);
            let answers = all[silent];
            let attempt = |address| async move {
                if address == answers { Ok(address) } else { pending().await }
            };
            assert_eq!(first_connected(all, attempt).await, Ok(answers));
        }
    }

    #[tokio::test]
    async fn an_untrusted_certificate_is_the_error_to_report() {
        let untrusted = ConnectError::Untrusted("another CA".to_owned());
        for port in 0..3 {
            let all = addresses(&["127.0.0.1:0", "127.0.0.1:1", "127.0.0.1:2"]);
            let attempt = |address: SocketAddr| {
                let error = if address.port() == port { untrusted.clone() } else { tcp("refused") };
                async move { Err::<(), _>(error) }
            };
            assert_eq!(first_connected(all, attempt).await, Err(untrusted.clone()));
        }
        assert_eq!(
            first_connected(Vec::new(), |_| async { Ok(()) }).await,
            Err(tcp("the name has no address"))
        );
    }
}
