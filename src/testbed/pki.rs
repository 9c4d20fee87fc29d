//! Throwaway certificates for the demo and tests: a CA in memory, and leaf certificates of every
//! kind, including those that a server must refuse. Not for production.

mod leaf;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};

pub use leaf::{Leaf, Usage, Validity};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A certificate authority with a P-256 key that exists in memory only.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Creates a CA that is valid from one day ago for ten days.
    ///
    /// # Errors
    /// The system provides no random bytes.
    pub fn new(common_name: &str) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + 10 * DAY).into();
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// The CA certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a client certificate with this common name, as a component should have it.
    ///
    /// # Errors
    /// The system provides no random bytes.
    pub fn client(&self, common_name: &str) -> Result<Issued, rcgen::Error> {
        self.issue(&Leaf::client(common_name))
    }

    /// Issues a server certificate for these DNS names and IP addresses.
    ///
    /// # Errors
    /// A name is neither an address nor ASCII.
    pub fn server(&self, names: &[&str]) -> Result<Issued, rcgen::Error> {
        self.issue(&Leaf::server(names))
    }

    /// Issues a certificate.
    ///
    /// # Errors
    /// A name does not fit its string type.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = leaf.params()?.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Issues a revocation list with these serial numbers, PEM; its `nextUpdate` is in one day.
    ///
    /// # Errors
    /// The system provides no random bytes.
    pub fn crl(&self, serials: &[u64]) -> Result<String, rcgen::Error> {
        self.numbered_crl(serials, 1)
    }

    /// Like [`Self::crl`], with this CRL number.
    ///
    /// # Errors
    /// Like [`Self::crl`].
    pub fn numbered_crl(&self, serials: &[u64], number: u64) -> Result<String, rcgen::Error> {
        let now = SystemTime::now();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: (now - HOUR).into(),
            reason_code: None,
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: (now - HOUR).into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)?
        .pem()
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Issued {
    /// Writes `NAME.crt` and `NAME.key` to `directory`, readable by their owner only.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, directory: &Path, name: &str) -> io::Result<Files> {
        Ok(Files {
            cert: write_private(directory, &format!("{name}.crt"), &self.certificate)?,
            key: write_private(directory, &format!("{name}.key"), &self.key)?,
        })
    }
}

/// Writes a file that only its owner may read. Replaces the content of an existing file.
///
/// # Errors
/// The file cannot be written.
pub fn write_private(directory: &Path, name: &str, content: &str) -> io::Result<PathBuf> {
    let path = directory.join(name);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(content.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use x509_parser::pem::parse_x509_pem;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;

    /// The common names, read by another library.
    fn common_names(issued: &Issued) -> Vec<Vec<u8>> {
        let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
        certificate
            .subject()
            .iter_common_name()
            .map(|name| name.attr_value().data.to_vec())
            .collect()
    }

    #[test]
    fn unusual_subjects_are_encoded_as_requested() {
        let authority = Authority::new("test").unwrap();
        let names = |leaf: Leaf| common_names(&authority.issue(&leaf).unwrap());
        assert_eq!(names(Leaf::client("alice")), [b"alice"]);
        assert_eq!(
            names(Leaf::client("alice").second_common_name("root")),
            [b"alice".to_vec(), b"root".to_vec()]
        );
        assert_eq!(names(Leaf::client("alice\0root")), [b"alice\0root"]);
        assert!(names(Leaf::client("alice").without_common_name()).is_empty());
    }

    #[test]
    fn serial_number_and_validity_are_as_requested() {
        let authority = Authority::new("test").unwrap();
        let issued =
            authority.issue(&Leaf::client("alice").serial(77).validity(Validity::Expired)).unwrap();
        let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
        assert_eq!(certificate.raw_serial_as_string(), "4d");
        assert!(!certificate.validity().is_valid());
        assert!(authority.crl(&[77]).unwrap().starts_with("-----BEGIN X509 CRL-----"));
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let files = Authority::new("test")
            .unwrap()
            .client("alice")
            .unwrap()
            .write(directory.path(), "alice")
            .unwrap();
        assert_eq!(files.key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
