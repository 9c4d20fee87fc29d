//! TLS as an intruder speaks it: whoever answers is believed, and any certificate is shown. For `etcd-warden doctor`, which knocks at
//! etcd's own door to see whether it is shut; nothing that is worth something is ever sent over it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use super::any_server::AnyServer;
use super::material::{MAX_BYTES, Reader, Side};
use super::{ALPN_H2, TlsErrors, provider};
use crate::files::Files;

/// Somebody at the door, with a certificate or without.
#[derive(Debug)]
pub struct Intruder {
    config: Arc<rustls::ClientConfig>,
    shown: Arc<Shown>,
}

impl Intruder {
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
        let files = Files::read([chain, key], MAX_BYTES);
        let mut reader = Reader::of(&files);
        let certified = reader.identity(chain, key, Side::Client);
        match certified.filter(|_| reader.mistakes.is_empty()).map(|certified| Self::with(Some(certified))) {
            Some(Ok(intruder)) => Ok(intruder),
            Some(Err(error)) => {
                reader.mistake(chain, format!("cannot be used: {error}"));
                Err(TlsErrors(reader.mistakes))
            }
            None => Err(TlsErrors(reader.mistakes)),
        }
    }

    fn with(certified: Option<CertifiedKey>) -> Result<Self, rustls::Error> {
        let shown = Arc::new(Shown { certified: certified.map(Arc::new), wanted: Mutex::default() });
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<AnyServer>::default())
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

    /// The CAs from which the last server said that it takes certificates (`certificate_authorities`, RFC 8446, 4.2.4), each name in DER.
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
    fn resolve(&self, root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = root_hint_subjects.iter().map(|name| name.to_vec()).collect();
        // A thief shows what he has, whatever is asked for.
        self.certified.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
