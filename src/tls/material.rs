//! Certificates and keys, from files to proven values; revocation lists are read in `revocation`.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate, X509Version};

use super::{Expiring, Expiry, TlsError, provider};

/// Bytes that a file may have. The largest revocation lists in use have some megabytes.
const MAX_BYTES: u64 = 64 << 20;

/// Reads files, and notes what is wrong with them. `None` always means that a mistake was noted.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) mistakes: Vec<TlsError>,
    pub(super) expiries: Vec<Expiry>,
}

/// Which side of a handshake a certificate is for.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Server,
    Client,
}

impl Reader {
    /// A certificate chain and its key, proven to belong together and, when no mistake was noted, to be in date.
    pub(super) fn identity(&mut self, chain_path: &Path, key_path: &Path, side: Side) -> Option<CertifiedKey> {
        let chain = self.certificates(chain_path);
        let key = self.private_key(key_path);
        let (chain, key) = (chain?, key?);
        self.leaf(chain_path, chain.first()?, side)?;
        match CertifiedKey::from_der(chain, key, &provider()) {
            Ok(certified) => Some(certified),
            Err(rustls::Error::InconsistentKeys(_)) => {
                self.refuse(key_path, format!("is not the key of the certificate in `{}`", chain_path.display()))
            }
            Err(error) => self.refuse(key_path, format!("is not a usable key: {error}")),
        }
    }

    /// The certificates of one CA file, at least one, each a CA's and in date.
    pub(super) fn authorities(&mut self, path: &Path, what: Expiring) -> Option<Vec<CertificateDer<'static>>> {
        let certificates = self.certificates(path)?;
        let before = self.mistakes.len();
        for (index, der) in certificates.iter().enumerate() {
            let number = index + 1;
            let Ok((_, certificate)) = X509Certificate::from_der(der) else {
                self.mistake(path, format!("certificate {number} cannot be read"));
                continue;
            };
            // A certificate of version 1 cannot say that it is a CA's.
            if certificate.version() == X509Version::V3 && !certificate.is_ca() {
                self.mistake(path, format!("certificate {number} (`{}`) is not a CA certificate", certificate.subject()));
            }
            self.in_date(path, &format!("certificate {number} (`{}`)", certificate.subject()), &certificate, what);
            if webpki::anchor_from_trusted_cert(der).is_err() {
                self.mistake(path, format!("certificate {number} (`{}`) cannot be used as a trust anchor", certificate.subject()));
            }
        }
        (self.mistakes.len() == before).then_some(certificates)
    }

    pub(super) fn mistake(&mut self, path: &Path, message: String) {
        self.mistakes.push(TlsError { path: path.to_owned(), message });
    }

    /// A mistake that leaves no value.
    pub(super) fn refuse<T>(&mut self, path: &Path, message: String) -> Option<T> {
        self.mistake(path, message);
        None
    }

    /// The certificate that a peer will see: in date, and meant for its side. `None` when it cannot be read at all.
    fn leaf(&mut self, path: &Path, der: &CertificateDer<'_>, side: Side) -> Option<()> {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return self.refuse(path, "the first certificate cannot be read".into());
        };
        let (what, usage) = match side {
            Side::Server => (Expiring::Server, "serverAuth"),
            Side::Client => (Expiring::UpstreamClient, "clientAuth"),
        };
        self.in_date(path, "the certificate", &certificate, what);
        match certificate.extended_key_usage() {
            Err(_) => self.mistake(path, "the certificate's extended key usage cannot be read".into()),
            Ok(Some(usages)) => {
                let usages = usages.value;
                let named = match side {
                    Side::Server => usages.server_auth,
                    Side::Client => usages.client_auth,
                };
                if !named && !usages.any {
                    self.mistake(path, format!("the certificate's extended key usage does not name `{usage}`: peers would refuse it"));
                }
            }
            Ok(None) => {}
        }
        Some(())
    }

    fn in_date(&mut self, path: &Path, name: &str, certificate: &X509Certificate<'_>, what: Expiring) {
        let (not_before, not_after) = (time(certificate.validity().not_before), time(certificate.validity().not_after));
        self.expiries.push(Expiry { what, not_after });
        let now = SystemTime::now();
        if not_after < now {
            self.mistake(path, format!("{name} expired on {}", date(not_after)));
        } else if now < not_before {
            self.mistake(path, format!("{name} is not valid before {}: look at this machine's clock, too", date(not_before)));
        }
    }

    fn certificates(&mut self, path: &Path) -> Option<Vec<CertificateDer<'static>>> {
        let bytes = self.bytes(path)?;
        let sections = self.sections(path, &bytes)?;
        let found: Vec<CertificateDer<'static>> =
            sections.iter().filter(|(kind, _)| *kind == SectionKind::Certificate).map(|(_, der)| der.clone().into()).collect();
        if found.is_empty() { self.refuse(path, "holds no certificate (`-----BEGIN CERTIFICATE-----`)".into()) } else { Some(found) }
    }

    fn private_key(&mut self, path: &Path) -> Option<PrivateKeyDer<'static>> {
        let bytes = self.bytes(path)?;
        let contains = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        if contains(b"BEGIN ENCRYPTED PRIVATE KEY") || contains(b"Proc-Type: 4,ENCRYPTED") {
            return self
                .refuse(path, "holds an encrypted key: there is nobody to ask for its password, so decrypt it (`openssl pkey`)".into());
        }
        let sections = self.sections(path, &bytes)?;
        let mut keys = sections.into_iter().filter_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
        match (keys.next(), keys.next()) {
            (Some(key), None) => Some(key),
            (None, _) => self.refuse(path, "holds no private key (`-----BEGIN PRIVATE KEY-----`)".into()),
            (Some(_), Some(_)) => self.refuse(path, "holds more than one private key: leave the one that is meant".into()),
        }
    }

    pub(super) fn sections(&mut self, path: &Path, bytes: &[u8]) -> Option<Vec<(SectionKind, Vec<u8>)>> {
        if is_der(bytes) {
            return self.refuse(path, "is DER, not PEM: convert it (`openssl x509 -inform der`, or `openssl pkey -inform der`)".into());
        }
        match <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).collect::<Result<_, pem::Error>>() {
            Ok(sections) => Some(sections),
            Err(error) => self.refuse(path, format!("is not PEM: {}", pem_mistake(&error))),
        }
    }

    pub(super) fn bytes(&mut self, path: &Path) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        match fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)) {
            Ok(0) => self.refuse(path, "is empty".into()),
            Ok(_) if bytes.len() as u64 > MAX_BYTES => self.refuse(path, "is larger than 64 MiB".into()),
            Ok(_) => Some(bytes),
            Err(error) => self.refuse(path, crate::config::unreadable(path, &error)),
        }
    }
}

/// Whether these bytes are DER: they begin as an ASN.1 SEQUENCE of more than 127 bytes, and no PEM file begins so.
pub(super) fn is_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x81..=0x84, ..])
}

/// The mistake in words that hold nothing of the file: it may be a key.
fn pem_mistake(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end line (`-----END ...-----`)",
        pem::Error::IllegalSectionStart { .. } => "a section's first line is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be read",
    }
}

/// Times before 1970 are shown as 1970: long past is all that matters of them.
pub(super) fn time(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

pub(super) fn date(time: SystemTime) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(time)
}
