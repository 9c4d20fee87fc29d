//! Chain verification against trusted CAs.
//!
//! CAs are checked in each handshake, not only when their file is read, because they expire while
//! the gateway runs. webpki checks neither the validity nor the path length of a trust anchor, nor
//! the key usage of any CA. Go does (`crypto/x509`, `Certificate.isValid` and
//! `CheckSignatureFrom`), and so does etcd: a certificate that etcd rejects must not be accepted
//! here.

use rustls_pki_types::{
    CertificateDer, Der, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use webpki::{EndEntityCert, Error, KeyUsage, VerifiedPath};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::revocation::RevocationLists;

/// Most certificates that a peer may send beside its leaf.
///
/// webpki tries each order of them, up to 200,000, and a `Certificate` message of 64 KiB has room
/// for 200: 20 seconds of work for one handshake, without a valid certificate. With this limit it
/// is at most 326 orders and webpki's 100 signatures.
pub(super) const MAX_INTERMEDIATES: usize = 5;

/// A CA certificate from a file.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    /// Seconds since 1970.
    not_before: u64,
    /// Seconds since 1970.
    not_after: u64,
    /// Most intermediate CAs between this one and a leaf.
    path_len: Option<u32>,
}

impl Authority {
    /// `None` if the certificate cannot be a trust anchor.
    pub(super) fn new(
        der: &CertificateDer<'static>,
        certificate: &X509Certificate<'_>,
    ) -> Option<Self> {
        let anchor = webpki::anchor_from_trusted_cert(der).ok()?.to_owned();
        let seconds =
            |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        Some(Self {
            der: der.clone(),
            anchor,
            not_before: seconds(certificate.validity().not_before),
            not_after: seconds(certificate.validity().not_after),
            path_len: certificate
                .basic_constraints()
                .ok()
                .flatten()
                .and_then(|constraints| constraints.value.path_len_constraint),
        })
    }

    pub(super) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its subject, in the DER form of a [`TrustAnchor`].
    pub(super) fn subject(&self) -> &[u8] {
        &self.anchor.subject
    }

    pub(super) fn is_in_date(&self, now: UnixTime) -> bool {
        self.not_before <= now.as_secs() && now.as_secs() <= self.not_after
    }

    /// True if both have the same name and key.
    pub(super) fn is_same_ca(&self, other: &Self) -> bool {
        self.has_anchor(&other.anchor)
    }

    fn has_anchor(&self, anchor: &TrustAnchor<'_>) -> bool {
        self.anchor.subject == anchor.subject
            && self.anchor.subject_public_key_info == anchor.subject_public_key_info
    }
}

/// Verifies chains at one moment.
pub(super) struct ChainVerifier<'v> {
    pub(super) algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    /// Required extended key usage of the leaf.
    pub(super) usage: KeyUsage,
    /// `None` if revocation is not checked.
    pub(super) lists: Option<&'v RevocationLists>,
    pub(super) now: UnixTime,
}

impl ChainVerifier<'_> {
    /// Verifies that one of `authorities` issued the leaf, directly or through intermediates.
    /// Returns when the first certificate of the path expires, in seconds since 1970.
    ///
    /// # Errors
    /// Why no path was found.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        authorities: &[Authority],
    ) -> Result<u64, Error> {
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(Error::MaximumPathBuildCallsExceeded);
        }
        let now = self.now;
        let (current, expired): (Vec<_>, Vec<_>) =
            authorities.iter().partition(|authority| authority.is_in_date(now));
        match self.verify_with(leaf, intermediates, &current) {
            // "Expired" helps more than "unknown issuer" if the issuer is a CA that has expired.
            Err(Error::UnknownIssuer)
                if !expired.is_empty()
                    && self.verify_with(leaf, intermediates, &expired).is_ok() =>
            {
                let not_after =
                    expired.iter().map(|authority| authority.not_after).max().unwrap_or_default();
                let not_after =
                    UnixTime::since_unix_epoch(std::time::Duration::from_secs(not_after));
                Err(Error::CertExpired { time: now, not_after })
            }
            verified => verified,
        }
    }

    fn verify_with(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        authorities: &[&Authority],
    ) -> Result<u64, Error> {
        let leaf_certificate = EndEntityCert::try_from(leaf)?;
        let anchors: Vec<TrustAnchor<'_>> =
            authorities.iter().map(|authority| borrowed(&authority.anchor)).collect();
        let lists = self.lists.map(|lists| lists.at(self.now));
        let revocation = lists.as_ref().map(|lists| lists.options()).transpose()?;
        // webpki calls this for each path, and tries the next path on an error.
        let check = |path: &VerifiedPath<'_>| {
            check_cas(path, authorities)?;
            if lists.as_ref().is_some_and(|lists| lists.revoke_any_of(path)) {
                Err(Error::CertRevoked)
            } else {
                Ok(())
            }
        };
        let path = leaf_certificate.verify_for_usage(
            self.algorithms,
            &anchors,
            intermediates,
            self.now,
            self.usage,
            revocation,
            Some(&check),
        )?;
        let intermediates =
            path.intermediate_certificates().map(|certificate| not_after(&certificate.der()));
        let anchor = authorities
            .iter()
            .filter(|authority| authority.has_anchor(path.anchor()))
            .map(|authority| authority.not_after)
            .max();
        Ok(intermediates.chain([not_after(leaf)]).chain(anchor).min().unwrap_or_default())
    }
}

/// Checks the CAs of a path for what Go requires and webpki does not check.
fn check_cas(path: &VerifiedPath<'_>, authorities: &[&Authority]) -> Result<(), Error> {
    let mut intermediates = 0_u32;
    for certificate in path.intermediate_certificates() {
        intermediates = intermediates.saturating_add(1);
        if !may_sign_certificates(&certificate.der()) {
            return Err(Error::EndEntityUsedAsCa);
        }
    }
    let mut anchors = authorities.iter().filter(|authority| authority.has_anchor(path.anchor()));
    if anchors.any(|anchor| anchor.path_len.is_none_or(|limit| intermediates <= limit)) {
        Ok(())
    } else {
        Err(Error::PathLenConstraintViolated)
    }
}

/// True if the CA has no key usage or one with `keyCertSign` (RFC 5280, 4.2.1.3).
fn may_sign_certificates(der: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

/// Seconds since 1970; 0 if the certificate cannot be parsed.
fn not_after(der: &CertificateDer<'_>) -> u64 {
    let parsed = X509Certificate::from_der(der).ok();
    parsed
        .and_then(|(_, certificate)| {
            u64::try_from(certificate.validity().not_after.timestamp()).ok()
        })
        .unwrap_or(0)
}

/// Borrows the anchor's data, as `clone` would copy it.
fn borrowed<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: Der::from_slice(&anchor.subject),
        subject_public_key_info: Der::from_slice(&anchor.subject_public_key_info),
        name_constraints: anchor
            .name_constraints
            .as_ref()
            .map(|constraints| Der::from_slice(constraints)),
    }
}
