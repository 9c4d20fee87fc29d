//! Certificates and keys, from files to proven values; revocation lists are read in `revocation`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate, X509Version};

use super::authority::Authority;
use super::{Expiring, Expiry, TlsError, TlsErrors, provider};
use crate::files::Files;

/// Bytes that a file may have. The largest revocation lists in use have some megabytes.
pub const MAX_BYTES: u64 = 64 << 20;

/// Proves what files hold, and notes what is wrong with them. `None` always means that a mistake
/// was noted.
pub(super) struct Reader<'f> {
    files: &'f Files,
    pub(super) mistakes: Vec<TlsError>,
    /// What is out of date, and in the way of nothing else.
    pub(super) stale: Vec<TlsError>,
    pub(super) expiries: Vec<Expiry>,
}

/// Which side of a handshake a certificate is for.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Server,
    Client,
}

/// Reads a client certificate and its key, for tools that connect with them.
///
/// # Errors
/// What is wrong with the files, or why rustls cannot use them.
pub fn client_identity(chain: &Path, key: &Path) -> Result<CertifiedKey, TlsErrors> {
    let files = Files::read([chain, key], MAX_BYTES);
    let mut reader = Reader::of(&files);
    match reader.identity(chain, key, Side::Client) {
        Some(certified) if reader.mistakes.is_empty() => Ok(certified),
        _ => Err(TlsErrors(reader.mistakes)),
    }
}

impl<'f> Reader<'f> {
    /// For what was read of these files.
    pub(super) fn of(files: &'f Files) -> Self {
        Self { files, mistakes: Vec::new(), stale: Vec::new(), expiries: Vec::new() }
    }

    /// A certificate chain and its key, proven to belong together and, when no mistake was noted,
    /// to be in date.
    pub(super) fn identity(
        &mut self,
        chain_path: &Path,
        key_path: &Path,
        side: Side,
    ) -> Option<CertifiedKey> {
        let chain = self.certificates(chain_path);
        let key = self.private_key(key_path);
        let (chain, key) = (chain?, key?);
        self.leaf(chain_path, chain.first()?, side)?;
        match CertifiedKey::from_der(chain, key, &provider()) {
            Ok(certified) => Some(certified),
            Err(rustls::Error::InconsistentKeys(_)) => self.refuse(
                key_path,
                format!("is not the key of the certificate in `{}`", chain_path.display()),
            ),
            Err(error) => self.refuse(key_path, format!("is not a usable key: {error}")),
        }
    }

    /// The certificates of one CA file, at least one, each of a CA that may vouch for this side.
    /// One that is out of date is noted as stale: it vouches for nothing, and is in the way of
    /// no other.
    pub(super) fn authorities(
        &mut self,
        path: &Path,
        what: Expiring,
        side: Side,
    ) -> Option<Vec<Authority>> {
        let certificates = self.certificates(path)?;
        let before = self.mistakes.len();
        let mut authorities = Vec::new();
        for (index, der) in certificates.iter().enumerate() {
            let number = index + 1;
            let Ok((_, certificate)) = X509Certificate::from_der(der) else {
                self.mistake(path, format!("certificate {number} cannot be read"));
                continue;
            };
            let name = format!("certificate {number} (`{}`)", certificate.subject());
            // A certificate of version 1 cannot say that it is a CA's.
            if certificate.version() == X509Version::V3 && !certificate.is_ca() {
                self.mistake(path, format!("{name} is not a CA certificate"));
            }
            if !matches!(certificate.key_usage(), Ok(usage) if usage.as_ref().is_none_or(|usage| usage.value.key_cert_sign()))
            {
                self.mistake(
                    path,
                    format!(
                        "{name} may not sign certificates (its key usage lacks `keyCertSign`): etcd refuses all that it has issued, too"
                    ),
                );
            }
            self.usage(path, &name, &certificate, side);
            if let Err(why) = self.in_date(&certificate, what) {
                self.stale
                    .push(TlsError { path: path.to_owned(), message: format!("{name} {why}") });
            }
            match Authority::of(der, &certificate) {
                Some(authority) => authorities.push(authority),
                None => self.mistake(path, format!("{name} cannot be used as a trust anchor")),
            }
        }
        (self.mistakes.len() == before).then_some(authorities)
    }

    pub(super) fn mistake(&mut self, path: &Path, message: String) {
        self.mistakes.push(TlsError { path: path.to_owned(), message });
    }

    /// A mistake that leaves no value.
    pub(super) fn refuse<T>(&mut self, path: &Path, message: String) -> Option<T> {
        self.mistake(path, message);
        None
    }

    /// The certificate that a peer will see: in date, and meant for its side. `None` when it cannot
    /// be read at all.
    fn leaf(&mut self, path: &Path, der: &CertificateDer<'_>, side: Side) -> Option<()> {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return self.refuse(path, "the first certificate cannot be read".into());
        };
        let what = match side {
            Side::Server => Expiring::Server,
            Side::Client => Expiring::UpstreamClient,
        };
        if let Err(why) = self.in_date(&certificate, what) {
            self.mistake(path, format!("the certificate {why}"));
        }
        self.usage(path, "the certificate", &certificate, side);
        Some(())
    }

    /// A leaf's extended key usage, and that of each CA above it, has to name what the leaf is for,
    /// where there is one.
    fn usage(&mut self, path: &Path, name: &str, certificate: &X509Certificate<'_>, side: Side) {
        let Ok(usages) = certificate.extended_key_usage() else {
            return self.mistake(path, format!("{name}: its extended key usage cannot be read"));
        };
        let (usage, named) = match side {
            Side::Server => {
                ("serverAuth", usages.as_ref().is_none_or(|usages| usages.value.server_auth))
            }
            Side::Client => {
                ("clientAuth", usages.as_ref().is_none_or(|usages| usages.value.client_auth))
            }
        };
        if !named && !usages.is_some_and(|usages| usages.value.any) {
            self.mistake(
                path,
                format!(
                    "{name}: its extended key usage does not name `{usage}`: peers would refuse it"
                ),
            );
        }
    }

    /// # Errors
    /// When it ended, or begins.
    fn in_date(&mut self, certificate: &X509Certificate<'_>, what: Expiring) -> Result<(), String> {
        let (not_before, not_after) =
            (time(certificate.validity().not_before), time(certificate.validity().not_after));
        self.expiries.push(Expiry { what, not_after });
        let now = SystemTime::now();
        if not_after < now {
            Err(format!("expired on {}", date(not_after)))
        } else if now < not_before {
            Err(format!(
                "is not valid before {}: look at this machine's clock, too",
                date(not_before)
            ))
        } else {
            Ok(())
        }
    }

    fn certificates(&mut self, path: &Path) -> Option<Vec<CertificateDer<'static>>> {
        let bytes = self.bytes(path)?;
        let sections = self.sections(path, bytes)?;
        let found: Vec<CertificateDer<'static>> = sections
            .iter()
            .filter(|(kind, _)| *kind == SectionKind::Certificate)
            .map(|(_, der)| der.clone().into())
            .collect();
        if found.is_empty() {
            self.refuse(path, "holds no certificate (`-----BEGIN CERTIFICATE-----`)".into())
        } else {
            Some(found)
        }
    }

    fn private_key(&mut self, path: &Path) -> Option<PrivateKeyDer<'static>> {
        let bytes = self.bytes(path)?;
        let contains = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        if contains(b"BEGIN ENCRYPTED PRIVATE KEY") || contains(b"Proc-Type: 4,ENCRYPTED") {
            return self
                .refuse(path, "holds an encrypted key: there is nobody to ask for its password, so decrypt it (`openssl pkey`)".into());
        }
        let sections = self.sections(path, bytes)?;
        let mut keys =
            sections.into_iter().filter_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
        match (keys.next(), keys.next()) {
            (Some(key), None) => Some(key),
            (None, _) => {
                self.refuse(path, "holds no private key (`-----BEGIN PRIVATE KEY-----`)".into())
            }
            (Some(_), Some(_)) => self.refuse(
                path,
                "holds more than one private key: leave the one that is meant".into(),
            ),
        }
    }

    pub(super) fn sections(
        &mut self,
        path: &Path,
        bytes: &[u8],
    ) -> Option<Vec<(SectionKind, Vec<u8>)>> {
        if is_der(bytes) {
            return self.refuse(path, "is DER, not PEM: convert it (`openssl x509 -inform der`, or `openssl pkey -inform der`)".into());
        }
        match <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).collect::<Result<_, pem::Error>>() {
            Ok(sections) => Some(sections),
            Err(error) => self.refuse(path, format!("is not PEM: {}", pem_mistake(&error))),
        }
    }

    pub(super) fn bytes(&mut self, path: &Path) -> Option<&'f [u8]> {
        match self.files.bytes(path) {
            Ok([]) => self.refuse(path, "is empty".into()),
            Ok(bytes) => Some(bytes),
            Err(why) => self.refuse(path, why.to_string()),
        }
    }
}

/// Whether these bytes are DER: they begin as an ASN.1 SEQUENCE of more than 127 bytes, and no PEM
/// file begins so.
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
