//! The certificates that a server shows.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_warden_core::diagnostics::Diagnostics;

use crate::probe_tls::AcceptAnyServer;
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName};

use super::refuse;

/// How long a server may take to be reached and to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The chain that the server at `https://HOST:PORT` shows, whatever it is worth: this looks, and says nothing to the server.
///
/// # Errors
/// It cannot be reached, or speaks no TLS.
pub fn chain(url: &str) -> Result<Vec<CertificateDer<'static>>, Diagnostics> {
    let help = "write `https://HOST:PORT`";
    let authority = url
        .strip_prefix("https://")
        .map(|rest| rest.trim_end_matches('/'))
        .filter(|rest| !rest.contains(['/', '?', '#', '@']));
    let Some(authority) = authority else { return refuse(url, "this is no URL of a server", help) };
    let Some((host, port)) =
        authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok())
    else {
        return refuse(url, "the URL has no port", help);
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        return refuse(url, "the URL has no valid host", help);
    };
    let port = port.parse().unwrap_or_default();
    let addresses = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return refuse(url, format!("the host cannot be found: {error}"), ""),
    };
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return shake_hands(url, name, stream),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    refuse(url, format!("the server cannot be reached: {last}"), "")
}

/// A connection that is over at a fixed time, also when a byte comes now and then.
struct Timed {
    stream: TcpStream,
    end: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        let late = || {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no handshake within {} s", PATIENCE.as_secs()),
            )
        };
        if left.is_zero() { Err(late()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        // The system's word for it is "resource temporarily unavailable".
        self.stream.read(into).map_err(|error| self.left().err().unwrap_or(error))
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(|error| self.left().err().unwrap_or(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what a server shows is looked at, and nothing is sent to it"
)]
fn shake_hands(
    url: &str,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<Vec<CertificateDer<'static>>, Diagnostics> {
    let witness = Arc::<AcceptAnyServer>::default();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
    .map(|builder| {
        builder.dangerous().with_custom_certificate_verifier(witness.clone()).with_no_client_auth()
    });
    let connection = config.and_then(|mut config| {
        config.alpn_protocols = vec![etcd_warden_gateway::tls::ALPN_H2.to_vec()];
        ClientConnection::new(Arc::new(config), name)
    });
    let stream = Timed { stream, end: Instant::now() + PATIENCE };
    let shaken = match connection {
        Ok(connection) => {
            StreamOwned::new(connection, stream).flush().map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    let chain = witness.chain();
    match shaken {
        // A server that wants a client's certificate has shown its own before it says so.
        _ if !chain.is_empty() => Ok(chain),
        Err(error) => refuse(url, format!("the server shows no certificate: {error}"), ""),
        Ok(()) => refuse(url, "the server shows no certificate", ""),
    }
}
