//! Whom the listener lets in: the client CAs and their revocation lists, and the one judge of a
//! client's chain.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::authority::{Authority, Judge};
use super::failure::{of_tls, of_webpki};
use super::material::{MAX_BYTES, Reader, Side};
use super::revocation::{List, Lists};
use super::{Expiring, Expiry, HandshakeFailure, TlsError, TlsErrors, provider};
use crate::config::Downstream;
use crate::files::Files;

/// The client CAs and their revocation lists, proven sound. Which of them are in date is asked at
/// each handshake.
#[derive(Debug)]
pub struct ClientTrust {
    cas: Vec<NamedCa>,
    /// By file.
    lists: Vec<ListFile>,
    /// The same, all together; `None`: revocation is not checked.
    judged_by: Option<Lists>,
    /// Names of the CAs, which a client is told in the handshake.
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    expiries: Vec<Expiry>,
    stale: Vec<TlsError>,
}

/// The certificates of one CA file, under the name that a binding asks for.
#[derive(Clone, Debug)]
pub(super) struct NamedCa {
    pub(super) name: Arc<str>,
    pub(super) file: PathBuf,
    pub(super) authorities: Vec<Authority>,
}

impl NamedCa {
    /// Whether both have a certificate of one CA.
    fn shares_with(&self, other: &Self) -> bool {
        self.authorities.iter().any(|one| other.authorities.iter().any(|other| one.is_twin(other)))
    }
}

/// A file, and the lists in it.
pub(super) type ListFile = (PathBuf, Vec<Arc<List>>);

/// A chain that is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The configured name of the CA that it ends in.
    pub ca: Arc<str>,
    /// When the first certificate of its path ends, in seconds since 1970.
    pub not_after: u64,
}

impl ClientTrust {
    /// Reads the client CAs and their revocation lists.
    ///
    /// With revocation lists, a certificate whose issuer has none is refused, and so is everybody
    /// under lists that have all ended: a list that is missing or old says nothing. Therefore
    /// each CA needs a list from the start, signed with its key.
    ///
    /// What is out of date is no mistake, as long as one CA can let anybody in: see
    /// [`Self::stale`].
    ///
    /// # Errors
    /// Everything that is wrong with the files, each with its path.
    pub fn load(downstream: &Downstream) -> Result<Self, TlsErrors> {
        Self::of_read(downstream, &Files::read(downstream.trust_files(), MAX_BYTES))
    }

    /// As [`Self::load`], of what was read of the files.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn of_read(downstream: &Downstream, files: &Files) -> Result<Self, TlsErrors> {
        let (trust, mistakes) = Self::build(downstream, files, None)?;
        if mistakes.0.is_empty() { Ok(trust) } else { Err(mistakes) }
    }

    /// What follows these when the files have changed. A file with a mistake has what it had
    /// before: it is in the way of no other. The mistakes come with it. What the files say
    /// together is as much an error of one element alone: a CA that a list in date is missing of
    /// lets in no client, a list that another key has signed is left out, a CA whose list was
    /// replaced by another CA's keeps the list, and a file that repeats another's CA what it had.
    ///
    /// # Errors
    /// None today: nothing follows.
    pub fn renewed(
        &self,
        downstream: &Downstream,
        files: &Files,
    ) -> Result<(Self, TlsErrors), TlsErrors> {
        Self::build(downstream, files, Some(self))
    }

    fn build(
        downstream: &Downstream,
        files: &Files,
        before: Option<&Self>,
    ) -> Result<(Self, TlsErrors), TlsErrors> {
        let mut reader = Reader::of(files);
        let mut cas = client_cas(&mut reader, downstream, before);
        let mut lists = lists(&mut reader, downstream, before);
        let mut told = std::mem::take(&mut reader.mistakes);
        match before {
            None if !told.is_empty() => return Err(TlsErrors(told)),
            None => no_ca_twice(&mut reader, &cas),
            Some(before) => keep_cas(&mut reader, &mut cas, before),
        }
        if !downstream.crl_files.is_empty() {
            reader.each_ca_has_a_list(&cas, &lists);
            if let Some(before) = before {
                leave_out_lists_of_other_keys(&cas, &mut lists);
                keep_lists(&cas, &mut lists, &before.lists);
                keep_later(&mut reader, &cas, &mut lists, &before.lists);
            }
        }
        let all = Lists(lists.iter().flat_map(|(_, lists)| lists).cloned().collect());
        let judged_by = (!downstream.crl_files.is_empty()).then_some(all);
        let now = UnixTime::now();
        let may_let_in = |authority: &Authority| {
            authority.is_in_date(now)
                && judged_by
                    .as_ref()
                    .is_none_or(|lists| lists.has_current_of(authority.subject(), now))
        };
        if !cas.iter().flat_map(|ca| &ca.authorities).any(may_let_in) {
            reader.mistakes.append(&mut reader.stale);
        }
        told.append(&mut reader.mistakes);
        // At a reload each of these concerns its own element, which is refused in each handshake or
        // is what it was before: the other files are in effect.
        if before.is_none() && !told.is_empty() {
            return Err(TlsErrors(told));
        }
        let hints = cas
            .iter()
            .flat_map(|ca| &ca.authorities)
            .map(|authority| DistinguishedName::in_sequence(authority.subject()))
            .collect();
        let algorithms = provider().signature_verification_algorithms;
        Ok((
            Self {
                cas,
                lists,
                judged_by,
                hints,
                algorithms,
                expiries: reader.expiries,
                stale: reader.stale,
            },
            TlsErrors(told),
        ))
    }

    /// Whether a client CA has this name (DER).
    #[must_use]
    pub fn has_ca_called(&self, name: &[u8]) -> bool {
        self.hints.iter().any(|subject| subject.as_ref() == name)
    }

    /// What is out of date: CAs whose clients are refused, and lists that say nothing any more.
    #[must_use]
    pub fn stale(&self) -> &[TlsError] {
        &self.stale
    }

    /// What a handshake would say of this chain now: the leaf first, then what the client sent with
    /// it.
    ///
    /// # Errors
    /// Why the client would be refused.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Proved, HandshakeFailure> {
        self.verify_at(chain, UnixTime::now())
    }

    /// As [`Self::verify`], at another time.
    ///
    /// # Errors
    /// Why the client would be refused then.
    pub fn verify_at(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Proved, HandshakeFailure> {
        let (leaf, others) = chain.split_first().ok_or(HandshakeFailure::NoCertificate)?;
        self.prove(leaf, others, now).map_err(|error| of_tls(&of_webpki(error)))
    }

    /// Each CA is asked by itself, in the configured order, with everything that a handshake asks,
    /// so that the name is of one that lets the client in.
    pub(super) fn prove(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Proved, webpki::Error> {
        let (usage, algorithms) = (webpki::KeyUsage::client_auth(), self.algorithms.all);
        let judge = Judge { algorithms, usage, lists: self.judged_by.as_ref(), now };
        let mut why = webpki::Error::UnknownIssuer;
        for ca in &self.cas {
            match judge.prove(leaf, others, &ca.authorities) {
                Ok(not_after) => return Ok(Proved { ca: Arc::clone(&ca.name), not_after }),
                // What the client's own CA says is of more use than that another does not know it.
                Err(error) if why == webpki::Error::UnknownIssuer => why = error,
                Err(_) => {}
            }
        }
        Err(why)
    }

    /// When the CAs and the revocation lists end.
    #[must_use]
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
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.prove(end_entity, intermediates, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(of_webpki)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn client_cas(
    reader: &mut Reader<'_>,
    downstream: &Downstream,
    before: Option<&ClientTrust>,
) -> Vec<NamedCa> {
    let had = |file: &Path| {
        before?.cas.iter().find(|ca| ca.file == file).map(|ca| ca.authorities.clone())
    };
    let read = downstream.client_cas.iter().filter_map(|ca| {
        let authorities = reader
            .authorities(&ca.file, Expiring::ClientCa, Side::Client)
            .or_else(|| had(&ca.file))?;
        Some(NamedCa { name: Arc::clone(&ca.name), file: ca.file.clone(), authorities })
    });
    read.collect()
}

/// The lists of each file. One whose lists have all ended is as one with a mistake where the lists
/// that it had before have not: an old copy must not shut out everybody.
fn lists(
    reader: &mut Reader<'_>,
    downstream: &Downstream,
    before: Option<&ClientTrust>,
) -> Vec<ListFile> {
    let now = UnixTime::now();
    let in_date = |lists: &[Arc<List>]| lists.iter().any(|list| list.is_in_date(now));
    let had = |file: &PathBuf| {
        before?.lists.iter().find(|(of, _)| of == file).map(|(_, lists)| lists.clone())
    };
    let read = downstream.crl_files.iter().filter_map(|file| {
        let lists = match (reader.revocation_lists(file), had(file)) {
            (Some(lists), Some(had)) if !in_date(&lists) && in_date(&had) => had,
            (Some(lists), _) => lists,
            (None, had) => had?,
        };
        Some((file.clone(), lists))
    });
    read.collect()
}

/// One CA under two names would make `ca:` in a binding a matter of order.
fn no_ca_twice(reader: &mut Reader<'_>, cas: &[NamedCa]) {
    for (ca, other) in twins(cas) {
        reader.mistake(&ca.file, twice(ca, other));
    }
}

/// Each pair of names that have a certificate in common, the later name first.
fn twins(cas: &[NamedCa]) -> impl Iterator<Item = (&NamedCa, &NamedCa)> {
    cas.iter()
        .enumerate()
        .filter_map(|(at, ca)| Some((ca, cas.iter().take(at).find(|other| ca.shares_with(other))?)))
}

fn twice(ca: &NamedCa, other: &NamedCa) -> String {
    let (name, other) = (&ca.name, &other.name);
    format!(
        "CA `{name}` has a certificate that CA `{other}` has too: each name needs a CA of its own"
    )
}

/// At a reload: where no CA is in date any more, and where a file has gained a certificate that
/// another name has, CA files keep what they had.
fn keep_cas(reader: &mut Reader<'_>, cas: &mut Vec<NamedCa>, before: &ClientTrust) {
    let had =
        |ca: &NamedCa| before.cas.iter().find(|had| had.file == ca.file && had.name == ca.name);
    let now = UnixTime::now();
    if !cas.iter().flat_map(|ca| &ca.authorities).any(|authority| authority.is_in_date(now)) {
        reader.mistakes.append(&mut reader.stale);
        before.cas.clone_into(cas);
        return;
    }
    // What was there before has no twins, so that each pass brings one file nearer to it.
    for _ in 0..cas.len() {
        let gained =
            |ca: &NamedCa, other: &NamedCa| had(ca).is_none_or(|had| !had.shares_with(other));
        let Some((ca, other)) = twins(cas)
            .next()
            .map(|(ca, other)| if gained(ca, other) { (ca, other) } else { (other, ca) })
        else {
            return;
        };
        reader.mistake(&ca.file, twice(ca, other));
        let (file, kept) =
            (ca.file.clone(), had(ca).map(|had| had.authorities.clone()).unwrap_or_default());
        cas.iter_mut().filter(|ca| ca.file == file).for_each(|ca| ca.authorities.clone_from(&kept));
    }
}

/// webpki looks at the first list that fits a certificate: one that is not signed by its issuer
/// would be in the way of the right one. A list of no client CA is one of an intermediate CA, which
/// is proved in each handshake.
fn leave_out_lists_of_other_keys(cas: &[NamedCa], lists: &mut [ListFile]) {
    for (_, lists) in lists {
        lists.retain(|list| !is_of_another_key(cas, list));
    }
}

/// Whether a client CA has the name of the list's issuer, and none of that name has signed it.
fn is_of_another_key(cas: &[NamedCa], list: &List) -> bool {
    let mut named = cas
        .iter()
        .flat_map(|ca| &ca.authorities)
        .filter(|ca| ca.subject() == list.issuer())
        .peekable();
    named.peek().is_some() && !named.any(|ca| list.is_signed_by(ca))
}

/// A list in date that was in effect is not replaced by one that was issued before it: whoever puts
/// an old file in place, or a copy that was late, would bring back who was revoked in between. One
/// that another key has signed is of another CA with that name, whose numbers begin anew.
fn keep_later(
    reader: &mut Reader<'_>,
    cas: &[NamedCa],
    lists: &mut [ListFile],
    before: &[ListFile],
) {
    let now = UnixTime::now();
    for (file, had) in before {
        for had in had.iter().filter(|had| had.is_in_date(now) && !is_of_another_key(cas, had)) {
            // The lists of a client CA are all signed with its key; those of intermediate CAs say
            // so.
            let is_known =
                cas.iter().flat_map(|ca| &ca.authorities).any(|ca| ca.subject() == had.issuer());
            let all =
                lists.iter().flat_map(|(file, lists)| lists.iter().map(move |list| (file, list)));
            let mut its = all.filter(|(_, list)| is_known || list.may_be_by_key_of(had));
            let Some((place, older)) = its.clone().find(|(_, list)| list.is_older_than(had)) else {
                continue;
            };
            if !its.any(|(_, list)| list.follows(had)) {
                reader.mistake(place, older.older_than(had));
                lists
                    .iter_mut()
                    .filter(|(of, _)| of == file)
                    .for_each(|(_, lists)| lists.push(Arc::clone(had)));
            }
        }
    }
}

/// A CA that has lost its lists in date keeps those that it had, each in its file.
fn keep_lists(cas: &[NamedCa], lists: &mut [ListFile], before: &[ListFile]) {
    let now = UnixTime::now();
    for authority in cas.iter().flat_map(|ca| &ca.authorities) {
        let speaks = |list: &&Arc<List>| list.is_in_date(now) && list.speaks_for(authority);
        if lists.iter().flat_map(|(_, lists)| lists).any(|list| speaks(&list)) {
            continue;
        }
        for (file, lists) in &mut *lists {
            let had = before.iter().filter(|(of, _)| of == file).flat_map(|(_, had)| had);
            lists.extend(had.filter(speaks).cloned());
        }
    }
}
