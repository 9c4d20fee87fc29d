//! Generates keys for components.

use rcgen::{KeyPair, PublicKeyData as _, RsaKeySize};
use zeroize::Zeroizing;

/// The type of a new key. etcd, etcdctl and Calico accept each of them: they use Go's TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyType {
    /// Small, fast and supported everywhere.
    #[default]
    EcdsaP256,
    /// Like P-256, where a rule demands more bits.
    EcdsaP384,
    /// Go and OpenSSL 1.1.1 support it; a FIPS build of either may refuse it.
    Ed25519,
    /// For clients that support nothing else.
    #[value(name = "rsa-2048")]
    Rsa2048,
    /// Like rsa-2048, slower.
    #[value(name = "rsa-3072")]
    Rsa3072,
    /// Like rsa-2048, slower still: about a second per key.
    #[value(name = "rsa-4096")]
    Rsa4096,
}

/// A generated key.
pub struct NewKey {
    /// The private key: PKCS #8, PEM.
    pub pem: Zeroizing<String>,
    /// The public key: DER `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
}

impl KeyType {
    /// Generates a key.
    ///
    /// # Errors
    /// The system provides no random bytes.
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
        let pair = pair.map_err(|error| format!("cannot generate a key: {error}"))?;
        Ok(NewKey {
            pem: Zeroizing::new(pair.serialize_pem()),
            public_key: pair.subject_public_key_info(),
        })
    }
}
