//! TLS as an attacker would use it: any server is accepted, and a certificate is sent even if the
//! server did not ask for its CA. `etcd-warden doctor` probes etcd's ports with it. Nothing secret
//! is ever sent over such a connection.

pub mod accept_any_server;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_warden_gateway::tls::{ALPN_H2, TlsError, TlsErrors, client_identity, provider};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

pub use accept_any_server::AcceptAnyServer;

/// A TLS client for probes, with or without a client certificate.
#[derive(Debug)]
pub struct ProbeClient {
    config: Arc<rustls::ClientConfig>,
    resolver: Arc<CertResolver>,
}

impl ProbeClient {
    /// A client without a certificate.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn without_certificate() -> Result<Self, rustls::Error> {
        Self::with(None)
    }

    /// A client with the certificate and key in these files.
    ///
    /// # Errors
    /// The files cannot be used.
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
    fn with(certificate: Option<CertifiedKey>) -> Result<Self, rustls::Error> {
        let resolver = Arc::new(CertResolver {
            certificate: certificate.map(Arc::new),
            acceptable_cas: Mutex::default(),
        });
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<AcceptAnyServer>::default())
            .with_client_cert_resolver(resolver.clone());
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(Self { config: Arc::new(config), resolver })
    }

    /// The configuration for rustls.
    #[must_use]
    pub fn rustls_config(&self) -> Arc<rustls::ClientConfig> {
        self.config.clone()
    }

    /// The client certificate chain; empty without a certificate.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        self.resolver.certificate.as_ref().map_or(&[], |certificate| certificate.cert.as_slice())
    }

    /// The CAs that the last server named as acceptable issuers (`certificate_authorities`, RFC
    /// 8446, 4.2.4), each name in DER.
    #[must_use]
    pub fn acceptable_cas(&self) -> Vec<Vec<u8>> {
        self.resolver.acceptable_cas.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct CertResolver {
    certificate: Option<Arc<CertifiedKey>>,
    acceptable_cas: Mutex<Vec<Vec<u8>>>,
}

impl ResolvesClientCert for CertResolver {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        *self.acceptable_cas.lock().unwrap_or_else(PoisonError::into_inner) =
            root_hint_subjects.iter().map(|name| name.to_vec()).collect();
        // An attacker sends its certificate, whatever the server asks for.
        self.certificate.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
