//! Certificate revocation lists.
//!
//! A list that would make every handshake fail (truncated, signed with another key, with another
//! scope) is an error of its file: the previous list stays in effect. If it were only found in a
//! handshake, no client of its CA could connect, and open connections would end.

mod read;

use std::cmp::Ordering;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls_pki_types::{CertificateRevocationListDer, UnixTime};
use webpki::{
    CertRevocationList, ExpirationPolicy, RevocationOptions, RevocationOptionsBuilder, VerifiedPath,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer, ParsedExtension, X509Certificate};

use super::authority::Authority;
use super::material::date;
use super::provider;

/// A file, and the lists in it.
pub(super) type ListFile = (PathBuf, Vec<Arc<RevocationList>>);

/// A checked list. It may have expired.
#[derive(Debug)]
pub(super) struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    list: CertRevocationList<'static>,
    /// `nextUpdate`, in seconds since 1970.
    next_update: u64,
    version: Version,
}

/// Distinguishes the lists of one issuer.
#[derive(Debug)]
struct Version {
    /// `cRLNumber` (RFC 5280, 5.2.3), big-endian, without leading zeros.
    number: Option<Vec<u8>>,
    /// `thisUpdate`, in seconds since 1970.
    this_update: i64,
    /// Only lists with the same scope replace each other.
    scope: Scope,
    /// `keyIdentifier` of the signing key (RFC 5280, 5.2.1).
    key_id: Option<Vec<u8>>,
}

/// The certificates that a list covers: `issuingDistributionPoint` (RFC 5280, 5.2.5) without the
/// location, which may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Scope {
    only_users: bool,
    only_cas: bool,
    only_attributes: bool,
    only_reasons: Option<u16>,
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
            only_users: point.only_contains_user_certs,
            only_cas: point.only_contains_ca_certs,
            only_attributes: point.only_contains_attribute_certs,
            only_reasons: point.only_some_reasons.as_ref().map(|reasons| reasons.flags),
            indirect: point.indirect_crl,
        })
    }

    /// True if it covers client certificates.
    fn has_clients(&self) -> bool {
        !self.only_cas && !self.only_attributes
    }
}

impl Version {
    fn of(list: &CertificateRevocationList<'_>) -> Self {
        let key_id =
            list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(key) => {
                    key.key_identifier.as_ref().map(|key| key.0.to_vec())
                }
                _ => None,
            });
        Self {
            number: list.crl_number().map(|number| number.to_bytes_be()),
            this_update: list.last_update().timestamp(),
            scope: Scope::of(list),
            key_id,
        }
    }

    /// Compares the numbers if both have one and they differ, else the times.
    fn is_older_than(&self, other: &Self) -> bool {
        let by_number = match (&self.number, &other.number) {
            (Some(one), Some(other)) => one.len().cmp(&other.len()).then_with(|| one.cmp(other)),
            _ => Ordering::Equal,
        };
        by_number.then(self.this_update.cmp(&other.this_update)).is_lt()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(number) = &self.number {
            let digits: String = number.iter().map(|byte| format!("{byte:02x}")).collect();
            write!(f, "number 0x{digits}, ")?;
        }
        let seconds = u64::try_from(self.this_update).unwrap_or(0);
        write!(f, "of {}", date(UNIX_EPOCH + Duration::from_secs(seconds)))
    }
}

impl RevocationList {
    pub(super) fn is_in_date(&self, now: UnixTime) -> bool {
        now.as_secs() <= self.next_update
    }

    /// The issuer's name, in the DER form of a trust anchor.
    pub(super) fn issuer(&self) -> &[u8] {
        self.list.issuer()
    }

    /// True if this CA signed the list and may sign lists.
    pub(super) fn is_signed_by(&self, ca: &Authority) -> bool {
        let parsed =
            (CertificateRevocationList::from_der(&self.der), X509Certificate::from_der(ca.der()));
        matches!(&parsed, (Ok((_, list)), Ok((_, ca))) if may_sign_lists(ca) && signed_by(list, ca))
    }

    /// True unless both lists name their keys and the keys differ.
    pub(super) fn may_have_key_of(&self, other: &Self) -> bool {
        match (&self.version.key_id, &other.version.key_id) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
    }

    /// True if `other` has the same issuer and scope, and is newer.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        self.has_same_scope(other) && self.version.is_older_than(&other.version)
    }

    /// True if `other` has the same issuer and scope, and is not newer.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        self.has_same_scope(other) && !self.version.is_older_than(&other.version)
    }

    fn has_same_scope(&self, other: &Self) -> bool {
        self.issuer() == other.issuer() && self.version.scope == other.version.scope
    }

    /// The error of a list that is older than the one in effect.
    pub(super) fn describe_older_than(&self, current: &Self) -> String {
        let name = CertificateRevocationList::from_der(&self.der)
            .map_or_else(|_| String::new(), |(_, list)| list.issuer().to_string());
        format!(
            "the revocation list of `{name}` ({}) is older than the one in effect ({}), which is \
             used until it expires or is replaced by a newer one: fetch the CA's latest list; \
             restart to use the older one anyway",
            self.version, current.version
        )
    }

    /// True if this CA signed the list and the list covers client certificates.
    pub(super) fn covers_clients_of(&self, ca: &Authority) -> bool {
        self.issuer() == ca.subject() && self.version.scope.has_clients() && self.is_signed_by(ca)
    }
}

/// All lists in effect.
#[derive(Debug, Default)]
pub(super) struct RevocationLists(pub(super) Vec<Arc<RevocationList>>);

impl RevocationLists {
    /// The lists to use at this time. Expired lists are omitted if their issuer has a list in date.
    /// Otherwise they are included, so that clients of that issuer are rejected with the right
    /// error.
    pub(super) fn at(&self, now: UnixTime) -> CurrentLists<'_> {
        let is_used = |list: &&Arc<RevocationList>| {
            list.is_in_date(now) || !self.has_current_of(list.issuer(), now)
        };
        CurrentLists(self.0.iter().filter(is_used).map(|list| &list.list).collect())
    }

    /// True if a list of this issuer is in date.
    pub(super) fn has_current_of(&self, issuer: &[u8], now: UnixTime) -> bool {
        self.0.iter().any(|list| list.is_in_date(now) && list.issuer() == issuer)
    }
}

/// The lists that are used at one moment.
pub(super) struct CurrentLists<'l>(Vec<&'l CertRevocationList<'l>>);

impl CurrentLists<'_> {
    /// Options for webpki: each certificate of a path needs a list that is in date, is signed by
    /// its issuer, and does not contain it. webpki uses only the first list that fits; see
    /// [`Self::revoke_any_of`].
    pub(super) fn options(&self) -> Result<RevocationOptions<'_>, webpki::Error> {
        // Without any list the status of every certificate is unknown.
        let options = RevocationOptionsBuilder::new(&self.0)
            .map_err(|_| webpki::Error::UnknownRevocationStatus)?;
        Ok(options.with_expiration_policy(ExpirationPolicy::Enforce).build())
    }

    /// True if any list contains a certificate of this path. So neither the order of files nor the
    /// number of a list matters: of two lists in date one may be older, and a list that was delayed
    /// or replayed must not restore a revoked certificate.
    pub(super) fn revoke_any_of(&self, path: &VerifiedPath<'_>) -> bool {
        let is_revoked = |issuer: &[u8], serial: &[u8]| {
            // A list that cannot be searched may contain any certificate.
            self.0.iter().any(|list| {
                list.issuer() == issuer && !matches!(list.find_serial(serial), Ok(None))
            })
        };
        let leaf = path.end_entity();
        is_revoked(leaf.issuer(), leaf.serial())
            || path.intermediate_certificates().any(|ca| is_revoked(ca.issuer(), ca.serial()))
    }
}

/// True if the CA has no key usage or one with `cRLSign` (RFC 5280, 4.2.1.3).
fn may_sign_lists(ca: &X509Certificate<'_>) -> bool {
    ca.key_usage().ok().flatten().is_none_or(|usage| usage.value.crl_sign())
}

/// True if the CA's key signed the list, with an algorithm that handshakes support.
fn signed_by(list: &CertificateRevocationList<'_>, ca: &X509Certificate<'_>) -> bool {
    let named = list.signature_algorithm.algorithm.as_bytes();
    let key = &ca.public_key().subject_public_key.data;
    let algorithms = provider().signature_verification_algorithms.all;
    // `signature_alg_id` is a DER OBJECT IDENTIFIER (2 bytes of tag and length), which parameters
    // may follow.
    let is_named = |id: &[u8]| id.get(2..).is_some_and(|rest| rest.starts_with(named));
    let mut candidates =
        algorithms.iter().filter(|algorithm| is_named(algorithm.signature_alg_id().as_ref()));
    candidates.any(|algorithm| {
        algorithm
            .verify_signature(key, list.tbs_cert_list.as_ref(), &list.signature_value.data)
            .is_ok()
    })
}
