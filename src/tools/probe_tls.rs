//! TLS as an attacker speaks it: any server is accepted, and any certificate is presented.
//! `etcd-warden doctor` probes etcd's own ports with it; nothing secret is ever sent over it.

pub mod accept_any_server;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_warden_gateway::tls::{ALPN_H2, TlsError, TlsErrors, client_identity, provider};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

pub use accept_any_server::AcceptAnyServer;

/// A client that probes, with a certificate or without.
#[derive(Debug)]
pub struct ProbeClient {
    config: Arc<rustls::ClientConfig>,
    shown: Arc<Shown>,
}

impl ProbeClient {
    /// Without a certificate.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn without_certificate() -> Result<Self, rustls::Error> {
        Self::with(None)
    }

    /// With the certificate and key in these files.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn with_certificate(chain: &Path, key: &Path) -> Result<Self, TlsErrors> {
        Self::with(Some(client_identity(chain, key)?)).map_err(|error| {
            TlsErrors(vec![TlsError {
                path: chain.to_owned(),
                message: format!("cannot be used: {error}"),
            }])
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a probe accepts any server, and sends it nothing secret"
    )]
    fn with(certified: Option<CertifiedKey>) -> Result<Self, rustls::Error> {
        let shown =
            Arc::new(Shown { certified: certified.map(Arc::new), wanted: Mutex::default() });
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<AcceptAnyServer>::default())
            .with_client_cert_resolver(shown.clone());
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(Self { config: Arc::new(config), shown })
    }

    /// For rustls.
    #[must_use]
    pub fn rustls_config(&self) -> Arc<rustls::ClientConfig> {
        self.config.clone()
    }

    /// The chain that it shows; empty without a certificate.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        self.shown.certified.as_ref().map_or(&[], |certified| certified.cert.as_slice())
    }

    /// The CAs from which the last server said that it takes certificates
    /// (`certificate_authorities`, RFC 8446, 4.2.4), each name in DER.
    #[must_use]
    pub fn wanted(&self) -> Vec<Vec<u8>> {
        self.shown.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct Shown {
    certified: Option<Arc<CertifiedKey>>,
    wanted: Mutex<Vec<Vec<u8>>>,
}

impl ResolvesClientCert for Shown {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) =
            root_hint_subjects.iter().map(|name| name.to_vec()).collect();
        // An attacker presents what it has, whatever is asked for.
        self.certified.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
