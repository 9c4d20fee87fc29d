//! TLS towards clients: a client certificate is required, and must come from one of the named CAs.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::material::{Reader, Side};
use super::{ALPN_H2, Expiring, Expiry, TlsErrors, provider};
use crate::config::{ClientCa, Downstream};

/// What every handshake with a client uses, proven sound.
#[derive(Debug)]
pub struct ServerTls {
    config: Arc<rustls::ServerConfig>,
    cas: Vec<NamedCa>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    expiries: Vec<Expiry>,
}

#[derive(Debug)]
struct NamedCa {
    name: Arc<str>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl ServerTls {
    /// Reads all files of the listener.
    ///
    /// With revocation lists, a certificate whose issuer has none is refused, and so is everybody under a list that has ended: a
    /// list that is missing or old says nothing. Therefore each CA needs a list in date from the start.
    ///
    /// # Errors
    /// Everything that is wrong with the files, each with its path.
    pub fn load(downstream: &Downstream) -> Result<Self, TlsErrors> {
        let mut reader = Reader::default();
        let certified = reader.identity(&downstream.cert_file, &downstream.key_file, Side::Server);
        let cas = client_cas(&mut reader, &downstream.client_cas);
        let lists = downstream.crl_files.iter().filter_map(|path| reader.revocation_lists(path)).flatten().collect::<Vec<_>>();
        if reader.mistakes.is_empty() && !downstream.crl_files.is_empty() {
            each_ca_has_a_list(&mut reader, &cas, &lists);
        }
        if let (Some(certified), true) = (certified, reader.mistakes.is_empty()) {
            let provider = provider();
            let algorithms = provider.signature_verification_algorithms.all;
            match config(certified, &cas, lists, provider) {
                Ok(config) => {
                    let cas = cas
                        .iter()
                        .map(|(ca, certificates)| NamedCa { name: Arc::clone(&ca.name), anchors: anchors(certificates) })
                        .collect();
                    return Ok(Self { config: Arc::new(config), cas, algorithms, expiries: reader.expiries });
                }
                Err(message) => reader.mistake(&downstream.cert_file, message),
            }
        }
        Err(TlsErrors(reader.mistakes))
    }

    /// For rustls. A handshake that ends well has verified a chain (see [`Self::issuing_ca`]), but not that the client asked for
    /// ALPN `h2`: one that asks for no protocol at all is let through by TLS (RFC 7301, 3.2).
    #[must_use]
    pub fn rustls_config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.config)
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

    /// When the server's certificate, the client CAs and the revocation lists end.
    #[must_use]
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }
}

type CaFile<'a> = (&'a ClientCa, Vec<CertificateDer<'static>>);

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

fn each_ca_has_a_list(reader: &mut Reader, cas: &[CaFile<'_>], lists: &[CertificateRevocationListDer<'static>]) {
    let issuer = |der| CertificateRevocationList::from_der(der).map(|(_, list)| list.issuer().as_raw().to_vec()).ok();
    let issuers: HashSet<Vec<u8>> = lists.iter().filter_map(|der: &CertificateRevocationListDer<'static>| issuer(der)).collect();
    for (ca, certificates) in cas {
        for der in certificates {
            if let Ok((_, certificate)) = X509Certificate::from_der(der)
                && !issuers.contains(certificate.subject().as_raw())
            {
                let subject = certificate.subject();
                reader.mistake(
                    &ca.file,
                    format!(
                        "no revocation list of CA `{}` (`{subject}`) is in `client-crl-file`: all its clients would be refused",
                        ca.name
                    ),
                );
            }
        }
    }
}

fn config(
    certified: rustls::sign::CertifiedKey,
    cas: &[CaFile<'_>],
    lists: Vec<CertificateRevocationListDer<'static>>,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<rustls::ServerConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.extend(cas.iter().flat_map(|(_, certificates)| anchors(certificates)));
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .with_crls(lists)
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| format!("the client CAs or revocation lists cannot be used: {error}"))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| format!("TLS 1.2 and 1.3 cannot be set up: {error}"))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // A resumed session does not verify the client's certificate again, so that it would outlive its revocation, its end, and the
    // removal of its CA. Connections to etcd live long: a full handshake for each costs little.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn anchors(certificates: &[CertificateDer<'static>]) -> Vec<TrustAnchor<'static>> {
    certificates.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok().map(|anchor| anchor.to_owned())).collect()
}
