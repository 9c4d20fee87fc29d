//! Whether one certificate is renewed, and what stands in the new one.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::{Fate, Terms, length};
use crate::certs::Told;
use crate::certs::ca::{Ca, SKEW, Window, time};
use crate::certs::certificate::{Contents, Extension};
use crate::certs::der;
use crate::certs::found::{Found, KeyPlace, KeyState};
use crate::certs::key::KeyType;

/// What is to be made: the old certificate's names and extensions for a new time.
pub struct Due {
    pub(super) contents: Contents,
    pub(super) window: Window,
    /// What the new key is; `None` when there is to be none.
    pub(super) key_type: Option<KeyType>,
}

/// What becomes of a certificate, or what is to be made in its place.
///
/// # Errors
/// Why it stays as it is.
pub fn decide(ca: &Ca, found: &Found, terms: &Terms, now: SystemTime) -> Result<Due, Fate> {
    let left = |why: &str| Err(Fate::Left(why.to_owned()));
    let failed = |why: &str| Err(Fate::Failed(why.to_owned()));
    let Some(der) = found.chain.first() else { return failed("it cannot be read") };
    let Ok(([], old)) = X509Certificate::from_der(der) else { return failed("it cannot be read") };
    if old.is_ca() {
        return Err(Fate::Ca);
    }
    if found.told.linked {
        return left("it is a symbolic link: renew it where it lies");
    }
    // Whoever can put a file here must not get its names certified: only what this CA has signed is
    // renewed.
    if !ca.has_issued(der) && !terms.old_ca.as_ref().is_some_and(|old| old.has_issued(der)) {
        let by = if old.issuer().as_raw() == ca.subject() {
            "a key that is not this CA's".to_owned()
        } else {
            format!("`{}`", old.issuer())
        };
        return left(&format!(
            "it was not issued to a client by this CA, but by {by}; `--old-ca` names a CA that is left behind"
        ));
    }
    // A new key is given for the old one only: whoever copies a certificate here, which is public,
    // has no part in its successor.
    if let KeyState::Wrong(why) = &found.key {
        return failed(&format!("its key: {why}; `certs issue --force` makes the pair anew"));
    }
    let window = Window {
        from: time(old.validity().not_before.timestamp()),
        to: time(old.validity().not_after.timestamp()),
    };
    let left_over = terms.before.unwrap_or(length(window) / 3);
    let due_at = window.to.checked_sub(left_over).unwrap_or(SystemTime::UNIX_EPOCH);
    let moves = !ca.has_issued(der);
    if now < due_at && !moves {
        return Err(Fate::NotYet(due_at));
    }
    if found.der {
        return failed(
            "it is DER, and PEM is written here: `openssl x509 -inform der` converts it",
        );
    }
    // Its end is what takes a key away from whoever has it by then, a thief or a machine that was
    // given away.
    if window.to <= now && !terms.expired {
        let end = humantime::format_rfc3339_seconds(window.to);
        return failed(&format!(
            "it expired on {end}: `--expired` renews it all the same, `certs issue --force` makes the pair anew"
        ));
    }
    let lifetime = terms
        .lifetime
        .unwrap_or_else(|| length(window).saturating_sub(SKEW).max(Duration::from_secs(60)));
    let (new, _) = ca.window(now, lifetime);
    if new.to <= window.to && new.to == ca.not_after() && !moves {
        let end = humantime::format_rfc3339_seconds(new.to);
        return Err(Fate::Failed(format!(
            "it would end with its CA, on {end}, and not later than now: renew the CA"
        )));
    }
    if terms.keep_key && found.key_place == KeyPlace::Same && found.secret.is_none() {
        return failed(
            "its key is in the same file, which is replaced as a whole: without `--keep-key` both are new, or give the key a file of its own",
        );
    }
    let key_type = key_type(found, terms, &old)?;
    let made_anew = [der::AUTHORITY_KEY_ID, der::SUBJECT_KEY_ID];
    let kept =
        old.iter_extensions().filter(|extension| !made_anew.contains(&extension.oid.as_bytes()));
    let extensions = kept.map(|extension| Extension {
        oid: extension.oid.as_bytes().to_vec(),
        critical: extension.critical,
        value: extension.value.to_vec(),
    });
    let contents = Contents {
        subject: old.subject().as_raw().to_vec(),
        public_key: old.public_key().raw.to_vec(),
        extensions: extensions.collect(),
        not_before: new.from,
        not_after: new.to,
    };
    Ok(Due { contents, window: new, key_type })
}

fn key_type(
    found: &Found,
    terms: &Terms,
    old: &X509Certificate<'_>,
) -> Result<Option<KeyType>, Fate> {
    let failed = |why: &str| Err(Fate::Failed(why.to_owned()));
    match (&found.key, terms.keep_key) {
        (_, true) => return Ok(None),
        (KeyState::Elsewhere, false) => {
            return failed(
                "its key is not here: `--keep-key` renews it for the same key, `certs issue --csr` for a new one",
            );
        }
        (KeyState::Encrypted, false) => {
            return failed("its key is encrypted: `--keep-key` renews it for the same key");
        }
        (KeyState::OfCa, false) => return Err(Fate::Ca),
        (KeyState::Wrong(why), false) => return failed(why),
        (KeyState::Fits(_), false)
            if matches!(
                found.key_place,
                KeyPlace::Beside { told: Told { linked: true, .. }, .. }
            ) =>
        {
            return failed("its key is a symbolic link: renew it where it lies, or `--keep-key`");
        }
        (KeyState::Fits(_), false) => {}
    }
    if let Some(kind) = terms.key_type {
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
                "keys of its kind are not made here: name another by `--key-type`, or `--keep-key`",
            );
        }
    };
    Ok(Some(kind))
}
