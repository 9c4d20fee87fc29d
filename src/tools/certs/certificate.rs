//! Encodes and signs a certificate.

use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::{AlgorithmIdentifier, CertificateDer, alg_id};
use sha2::{Digest as _, Sha256};

use super::der;

/// The template of a certificate, except those that the issuer determines.
pub(super) struct CertificateTemplate {
    /// A DER `Name`.
    pub(super) subject: Vec<u8>,
    /// A DER `SubjectPublicKeyInfo`.
    pub(super) public_key: Vec<u8>,
    /// Without the key identifiers, which are added when it is signed.
    pub(super) extensions: Vec<Extension>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// One extension; `value` is DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    /// The encoded arcs of its object identifier, without tag and length.
    pub(super) oid: Vec<u8>,
    pub(super) critical: bool,
    pub(super) value: Vec<u8>,
}

/// The issuing CA.
pub(super) struct Issuer<'a> {
    /// The subject of its certificate, byte for byte.
    pub(super) name: &'a [u8],
    pub(super) key_id: &'a [u8],
    pub(super) key: &'a dyn SigningKey,
}

/// `digitalSignature`, critical (RFC 5280, 4.2.1.3): the only key usage that TLS 1.3 and the ECDHE
/// suites of TLS 1.2 require of a client.
pub(super) fn digital_signature() -> Extension {
    Extension { oid: der::KEY_USAGE.to_vec(), critical: true, value: vec![0x03, 0x02, 0x07, 0x80] }
}

/// The extended key usage `clientAuth` alone.
pub(super) fn client_auth() -> Extension {
    Extension {
        oid: der::EXTENDED_KEY_USAGE.to_vec(),
        critical: false,
        value: der::sequence(&[&der::oid(der::CLIENT_AUTH)]),
    }
}

/// The first 160 bits of the SHA-256 of a public key, method 1 of RFC 7093.
pub(super) fn key_id(public_key_bits: &[u8]) -> Vec<u8> {
    Sha256::digest(public_key_bits).into_iter().take(20).collect()
}

impl CertificateTemplate {
    /// Signs it. `public_key_bits` is the BIT STRING of its public key, for the key identifier.
    ///
    /// # Errors
    /// The CA's key cannot sign.
    pub(super) fn signed_by(
        &self,
        issuer: &Issuer<'_>,
        public_key_bits: &[u8],
    ) -> Result<CertificateDer<'static>, String> {
        let offered = SCHEMES.map(|(scheme, _)| scheme);
        let signer = issuer
            .key
            .choose_scheme(&offered)
            .ok_or("the CA's key is of a type that cannot sign certificates")?;
        let algorithm = SCHEMES
            .iter()
            .find(|(scheme, _)| *scheme == signer.scheme())
            .map(|(_, id)| der::sequence(&[id.as_ref()]));
        let algorithm = algorithm.ok_or("the CA's key does not sign with the requested scheme")?;
        let mut extensions = vec![
            Extension {
                oid: der::AUTHORITY_KEY_ID.to_vec(),
                critical: false,
                value: der::sequence(&[&der::element(0x80, issuer.key_id)]),
            },
            Extension {
                oid: der::SUBJECT_KEY_ID.to_vec(),
                critical: false,
                value: der::octets(&key_id(public_key_bits)),
            },
        ];
        extensions.extend(self.extensions.iter().cloned());
        let extensions: Vec<u8> = extensions.iter().flat_map(Extension::der).collect();
        let to_be_signed = der::sequence(&[
            &der::element(0xa0, &der::unsigned(&[2])),
            &der::unsigned(&serial()?),
            &algorithm,
            issuer.name,
            &der::sequence(&[&der::time(self.not_before), &der::time(self.not_after)]),
            &self.subject,
            &self.public_key,
            &der::element(0xa3, &der::sequence(&[&extensions])),
        ]);
        let signature = signer
            .sign(&to_be_signed)
            .map_err(|error| format!("the CA's key cannot sign: {error}"))?;
        Ok(der::sequence(&[&to_be_signed, &algorithm, &der::bits(&signature)]).into())
    }
}

impl Extension {
    fn der(&self) -> Vec<u8> {
        let critical: &[u8] = if self.critical { &[0x01, 0x01, 0xff] } else { &[] };
        der::sequence(&[&der::oid(&self.oid), critical, &der::octets(&self.value)])
    }
}

/// The signature scheme for each type of key, and its identifier in a certificate.
const SCHEMES: [(SignatureScheme, AlgorithmIdentifier); 5] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, alg_id::ECDSA_SHA256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, alg_id::ECDSA_SHA384),
    (SignatureScheme::ECDSA_NISTP521_SHA512, alg_id::ECDSA_SHA512),
    (SignatureScheme::ED25519, alg_id::ED25519),
    (SignatureScheme::RSA_PKCS1_SHA256, alg_id::RSA_PKCS1_SHA256),
];

/// A serial number of 126 random bits in 16 bytes: positive, of constant length, and within the 20
/// bytes of RFC 5280, 4.1.2.2.
fn serial() -> Result<[u8; 16], String> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| "the system provides no random bytes")?;
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    Ok(serial)
}
