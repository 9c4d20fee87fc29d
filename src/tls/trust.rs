//! Whom the listener lets in: the client CAs and their revocation lists, and the one judge of a client's chain.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};

use super::failure;
use super::material::Reader;
use super::{Expiring, Expiry, HandshakeFailure, TlsErrors, provider};
use crate::config::{ClientCa, Downstream};

/// The client CAs and their revocation lists, proven sound.
#[derive(Debug)]
pub struct ClientTrust {
    verifier: Arc<dyn ClientCertVerifier>,
    cas: Vec<NamedCa>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    expiries: Vec<Expiry>,
}

#[derive(Debug)]
struct NamedCa {
    name: Arc<str>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl ClientTrust {
    /// Reads the client CAs and their revocation lists.
    ///
    /// With revocation lists, a certificate whose issuer has none is refused, and so is everybody under a list that has ended: a
    /// list that is missing or old says nothing. Therefore each CA needs a list in date from the start, signed with its key.
    ///
    /// # Errors
    /// Everything that is wrong with the files, each with its path.
    pub fn load(downstream: &Downstream) -> Result<Self, TlsErrors> {
        let mut reader = Reader::default();
        let cas = client_cas(&mut reader, &downstream.client_cas);
        let lists = downstream.crl_files.iter().filter_map(|path| reader.revocation_lists(path)).flatten().collect::<Vec<_>>();
        if reader.mistakes.is_empty() && !downstream.crl_files.is_empty() {
            reader.each_ca_has_a_list(&cas, &lists);
        }
        if !reader.mistakes.is_empty() {
            return Err(TlsErrors(reader.mistakes));
        }
        let mut roots = RootCertStore::empty();
        roots.extend(cas.iter().flat_map(|(_, certificates)| anchors(certificates)));
        let provider = provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .with_crls(lists)
            .enforce_revocation_expiration()
            .build();
        match verifier {
            Ok(verifier) => {
                let named = |(ca, certificates): &CaFile<'_>| NamedCa { name: Arc::clone(&ca.name), anchors: anchors(certificates) };
                let cas = cas.iter().map(named).collect();
                let algorithms = provider.signature_verification_algorithms.all;
                Ok(Self { verifier, cas, algorithms, expiries: reader.expiries })
            }
            Err(error) => {
                let path = downstream.crl_files.first().or(downstream.client_cas.first().map(|ca| &ca.file));
                let path = path.map_or_else(|| "client CAs".as_ref(), std::path::PathBuf::as_path);
                reader.mistake(path, format!("the client CAs or revocation lists cannot be used: {error}"));
                Err(TlsErrors(reader.mistakes))
            }
        }
    }

    /// For rustls.
    #[must_use]
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier)
    }

    /// Whether a client CA has this name (DER).
    #[must_use]
    pub fn has_ca_called(&self, name: &[u8]) -> bool {
        self.verifier.root_hint_subjects().iter().any(|subject| subject.as_ref() == name)
    }

    /// What a handshake would say of this chain now: the leaf first, then what the client sent with it.
    ///
    /// # Errors
    /// Why the client would be refused.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), HandshakeFailure> {
        let (leaf, intermediates) = chain.split_first().ok_or(HandshakeFailure::NoCertificate)?;
        let verified = self.verifier.verify_client_cert(leaf, intermediates, UnixTime::now());
        verified.map(drop).map_err(|error| failure::of_tls(&error))
    }

    /// The name of the CA that a chain ends in: the leaf first, then what the client sent with it, as TLS has just verified them.
    /// With more than one CA, the path is built again, against one CA at a time, in the configured order; revocation needs no second
    /// look. `None`: no CA's path holds (any more).
    #[must_use]
    pub fn issuing_ca(&self, chain: &[CertificateDer<'_>]) -> Option<Arc<str>> {
        if let [only] = self.cas.as_slice() {
            return Some(Arc::clone(&only.name));
        }
        let (leaf, intermediates) = chain.split_first()?;
        let leaf = webpki::EndEntityCert::try_from(leaf).ok()?;
        let issued = |ca: &&NamedCa| {
            let usage = webpki::KeyUsage::client_auth();
            leaf.verify_for_usage(self.algorithms, &ca.anchors, intermediates, UnixTime::now(), usage, None, None).is_ok()
        };
        self.cas.iter().find(issued).map(|ca| Arc::clone(&ca.name))
    }

    /// When the CAs and the revocation lists end.
    #[must_use]
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }
}

pub(super) type CaFile<'a> = (&'a ClientCa, Vec<CertificateDer<'static>>);

fn client_cas<'a>(reader: &mut Reader, cas: &'a [ClientCa]) -> Vec<CaFile<'a>> {
    let mut read: Vec<CaFile<'a>> = Vec::new();
    for ca in cas {
        let Some(certificates) = reader.authorities(&ca.file, Expiring::ClientCa) else { continue };
        // One CA under two names would make `ca:` in a binding a matter of order.
        let twin = read
            .iter()
            .find(|(_, others)| certificates.iter().any(|certificate| others.iter().any(|other| same_authority(certificate, other))));
        if let Some((other, _)) = twin {
            reader.mistake(
                &ca.file,
                format!("CA `{}` has a certificate that CA `{}` has too: each name needs a CA of its own", ca.name, other.name),
            );
        }
        read.push((ca, certificates));
    }
    read
}

/// Whether two certificates stand for one CA: the same name with the same key.
fn same_authority(a: &CertificateDer<'_>, b: &CertificateDer<'_>) -> bool {
    let anchor =
        |der| webpki::anchor_from_trusted_cert(der).ok().map(|anchor| (anchor.subject.to_vec(), anchor.subject_public_key_info.to_vec()));
    anchor(a).is_some_and(|a| anchor(b).is_some_and(|b| a == b))
}

fn anchors(certificates: &[CertificateDer<'static>]) -> Vec<TrustAnchor<'static>> {
    certificates.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok().map(|anchor| anchor.to_owned())).collect()
}
