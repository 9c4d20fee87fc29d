//! Certificate signing requests (PKCS #10, RFC 2986). Only the public key is used.

use std::path::Path;

use etcd_warden_core::diagnostics::Diagnostics;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::{read, refuse};

/// Bytes that a request may have.
const MOST: u64 = 1 << 20;

/// The public key of a request, as DER `SubjectPublicKeyInfo`. The request's signature must prove
/// that its sender has the private key.
///
/// # Errors
/// The file cannot be read, the signature is invalid, or the key is too weak.
pub fn public_key(path: &Path) -> Result<Vec<u8>, Diagnostics> {
    let name = path.display().to_string();
    let bytes = read(path, MOST)?;
    of_pem(&bytes).or_else(|(message, help)| refuse(&name, message, help))
}

fn of_pem(bytes: &[u8]) -> Result<Vec<u8>, (String, &'static str)> {
    let unreadable = || {
        (
            "the request cannot be read".to_owned(),
            "make it with `openssl req -new -key KEY -subj /CN=any`",
        )
    };
    let sections = super::sections(bytes).ok_or_else(unreadable)?;
    let mut requests = sections.into_iter().filter(|section| {
        matches!(section.tag(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST")
    });
    let request = match (requests.next(), requests.next()) {
        (Some(request), None) => request,
        (None, _) => {
            return Err((
                "the file holds no request".to_owned(),
                "a request begins with `-----BEGIN CERTIFICATE REQUEST-----`",
            ));
        }
        (Some(_), Some(_)) => {
            return Err((
                "the file holds more than one request".to_owned(),
                "give one request at a time",
            ));
        }
    };
    let der = request.contents();
    let Ok(([], request)) = X509CertificationRequest::from_der(der) else {
        return Err(unreadable());
    };
    let info = &request.certification_request_info;
    let key = &info.subject_pki;
    let strong = "make a key with `openssl ecparam -name prime256v1 -genkey`";
    match key.parsed().map_err(|_| unreadable())? {
        PublicKey::RSA(rsa) if rsa.key_size() < 2048 => {
            return Err((
                format!("the request's RSA key has {} bits; the minimum is 2048", rsa.key_size()),
                strong,
            ));
        }
        PublicKey::RSA(_) | PublicKey::EC(_) | PublicKey::Unknown(_) => {}
        _ => {
            return Err(("TLS clients do not use keys of this type".to_owned(), strong));
        }
    }
    let known = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let of_key: Vec<_> = known
        .iter()
        .filter(|algorithm| algorithm_is(algorithm.public_key_alg_id().as_ref(), key.raw))
        .collect();
    if of_key.is_empty() {
        return Err((
            "this type of key is not supported".to_owned(),
            "use RSA, ECDSA (P-256, P-384, P-521) or Ed25519",
        ));
    }
    let signature = &request.signature_value.data;
    let named = super::der::oid(request.signature_algorithm.algorithm.as_bytes());
    let proven = of_key
        .iter()
        .filter(|algorithm| algorithm.signature_alg_id().starts_with(&named))
        .any(|algorithm| {
            algorithm.verify_signature(&key.subject_public_key.data, info.raw, signature).is_ok()
        });
    if !proven {
        return Err((
            "the request's signature is invalid: its sender may not have the private key"
                .to_owned(),
            "sign it with SHA-256 or better, and with the key that it contains",
        ));
    }
    Ok(key.raw.to_vec())
}

/// True if a `SubjectPublicKeyInfo` has this algorithm: a SEQUENCE that begins with a SEQUENCE of
/// exactly these bytes.
fn algorithm_is(id: &[u8], public_key: &[u8]) -> bool {
    let id = super::der::sequence(&[id]);
    x509_parser::asn1_rs::Sequence::from_der(public_key)
        .is_ok_and(|(_, outer)| outer.content.starts_with(&id))
}

#[cfg(test)]
mod tests;
