//! TCP and TLS to a member, for the connections that carry requests and for the proxy's own
//! questions.
//!
//! A name may have several addresses, and one of them may drop what is sent to it. So the addresses
//! are tried as in RFC 8305 (Happy Eyeballs): the next one starts when the last one has failed or
//! has had a quarter of a second, and the first one that has finished its TLS handshake is used.
//! The handshake is part of the attempt: an address that accepts TCP and then stays silent is as
//! dead as one that drops packets. What answers TLS and then nothing is met by [`FirstAddress`]:
//! the next connection begins with the next address.

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

/// "Connection Attempt Delay" of RFC 8305, section 5.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// A connected socket of a member.
pub enum Socket {
    /// Without TLS: `insecure-plaintext`.
    Plain(TcpStream),
    /// With TLS, handshake finished.
    Tls(Box<TlsStream<TcpStream>>),
}

/// With which of a name's addresses the next connection begins.
#[derive(Debug, Default)]
pub struct FirstAddress(AtomicUsize);

impl FirstAddress {
    /// The address that was connected to has not answered: another one is tried first from now on.
    pub fn pass_over(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn rotate(&self, addresses: &mut [SocketAddr]) {
        if let Some(places) = self.0.load(Ordering::Relaxed).checked_rem(addresses.len()) {
            addresses.rotate_left(places);
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// TCP, or the name has no address.
    #[error("cannot connect: {0}")]
    Tcp(String),
    /// TLS.
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    /// What answers there is not the etcd that `cacert` vouches for.
    #[error("its certificate is not trusted: {0}")]
    Untrusted(String),
    /// HTTP/2.
    #[error("HTTP/2 preface failed: {0}")]
    Http2(String),
    /// Nothing within this many seconds.
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
    /// What tokio-rustls' `connect` failed of.
    fn of_handshake(error: &std::io::Error) -> Self {
        let why = tls::in_words(error);
        if tls::distrusts(error) { ConnectError::Untrusted(why) } else { ConnectError::Tls(why) }
    }

    /// Of two addresses that failed, the error to report: a certificate that is not trusted above
    /// all, or else the first.
    fn or(self, later: Self) -> Self {
        let distrusts = |error: &Self| matches!(error, ConnectError::Untrusted(_));
        if distrusts(&later) && !distrusts(&self) { later } else { self }
    }
}

/// Connects to the first address of `endpoint` that answers. It has no deadline of its own.
///
/// # Errors
/// Why no address could be used.
pub async fn dial(
    endpoint: &Endpoint,
    from: &FirstAddress,
    tls: &Tls,
) -> Result<Socket, ConnectError> {
    let found = lookup_host((&*endpoint.host, endpoint.port))
        .await
        .map_err(|error| ConnectError::Tcp(error.to_string()))?;
    let mut addresses = in_turns(found);
    from.rotate(&mut addresses);
    first(addresses, |address| attempt(address, endpoint, tls)).await
}

async fn attempt(
    address: SocketAddr,
    endpoint: &Endpoint,
    tls: &Tls,
) -> Result<Socket, ConnectError> {
    let tcp =
        TcpStream::connect(address).await.map_err(|error| ConnectError::Tcp(error.to_string()))?;
    tcp.set_nodelay(true).map_err(|error| ConnectError::Tcp(error.to_string()))?;
    let Some(tls) = tls.upstream.as_ref().filter(|_| endpoint.tls) else {
        return Ok(Socket::Plain(tcp));
    };
    let name = server_name(endpoint).map_err(|error| ConnectError::Tls(error.to_string()))?;
    let connected = TlsConnector::from(tls.rustls_config()).connect(name, tcp).await;
    connected
        .map(|stream| Socket::Tls(Box::new(stream)))
        .map_err(|error| ConnectError::of_handshake(&error))
}

/// The addresses as the resolver has sorted them (RFC 6724), but the two families in turns (RFC
/// 8305, section 4), so that one family without a route does not hold up the other one.
fn in_turns(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut found = found.peekable();
    let first_is_v6 = found.peek().is_some_and(SocketAddr::is_ipv6);
    let (first, other): (Vec<_>, Vec<_>) =
        found.partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    loop {
        let pair = [first.next(), other.next()];
        if pair == [None, None] {
            return turns;
        }
        turns.extend(pair.into_iter().flatten());
    }
}

/// The first attempt that succeeds. Those that are still under way are dropped with it.
async fn first<T, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let mut left = addresses.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut failed: Option<ConnectError> = None;
    loop {
        match left.next() {
            Some(address) => under_way.push(attempt(address)),
            None if under_way.is_empty() => {
                return Err(failed
                    .unwrap_or_else(|| ConnectError::Tcp("the name has no address".to_owned())));
            }
            None => {}
        }
        let its_time_is_over = async {
            if left.len() > 0 {
                sleep(NEXT_ADDRESS_AFTER).await;
            } else {
                pending::<()>().await;
            }
        };
        tokio::select! {
            Some(ended) = under_way.next() => match ended {
                Ok(connected) => return Ok(connected),
                Err(error) => failed = Some(match failed.take() {
                    Some(before) => before.or(error),
                    None => error,
                }),
            },
            () = its_time_is_over => {}
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
    fn the_families_take_turns_and_keep_their_order() {
        let found = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"]);
        assert_eq!(
            in_turns(found.into_iter()),
            addresses(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"])
        );
        let found = addresses(&["127.0.0.1:1", "127.0.0.2:1"]);
        assert_eq!(in_turns(found.clone().into_iter()), found);
    }

    #[test]
    fn each_address_is_the_first_in_its_turn() {
        let from = FirstAddress::default();
        let all = addresses(&["127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"]);
        for round in 0..7 {
            let mut rotated = all.clone();
            from.rotate(&mut rotated);
            assert_eq!(rotated.first(), all.get(round % 3));
            from.pass_over();
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
            assert_eq!(first(all, attempt).await, Ok(answers));
        }
    }

    #[tokio::test]
    async fn when_all_fail_a_distrusted_one_is_reported() {
        let untrusted = ConnectError::Untrusted("another CA".to_owned());
        for place in 0..3 {
            let all = addresses(&["127.0.0.1:0", "127.0.0.1:1", "127.0.0.1:2"]);
            let attempt = |address: SocketAddr| {
                let error =
                    if address.port() == place { untrusted.clone() } else { tcp("refused") };
                async move { Err::<(), _>(error) }
            };
            assert_eq!(first(all, attempt).await, Err(untrusted.clone()));
        }
        assert_eq!(
            first(Vec::new(), |_| async { Ok(()) }).await,
            Err(tcp("the name has no address"))
        );
    }
}
