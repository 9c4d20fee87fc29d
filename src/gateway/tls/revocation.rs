//! Revocation lists, proved before they count. Whatever would make every handshake under a list
//! fail (a list that is cut, that another key has signed, that speaks of something else) is a
//! mistake of the file, so that a bad copy is told and the last good one goes on: in a handshake it
//! would shut out everybody, and everybody who is connected with them.

use std::cmp::Ordering;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::SectionKind;
use rustls_pki_types::{CertificateRevocationListDer, UnixTime};
use webpki::{
    CertRevocationList, ExpirationPolicy, RevocationOptions, RevocationOptionsBuilder, VerifiedPath,
};
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, ParsedExtension, X509Certificate, X509Version,
};

use super::authority::Authority;
use super::material::{Reader, date, is_der, time};

use super::trust::{ListFile, NamedCa};
use super::{Expiring, Expiry, TlsError, provider};

/// A list of a file, proved sound. It may have ended.
#[derive(Debug)]
pub(super) struct List {
    der: CertificateRevocationListDer<'static>,
    list: CertRevocationList<'static>,
    /// Its `nextUpdate`, in seconds since 1970.
    until: u64,
    issue: Issue,
}

/// Which of the lists of one issuer it is.
#[derive(Debug)]
struct Issue {
    /// Its number (RFC 5280, 5.2.3), without zeros in front.
    number: Option<Vec<u8>>,
    /// Its `thisUpdate`, in seconds since 1970.
    from: i64,
    /// Of which certificates it speaks: only lists of the same follow each other.
    scope: Scope,
    /// By which key it says that it is (RFC 5280, 5.2.1: `keyIdentifier`).
    key: Option<Vec<u8>>,
}

/// Of which certificates a list speaks (RFC 5280, 5.2.5). Where it is published is no part of it:
/// the same list may move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Scope {
    users: bool,
    cas: bool,
    attributes: bool,
    some_reasons: Option<u16>,
    indirect: bool,
}

impl Scope {
    fn of(list: &CertificateRevocationList<'_>) -> Self {
        let point =
            list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::IssuingDistributionPoint(point) => Some(point),
                _ => None,
            });
        point.map_or_else(Self::default, |point| Self {
            users: point.only_contains_user_certs,
            cas: point.only_contains_ca_certs,
            attributes: point.only_contains_attribute_certs,
            some_reasons: point.only_some_reasons.as_ref().map(|reasons| reasons.flags),
            indirect: point.indirect_crl,
        })
    }
}

impl Issue {
    fn of(list: &CertificateRevocationList<'_>) -> Self {
        let key =
            list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(key) => {
                    key.key_identifier.as_ref().map(|key| key.0.to_vec())
                }
                _ => None,
            });
        let number = list.crl_number().map(|number| number.to_bytes_be());
        Self { number, from: list.last_update().timestamp(), scope: Scope::of(list), key }
    }

    /// Whether it is from before another: by the numbers, where they say so, else by the time.
    fn is_before(&self, other: &Self) -> bool {
        let by_number = match (&self.number, &other.number) {
            (Some(one), Some(other)) => one.len().cmp(&other.len()).then_with(|| one.cmp(other)),
            _ => Ordering::Equal,
        };
        by_number.then(self.from.cmp(&other.from)).is_lt()
    }
}

impl List {
    pub(super) fn is_in_date(&self, now: UnixTime) -> bool {
        now.as_secs() <= self.until
    }

    /// The name of its issuer, as an anchor has it.
    pub(super) fn issuer(&self) -> &[u8] {
        self.list.issuer()
    }

    /// Whether this CA's key has signed it, and may.
    pub(super) fn is_signed_by(&self, ca: &Authority) -> bool {
        let read =
            (CertificateRevocationList::from_der(&self.der), X509Certificate::from_der(ca.der()));
        matches!(&read, (Ok((_, list)), Ok((_, ca))) if may_sign_lists(ca) && signed_by(list, ca))
    }

    /// Whether it is of the same issuer and certificates.
    fn is_of_series(&self, other: &Self) -> bool {
        self.issuer() == other.issuer() && self.issue.scope == other.issue.scope
    }

    /// Whether it may be by the same key: no other is named.
    pub(super) fn may_be_by_key_of(&self, other: &Self) -> bool {
        !matches!((&self.issue.key, &other.issue.key), (Some(one), Some(other)) if one != other)
    }

    /// Whether it was issued before that one, in one series.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        self.is_of_series(other) && self.issue.is_before(&other.issue)
    }

    /// Whether it was not issued before that one, in one series.
    pub(super) fn follows(&self, other: &Self) -> bool {
        self.is_of_series(other) && !self.issue.is_before(&other.issue)
    }

    /// Why it is not in effect where a later one is.
    pub(super) fn older_than(&self, later: &Self) -> String {
        let (name, older, later) = (self.name(), self.issue.to_string(), later.issue.to_string());
        format!(
            "the revocation list of `{name}` ({older}) is older than the one in effect ({later}), which stays until it ends or a later one comes: \
             fetch the CA's newest; to go back all the same, start again"
        )
    }

    fn name(&self) -> String {
        CertificateRevocationList::from_der(&self.der)
            .map_or_else(|_| String::new(), |(_, list)| list.issuer().to_string())
    }

    /// Whether it is this CA's, and says which of its clients are revoked.
    pub(super) fn speaks_for(&self, ca: &Authority) -> bool {
        let of_clients = || {
            CertificateRevocationList::from_der(&self.der)
                .is_ok_and(|(_, list)| !of_no_clients(&list))
        };
        self.issuer() == ca.subject() && of_clients() && self.is_signed_by(ca)
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(number) = &self.number {
            let digits: String = number.iter().map(|byte| format!("{byte:02x}")).collect();
            write!(f, "number 0x{digits}, ")?;
        }
        write!(
            f,
            "of {}",
            date(UNIX_EPOCH + Duration::from_secs(u64::try_from(self.from).unwrap_or(0)))
        )
    }
}

/// All lists that are in effect.
#[derive(Debug, Default)]
pub(super) struct Lists(pub(super) Vec<Arc<List>>);

impl Lists {
    /// Those that speak at this time. Of an issuer that has a list in date, those that have ended
    /// say nothing any more; of one that has none, they are there so that its clients are
    /// refused for that reason.
    pub(super) fn at(&self, now: UnixTime) -> Speaking<'_> {
        let speaks = |list: &&Arc<List>| {
            list.is_in_date(now) || !self.has_current_of(list.list.issuer(), now)
        };
        Speaking(self.0.iter().filter(speaks).map(|list| &list.list).collect())
    }

    /// Whether a list of this issuer is in date.
    pub(super) fn has_current_of(&self, issuer: &[u8], now: UnixTime) -> bool {
        self.0.iter().any(|list| list.is_in_date(now) && list.list.issuer() == issuer)
    }
}

/// Lists that speak at one time.
pub(super) struct Speaking<'l>(Vec<&'l CertRevocationList<'l>>);

impl Speaking<'_> {
    /// What webpki asks of them: that each certificate of a path has a list in date, signed by its
    /// issuer, which does not name it. It looks at the first that fits alone; see
    /// [`Self::name_any_of`].
    pub(super) fn options(&self) -> Result<RevocationOptions<'_>, webpki::Error> {
        // Without a list nothing is known of anybody.
        let options = RevocationOptionsBuilder::new(&self.0)
            .map_err(|_| webpki::Error::UnknownRevocationStatus)?;
        Ok(options.with_expiration_policy(ExpirationPolicy::Enforce).build())
    }

    /// Whether any list in date of its issuer names a certificate of this path. So the order of
    /// files means nothing, and neither does the number of a list: of two lists in date one may
    /// be older, and one that was kept back or replayed must not bring back who is revoked.
    pub(super) fn name_any_of(&self, path: &VerifiedPath<'_>) -> bool {
        let named = |issuer: &[u8], serial: &[u8]| {
            // A list that cannot be searched may name anybody.
            self.0.iter().any(|list| {
                list.issuer() == issuer && !matches!(list.find_serial(serial), Ok(None))
            })
        };
        let leaf = path.end_entity();
        named(leaf.issuer(), leaf.serial())
            || path.intermediate_certificates().any(|ca| named(ca.issuer(), ca.serial()))
    }
}

impl Reader<'_> {
    /// The revocation lists of one file, PEM or DER, at least one, each of a sort that the judge of
    /// handshakes can read. One that has ended is noted as stale.
    pub(super) fn revocation_lists(&mut self, path: &Path) -> Option<Vec<Arc<List>>> {
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
                .refuse(path, "holds no revocation list (`-----BEGIN X509 CRL-----`)".into());
        }
        let before = self.mistakes.len();
        let lists = ders
            .into_iter()
            .enumerate()
            .filter_map(|(index, der)| self.revocation_list(path, index + 1, der))
            .collect();
        (self.mistakes.len() == before).then_some(lists)
    }

    fn revocation_list(
        &mut self,
        path: &Path,
        number: usize,
        der: CertificateRevocationListDer<'static>,
    ) -> Option<Arc<List>> {
        let Ok((_, list)) = CertificateRevocationList::from_der(&der) else {
            return self.refuse(path, format!("revocation list {number} cannot be read"));
        };
        // RFC 5280, 5.1.2.5: every list has one.
        let Some(next_update) = list.next_update() else {
            return self.refuse(
                path,
                format!("revocation list {number} does not say when it ends (`nextUpdate`)"),
            );
        };
        let not_after = time(next_update);
        self.expiries.push(Expiry { what: Expiring::Crl, not_after });
        if not_after < SystemTime::now() {
            let message = format!(
                "revocation list {number} ended on {}: fetch the CA's newest",
                date(not_after)
            );
            self.stale.push(TlsError { path: path.to_owned(), message });
        }
        let owned = match webpki::OwnedCertRevocationList::from_der(&der) {
            Ok(owned) => owned,
            Err(error) => {
                return self.refuse(
                    path,
                    format!(
                        "revocation list {number} (`{}`) {}",
                        list.issuer(),
                        unusable(&list, &error)
                    ),
                );
            }
        };
        let until = u64::try_from(next_update.timestamp()).unwrap_or(0);
        let issue = Issue::of(&list);
        Some(Arc::new(List { list: owned.into(), until, issue, der }))
    }

    /// With revocation lists, each CA needs one: a certificate whose status is unknown is refused.
    pub(super) fn each_ca_has_a_list(&mut self, cas: &[NamedCa], lists: &[ListFile]) {
        let now = UnixTime::now();
        let lists: Vec<_> = lists
            .iter()
            .flat_map(|(_, lists)| lists)
            .filter_map(|list| CertificateRevocationList::from_der(&list.der).ok())
            .map(|(_, list)| list)
            .collect();
        for ca in cas {
            // One that is out of date lets nobody in, whatever a list says.
            for authority in ca.authorities.iter().filter(|authority| authority.is_in_date(now)) {
                let Ok((_, certificate)) = X509Certificate::from_der(authority.der()) else {
                    continue;
                };
                if let Some(mistake) = unlisted(&ca.name, &certificate, &lists) {
                    self.mistake(&ca.file, mistake);
                }
            }
        }
    }
}

/// Why the revocation lists say nothing of the clients of this CA.
fn unlisted(
    name: &str,
    ca: &X509Certificate<'_>,
    lists: &[CertificateRevocationList<'_>],
) -> Option<String> {
    let subject = ca.subject();
    let mut its = lists.iter().filter(|list| list.issuer().as_raw() == subject.as_raw()).peekable();
    if its.peek().is_none() {
        // Name strings are compared byte for byte (RFC 5280, 7.1, allows that), so that
        // `PrintableString` and `UTF8String` differ.
        if lists.iter().any(|list| list.issuer().to_string() == subject.to_string()) {
            return Some(format!(
                "the revocation list of CA `{name}` (`{subject}`) writes that name in other string types than the CA's certificate does \
                 (such as PrintableString and UTF8String): make the list with the CA's own certificate (`openssl ca -gencrl -cert`)"
            ));
        }
        return Some(format!(
            "no revocation list of CA `{name}` (`{subject}`) is in `client-crl-file`: all its clients would be refused"
        ));
    }
    if !may_sign_lists(ca) {
        return Some(format!(
            "CA `{name}` (`{subject}`) may not sign revocation lists (key usage `cRLSign`): all its clients would be refused"
        ));
    }
    // webpki looks at the first list that fits a certificate: one that is signed by another would
    // be in the way of the right one.
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

/// Whether the CA's key usage, where there is one, names `cRLSign` (RFC 5280, 4.2.1.3).
fn may_sign_lists(ca: &X509Certificate<'_>) -> bool {
    ca.key_usage().ok().flatten().is_none_or(|usage| usage.value.crl_sign())
}

/// Whether the CA's key has signed the list, by any algorithm that a handshake knows.
fn signed_by(list: &CertificateRevocationList<'_>, ca: &X509Certificate<'_>) -> bool {
    let named = list.signature_algorithm.algorithm.as_bytes();
    let key = &ca.public_key().subject_public_key.data;
    let algorithms = provider().signature_verification_algorithms.all;
    // An algorithm is named by its OBJECT IDENTIFIER, in DER, perhaps with parameters behind.
    let is_named = |id: &[u8]| id.get(2..).is_some_and(|rest| rest.starts_with(named));
    let mut fitting =
        algorithms.iter().filter(|algorithm| is_named(algorithm.signature_alg_id().as_ref()));
    fitting.any(|algorithm| {
        algorithm
            .verify_signature(key, list.tbs_cert_list.as_ref(), &list.signature_value.data)
            .is_ok()
    })
}

/// A list of CA certificates or attribute certificates alone (RFC 5280, 5.2.5).
fn of_no_clients(list: &CertificateRevocationList<'_>) -> bool {
    list.extensions().iter().any(|extension| match extension.parsed_extension() {
        ParsedExtension::IssuingDistributionPoint(scope) => {
            scope.only_contains_ca_certs || scope.only_contains_attribute_certs
        }
        _ => false,
    })
}

/// What is wrong with a list that is well-formed.
fn unusable(list: &CertificateRevocationList<'_>, error: &webpki::Error) -> String {
    match error {
        _ if list.version() == Some(X509Version::V2) && list.extensions().is_empty() => {
            "has no extensions: RFC 5280 asks for a number at least (5.2.3; `openssl ca -gencrl -crlexts SECTION`, with `crlnumber` set)"
                .into()
        }
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
