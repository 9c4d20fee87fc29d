//! What a CA may vouch for, and when: asked at each handshake, not when its file is read, because a
//! CA ends while the proxy runs.
//!
//! webpki takes an anchor for what it is: it looks at neither its dates nor its limits, and not at
//! the key usage of any CA. Go does (`crypto/x509`, `Certificate.isValid` and
//! `CheckSignatureFrom`), and so etcd: whoever is refused there must not come in here.

use rustls_pki_types::{
    CertificateDer, Der, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use webpki::{EndEntityCert, Error, KeyUsage, VerifiedPath};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::revocation::Lists;

/// A CA certificate from a file.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    /// Seconds since 1970.
    not_before: u64,
    /// Seconds since 1970.
    not_after: u64,
    /// How many CAs may stand between it and a leaf.
    path_len: Option<u32>,
}

impl Authority {
    /// Reads a certificate; `None`: it cannot be an anchor.
    pub(super) fn of(
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
                .and_then(|limits| limits.value.path_len_constraint),
        })
    }

    /// The certificate.
    pub(super) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its subject, as an anchor has it.
    pub(super) fn subject(&self) -> &[u8] {
        &self.anchor.subject
    }

    /// Whether it is in date.
    pub(super) fn is_in_date(&self, now: UnixTime) -> bool {
        self.not_before <= now.as_secs() && now.as_secs() <= self.not_after
    }

    /// Whether both stand for one CA: the same name with the same key.
    pub(super) fn is_same(&self, other: &TrustAnchor<'_>) -> bool {
        self.anchor.subject == other.subject
            && self.anchor.subject_public_key_info == other.subject_public_key_info
    }

    /// As [`Self::is_same`].
    pub(super) fn is_twin(&self, other: &Self) -> bool {
        self.is_same(&other.anchor)
    }
}

/// The judge of one chain.
pub(super) struct Judge<'j> {
    pub(super) algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    /// What the leaf is for.
    pub(super) usage: KeyUsage,
    /// Where revocation is checked.
    pub(super) lists: Option<&'j Lists>,
    pub(super) now: UnixTime,
}

impl Judge<'_> {
    /// Proves that one of these authorities vouches for the leaf, and says until when: the end of
    /// the first certificate of the path that ends, in seconds since 1970.
    ///
    /// # Errors
    /// Why none does.
    pub(super) fn prove(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        authorities: &[Authority],
    ) -> Result<u64, Error> {
        let now = self.now;
        let (current, ended): (Vec<_>, Vec<_>) =
            authorities.iter().partition(|authority| authority.is_in_date(now));
        match self.prove_by(leaf, others, &current) {
            // It is of use to know that it is the CA that has ended.
            Err(Error::UnknownIssuer)
                if !ended.is_empty() && self.prove_by(leaf, others, &ended).is_ok() =>
            {
                let not_after =
                    ended.iter().map(|authority| authority.not_after).max().unwrap_or_default();
                let not_after =
                    UnixTime::since_unix_epoch(std::time::Duration::from_secs(not_after));
                Err(Error::CertExpired { time: now, not_after })
            }
            proved => proved,
        }
    }

    fn prove_by(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        authorities: &[&Authority],
    ) -> Result<u64, Error> {
        let leaf_certificate = EndEntityCert::try_from(leaf)?;
        let anchors: Vec<TrustAnchor<'_>> =
            authorities.iter().map(|authority| borrowed(&authority.anchor)).collect();
        let lists = self.lists.map(|lists| lists.at(self.now));
        let revocation = lists.as_ref().map(|lists| lists.options()).transpose()?;
        let check = |path: &VerifiedPath<'_>| {
            limits(path, authorities)?;
            if lists.as_ref().is_some_and(|lists| lists.name_any_of(path)) {
                Err(Error::CertRevoked)
            } else {
                Ok(())
            }
        };
        let path = leaf_certificate.verify_for_usage(
            self.algorithms,
            &anchors,
            others,
            self.now,
            self.usage,
            revocation,
            Some(&check),
        )?;
        let below = path.intermediate_certificates().map(|certificate| end(&certificate.der()));
        let above = authorities
            .iter()
            .filter(|authority| authority.is_same(path.anchor()))
            .map(|authority| authority.not_after)
            .max();
        Ok(below.chain([end(leaf)]).chain(above).min().unwrap_or_default())
    }
}

/// What Go asks of the CAs of a path, and webpki does not.
fn limits(path: &VerifiedPath<'_>, authorities: &[&Authority]) -> Result<(), Error> {
    let mut below = 0_u32;
    for certificate in path.intermediate_certificates() {
        below = below.saturating_add(1);
        if !may_sign(&certificate.der()) {
            return Err(Error::EndEntityUsedAsCa);
        }
    }
    let mut above = authorities.iter().filter(|authority| authority.is_same(path.anchor()));
    if above.any(|authority| authority.path_len.is_none_or(|most| below <= most)) {
        Ok(())
    } else {
        Err(Error::PathLenConstraintViolated)
    }
}

/// Whether a CA's key usage, where there is one, names `keyCertSign` (RFC 5280, 4.2.1.3).
fn may_sign(der: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

/// The end of a certificate; the beginning of time where it cannot be read.
fn end(der: &CertificateDer<'_>) -> u64 {
    let read = X509Certificate::from_der(der).ok();
    read.and_then(|(_, certificate)| {
        u64::try_from(certificate.validity().not_after.timestamp()).ok()
    })
    .unwrap_or(0)
}

/// Without a copy of what it holds.
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
