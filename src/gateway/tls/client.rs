//! TLS towards etcd: its certificate must come from `cacert`, and the proxy shows its own when it
//! has one.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};

use super::authority::{Authority, Judge};
use super::failure::of_webpki;
use super::material::{MAX_BYTES, Reader, Side};
use super::{ALPN_H2, Expiring, Expiry, TlsError, TlsErrors, provider};
use crate::config::{Endpoint, Upstream};
use crate::files::Files;

/// What every handshake with etcd uses, proven sound.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<rustls::ClientConfig>,
    expiries: Vec<Expiry>,
    stale: Vec<TlsError>,
}

/// Whom the proxy takes for etcd: a server with a certificate of one of these, in date, for the
/// name of its endpoint.
#[derive(Debug)]
struct EtcdTrust {
    authorities: Vec<Authority>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for EtcdTrust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judge = Judge {
            algorithms: self.algorithms.all,
            usage: webpki::KeyUsage::server_auth(),
            lists: None,
            now,
        };
        judge.prove(end_entity, intermediates, &self.authorities).map_err(of_webpki)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientTls {
    /// Reads all files of the way to etcd; `None` when every endpoint is plain text.
    ///
    /// Only `cacert` is trusted, never the system's roots: a public CA has no say about who is this
    /// etcd.
    ///
    /// # Errors
    /// Everything that is wrong with the files, each with its path.
    pub fn load(upstream: &Upstream) -> Result<Option<Self>, TlsErrors> {
        Self::of_read(upstream, &Files::read(upstream.files(), MAX_BYTES))
    }

    /// As [`Self::load`], of what was read of the files.
    ///
    /// # Errors
    /// As [`Self::load`].
    #[expect(
        clippy::disallowed_methods,
        reason = "`EtcdTrust` checks etcd's certificate; where no certificate of ours is set, none is shown"
    )]
    pub fn of_read(upstream: &Upstream, files: &Files) -> Result<Option<Self>, TlsErrors> {
        if upstream.endpoints.iter().all(|endpoint| !endpoint.tls) {
            return Ok(None);
        }
        let mut reader = Reader::of(files);
        let mut authorities = Vec::new();
        match &upstream.cacert {
            None => {
                reader.mistake("cacert".as_ref(), "is not set: an `https://` endpoint needs the CA that issued etcd's certificate".into());
            }
            Some(path) => {
                authorities = reader
                    .authorities(path, Expiring::UpstreamCa, Side::Server)
                    .unwrap_or_default();
            }
        }
        let now = UnixTime::now();
        if !authorities.iter().any(|authority| authority.is_in_date(now)) {
            reader.mistakes.append(&mut reader.stale);
        }
        let identity = upstream
            .identity
            .as_ref()
            .and_then(|(chain, key)| reader.identity(chain, key, Side::Client));
        if !reader.mistakes.is_empty() {
            return Err(TlsErrors(reader.mistakes));
        }
        let algorithms = provider().signature_verification_algorithms;
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map(|builder| {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(EtcdTrust {
                    authorities,
                    algorithms,
                }))
            });
        let mut config = match (config, identity) {
            (Ok(builder), Some(certified)) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            (Ok(builder), None) => builder.with_no_client_auth(),
            (Err(error), _) => {
                reader.mistake(
                    "cacert".as_ref(),
                    format!("TLS 1.2 and 1.3 cannot be set up: {error}"),
                );
                return Err(TlsErrors(reader.mistakes));
            }
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(Some(Self { config: Arc::new(config), expiries: reader.expiries, stale: reader.stale }))
    }

    /// CAs that are out of date, and vouch for nothing.
    #[must_use]
    pub fn stale(&self) -> &[TlsError] {
        &self.stale
    }

    /// For rustls.
    #[must_use]
    pub fn rustls_config(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.config)
    }

    /// When the CAs and the proxy's own certificate end.
    #[must_use]
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }
}

/// The name that etcd's certificate must have: the endpoint's host, a DNS name or an address.
///
/// # Errors
/// The host is neither, which [`crate::config::load`] lets no endpoint have.
pub fn server_name(endpoint: &Endpoint) -> Result<ServerName<'static>, InvalidDnsNameError> {
    ServerName::try_from(endpoint.host.to_string())
}
