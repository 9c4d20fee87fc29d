//! TLS towards clients: a client certificate is required, and must come from one of the named CAs.

use std::sync::Arc;

use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::material::{MAX_BYTES, Reader, Side};
use super::trust::ClientTrust;
use super::{ALPN_H2, Expiry, TlsError, TlsErrors, provider};
use crate::config::Downstream;
use crate::files::Files;

/// What every handshake with a client uses, proven sound.
#[derive(Debug)]
pub struct ServerTls {
    config: Arc<rustls::ServerConfig>,
    identity: Arc<ServerIdentity>,
    trust: Arc<ClientTrust>,
}

/// The certificate that clients see, with its key.
#[derive(Debug)]
pub struct ServerIdentity {
    certified: Arc<CertifiedKey>,
    expiries: Vec<Expiry>,
}

impl ServerIdentity {
    /// Reads the listener's certificate and key.
    ///
    /// # Errors
    /// Everything that is wrong with the files, each with its path.
    pub fn load(downstream: &Downstream) -> Result<Self, TlsErrors> {
        Self::of_read(downstream, &Files::read(downstream.identity_files(), MAX_BYTES))
    }

    /// As [`Self::load`], of what was read of the files.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn of_read(downstream: &Downstream, files: &Files) -> Result<Self, TlsErrors> {
        let mut reader = Reader::of(files);
        match reader.identity(&downstream.cert_file, &downstream.key_file, Side::Server) {
            Some(certified) if reader.mistakes.is_empty() => {
                Ok(Self { certified: Arc::new(certified), expiries: reader.expiries })
            }
            _ => Err(TlsErrors(reader.mistakes)),
        }
    }
}

impl ServerTls {
    /// Reads all files of the listener.
    ///
    /// # Errors
    /// Everything that is wrong with the files, each with its path.
    pub fn load(downstream: &Downstream) -> Result<Self, TlsErrors> {
        let files = Files::read(
            downstream.identity_files().into_iter().chain(downstream.trust_files()),
            MAX_BYTES,
        );
        Self::of_read(downstream, &files)
    }

    /// As [`Self::load`], of what was read of the files.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn of_read(downstream: &Downstream, files: &Files) -> Result<Self, TlsErrors> {
        match (ServerIdentity::of_read(downstream, files), ClientTrust::of_read(downstream, files))
        {
            (Ok(identity), Ok(trust)) => Self::of(Arc::new(identity), Arc::new(trust), downstream),
            (identity, trust) => {
                let mistakes =
                    identity.err().into_iter().chain(trust.err()).flat_map(|errors| errors.0);
                Err(TlsErrors(mistakes.collect()))
            }
        }
    }

    /// Both halves together.
    ///
    /// # Errors
    /// rustls takes no TLS 1.2 and 1.3 from its provider, which no file can bring about.
    pub fn of(
        identity: Arc<ServerIdentity>,
        trust: Arc<ClientTrust>,
        downstream: &Downstream,
    ) -> Result<Self, TlsErrors> {
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| {
                let message = format!("TLS 1.2 and 1.3 cannot be set up: {error}");
                TlsErrors(vec![TlsError { path: downstream.cert_file.clone(), message }])
            })?;
        let mut config = builder
            .with_client_cert_verifier(trust.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified))));
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        // A resumed session does not verify the client's certificate again, so that it would
        // outlive its revocation, its end, and the removal of its CA. Connections to etcd
        // live long: a full handshake for each costs little.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), identity, trust })
    }

    /// For rustls. A handshake that ends well has verified a chain (see [`ClientTrust::verify`]),
    /// but not that the client asked for ALPN `h2`: one that asks for no protocol at all is let
    /// through by TLS (RFC 7301, 3.2).
    #[must_use]
    pub fn rustls_config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The certificate that clients see.
    #[must_use]
    pub fn identity(&self) -> &Arc<ServerIdentity> {
        &self.identity
    }

    /// Whom it lets in.
    #[must_use]
    pub fn trust(&self) -> &Arc<ClientTrust> {
        &self.trust
    }

    /// When the server's certificate, the client CAs and the revocation lists end.
    pub fn expiries(&self) -> impl Iterator<Item = &Expiry> {
        self.identity.expiries.iter().chain(self.trust.expiries())
    }
}
