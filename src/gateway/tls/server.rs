//! TLS towards clients. A client certificate is required and must be issued by a configured CA.

use std::sync::Arc;

use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::material::{CertificateReader, MAX_BYTES, Side};
use super::trust::ClientTrust;
use super::{ALPN_H2, Expiry, TlsError, TlsErrors, provider};
use crate::config::Downstream;
use crate::files::Files;

/// TLS configuration of the listener.
#[derive(Debug)]
pub struct ServerTls {
    config: Arc<rustls::ServerConfig>,
    identity: Arc<ServerIdentity>,
    trust: Arc<ClientTrust>,
}

/// The listener's certificate and key.
#[derive(Debug)]
pub struct ServerIdentity {
    certified: Arc<CertifiedKey>,
    expiries: Vec<Expiry>,
}

impl ServerIdentity {
    /// Reads the listener's certificate and key.
    ///
    /// # Errors
    /// All errors in the files.
    pub fn load(downstream: &Downstream) -> Result<Self, TlsErrors> {
        Self::from_files(downstream, &Files::read(downstream.identity_files(), MAX_BYTES))
    }

    /// As [`Self::load`], from files that were read before.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn from_files(downstream: &Downstream, files: &Files) -> Result<Self, TlsErrors> {
        let mut reader = CertificateReader::new(files);
        match reader.identity(&downstream.cert_file, &downstream.key_file, Side::Server) {
            Some(certified) if reader.errors.is_empty() => {
                Ok(Self { certified: Arc::new(certified), expiries: reader.expiries })
            }
            _ => Err(TlsErrors(reader.errors)),
        }
    }
}

impl ServerTls {
    /// Reads all files of the listener.
    ///
    /// # Errors
    /// All errors in the files.
    pub fn load(downstream: &Downstream) -> Result<Self, TlsErrors> {
        let files = Files::read(
            downstream.identity_files().into_iter().chain(downstream.trust_files()),
            MAX_BYTES,
        );
        Self::from_files(downstream, &files)
    }

    /// As [`Self::load`], from files that were read before.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn from_files(downstream: &Downstream, files: &Files) -> Result<Self, TlsErrors> {
        match (
            ServerIdentity::from_files(downstream, files),
            ClientTrust::from_files(downstream, files),
        ) {
            (Ok(identity), Ok(trust)) => Self::new(Arc::new(identity), Arc::new(trust), downstream),
            (identity, trust) => {
                let errors =
                    identity.err().into_iter().chain(trust.err()).flat_map(|errors| errors.0);
                Err(TlsErrors(errors.collect()))
            }
        }
    }

    /// Combines the listener's identity and the trusted client CAs.
    ///
    /// # Errors
    /// rustls does not accept the protocol versions of its provider. No file can cause this.
    pub(crate) fn new(
        identity: Arc<ServerIdentity>,
        trust: Arc<ClientTrust>,
        downstream: &Downstream,
    ) -> Result<Self, TlsErrors> {
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| {
                let message = format!("TLS 1.2 and 1.3 cannot be configured: {error}");
                TlsErrors(vec![TlsError { path: downstream.cert_file.clone(), message }])
            })?;
        let mut config = builder
            .with_client_cert_verifier(trust.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified))));
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        // A resumed session does not verify the client's certificate again. It would outlive the
        // certificate's revocation and expiry, and the removal of its CA. Clients' connections are
        // long-lived, so a full handshake for each costs little.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), identity, trust })
    }

    /// Configuration for [`tokio_rustls::TlsAcceptor`]. A successful handshake has verified the
    /// client's chain (see [`ClientTrust::verify`]), but not that ALPN selected `h2`: TLS accepts a
    /// client that offers no protocol (RFC 7301, 3.2).
    pub fn rustls_config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The listener's certificate.
    pub(crate) fn identity(&self) -> &Arc<ServerIdentity> {
        &self.identity
    }

    /// The trusted client CAs and their revocation lists.
    pub fn trust(&self) -> &Arc<ClientTrust> {
        &self.trust
    }

    /// When the listener's certificate, the client CAs and the revocation lists expire.
    pub fn expiries(&self) -> impl Iterator<Item = &Expiry> {
        self.identity.expiries.iter().chain(self.trust.expiries())
    }
}
