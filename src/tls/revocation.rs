//! Revocation lists, proved before they count. Whatever would make every handshake under a list fail (a list that is cut, that another
//! key has signed, that speaks of something else) is a mistake of the file, so that a bad copy is told and the last good one goes on:
//! in a handshake it would shut out everybody, and everybody who is connected with them.

use std::path::Path;
use std::time::SystemTime;

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::SectionKind;
use x509_parser::prelude::{CertificateRevocationList, FromDer, ParsedExtension, X509Certificate};

use super::material::{Reader, date, is_der, time};
use super::trust::CaFile;
use super::{Expiring, Expiry, provider};

impl Reader {
    /// The revocation lists of one file, PEM or DER, at least one, each in date and of a sort that the judge of handshakes can read.
    pub(super) fn revocation_lists(&mut self, path: &Path) -> Option<Vec<CertificateRevocationListDer<'static>>> {
        let bytes = self.bytes(path)?;
        let lists: Vec<_> = if is_der(&bytes) {
            vec![CertificateRevocationListDer::from(bytes)]
        } else {
            self.sections(path, &bytes)?.into_iter().filter(|(kind, _)| *kind == SectionKind::Crl).map(|(_, der)| der.into()).collect()
        };
        if lists.is_empty() {
            return self.refuse(path, "holds no revocation list (`-----BEGIN X509 CRL-----`)".into());
        }
        let before = self.mistakes.len();
        for (index, der) in lists.iter().enumerate() {
            self.revocation_list(path, index + 1, der);
        }
        (self.mistakes.len() == before).then_some(lists)
    }

    fn revocation_list(&mut self, path: &Path, number: usize, der: &CertificateRevocationListDer<'_>) {
        let Ok((_, list)) = CertificateRevocationList::from_der(der) else {
            return self.mistake(path, format!("revocation list {number} cannot be read"));
        };
        // RFC 5280, 5.1.2.5: every list has one.
        let Some(next_update) = list.next_update() else {
            return self.mistake(path, format!("revocation list {number} does not say when it ends (`nextUpdate`)"));
        };
        let not_after = time(next_update);
        self.expiries.push(Expiry { what: Expiring::Crl, not_after });
        if not_after < SystemTime::now() {
            self.mistake(path, format!("revocation list {number} ended on {}: fetch the CA's newest", date(not_after)));
        }
        if let Err(error) = webpki::OwnedCertRevocationList::from_der(der) {
            self.mistake(path, format!("revocation list {number} (`{}`) {}", list.issuer(), unusable(&error)));
        }
    }

    /// With revocation lists, each CA needs one: a certificate whose status is unknown is refused.
    pub(super) fn each_ca_has_a_list(&mut self, cas: &[CaFile<'_>], lists: &[CertificateRevocationListDer<'static>]) {
        let lists: Vec<_> = lists.iter().filter_map(|der| CertificateRevocationList::from_der(der).ok()).map(|(_, list)| list).collect();
        for (ca, certificates) in cas {
            for der in certificates {
                let Ok((_, certificate)) = X509Certificate::from_der(der) else { continue };
                if let Some(mistake) = unlisted(&ca.name, &certificate, &lists) {
                    self.mistake(&ca.file, mistake);
                }
            }
        }
    }
}

/// Why the revocation lists say nothing of the clients of this CA.
fn unlisted(name: &str, ca: &X509Certificate<'_>, lists: &[CertificateRevocationList<'_>]) -> Option<String> {
    let subject = ca.subject();
    let mut its = lists.iter().filter(|list| list.issuer().as_raw() == subject.as_raw()).peekable();
    if its.peek().is_none() {
        return Some(format!("no revocation list of CA `{name}` (`{subject}`) is in `client-crl-file`: all its clients would be refused"));
    }
    let usage = ca.key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.crl_sign()) {
        return Some(format!(
            "CA `{name}` (`{subject}`) may not sign revocation lists (key usage `cRLSign`): all its clients would be refused"
        ));
    }
    // Of several lists under one name, the first that fits a certificate counts: one that is signed by another is in the way of the right one.
    if its.clone().any(|list| !signed_by(list, ca)) {
        return Some(format!(
            "a revocation list that names CA `{name}` (`{subject}`) as its issuer is not signed with that CA's key: all its clients would be refused"
        ));
    }
    its.all(of_no_clients).then(|| {
        format!(
            "the revocation lists of CA `{name}` (`{subject}`) speak of other certificates than clients': all its clients would be refused"
        )
    })
}

/// Whether the CA's key has signed the list, by any algorithm that a handshake knows.
fn signed_by(list: &CertificateRevocationList<'_>, ca: &X509Certificate<'_>) -> bool {
    let named = list.signature_algorithm.algorithm.as_bytes();
    let key = &ca.public_key().subject_public_key.data;
    let algorithms = provider().signature_verification_algorithms.all;
    // An algorithm is named by its OBJECT IDENTIFIER, in DER, perhaps with parameters behind.
    let is_named = |id: &[u8]| id.get(2..).is_some_and(|rest| rest.starts_with(named));
    let mut fitting = algorithms.iter().filter(|algorithm| is_named(algorithm.signature_alg_id().as_ref()));
    fitting.any(|algorithm| algorithm.verify_signature(key, list.tbs_cert_list.as_ref(), &list.signature_value.data).is_ok())
}

/// A list of CA certificates or attribute certificates alone (RFC 5280, 5.2.5).
fn of_no_clients(list: &CertificateRevocationList<'_>) -> bool {
    list.extensions().iter().any(|extension| match extension.parsed_extension() {
        ParsedExtension::IssuingDistributionPoint(scope) => scope.only_contains_ca_certs || scope.only_contains_attribute_certs,
        _ => false,
    })
}

/// What is wrong with a list that is well-formed.
fn unusable(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnsupportedDeltaCrl => {
            "is a delta list, which says what has changed and not who is revoked: fetch the whole list".into()
        }
        webpki::Error::UnsupportedIndirectCrl => {
            "is an indirect list, which speaks for other CAs too: fetch the list of the CA itself".into()
        }
        webpki::Error::UnsupportedCrlVersion => {
            "is of version 1: RFC 5280 asks for version 2 (`openssl ca -gencrl` with `crl_extensions`)".into()
        }
        webpki::Error::UnsupportedRevocationReasonsPartitioning => {
            "speaks of some reasons for a revocation only: fetch the whole list".into()
        }
        webpki::Error::UnsupportedCriticalExtension => {
            "has a critical extension that is not known here, so that it may not be used (RFC 5280, 5.2)".into()
        }
        error => format!("cannot be used: {error}"),
    }
}
