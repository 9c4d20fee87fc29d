//! TLS towards etcd. Its server certificate must be issued by a CA in `cacert`. The gateway
//! presents its own certificate if one is configured.

use std::sync::Arc;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};

use super::authority::{Authority, ChainVerifier};
use super::failure::to_rustls_error;
use super::material::{CertificateReader, MAX_BYTES, Side};
use super::signatures::verify_signatures;
use super::{ALPN_H2, Expiring, Expiry, TlsError, TlsErrors, provider};
use crate::config::{Endpoint, Upstream};
use crate::files::Files;

/// TLS configuration for connections to etcd.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<rustls::ClientConfig>,
    expiries: Vec<Expiry>,
    expired: Vec<TlsError>,
}

/// Verifies etcd's server certificate: issued by one of `authorities`, in date, for the host of the
/// endpoint.
#[derive(Debug)]
struct EtcdVerifier {
    authorities: Vec<Authority>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for EtcdVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verifier = ChainVerifier {
            algorithms: self.algorithms.all,
            usage: webpki::KeyUsage::server_auth(),
            lists: None,
            now,
        };
        verifier.verify(leaf, intermediates, &self.authorities).map_err(to_rustls_error)?;
        verify_server_name(&ParsedCertificate::try_from(leaf)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    verify_signatures!();
}

impl ClientTls {
    /// Reads the files of the `upstream` settings; `None` if every endpoint is plain text.
    ///
    /// Only `cacert` is trusted, never the system's root certificates: no public CA decides which
    /// server is this etcd.
    ///
    /// # Errors
    /// All errors in the files.
    pub fn load(upstream: &Upstream) -> Result<Option<Self>, TlsErrors> {
        Self::from_files(upstream, &Files::read(upstream.files(), MAX_BYTES))
    }

    /// As [`Self::load`], from files that were read before.
    ///
    /// # Errors
    /// As [`Self::load`].
    #[expect(
        clippy::disallowed_methods,
        reason = "`EtcdVerifier` verifies etcd; without `cert` no client certificate is presented"
    )]
    pub(crate) fn from_files(
        upstream: &Upstream,
        files: &Files,
    ) -> Result<Option<Self>, TlsErrors> {
        if upstream.endpoints.iter().all(|endpoint| !endpoint.tls) {
            return Ok(None);
        }
        let mut reader = CertificateReader::new(files);
        let mut authorities = Vec::new();
        match &upstream.cacert {
            None => reader.error(
                "cacert".as_ref(),
                "is not set: an `https://` endpoint needs the CA that issued etcd's certificate"
                    .into(),
            ),
            Some(path) => {
                authorities = reader
                    .authorities(path, Expiring::UpstreamCa, Side::Server)
                    .unwrap_or_default();
            }
        }
        // An expired CA is an error only if no other is left.
        let now = UnixTime::now();
        if !authorities.iter().any(|authority| authority.is_in_date(now)) {
            reader.errors.append(&mut reader.expired);
        }
        let identity = upstream
            .identity
            .as_ref()
            .and_then(|(chain, key)| reader.identity(chain, key, Side::Client));
        if !reader.errors.is_empty() {
            return Err(TlsErrors(reader.errors));
        }
        let algorithms = provider().signature_verification_algorithms;
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map(|builder| {
                let verifier = EtcdVerifier { authorities, algorithms };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            });
        let mut config = match (config, identity) {
            (Ok(builder), Some(certified)) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            (Ok(builder), None) => builder.with_no_client_auth(),
            (Err(error), _) => {
                reader.error(
                    "cacert".as_ref(),
                    format!("TLS 1.2 and 1.3 cannot be configured: {error}"),
                );
                return Err(TlsErrors(reader.errors));
            }
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(Some(Self {
            config: Arc::new(config),
            expiries: reader.expiries,
            expired: reader.expired,
        }))
    }

    /// CAs that have expired, beside one that is in date. Certificates that they issued are
    /// rejected.
    pub fn expired(&self) -> &[TlsError] {
        &self.expired
    }

    /// Configuration for [`tokio_rustls::TlsConnector`].
    pub fn rustls_config(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.config)
    }

    /// When the CAs and the gateway's certificate expire.
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }
}

/// The name that etcd's certificate must have: the host of the endpoint, a DNS name or an IP
/// address.
///
/// # Errors
/// The host is neither. [`crate::config::load`] rejects such an endpoint.
pub fn server_name(endpoint: &Endpoint) -> Result<ServerName<'static>, InvalidDnsNameError> {
    ServerName::try_from(endpoint.host.to_string())
}
