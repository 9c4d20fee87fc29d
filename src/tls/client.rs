//! TLS towards etcd: its certificate must come from `cacert`, and the proxy shows its own when it has one.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::{InvalidDnsNameError, ServerName};

use super::material::{Reader, Side};
use super::{ALPN_H2, Expiring, Expiry, TlsErrors, provider};
use crate::config::{Endpoint, Upstream};

/// What every handshake with etcd uses, proven sound.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<rustls::ClientConfig>,
    expiries: Vec<Expiry>,
}

impl ClientTls {
    /// Reads all files of the way to etcd; `None` when every endpoint is plain text.
    ///
    /// Only `cacert` is trusted, never the system's roots: a public CA has no say about who is this etcd.
    ///
    /// # Errors
    /// Everything that is wrong with the files, each with its path.
    pub fn load(upstream: &Upstream) -> Result<Option<Self>, TlsErrors> {
        if upstream.endpoints.iter().all(|endpoint| !endpoint.tls) {
            return Ok(None);
        }
        let mut reader = Reader::default();
        let mut roots = RootCertStore::empty();
        match &upstream.cacert {
            None => {
                reader.mistake("cacert".as_ref(), "is not set: an `https://` endpoint needs the CA that issued etcd's certificate".into());
            }
            Some(path) => {
                for der in reader.authorities(path, Expiring::UpstreamCa).unwrap_or_default() {
                    if let Err(error) = roots.add(der) {
                        reader.mistake(path, format!("cannot be used as a trust anchor: {error}"));
                    }
                }
            }
        }
        let identity = upstream.identity.as_ref().and_then(|(chain, key)| reader.identity(chain, key, Side::Client));
        if !reader.mistakes.is_empty() {
            return Err(TlsErrors(reader.mistakes));
        }
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map(|builder| builder.with_root_certificates(roots));
        let mut config = match (config, identity) {
            (Ok(builder), Some(certified)) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))),
            (Ok(builder), None) => builder.with_no_client_auth(),
            (Err(error), _) => {
                reader.mistake("cacert".as_ref(), format!("TLS 1.2 and 1.3 cannot be set up: {error}"));
                return Err(TlsErrors(reader.mistakes));
            }
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(Some(Self { config: Arc::new(config), expiries: reader.expiries }))
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
