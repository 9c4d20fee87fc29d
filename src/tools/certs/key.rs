//! Keys of components.

use rcgen::{KeyPair, PublicKeyData as _, RsaKeySize};
use zeroize::Zeroizing;

/// What a new key is. Each is accepted by etcd, etcdctl and Calico, whose TLS is Go's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyType {
    /// The usual choice: small, fast, known everywhere.
    #[default]
    EcdsaP256,
    /// As P-256, where a rule asks for more bits.
    EcdsaP384,
    /// Go and OpenSSL 1.1.1 know it; a FIPS build of either may refuse it.
    Ed25519,
    /// For clients that know nothing else.
    #[value(name = "rsa-2048")]
    Rsa2048,
    /// As rsa-2048, slower.
    #[value(name = "rsa-3072")]
    Rsa3072,
    /// As rsa-2048, slower still: each new key takes about a second.
    #[value(name = "rsa-4096")]
    Rsa4096,
}

/// A key that was just made.
pub struct NewKey {
    /// PKCS #8, PEM.
    pub pem: Zeroizing<String>,
    /// DER `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
}

impl KeyType {
    /// Makes a key.
    ///
    /// # Errors
    /// This system gives no random bytes.
    pub fn generate(self) -> Result<NewKey, String> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        let pair = match self {
            KeyType::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyType::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            KeyType::Rsa2048 => rsa(RsaKeySize::_2048),
            KeyType::Rsa3072 => rsa(RsaKeySize::_3072),
            KeyType::Rsa4096 => rsa(RsaKeySize::_4096),
        };
        let pair = pair.map_err(|error| format!("no key could be made: {error}"))?;
        Ok(NewKey {
            pem: Zeroizing::new(pair.serialize_pem()),
            public_key: pair.subject_public_key_info(),
        })
    }
}
