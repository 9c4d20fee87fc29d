//! Reads certificates and keys and checks them. `revocation` reads revocation lists.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate, X509Version};

use super::authority::Authority;
use super::{Expiring, Expiry, TlsError, TlsErrors, provider};
use crate::files::Files;

/// Most bytes of a file. The largest revocation lists in use have some megabytes.
pub const MAX_BYTES: u64 = 64 << 20;

/// Checks the content of files and collects the errors. A method that returns `None` has added an
/// error.
pub(super) struct CertificateReader<'f> {
    files: &'f Files,
    pub(super) errors: Vec<TlsError>,
    /// CAs and revocation lists that have expired or are not valid yet. The caller decides whether
    /// these are errors: usually they are only if nothing else is left.
    pub(super) expired: Vec<TlsError>,
    pub(super) expiries: Vec<Expiry>,
}

/// The side of a handshake that presents a certificate.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Server,
    Client,
}

/// Reads a client certificate and its key, for tools that connect with them.
///
/// # Errors
/// All errors in the files, or why rustls cannot use them.
pub fn client_identity(chain: &Path, key: &Path) -> Result<CertifiedKey, TlsErrors> {
    let files = Files::read([chain, key], MAX_BYTES);
    let mut reader = CertificateReader::new(&files);
    match reader.identity(chain, key, Side::Client) {
        Some(certified) if reader.errors.is_empty() => Ok(certified),
        _ => Err(TlsErrors(reader.errors)),
    }
}

impl<'f> CertificateReader<'f> {
    pub(super) fn new(files: &'f Files) -> Self {
        Self { files, errors: Vec::new(), expired: Vec::new(), expiries: Vec::new() }
    }

    /// A certificate chain and its key. They belong together, and are in date if no error was
    /// added.
    pub(super) fn identity(
        &mut self,
        chain_path: &Path,
        key_path: &Path,
        side: Side,
    ) -> Option<CertifiedKey> {
        let chain = self.certificates(chain_path);
        let key = self.private_key(key_path);
        let (chain, key) = (chain?, key?);
        self.check_leaf(chain_path, chain.first()?, side)?;
        match CertifiedKey::from_der(chain, key, &provider()) {
            Ok(certified) => Some(certified),
            Err(rustls::Error::InconsistentKeys(_)) => self.fail(
                key_path,
                format!("is not the key of the certificate in `{}`", chain_path.display()),
            ),
            Err(error) => self.fail(key_path, format!("is not a usable key: {error}")),
        }
    }

    /// The certificates of a CA file, at least one. Each belongs to a CA that may issue
    /// certificates for `side`. Expired ones are included, and added to `expired`.
    pub(super) fn authorities(
        &mut self,
        path: &Path,
        what: Expiring,
        side: Side,
    ) -> Option<Vec<Authority>> {
        let certificates = self.certificates(path)?;
        let before = self.errors.len();
        let mut authorities = Vec::new();
        for (index, der) in certificates.iter().enumerate() {
            let number = index + 1;
            let Ok((_, certificate)) = X509Certificate::from_der(der) else {
                self.error(path, format!("certificate {number} cannot be parsed"));
                continue;
            };
            let name = format!("certificate {number} (`{}`)", certificate.subject());
            self.check_ca(path, &name, &certificate);
            self.check_usage(path, &name, &certificate, side);
            if let Err(why) = self.check_validity(&certificate, what) {
                self.expired
                    .push(TlsError { path: path.to_owned(), message: format!("{name} {why}") });
            }
            match Authority::new(der, &certificate) {
                Some(authority) => authorities.push(authority),
                None => self.error(path, format!("{name} cannot be used as a trust anchor")),
            }
        }
        (self.errors.len() == before).then_some(authorities)
    }

    pub(super) fn error(&mut self, path: &Path, message: String) {
        self.errors.push(TlsError { path: path.to_owned(), message });
    }

    /// Adds an error and returns `None`.
    pub(super) fn fail<T>(&mut self, path: &Path, message: String) -> Option<T> {
        self.error(path, message);
        None
    }

    /// Checks a certificate that is presented to peers. `None` if it cannot be parsed.
    fn check_leaf(&mut self, path: &Path, der: &CertificateDer<'_>, side: Side) -> Option<()> {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return self.fail(path, "the first certificate cannot be parsed".into());
        };
        let what = match side {
            Side::Server => Expiring::Server,
            Side::Client => Expiring::UpstreamClient,
        };
        if let Err(why) = self.check_validity(&certificate, what) {
            self.error(path, format!("the certificate {why}"));
        }
        self.check_usage(path, "the certificate", &certificate, side);
        Some(())
    }

    fn check_ca(&mut self, path: &Path, name: &str, certificate: &X509Certificate<'_>) {
        // A certificate of version 1 has no extension that marks it as a CA.
        if certificate.version() == X509Version::V3 && !certificate.is_ca() {
            self.error(path, format!("{name} is not a CA certificate"));
        }
        let usage = certificate.key_usage();
        if !usage.is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign())) {
            self.error(
                path,
                format!(
                    "{name} may not sign certificates: its key usage lacks `keyCertSign`, so that \
                     etcd rejects all certificates that it issued, too"
                ),
            );
        }
    }

    /// Checks the extended key usage, if there is one. It applies to a leaf and to the CAs above
    /// it.
    fn check_usage(
        &mut self,
        path: &Path,
        name: &str,
        certificate: &X509Certificate<'_>,
        side: Side,
    ) {
        let Ok(usages) = certificate.extended_key_usage() else {
            return self.error(path, format!("{name}: its extended key usage cannot be parsed"));
        };
        let (usage, has_usage) = match side {
            Side::Server => {
                ("serverAuth", usages.as_ref().is_none_or(|usages| usages.value.server_auth))
            }
            Side::Client => {
                ("clientAuth", usages.as_ref().is_none_or(|usages| usages.value.client_auth))
            }
        };
        if !has_usage && !usages.is_some_and(|usages| usages.value.any) {
            self.error(
                path,
                format!(
                    "{name}: its extended key usage lacks `{usage}`, so that peers would reject it"
                ),
            );
        }
    }

    /// # Errors
    /// The certificate has expired or is not valid yet.
    fn check_validity(
        &mut self,
        certificate: &X509Certificate<'_>,
        what: Expiring,
    ) -> Result<(), String> {
        let (not_before, not_after) =
            (time(certificate.validity().not_before), time(certificate.validity().not_after));
        self.expiries.push(Expiry { what, not_after });
        let now = SystemTime::now();
        if not_after < now {
            Err(format!("expired on {}", date(not_after)))
        } else if now < not_before {
            Err(format!(
                "is not valid before {}: check the clock of this host, too",
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
            self.fail(path, "contains no certificate (`-----BEGIN CERTIFICATE-----`)".into())
        } else {
            Some(found)
        }
    }

    fn private_key(&mut self, path: &Path) -> Option<PrivateKeyDer<'static>> {
        let bytes = self.bytes(path)?;
        let contains = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        if contains(b"BEGIN ENCRYPTED PRIVATE KEY") || contains(b"Proc-Type: 4,ENCRYPTED") {
            let message = "contains an encrypted key: a service has no password to decrypt it \
                           with, so decrypt the file (`openssl pkey`)";
            return self.fail(path, message.into());
        }
        let sections = self.sections(path, bytes)?;
        let mut keys =
            sections.into_iter().filter_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
        match (keys.next(), keys.next()) {
            (Some(key), None) => Some(key),
            (None, _) => {
                self.fail(path, "contains no private key (`-----BEGIN PRIVATE KEY-----`)".into())
            }
            (Some(_), Some(_)) => {
                self.fail(path, "contains more than one private key: keep only one".into())
            }
        }
    }

    pub(super) fn sections(
        &mut self,
        path: &Path,
        bytes: &[u8],
    ) -> Option<Vec<(SectionKind, Vec<u8>)>> {
        if is_der(bytes) {
            let message = "is DER, not PEM: convert it (`openssl x509 -inform der`, or `openssl \
                           pkey -inform der`)";
            return self.fail(path, message.into());
        }
        match <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).collect::<Result<_, pem::Error>>() {
            Ok(sections) => Some(sections),
            Err(error) => self.fail(path, format!("is not PEM: {}", describe_pem_error(&error))),
        }
    }

    pub(super) fn bytes(&mut self, path: &Path) -> Option<&'f [u8]> {
        match self.files.bytes(path) {
            Ok([]) => self.fail(path, "is empty".into()),
            Ok(bytes) => Some(bytes),
            Err(why) => self.fail(path, why.to_string()),
        }
    }
}

/// True if the bytes start like an ASN.1 SEQUENCE of more than 127 bytes. No PEM file does.
pub(super) fn is_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x81..=0x84, ..])
}

/// Describes the error without any content of the file, which may be a key.
fn describe_pem_error(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end line (`-----END ...-----`)",
        pem::Error::IllegalSectionStart { .. } => "the first line of a section is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be parsed",
    }
}

/// Times before 1970 become 1970; both are long past.
pub(super) fn time(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

pub(super) fn date(time: SystemTime) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(time)
}
