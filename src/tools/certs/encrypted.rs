//! Reads private keys from PEM files, including encrypted ones.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use md5::{Digest as _, Md5};
use pem::Pem;
use rustls_pki_types::PrivateKeyDer;
use x509_parser::asn1_rs::{Any, FromDer as _, OctetString, Sequence};
use zeroize::{Zeroize as _, Zeroizing};

/// How to convert a key that cannot be decrypted here.
const CONVERT: &str = "convert it: `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`";

/// The private key of a PEM file.
pub(super) enum PrivateKey {
    /// An unencrypted key.
    Plain(Zeroizing<PrivateKeyDer<'static>>),
    /// A key that needs a passphrase.
    Encrypted(Encrypted),
}

/// An encrypted key.
pub(super) enum Encrypted {
    /// PKCS #8 (RFC 5958): `ENCRYPTED PRIVATE KEY`.
    Pkcs8(Vec<u8>),
    /// OpenSSL's older form: `Proc-Type: 4,ENCRYPTED` (RFC 1421) with AES-CBC, as `openssl
    /// -traditional` and `step ca init` write it.
    Legacy { tag: String, cipher: String, iv: Vec<u8>, data: Vec<u8> },
}

/// What is wrong with a key, and what to do.
pub(super) type KeyError = (String, &'static str);

/// Finds the only key of a PEM file.
pub(super) fn private_key(bytes: &[u8]) -> Result<PrivateKey, KeyError> {
    let cut = (
        "the file is not PEM, or one of its sections is incomplete".to_owned(),
        "convert a DER key with `openssl pkey -inform der`",
    );
    let sections = super::sections(bytes).ok_or(cut)?;
    let mut keys: Vec<Pem> =
        sections.into_iter().filter(|section| section.tag().ends_with("PRIVATE KEY")).collect();
    match (keys.pop(), keys.len()) {
        (Some(key), 0) => of_section(key),
        (None, _) => Err((
            "the file holds no private key".to_owned(),
            "a key begins with `-----BEGIN PRIVATE KEY-----`",
        )),
        (Some(_), _) => Err((
            "the file holds more than one private key".to_owned(),
            "leave only the CA's key in it",
        )),
    }
}

fn of_section(section: Pem) -> Result<PrivateKey, KeyError> {
    let tag = section.tag().to_owned();
    if let Some(info) = section.headers().get("DEK-Info") {
        let (cipher, iv) = info.split_once(',').unwrap_or((info, ""));
        let (cipher, iv) = (cipher.trim().to_owned(), hexadecimal(iv.trim()));
        let iv = iv
            .ok_or_else(|| ("the line `DEK-Info` of the key cannot be read".to_owned(), CONVERT))?;
        return Ok(PrivateKey::Encrypted(Encrypted::Legacy {
            tag,
            cipher,
            iv,
            data: section.into_contents(),
        }));
    }
    if tag == "ENCRYPTED PRIVATE KEY" {
        return Ok(PrivateKey::Encrypted(Encrypted::Pkcs8(section.into_contents())));
    }
    plain(&tag, section.into_contents()).map(PrivateKey::Plain)
}

fn plain(tag: &str, der: Vec<u8>) -> Result<Zeroizing<PrivateKeyDer<'static>>, KeyError> {
    let key = match tag {
        "PRIVATE KEY" => PrivateKeyDer::Pkcs8(der.into()),
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(der.into()),
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(der.into()),
        other => return Err((format!("keys of type `{other}` are not supported"), CONVERT)),
    };
    Ok(Zeroizing::new(key))
}

impl Encrypted {
    /// Decrypts the key.
    pub(super) fn decrypt(
        self,
        passphrase: &[u8],
    ) -> Result<Zeroizing<PrivateKeyDer<'static>>, KeyError> {
        match self {
            Encrypted::Pkcs8(der) => pkcs8(&der, passphrase),
            Encrypted::Legacy { tag, cipher, iv, data } => {
                legacy(&tag, &cipher, &iv, data, passphrase)
            }
        }
    }
}

fn wrong_passphrase() -> KeyError {
    (
        "the passphrase does not decrypt the key".to_owned(),
        "check it with `openssl pkey -in KEY -noout`",
    )
}

fn pkcs8(der: &[u8], passphrase: &[u8]) -> Result<Zeroizing<PrivateKeyDer<'static>>, KeyError> {
    let unreadable = || ("the encrypted key cannot be read".to_owned(), CONVERT);
    let (_, outer) = Sequence::from_der(der).map_err(|_| unreadable())?;
    let inside: &[u8] = outer.content.as_ref();
    let (rest, _) = Any::from_der(inside).map_err(|_| unreadable())?;
    let algorithm = inside
        .len()
        .checked_sub(rest.len())
        .and_then(|length| inside.get(..length))
        .ok_or_else(unreadable)?;
    let (_, data) = OctetString::from_der(rest).map_err(|_| unreadable())?;
    let scheme = pkcs5::EncryptionScheme::try_from(algorithm)
        .map_err(|_| ("the key's encryption is not supported".to_owned(), CONVERT))?;
    let key = scheme.decrypt(passphrase, data.as_ref()).map_err(|error| match error {
        pkcs5::Error::UnsupportedAlgorithm { .. } | pkcs5::Error::NoPbes1CryptSupport => {
            ("the key's encryption is not supported".to_owned(), CONVERT)
        }
        _ => wrong_passphrase(),
    })?;
    whole(&key)?;
    plain("PRIVATE KEY", key)
}

/// Checks that decryption has given exactly one SEQUENCE: with a wrong passphrase the padding is
/// valid once in 256 times.
fn whole(opened: &[u8]) -> Result<(), KeyError> {
    match Sequence::from_der(opened) {
        Ok(([], _)) => Ok(()),
        _ => Err(wrong_passphrase()),
    }
}

fn legacy(
    tag: &str,
    cipher: &str,
    iv: &[u8],
    mut data: Vec<u8>,
    passphrase: &[u8],
) -> Result<Zeroizing<PrivateKeyDer<'static>>, KeyError> {
    let (algorithm, length): (&Algorithm, usize) = match cipher {
        "AES-128-CBC" => (&AES_128, 16),
        "AES-192-CBC" => (&AES_192, 24),
        "AES-256-CBC" => (&AES_256, 32),
        other => {
            return Err((format!("the key's encryption `{other}` is not supported"), CONVERT));
        }
    };
    let iv_16 = <[u8; 16]>::try_from(iv)
        .map_err(|_| ("the line `DEK-Info` of the key cannot be read".to_owned(), CONVERT))?;
    let key = legacy_key(passphrase, iv, length);
    let key = UnboundCipherKey::new(algorithm, &key)
        .and_then(PaddedBlockDecryptingKey::cbc_pkcs7)
        .map_err(|_| wrong_passphrase())?;
    let opened = key
        .decrypt(&mut data, DecryptionContext::Iv128(FixedLength::from(iv_16)))
        .map_err(|_| wrong_passphrase())?;
    whole(opened)?;
    let opened = opened.to_vec();
    data.zeroize();
    plain(tag, opened)
}

/// OpenSSL's `EVP_BytesToKey` with MD5 and one round, salted with the first half of the IV.
fn legacy_key(passphrase: &[u8], iv: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    let salt: Vec<u8> = iv.iter().copied().take(8).collect();
    let mut key = Zeroizing::new(Vec::new());
    let mut last = Zeroizing::new(Vec::new());
    while key.len() < length {
        let digest =
            Md5::new().chain_update(&*last).chain_update(passphrase).chain_update(&salt).finalize();
        last = Zeroizing::new(digest.to_vec());
        key.extend_from_slice(&last);
    }
    key.truncate(length);
    key
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests;
