//! Decides whether a certificate is renewed, and what the new one contains.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::{RenewOptions, RenewalResult, length};
use crate::certs::FileInfo;
use crate::certs::ca::{Ca, SKEW, Window, time};
use crate::certs::certificate::{CertificateTemplate, Extension};
use crate::certs::der;
use crate::certs::inventory::{FoundCertificate, KeyLocation, KeyState};
use crate::certs::key::KeyType;

/// A certificate to issue: the old names and extensions with a new validity period.
pub struct Due {
    pub(super) template: CertificateTemplate,
    pub(super) window: Window,
    /// The type of the new key; `None` keeps the present key.
    pub(super) key_type: Option<KeyType>,
}

/// Decides about one certificate.
///
/// # Errors
/// The result for a certificate that is not renewed.
pub fn decide(
    ca: &Ca,
    found: &FoundCertificate,
    options: &RenewOptions,
    now: SystemTime,
) -> Result<Due, RenewalResult> {
    let left = |why: &str| Err(RenewalResult::Skipped(why.to_owned()));
    let failed = |why: &str| Err(RenewalResult::Failed(why.to_owned()));
    let Some(der) = found.chain.first() else { return failed("it cannot be read") };
    let Ok(([], old)) = X509Certificate::from_der(der) else { return failed("it cannot be read") };
    if old.is_ca() {
        return Err(RenewalResult::Ca);
    }
    if found.info.linked {
        return left("it is a symbolic link: renew the file it leads to");
    }
    // Only certificates that this CA has signed are renewed. Otherwise anyone who can write a file
    // here could have its names certified.
    if !ca.has_issued(der) && !options.old_ca.as_ref().is_some_and(|old| old.has_issued(der)) {
        let by = if old.issuer().as_raw() == ca.subject() {
            "a key that is not this CA's".to_owned()
        } else {
            format!("`{}`", old.issuer())
        };
        return left(&format!(
            "this CA has not issued it to a client; its issuer is {by}. Name a CA that is being \
             replaced with `--old-ca`"
        ));
    }
    // A new key is issued only in place of the matching old one. Otherwise anyone who copies a
    // certificate here, which is public, would get a key for its successor.
    if let KeyState::Wrong(why) = &found.key {
        return failed(&format!("its key: {why}; `certs issue --force` replaces both"));
    }
    let window = Window {
        from: time(old.validity().not_before.timestamp()),
        to: time(old.validity().not_after.timestamp()),
    };
    let left_over = options.before.unwrap_or(length(window) / 3);
    let due_at = window.to.checked_sub(left_over).unwrap_or(SystemTime::UNIX_EPOCH);
    let moves = !ca.has_issued(der);
    if now < due_at && !moves {
        return Err(RenewalResult::NotDue(due_at));
    }
    if found.der {
        return failed("it is DER, but PEM is written: convert it with `openssl x509 -inform der`");
    }
    // Expiry ends the use of a key by an attacker, or on a decommissioned machine, so
    // renewing an expired certificate must be asked for.
    if window.to <= now && !options.expired {
        let end = humantime::format_rfc3339_seconds(window.to);
        return failed(&format!(
            "it expired on {end}: renew it with `--expired`, or replace both with `certs issue --force`"
        ));
    }
    let lifetime = options
        .lifetime
        .unwrap_or_else(|| length(window).saturating_sub(SKEW).max(Duration::from_secs(60)));
    let (new, _) = ca.window(now, lifetime);
    if new.to <= window.to && new.to == ca.not_after() && !moves {
        let end = humantime::format_rfc3339_seconds(new.to);
        return Err(RenewalResult::Failed(format!(
            "the CA ends on {end}, so the new certificate would not end later: renew the CA"
        )));
    }
    if options.keep_key && found.key_location == KeyLocation::SameFile && found.secret.is_none() {
        return failed(
            "its key is in the same file, which is replaced as a whole: leave out `--keep-key`, or \
             move the key to a file of its own",
        );
    }
    let key_type = key_type(found, options, &old)?;
    let regenerated = [der::AUTHORITY_KEY_ID, der::SUBJECT_KEY_ID];
    let kept =
        old.iter_extensions().filter(|extension| !regenerated.contains(&extension.oid.as_bytes()));
    let extensions = kept.map(|extension| Extension {
        oid: extension.oid.as_bytes().to_vec(),
        critical: extension.critical,
        value: extension.value.to_vec(),
    });
    let template = CertificateTemplate {
        subject: old.subject().as_raw().to_vec(),
        public_key: old.public_key().raw.to_vec(),
        extensions: extensions.collect(),
        not_before: new.from,
        not_after: new.to,
    };
    Ok(Due { template, window: new, key_type })
}

fn key_type(
    found: &FoundCertificate,
    options: &RenewOptions,
    old: &X509Certificate<'_>,
) -> Result<Option<KeyType>, RenewalResult> {
    let failed = |why: &str| Err(RenewalResult::Failed(why.to_owned()));
    match (&found.key, options.keep_key) {
        (_, true) => return Ok(None),
        (KeyState::Elsewhere, false) => {
            return failed(
                "its key was not found: keep the key with `--keep-key`, or issue for a new one with \
                 `certs issue --csr`",
            );
        }
        (KeyState::Encrypted, false) => {
            return failed("its key is encrypted: keep it with `--keep-key`");
        }
        (KeyState::OfCa, false) => return Err(RenewalResult::Ca),
        (KeyState::Wrong(why), false) => return failed(why),
        (KeyState::Fits(_), false)
            if matches!(
                found.key_location,
                KeyLocation::Beside { info: FileInfo { linked: true, .. }, .. }
            ) =>
        {
            return failed(
                "its key is a symbolic link: renew the file it leads to, or use `--keep-key`",
            );
        }
        (KeyState::Fits(_), false) => {}
    }
    if let Some(kind) = options.key_type {
        return Ok(Some(kind));
    }
    let kind = match old.public_key().parsed() {
        Ok(PublicKey::EC(point)) if point.key_size() == 256 => KeyType::EcdsaP256,
        Ok(PublicKey::EC(point)) if point.key_size() == 384 => KeyType::EcdsaP384,
        Ok(PublicKey::RSA(key)) if key.key_size() <= 2048 => KeyType::Rsa2048,
        Ok(PublicKey::RSA(key)) if key.key_size() <= 3072 => KeyType::Rsa3072,
        Ok(PublicKey::RSA(_)) => KeyType::Rsa4096,
        // 1.3.101.112, Ed25519.
        _ if old.public_key().algorithm.algorithm.as_bytes() == [0x2b, 0x65, 0x70] => {
            KeyType::Ed25519
        }
        _ => {
            return failed(
                "this type of key cannot be generated: choose another with `--key-type`, or use \
                 `--keep-key`",
            );
        }
    };
    Ok(Some(kind))
}
