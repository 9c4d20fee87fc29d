//! Certificates that lie in folders, files and Secret manifests, each with the key that belongs to it.

mod key;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::layout::{CERT_FILE, KEY_FILE};
use super::manifest::{self, Secret};
use super::{read, refuse};
use crate::policy::Diagnostics;
pub use key::KeyState;

/// Bytes that a file may have: a manifest of thousands of Secrets.
const MOST: u64 = 256 << 20;

/// A certificate, and where it is.
#[derive(Clone, Debug)]
pub struct Found {
    /// The file that it stands in.
    pub file: PathBuf,
    /// The Secret in that file, if it is a manifest.
    pub secret: Option<String>,
    /// The leaf, and what stands behind it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Where its key is, and whether it fits.
    pub key: KeyState,
    /// In how many other places the same CA certificate stands.
    pub copies: usize,
}

impl Found {
    /// `FILE`, or `FILE#SECRET`.
    #[must_use]
    pub fn place(&self) -> String {
        let file = self.file.display();
        self.secret.as_ref().map_or_else(|| file.to_string(), |secret| format!("{file}#{secret}"))
    }

    /// The leaf.
    #[must_use]
    pub fn leaf(&self) -> &[u8] {
        self.chain.first().map(AsRef::as_ref).unwrap_or_default()
    }

    /// The file of its key in a folder, if one is there.
    #[must_use]
    pub fn key_file(&self) -> Option<PathBuf> {
        key::file_beside(&self.file)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Sight {
    /// Certificates, in the order of their places.
    pub certificates: Vec<Found>,
    /// Files without a certificate, and what they are.
    pub others: Vec<(PathBuf, String)>,
    /// Folders where a run was cut before everything was in place.
    pub cut: Vec<PathBuf>,
}

/// Looks at a file, or at all files below a folder. Hidden files are left out, as are folders behind symbolic links.
///
/// # Errors
/// There is nothing at `path`, or it cannot be read.
pub fn look(path: &Path) -> Result<Sight, Diagnostics> {
    let mut sight = Sight::default();
    let mut cas = BTreeMap::new();
    if path.is_dir() {
        if let Err((path, error)) = walk(path, 0, &mut sight, &mut cas) {
            return refuse(&path.display().to_string(), format!("the folder cannot be read: {error}"), "");
        }
    } else {
        file(path, &read(path, MOST)?, &mut sight, &mut cas);
    }
    Ok(sight)
}

/// CA certificates that were seen, by their bytes: each component has a copy of one, and one line says it.
type Cas = BTreeMap<Vec<u8>, usize>;

fn walk(folder: &Path, depth: usize, sight: &mut Sight, cas: &mut Cas) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error| (folder.to_owned(), error);
    let mut entries: Vec<fs::DirEntry> = fs::read_dir(folder).and_then(Iterator::collect).map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            if entry.file_name() == super::store::COMPLETE {
                sight.cut.push(folder.to_owned());
            }
            continue;
        }
        // Deeper than any layout of ours, and not endless.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth < 16 {
                walk(&path, depth + 1, sight, cas)?;
            }
            continue;
        }
        if !path.is_file() {
            continue;
        }
        match read(&path, MOST) {
            Ok(bytes) => file(&path, &Zeroizing::new(bytes), sight, cas),
            Err(why) => {
                let why = why.iter().map(|one| one.message.clone()).collect::<Vec<_>>().join(", ");
                sight.others.push((path, why));
            }
        }
    }
    Ok(())
}

fn file(path: &Path, bytes: &[u8], sight: &mut Sight, cas: &mut Cas) {
    if let Some(secrets) = std::str::from_utf8(bytes).ok().filter(|_| manifest::may_be(path)).map(manifest::secrets) {
        if secrets.is_empty() {
            sight.others.push((path.to_owned(), "a manifest without a Secret that holds a certificate".to_owned()));
        }
        for secret in secrets {
            of_secret(path, &secret, sight);
        }
        return;
    }
    let (chain, holds_key) = match contents(bytes) {
        Ok(read) => read,
        Err(why) => return sight.others.push((path.to_owned(), why.to_owned())),
    };
    let Some(leaf) = chain.first() else {
        if !holds_key || !key::has_certificate(path) {
            let what = if holds_key { "a key without a certificate beside it" } else { "no certificate in it" };
            sight.others.push((path.to_owned(), what.to_owned()));
        }
        return;
    };
    let is_ca = X509Certificate::from_der(leaf).is_ok_and(|(_, certificate)| certificate.is_ca());
    if is_ca && path.file_name().is_none_or(|name| name != CERT_FILE) {
        if let Some(at) = cas.get(leaf.as_ref()) {
            if let Some(first) = sight.certificates.get_mut(*at) {
                first.copies += 1;
            }
            return;
        }
        cas.insert(leaf.to_vec(), sight.certificates.len());
        sight.certificates.push(Found { file: path.to_owned(), secret: None, chain, key: KeyState::OfCa, copies: 0 });
        return;
    }
    let key = key::beside(path, leaf, holds_key.then_some(bytes));
    sight.certificates.push(Found { file: path.to_owned(), secret: None, chain, key, copies: 0 });
}

fn of_secret(path: &Path, secret: &Secret, sight: &mut Sight) {
    let name = Some(secret.name.clone());
    match contents(secret.certificate.as_bytes()) {
        Ok((chain, _)) if !chain.is_empty() => {
            let key = match (&secret.key, chain.first()) {
                (Some(pem), Some(leaf)) => key::fits(pem.as_bytes(), leaf),
                _ => KeyState::Elsewhere,
            };
            sight.certificates.push(Found { file: path.to_owned(), secret: name, chain, key, copies: 0 });
        }
        _ => {
            let what = format!("Secret `{}`: its `{}` holds no certificate", secret.name, secret.certificate_name);
            sight.others.push((path.to_owned(), what));
        }
    }
}

/// The certificates in a file, and whether there is a private key in it too.
fn contents(bytes: &[u8]) -> Result<(Vec<CertificateDer<'static>>, bool), &'static str> {
    if bytes.starts_with(&[0x30]) {
        return match X509Certificate::from_der(bytes) {
            Ok(([], _)) => Ok((vec![bytes.to_vec().into()], false)),
            _ => Err("neither PEM nor a certificate in DER"),
        };
    }
    if !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err("no certificate in it");
    }
    let sections = super::sections(bytes).ok_or("PEM that is cut or malformed")?;
    let holds_key = sections.iter().any(|section| section.tag().ends_with("PRIVATE KEY"));
    let certificates = sections.into_iter().filter(|section| section.tag() == "CERTIFICATE");
    Ok((certificates.map(|section| section.into_contents().into()).collect(), holds_key))
}

/// The name of a set's key file, beside `etcd-cert`.
#[must_use]
pub fn is_set(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == CERT_FILE) && file.with_file_name(KEY_FILE) != file
}

#[cfg(test)]
mod tests;
