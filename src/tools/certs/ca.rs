//! The operator's CA: its certificate and its key, proven to belong together and to be able to
//! issue.

mod old;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use etcd_warden_core::diagnostics::Diagnostics;
use rustls::sign::SigningKey;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};
use zeroize::Zeroizing;

use super::certificate::{Contents, Issuer, key_id};
use super::encrypted::{self, PrivateKey};
use super::{note, read, refuse};
pub use old::OldCa;
use old::has_issued;

/// Bytes that a CA's file may have.
const MOST: u64 = 4 << 20;

/// How long before now a certificate begins: clocks of etcd's hosts may be behind.
pub(super) const SKEW: Duration = Duration::from_secs(300);

/// Where the CA lies.
#[derive(Clone, Debug)]
pub struct CaFiles {
    /// Its certificate, and behind it those of the CAs above.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A CA that can issue.
pub struct Ca {
    /// Its own certificate first.
    chain: Vec<CertificateDer<'static>>,
    subject: Vec<u8>,
    shown: String,
    key_id: Vec<u8>,
    key: Arc<dyn SigningKey>,
    not_before: SystemTime,
    not_after: SystemTime,
    anchor: TrustAnchor<'static>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
}

impl std::fmt::Debug for Ca {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("subject", &self.shown).finish_non_exhaustive()
    }
}

impl Ca {
    /// Reads and proves the CA. `passphrase` is asked only if the key is encrypted.
    ///
    /// # Errors
    /// Everything that is wrong with the two files.
    pub fn load(
        files: &CaFiles,
        passphrase: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, Diagnostics>,
    ) -> Result<Self, Diagnostics> {
        let chain = certificates(&files.certificate);
        let key = private_key(&files.key, passphrase);
        match (chain, key) {
            (Ok(chain), Ok(key)) => Self::of(files, chain, key),
            (chain, key) => {
                let mut all = Diagnostics::default();
                chain.err().into_iter().chain(key.err()).for_each(|found| all.append(found));
                Err(all)
            }
        }
    }

    fn of(
        files: &CaFiles,
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
    ) -> Result<Self, Diagnostics> {
        let name = files.certificate.display().to_string();
        let Some(first) = chain.first().cloned() else {
            return refuse(&name, "the file holds no certificate", "");
        };
        let Ok(([], parsed)) = X509Certificate::from_der(&first) else {
            return refuse(&name, "the certificate cannot be read", "");
        };
        let Ok(anchor) = webpki::anchor_from_trusted_cert(&first).map(|anchor| anchor.to_owned())
        else {
            return refuse(
                &name,
                "the certificate cannot be used as a trust anchor",
                "a CA's certificate is of version 3",
            );
        };
        let mut found = Diagnostics::default();
        may_issue(&name, &parsed, &mut found);
        let public_key = parsed.public_key().raw;
        if key.public_key().is_none_or(|own| own.as_ref() != public_key) {
            let message = format!("the key is not that of the certificate in `{name}`");
            found.push(super::mistake(
                &files.key.display().to_string(),
                message,
                "compare `openssl x509 -noout -pubkey` with `openssl pkey -pubout`",
            ));
        }
        let mut not_after = time(parsed.validity().not_after.timestamp());
        for der in chain.iter().skip(1) {
            // What a CA above ends with ends with it.
            if let Ok((_, above)) = X509Certificate::from_der(der) {
                not_after = not_after.min(time(above.validity().not_after.timestamp()));
            }
        }
        if found.has_errors() {
            return Err(found);
        }
        let key_id = own_key_id(&parsed)
            .unwrap_or_else(|| key_id(&parsed.public_key().subject_public_key.data));
        Ok(Self {
            subject: parsed.subject().as_raw().to_vec(),
            shown: parsed.subject().to_string(),
            key_id,
            key,
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after,
            anchor,
            algorithms: rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms
                .all,
            chain,
        })
    }

    /// Its subject, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shown
    }

    /// Its subject, DER.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// The last moment of what it issues.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// All certificates of its file, PEM: what whoever trusts this CA needs.
    #[must_use]
    pub fn trust_pem(&self) -> String {
        self.chain.iter().map(|der| pem_of(der)).collect()
    }

    /// From `now`, a little before, for so long; never beyond the CA. The note says when that
    /// shortened it.
    #[must_use]
    pub fn window(&self, now: SystemTime, lifetime: Duration) -> (Window, Option<Diagnostics>) {
        let wanted = now + lifetime;
        let window =
            Window { from: (now - SKEW).max(self.not_before), to: wanted.min(self.not_after) };
        if wanted <= self.not_after {
            return (window, None);
        }
        let mut all = Diagnostics::default();
        let end = humantime::format_rfc3339_seconds(self.not_after);
        all.push(note(
            "--lifetime",
            format!("the certificates end with their CA, on {end}, before the lifetime that was asked for"),
            "renew the CA",
        ));
        (window, Some(all))
    }

    /// Signs, and verifies what came out as the proxy verifies its clients.
    ///
    /// # Errors
    /// What the proxy would refuse, in words: a name outside the CA's name constraints, for one.
    pub(super) fn issue(&self, contents: &Contents) -> Result<CertificateDer<'static>, String> {
        let issuer = Issuer { name: &self.subject, key_id: &self.key_id, key: &*self.key };
        let Ok(([], key)) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&contents.public_key)
        else {
            return Err("the public key cannot be read".to_owned());
        };
        let der = contents.signed_by(&issuer, &key.subject_public_key.data)?;
        let verified = webpki::EndEntityCert::try_from(&der).and_then(|leaf| {
            let usage = webpki::KeyUsage::client_auth();
            leaf.verify_for_usage(
                self.algorithms,
                std::slice::from_ref(&self.anchor),
                &[],
                UnixTime::now(),
                usage,
                None,
                None,
            )
            .map(drop)
        });
        match verified {
            Ok(()) => Ok(der),
            Err(webpki::Error::NameConstraintViolation) => {
                Err("the CA's name constraints do not allow its names".to_owned())
            }
            Err(error) => Err(format!("the proxy would refuse its certificate: {error}")),
        }
    }

    /// Whether its key has signed this certificate, be it in date or not.
    #[must_use]
    pub fn has_issued(&self, der: &CertificateDer<'_>) -> bool {
        has_issued(std::slice::from_ref(&self.anchor), self.algorithms, der)
    }

    /// The certificate, and behind it those between it and a root: what a client shows. PEM.
    #[must_use]
    pub fn chain_pem(&self, leaf: &CertificateDer<'_>) -> String {
        let between = self.chain.iter().filter(|der| !is_self_issued(der));
        std::iter::once(pem_of(leaf)).chain(between.map(|der| pem_of(der))).collect()
    }
}

/// When a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its `notBefore`.
    pub from: SystemTime,
    /// Its `notAfter`.
    pub to: SystemTime,
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// Why there is none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Diagnostics> {
    let name = path.display().to_string();
    let bytes = read(path, MOST)?;
    let Some(sections) = super::sections(&bytes) else {
        return refuse(
            &name,
            "the file is not PEM, or a section of it is cut",
            "DER is converted by `openssl x509 -inform der`",
        );
    };
    let found: Vec<CertificateDer<'static>> = sections
        .into_iter()
        .filter(|section| section.tag() == "CERTIFICATE")
        .map(|section| section.into_contents().into())
        .collect();
    if found.is_empty() {
        return refuse(
            &name,
            "the file holds no certificate",
            "a certificate begins with `-----BEGIN CERTIFICATE-----`",
        );
    }
    Ok(found)
}

/// One certificate as PEM.
#[must_use]
pub fn pem_of(der: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

/// Seconds since 1970; times before are 1970.
pub(super) fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn private_key(
    path: &Path,
    passphrase: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, Diagnostics>,
) -> Result<Arc<dyn SigningKey>, Diagnostics> {
    let name = path.display().to_string();
    let bytes = Zeroizing::new(read(path, MOST)?);
    let key = match encrypted::private_key(&bytes) {
        Ok(PrivateKey::Plain(key)) => Ok(key),
        Ok(PrivateKey::Encrypted(key)) => key.decrypt(&passphrase()?),
        Err(mistake) => Err(mistake),
    };
    let key = match key {
        Ok(key) => key,
        Err((message, help)) => return refuse(&name, message, help),
    };
    match rustls::crypto::aws_lc_rs::sign::any_supported_type(&key) {
        Ok(key) => Ok(key),
        Err(_) => refuse(
            &name,
            "the key is of a kind that cannot be used",
            "RSA, ECDSA (P-256, P-384, P-521) and Ed25519 can",
        ),
    }
}

fn may_issue(name: &str, certificate: &X509Certificate<'_>, found: &mut Diagnostics) {
    let mut say = |message: String, help: &str| found.push(super::mistake(name, message, help));
    if !certificate.is_ca() {
        say(
            format!("`{}` is not a CA certificate (no `CA:TRUE`)", certificate.subject()),
            "the certificate of the CA itself is meant, not one that it has issued",
        );
    }
    if let Ok(Some(usage)) = certificate.key_usage()
        && !usage.value.key_cert_sign()
    {
        say(
            "the CA's key usage does not name `keyCertSign`: what it issues would be refused"
                .to_owned(),
            "",
        );
    }
    let (from, to) = (
        time(certificate.validity().not_before.timestamp()),
        time(certificate.validity().not_after.timestamp()),
    );
    let now = SystemTime::now();
    if to <= now {
        say(
            format!("the CA expired on {}", humantime::format_rfc3339_seconds(to)),
            "renew the CA first",
        );
    } else if now < from {
        say(
            format!("the CA is not valid before {}", humantime::format_rfc3339_seconds(from)),
            "look at this machine's clock, too",
        );
    }
}

fn own_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn is_self_issued(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
        certificate.subject().as_raw() == certificate.issuer().as_raw()
    })
}
