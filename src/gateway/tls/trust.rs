//! Client CAs and their revocation lists, and the verification of a client's chain.

mod reload;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::DistinguishedName;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::authority::{Authority, ChainVerifier};
use super::failure::{from_rustls_error, to_rustls_error};
use super::material::{CertificateReader, MAX_BYTES, Side};
use super::revocation::{ListFile, RevocationList, RevocationLists};
use super::signatures::verify_signatures;
use super::{Expiring, Expiry, HandshakeFailure, TlsError, TlsErrors, provider};
use crate::config::Downstream;
use crate::files::Files;

/// The client CAs and their revocation lists. Whether they are in date is checked in each
/// handshake.
#[derive(Debug)]
pub struct ClientTrust {
    cas: Vec<NamedCa>,
    /// By file.
    lists: Vec<ListFile>,
    /// All of `lists`; `None` if revocation is not checked.
    revocation: Option<RevocationLists>,
    /// Names of the CAs, which the handshake sends to the client.
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    expiries: Vec<Expiry>,
    expired: Vec<TlsError>,
}

/// The certificates in one CA file, and the name that bindings use for them (`ca:`).
#[derive(Clone, Debug)]
pub(super) struct NamedCa {
    pub(super) name: Arc<str>,
    pub(super) file: PathBuf,
    pub(super) authorities: Vec<Authority>,
}

impl NamedCa {
    /// True if both have a certificate of the same CA.
    fn overlaps(&self, other: &Self) -> bool {
        self.authorities
            .iter()
            .any(|one| other.authorities.iter().any(|other| one.is_same_ca(other)))
    }
}

/// A client's chain that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedChain {
    /// Configured name of the CA that issued it.
    pub ca: Arc<str>,
    /// When the first certificate of the path expires, in seconds since 1970.
    pub not_after: u64,
}

impl ClientTrust {
    /// Reads the client CAs and their revocation lists.
    ///
    /// If there are revocation lists, a certificate is rejected if its issuer has no list, or only
    /// expired ones, because its status is unknown. So each CA needs a list that it signed.
    ///
    /// Expired CAs and lists are errors only if no CA is left whose clients can connect; else see
    /// [`Self::expired`].
    ///
    /// # Errors
    /// All errors in the files.
    pub fn load(downstream: &Downstream) -> Result<Self, TlsErrors> {
        Self::from_files(downstream, &Files::read(downstream.trust_files(), MAX_BYTES))
    }

    /// As [`Self::load`], from files that were read before.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn from_files(downstream: &Downstream, files: &Files) -> Result<Self, TlsErrors> {
        let (trust, errors) = Self::build(downstream, files, None)?;
        if errors.0.is_empty() { Ok(trust) } else { Err(errors) }
    }

    /// The successor of `self` after a change of the files, with the errors in them.
    ///
    /// An error in one file does not block the others: that file keeps its previous content. Errors
    /// between files affect as little as possible. A CA without a usable list accepts no client. A
    /// list signed with another key is omitted. If the file with a CA's list has only another CA's
    /// list now, the CA keeps its list. A file that repeats a CA of another file keeps its previous
    /// content.
    ///
    /// # Errors
    /// Never at present.
    pub(crate) fn renewed(
        &self,
        downstream: &Downstream,
        files: &Files,
    ) -> Result<(Self, TlsErrors), TlsErrors> {
        Self::build(downstream, files, Some(self))
    }

    /// Builds from files. With `previous` (a reload) errors do not fail, but are returned beside
    /// the result.
    fn build(
        downstream: &Downstream,
        files: &Files,
        previous: Option<&Self>,
    ) -> Result<(Self, TlsErrors), TlsErrors> {
        // Read each file by itself.
        let mut reader = CertificateReader::new(files);
        let mut cas = read_cas(&mut reader, downstream, previous);
        let mut lists = read_lists(&mut reader, downstream, previous);
        let mut errors = std::mem::take(&mut reader.errors);
        if previous.is_none() && !errors.is_empty() {
            return Err(TlsErrors(errors));
        }

        // Check the files against each other.
        match previous {
            None => check_cas_are_distinct(&mut reader, &cas),
            Some(previous) => reload::keep_cas(&mut reader, &mut cas, &previous.cas),
        }
        let checks_revocation = !downstream.crl_files.is_empty();
        if checks_revocation {
            reader.check_each_ca_has_a_list(&cas, &lists);
            if let Some(previous) = previous {
                reload::remove_lists_of_other_keys(&cas, &mut lists);
                reload::keep_lists(&cas, &mut lists, &previous.lists);
                reload::keep_newer_lists(&mut reader, &cas, &mut lists, &previous.lists);
            }
        }

        // Whatever has expired is an error only if no client can connect.
        let all = RevocationLists(lists.iter().flat_map(|(_, lists)| lists).cloned().collect());
        let revocation = checks_revocation.then_some(all);
        let now = UnixTime::now();
        let accepts_clients = |authority: &Authority| {
            authority.is_in_date(now)
                && revocation
                    .as_ref()
                    .is_none_or(|lists| lists.has_current_of(authority.subject(), now))
        };
        if !cas.iter().flat_map(|ca| &ca.authorities).any(accepts_clients) {
            reader.errors.append(&mut reader.expired);
        }

        errors.append(&mut reader.errors);
        if previous.is_none() && !errors.is_empty() {
            return Err(TlsErrors(errors));
        }
        let hints = cas
            .iter()
            .flat_map(|ca| &ca.authorities)
            .map(|authority| DistinguishedName::in_sequence(authority.subject()))
            .collect();
        let trust = Self {
            cas,
            lists,
            revocation,
            hints,
            algorithms: provider().signature_verification_algorithms,
            expiries: reader.expiries,
            expired: reader.expired,
        };
        Ok((trust, TlsErrors(errors)))
    }

    /// True if a client CA has this subject (DER).
    pub fn has_ca_called(&self, name: &[u8]) -> bool {
        self.hints.iter().any(|subject| subject.as_ref() == name)
    }

    /// CAs and revocation lists that have expired. Clients of such a CA are rejected.
    pub fn expired(&self) -> &[TlsError] {
        &self.expired
    }

    /// Verifies a chain as a handshake does now: the leaf, then the other certificates that the
    /// client sent.
    ///
    /// # Errors
    /// Why the client would be rejected.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<VerifiedChain, HandshakeFailure> {
        self.verify_at(chain, UnixTime::now())
    }

    /// As [`Self::verify`], at another time.
    ///
    /// # Errors
    /// Why the client would be rejected then.
    pub fn verify_at(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<VerifiedChain, HandshakeFailure> {
        let (leaf, intermediates) = chain.split_first().ok_or(HandshakeFailure::NoCertificate)?;
        self.verify_chain(leaf, intermediates, now)
            .map_err(|error| from_rustls_error(&to_rustls_error(error)))
    }

    /// Tries the CAs one by one, in the configured order, with all checks of a handshake. So the
    /// name returned is that of a CA that accepts the client.
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<VerifiedChain, webpki::Error> {
        let verifier = ChainVerifier {
            algorithms: self.algorithms.all,
            usage: webpki::KeyUsage::client_auth(),
            lists: self.revocation.as_ref(),
            now,
        };
        let mut why = webpki::Error::UnknownIssuer;
        for ca in &self.cas {
            match verifier.verify(leaf, intermediates, &ca.authorities) {
                Ok(not_after) => return Ok(VerifiedChain { ca: Arc::clone(&ca.name), not_after }),
                // The error of the client's own CA says more than "unknown issuer" of another one.
                Err(error) if why == webpki::Error::UnknownIssuer => why = error,
                Err(_) => {}
            }
        }
        Err(why)
    }

    /// When the CAs and the revocation lists expire.
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }
}

impl ClientCertVerifier for ClientTrust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify_chain(leaf, intermediates, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(to_rustls_error)
    }

    verify_signatures!();
}

/// The CAs of each file; the previous ones if the file has an error.
fn read_cas(
    reader: &mut CertificateReader<'_>,
    downstream: &Downstream,
    previous: Option<&ClientTrust>,
) -> Vec<NamedCa> {
    let previous = |file: &Path| {
        previous?.cas.iter().find(|ca| ca.file == file).map(|ca| ca.authorities.clone())
    };
    let read = downstream.client_cas.iter().filter_map(|ca| {
        let authorities = reader
            .authorities(&ca.file, Expiring::ClientCa, Side::Client)
            .or_else(|| previous(&ca.file))?;
        Some(NamedCa { name: Arc::clone(&ca.name), file: ca.file.clone(), authorities })
    });
    read.collect()
}

/// The lists of each file; the previous ones if the file has an error. The previous ones stay, too,
/// if they are in date and all new ones have expired: an old copy must not reject all clients.
fn read_lists(
    reader: &mut CertificateReader<'_>,
    downstream: &Downstream,
    previous: Option<&ClientTrust>,
) -> Vec<ListFile> {
    let now = UnixTime::now();
    let in_date = |lists: &[Arc<RevocationList>]| lists.iter().any(|list| list.is_in_date(now));
    let previous = |file: &PathBuf| {
        previous?.lists.iter().find(|(of, _)| of == file).map(|(_, lists)| lists.clone())
    };
    let read = downstream.crl_files.iter().filter_map(|file| {
        let lists = match (reader.revocation_lists(file), previous(file)) {
            (Some(lists), Some(previous)) if !in_date(&lists) && in_date(&previous) => previous,
            (Some(lists), _) => lists,
            (None, previous) => previous?,
        };
        Some((file.clone(), lists))
    });
    read.collect()
}

/// If one CA had two names, the order of the CAs would decide which `ca:` in a binding matches.
fn check_cas_are_distinct(reader: &mut CertificateReader<'_>, cas: &[NamedCa]) {
    for (ca, other) in overlapping(cas) {
        reader.error(&ca.file, describe_overlap(ca, other));
    }
}

/// Pairs of names that have a CA in common, the later name first.
fn overlapping(cas: &[NamedCa]) -> impl Iterator<Item = (&NamedCa, &NamedCa)> {
    cas.iter()
        .enumerate()
        .filter_map(|(at, ca)| Some((ca, cas.iter().take(at).find(|other| ca.overlaps(other))?)))
}

fn describe_overlap(ca: &NamedCa, other: &NamedCa) -> String {
    let (name, other) = (&ca.name, &other.name);
    format!(
        "CA `{name}` has a certificate that CA `{other}` has, too: each name needs a CA of its own"
    )
}
