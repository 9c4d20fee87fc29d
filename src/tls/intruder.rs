//! TLS as an intruder speaks it: whoever answers is believed, and any certificate is shown. For `etcd-warden doctor`, which knocks at
//! etcd's own door to see whether it is shut; nothing that is worth something is ever sent over it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::material::{Reader, Side};
use super::{ALPN_H2, TlsErrors, provider};

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
        let mut reader = Reader::default();
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
            .with_custom_certificate_verifier(Arc::new(AnyServer))
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

/// Believes every server.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
