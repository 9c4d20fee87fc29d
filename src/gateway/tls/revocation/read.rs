//! Reads and checks revocation lists.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::pem::SectionKind;
use rustls_pki_types::{CertificateRevocationListDer, UnixTime};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate, X509Version};

use super::{ListFile, RevocationList, Scope, Version, may_sign_lists, signed_by};
use crate::tls::material::{CertificateReader, date, is_der, time};
use crate::tls::trust::NamedCa;
use crate::tls::{Expiring, Expiry, TlsError};

impl CertificateReader<'_> {
    /// The revocation lists of a PEM or DER file, at least one, all usable in handshakes. Expired
    /// ones are included, and added to `expired`.
    pub(in crate::tls) fn revocation_lists(
        &mut self,
        path: &Path,
    ) -> Option<Vec<Arc<RevocationList>>> {
        let bytes = self.bytes(path)?;
        let ders: Vec<_> = if is_der(bytes) {
            vec![CertificateRevocationListDer::from(bytes.to_vec())]
        } else {
            self.sections(path, bytes)?
                .into_iter()
                .filter(|(kind, _)| *kind == SectionKind::Crl)
                .map(|(_, der)| der.into())
                .collect()
        };
        if ders.is_empty() {
            return self
                .fail(path, "contains no revocation list (`-----BEGIN X509 CRL-----`)".into());
        }
        let before = self.errors.len();
        let lists = ders
            .into_iter()
            .enumerate()
            .filter_map(|(index, der)| self.revocation_list(path, index + 1, der))
            .collect();
        (self.errors.len() == before).then_some(lists)
    }

    fn revocation_list(
        &mut self,
        path: &Path,
        number: usize,
        der: CertificateRevocationListDer<'static>,
    ) -> Option<Arc<RevocationList>> {
        let Ok((_, list)) = CertificateRevocationList::from_der(&der) else {
            return self.fail(path, format!("revocation list {number} cannot be parsed"));
        };
        // Mandatory: RFC 5280, 5.1.2.5.
        let Some(next_update) = list.next_update() else {
            return self
                .fail(path, format!("revocation list {number} has no expiry (`nextUpdate`)"));
        };
        let not_after = time(next_update);
        self.expiries.push(Expiry { what: Expiring::Crl, not_after });
        if not_after < SystemTime::now() {
            let message = format!(
                "revocation list {number} expired on {}: fetch the CA's latest list",
                date(not_after)
            );
            self.expired.push(TlsError { path: path.to_owned(), message });
        }
        let owned = match webpki::OwnedCertRevocationList::from_der(&der) {
            Ok(owned) => owned,
            Err(error) => {
                let (issuer, why) = (list.issuer(), describe_unusable(&list, &error));
                return self.fail(path, format!("revocation list {number} (`{issuer}`) {why}"));
            }
        };
        let next_update = u64::try_from(next_update.timestamp()).unwrap_or(0);
        let version = Version::of(&list);
        Some(Arc::new(RevocationList { list: owned.into(), next_update, version, der }))
    }

    /// Adds an error for each CA in date without a usable list: its clients would be rejected,
    /// because their status is unknown.
    pub(in crate::tls) fn check_each_ca_has_a_list(&mut self, cas: &[NamedCa], lists: &[ListFile]) {
        let now = UnixTime::now();
        let lists: Vec<_> = lists
            .iter()
            .flat_map(|(_, lists)| lists)
            .filter_map(|list| CertificateRevocationList::from_der(&list.der).ok())
            .map(|(_, list)| list)
            .collect();
        for ca in cas {
            // An expired CA's clients are rejected in any case.
            for authority in ca.authorities.iter().filter(|authority| authority.is_in_date(now)) {
                let Ok((_, certificate)) = X509Certificate::from_der(authority.der()) else {
                    continue;
                };
                if let Some(why) = describe_missing(&ca.name, &certificate, &lists) {
                    self.error(&ca.file, format!("{why}: all its clients would be rejected"));
                }
            }
        }
    }
}

/// Why no list covers the clients of this CA; `None` if one does.
fn describe_missing(
    name: &str,
    ca: &X509Certificate<'_>,
    lists: &[CertificateRevocationList<'_>],
) -> Option<String> {
    let subject = ca.subject();
    let mut own = lists.iter().filter(|list| list.issuer().as_raw() == subject.as_raw()).peekable();
    if own.peek().is_none() {
        // Names are compared byte for byte (RFC 5280, 7.1, allows that), so that PrintableString
        // and UTF8String differ.
        if lists.iter().any(|list| list.issuer().to_string() == subject.to_string()) {
            return Some(format!(
                "the revocation list of CA `{name}` (`{subject}`) encodes that name with other \
                 string types than the CA certificate (such as PrintableString and UTF8String; \
                 create the list with the CA certificate: `openssl ca -gencrl -cert`)"
            ));
        }
        return Some(format!(
            "`client-crl-file` has no revocation list of CA `{name}` (`{subject}`)"
        ));
    }
    if !may_sign_lists(ca) {
        return Some(format!(
            "CA `{name}` (`{subject}`) may not sign revocation lists (its key usage lacks \
             `cRLSign`)"
        ));
    }
    // webpki uses the first list that fits a certificate: a wrong one would hide the right one.
    if own.clone().any(|list| !signed_by(list, ca)) {
        return Some(format!(
            "a revocation list with the issuer name of CA `{name}` (`{subject}`) is not signed \
             with that CA's key"
        ));
    }
    (!own.any(|list| Scope::of(list).has_clients())).then(|| {
        format!(
            "the revocation lists of CA `{name}` (`{subject}`) do not cover client certificates"
        )
    })
}

/// Why webpki rejects a list that is well-formed.
fn describe_unusable(list: &CertificateRevocationList<'_>, error: &webpki::Error) -> String {
    match error {
        _ if list.version() == Some(X509Version::V2) && list.extensions().is_empty() => {
            "has no extensions: RFC 5280 requires at least a number (5.2.3; `openssl ca -gencrl \
             -crlexts SECTION`, with `crlnumber` set)"
                .into()
        }
        webpki::Error::UnsupportedDeltaCrl => {
            "is a delta list, which has changes only: fetch the complete list".into()
        }
        webpki::Error::UnsupportedIndirectCrl => {
            "is an indirect list, which covers other CAs too: fetch the list of the CA itself"
                .into()
        }
        webpki::Error::UnsupportedCrlVersion => {
            "is of version 1: RFC 5280 requires version 2 (`openssl ca -gencrl` with \
             `crl_extensions`)"
                .into()
        }
        webpki::Error::UnsupportedRevocationReasonsPartitioning => {
            "covers only some revocation reasons: fetch the complete list".into()
        }
        webpki::Error::UnsupportedCriticalExtension => {
            "has a critical extension that is not supported, so that it must not be used (RFC \
             5280, 5.2)"
                .into()
        }
        error => format!("cannot be used: {error}"),
    }
}
