//! What a CA has issued before, be it in date or not.

use std::path::Path;
use std::time::Duration;

use etcd_warden_core::diagnostics::Diagnostics;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificates;

/// Whether the key of one of these anchors has signed a client's certificate. It is judged at a
/// moment at which it was in date.
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

/// A CA that is left behind: only to tell what it has issued.
#[derive(Debug)]
pub struct OldCa(Vec<TrustAnchor<'static>>);

impl OldCa {
    /// Reads its certificates.
    ///
    /// # Errors
    /// There is none that can be a trust anchor.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let found = certificates(path)?;
        let anchors = found.iter().filter_map(|der| {
            webpki::anchor_from_trusted_cert(der).ok().map(|anchor| anchor.to_owned())
        });
        Ok(Self(anchors.collect()))
    }

    /// Whether it has issued this certificate, be it in date or not.
    #[must_use]
    pub fn has_issued(&self, der: &CertificateDer<'_>) -> bool {
        has_issued(
            &self.0,
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
            der,
        )
    }
}
