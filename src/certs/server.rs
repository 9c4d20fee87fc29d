//! The certificates that a server shows.

use std::io::Write as _;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::refuse;
use crate::policy::Diagnostics;

/// How long a server may take to be reached and to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The chain that the server at `https://HOST:PORT` shows, whatever it is worth: this looks, and says nothing to the server.
///
/// # Errors
/// It cannot be reached, or speaks no TLS.
pub fn chain(url: &str) -> Result<Vec<CertificateDer<'static>>, Diagnostics> {
    let help = "write `https://HOST:PORT`";
    let authority = url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/')).filter(|rest| !rest.contains(['/', '?', '#', '@']));
    let Some(authority) = authority else { return refuse(url, "this is no URL of a server", help) };
    let Some((host, port)) = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) else {
        return refuse(url, "the URL has no port", help);
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let Ok(name) = ServerName::try_from(host.to_owned()) else { return refuse(url, "the URL has no valid host", help) };
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

fn shake_hands(url: &str, name: ServerName<'static>, stream: TcpStream) -> Result<Vec<CertificateDer<'static>>, Diagnostics> {
    let witness = Arc::new(Witness { provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()), seen: Mutex::default() });
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&witness.provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map(|builder| {
            let verifier = Arc::clone(&witness);
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        });
    let connection = config.and_then(|mut config| {
        config.alpn_protocols = vec![crate::tls::ALPN_H2.to_vec()];
        ClientConnection::new(Arc::new(config), name)
    });
    let timed = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    let shaken = match (connection, timed) {
        (Ok(connection), Ok(())) => StreamOwned::new(connection, stream).flush().map_err(|error| error.to_string()),
        (Err(error), _) => Err(error.to_string()),
        (_, Err(error)) => Err(error.to_string()),
    };
    let chain = std::mem::take(&mut *witness.seen.lock().unwrap_or_else(PoisonError::into_inner));
    match shaken {
        // A server that wants a client's certificate has shown its own before it says so.
        _ if !chain.is_empty() => Ok(chain),
        Err(error) => refuse(url, format!("the server shows no certificate: {error}"), ""),
        Ok(()) => refuse(url, "the server shows no certificate", ""),
    }
}

/// Notes the chain. It lets every chain pass: nothing is ever said over this connection.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(leaf).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
