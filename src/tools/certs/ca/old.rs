//! Recognizes certificates that a CA has issued, expired or not.

use std::path::Path;
use std::time::Duration;

use etcd_warden_core::diagnostics::Diagnostics;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificates;

/// True if the key of one of these anchors has signed a client certificate. Verified at the
/// certificate's own `notAfter`, so that expired ones are recognized, too.
pub(super) fn has_issued(
    anchors: &[TrustAnchor<'_>],
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    der: &CertificateDer<'_>,
) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return false };
    let Ok(then) = u64::try_from(parsed.validity().not_after.timestamp()) else { return false };
    let then = UnixTime::since_unix_epoch(Duration::from_secs(then));
    let usage = webpki::KeyUsage::client_auth();
    webpki::EndEntityCert::try_from(der).is_ok_and(|leaf| {
        leaf.verify_for_usage(algorithms, anchors, &[], then, usage, None, None).is_ok()
    })
}

/// A CA that is being replaced. Used only to recognize the certificates it has issued.
#[derive(Debug)]
pub struct OldCa(Vec<TrustAnchor<'static>>);

impl OldCa {
    /// Reads its certificates from a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no certificate.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let found = certificates(path)?;
        let anchors = found.iter().filter_map(|der| {
            webpki::anchor_from_trusted_cert(der).ok().map(|anchor| anchor.to_owned())
        });
        Ok(Self(anchors.collect()))
    }

    /// True if it has issued this certificate, expired or not.
    #[must_use]
    pub fn has_issued(&self, der: &CertificateDer<'_>) -> bool {
        has_issued(
            &self.0,
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
            der,
        )
    }
}
