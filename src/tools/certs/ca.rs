//! The operator's CA. Loading it verifies that certificate and key belong together and may issue.

mod old;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use etcd_warden_core::diagnostics::Diagnostics;
use rustls::sign::SigningKey;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};
use zeroize::Zeroizing;

use super::certificate::{CertificateTemplate, Issuer, key_id};
use super::encrypted::{self, PrivateKey};
use super::{note, read, refuse};
pub use old::OldCa;
use old::has_issued;

/// Bytes that a file of the CA may have.
const MOST: u64 = 4 << 20;

/// How long before now a certificate becomes valid: the clocks of etcd's hosts may be behind.
pub(super) const SKEW: Duration = Duration::from_secs(300);

/// The files of the CA.
#[derive(Clone, Debug)]
pub struct CaFiles {
    /// Its certificate, followed by those of the CAs above it. PEM.
    pub certificate: PathBuf,
    /// Its private key. PEM.
    pub key: PathBuf,
}

/// A CA that can issue.
pub struct Ca {
    /// Its own certificate first, then those of the CAs above.
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
    /// Reads and checks the CA. `passphrase` is called only if the key is encrypted.
    ///
    /// # Errors
    /// Every problem of the two files.
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
                "a CA certificate must be of X.509 version 3",
            );
        };
        let mut found = Diagnostics::default();
        may_issue(&name, &parsed, &mut found);
        let public_key = parsed.public_key().raw;
        if key.public_key().is_none_or(|own| own.as_ref() != public_key) {
            let message = format!("the key does not belong to the certificate in `{name}`");
            found.push(super::error(
                &files.key.display().to_string(),
                message,
                "compare `openssl x509 -noout -pubkey` with `openssl pkey -pubout`",
            ));
        }
        let mut not_after = time(parsed.validity().not_after.timestamp());
        for der in chain.iter().skip(1) {
            // A certificate below an expired CA is not valid.
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

    /// Its subject, for display.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shown
    }

    /// Its subject, DER.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// `notAfter` of the CA; no issued certificate may end later.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// All certificates of its file: the trust bundle for those who verify its certificates. PEM.
    #[must_use]
    pub fn trust_pem(&self) -> String {
        self.chain.iter().map(|der| pem_of(der)).collect()
    }

    /// The validity period of a new certificate: from shortly before `now`, for `lifetime`, never
    /// beyond the CA. The note is set if the CA's end shortens it.
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
            format!("the certificates end with their CA on {end}, before the requested lifetime"),
            "renew the CA",
        ));
        (window, Some(all))
    }

    /// Signs a certificate, and verifies it as the gateway verifies its clients.
    ///
    /// # Errors
    /// Why the gateway would refuse it, for example a name outside the CA's name constraints.
    pub(super) fn issue(
        &self,
        template: &CertificateTemplate,
    ) -> Result<CertificateDer<'static>, String> {
        let issuer = Issuer { name: &self.subject, key_id: &self.key_id, key: &*self.key };
        let Ok(([], key)) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&template.public_key)
        else {
            return Err("the public key cannot be read".to_owned());
        };
        let der = template.signed_by(&issuer, &key.subject_public_key.data)?;
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
                Err("the CA's name constraints do not permit its names".to_owned())
            }
            Err(error) => Err(format!("the gateway would refuse its certificate: {error}")),
        }
    }

    /// True if its key has signed this certificate, whether or not that is expired.
    #[must_use]
    pub fn has_issued(&self, der: &CertificateDer<'_>) -> bool {
        has_issued(std::slice::from_ref(&self.anchor), self.algorithms, der)
    }

    /// The certificate and the intermediates below the root, as a client sends them. PEM.
    #[must_use]
    pub fn chain_pem(&self, leaf: &CertificateDer<'_>) -> String {
        let between = self.chain.iter().filter(|der| !is_self_issued(der));
        std::iter::once(pem_of(leaf)).chain(between.map(|der| pem_of(der))).collect()
    }
}

/// A validity period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// `notBefore`.
    pub from: SystemTime,
    /// `notAfter`.
    pub to: SystemTime,
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// The file cannot be read, is not PEM, or holds no certificate.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Diagnostics> {
    let name = path.display().to_string();
    let bytes = read(path, MOST)?;
    let Some(sections) = super::sections(&bytes) else {
        return refuse(
            &name,
            "the file is not PEM, or one of its sections is incomplete",
            "convert DER with `openssl x509 -inform der`",
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

/// Encodes one certificate as PEM.
#[must_use]
pub fn pem_of(der: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

/// A time in seconds since 1970; negative values are clamped to 1970.
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
        Err(error) => Err(error),
    };
    let key = match key {
        Ok(key) => key,
        Err((message, help)) => return refuse(&name, message, help),
    };
    match rustls::crypto::aws_lc_rs::sign::any_supported_type(&key) {
        Ok(key) => Ok(key),
        Err(_) => refuse(
            &name,
            "this type of key is not supported",
            "use RSA, ECDSA (P-256, P-384, P-521) or Ed25519",
        ),
    }
}

fn may_issue(name: &str, certificate: &X509Certificate<'_>, found: &mut Diagnostics) {
    let mut push = |message: String, help: &str| found.push(super::error(name, message, help));
    if !certificate.is_ca() {
        push(
            format!("`{}` is not a CA certificate (no `CA:TRUE`)", certificate.subject()),
            "give the certificate of the CA, not one that it has issued",
        );
    }
    if let Ok(Some(usage)) = certificate.key_usage()
        && !usage.value.key_cert_sign()
    {
        push(
            "the CA's key usage lacks `keyCertSign`: clients and servers would refuse what it issues"
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
        push(
            format!("the CA expired on {}", humantime::format_rfc3339_seconds(to)),
            "renew the CA first",
        );
    } else if now < from {
        push(
            format!("the CA is not valid before {}", humantime::format_rfc3339_seconds(from)),
            "check the clock of this machine",
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
