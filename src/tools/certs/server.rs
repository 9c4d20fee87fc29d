//! Reads the certificate chain that a server presents.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::probe_tls::AcceptAnyServer;
use etcd_warden_core::diagnostics::Diagnostics;
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName};

use super::refuse;

/// For each of connecting and the handshake.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The chain that the server at `https://HOST:PORT` presents, valid or not. Sends no request.
///
/// # Errors
/// The server cannot be reached, or does not speak TLS.
pub fn chain(url: &str) -> Result<Vec<CertificateDer<'static>>, Diagnostics> {
    let help = "write `https://HOST:PORT`";
    let authority = url
        .strip_prefix("https://")
        .map(|rest| rest.trim_end_matches('/'))
        .filter(|rest| !rest.contains(['/', '?', '#', '@']));
    let Some(authority) = authority else {
        return refuse(url, "this is not a URL of a server", help);
    };
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
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return handshake(url, name, stream),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    refuse(url, format!("the server cannot be reached: {last}"), "")
}

/// A stream with a deadline for all of its reads and writes, so that a server that sends a byte now
/// and then cannot delay it.
struct DeadlineStream {
    stream: TcpStream,
    deadline: Instant,
}

impl DeadlineStream {
    fn remaining(&self) -> io::Result<Duration> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            let why = format!("no handshake within {} s", TIMEOUT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        Ok(remaining)
    }
}

impl Read for DeadlineStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.remaining()?))?;
        // At the deadline the system reports "resource temporarily unavailable".
        self.stream.read(into).map_err(|error| self.remaining().err().unwrap_or(error))
    }
}

impl Write for DeadlineStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.remaining()?))?;
        self.stream.write(bytes).map_err(|error| self.remaining().err().unwrap_or(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "only the server's certificate is read, and no request is sent"
)]
fn handshake(
    url: &str,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<Vec<CertificateDer<'static>>, Diagnostics> {
    let verifier = Arc::<AcceptAnyServer>::default();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
    .map(|builder| {
        builder.dangerous().with_custom_certificate_verifier(verifier.clone()).with_no_client_auth()
    });
    let connection = config.and_then(|mut config| {
        config.alpn_protocols = vec![etcd_warden_gateway::tls::ALPN_H2.to_vec()];
        ClientConnection::new(Arc::new(config), name)
    });
    let stream = DeadlineStream { stream, deadline: Instant::now() + TIMEOUT };
    let result = match connection {
        Ok(connection) => {
            StreamOwned::new(connection, stream).flush().map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    let chain = verifier.chain();
    match result {
        // A server that requires a client certificate sends its own first.
        _ if !chain.is_empty() => Ok(chain),
        Err(error) => refuse(url, format!("the server sends no certificate: {error}"), ""),
        Ok(()) => refuse(url, "the server sends no certificate", ""),
    }
}
