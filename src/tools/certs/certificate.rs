//! What stands in a certificate, and its signature.

use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::{AlgorithmIdentifier, CertificateDer, alg_id};
use sha2::{Digest as _, Sha256};

use super::der;

/// Everything of a certificate but its issuer's part.
pub(super) struct Contents {
    /// A whole DER `Name`.
    pub(super) subject: Vec<u8>,
    /// A whole DER `SubjectPublicKeyInfo`.
    pub(super) public_key: Vec<u8>,
    /// Beside the key identifiers, which are made here.
    pub(super) extensions: Vec<Extension>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// One extension; `value` is DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    /// The encoded arcs of its object identifier.
    pub(super) oid: Vec<u8>,
    pub(super) critical: bool,
    pub(super) value: Vec<u8>,
}

/// Who signs.
pub(super) struct Issuer<'a> {
    /// The subject of its certificate, as it stands there.
    pub(super) name: &'a [u8],
    pub(super) key_id: &'a [u8],
    pub(super) key: &'a dyn SigningKey,
}

/// `digitalSignature`, critical (RFC 5280, 4.2.1.3): all that TLS 1.3 and the ECDHE suites of TLS
/// 1.2 ask of a client.
pub(super) fn digital_signature() -> Extension {
    Extension { oid: der::KEY_USAGE.to_vec(), critical: true, value: vec![0x03, 0x02, 0x07, 0x80] }
}

/// `clientAuth` and nothing else.
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

impl Contents {
    /// The signed certificate. `public_key_bits` are those of its own key, for its identifier.
    ///
    /// # Errors
    /// The CA's key cannot sign, in words.
    pub(super) fn signed_by(
        &self,
        issuer: &Issuer<'_>,
        public_key_bits: &[u8],
    ) -> Result<CertificateDer<'static>, String> {
        let offered = SCHEMES.map(|(scheme, _)| scheme);
        let signer = issuer
            .key
            .choose_scheme(&offered)
            .ok_or("the CA's key is of a kind that signs no certificates here")?;
        let algorithm = SCHEMES
            .iter()
            .find(|(scheme, _)| *scheme == signer.scheme())
            .map(|(_, id)| der::sequence(&[id.as_ref()]));
        let algorithm = algorithm.ok_or("the CA's key signs otherwise than asked")?;
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

/// How each kind of key signs, and what that is called in a certificate.
const SCHEMES: [(SignatureScheme, AlgorithmIdentifier); 5] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, alg_id::ECDSA_SHA256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, alg_id::ECDSA_SHA384),
    (SignatureScheme::ECDSA_NISTP521_SHA512, alg_id::ECDSA_SHA512),
    (SignatureScheme::ED25519, alg_id::ED25519),
    (SignatureScheme::RSA_PKCS1_SHA256, alg_id::RSA_PKCS1_SHA256),
];

/// 126 random bits in 16 bytes: never negative, never short, within the 20 bytes of RFC 5280,
/// 4.1.2.2.
fn serial() -> Result<[u8; 16], String> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| "this system gives no random bytes")?;
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    Ok(serial)
}
