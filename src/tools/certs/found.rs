//! Certificates that lie in folders, files and Secret manifests, each with the key that belongs to
//! it.

mod key;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use etcd_warden_core::diagnostics::Diagnostics;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::layout::CERT_FILE;
pub use super::manifest::SecretName;
use super::manifest::{self, Secret};
use super::{Told, read_told, refuse};
pub use key::{KeyPlace, KeyState};

/// Bytes that a file may have: a manifest of thousands of Secrets.
const MOST: u64 = 256 << 20;

/// A certificate, and where it is.
#[derive(Clone, Debug)]
pub struct Found {
    /// The file that it stands in.
    pub file: PathBuf,
    /// What its opening tells of it.
    pub told: Told,
    /// The Secret in that file, if it is a manifest.
    pub secret: Option<SecretName>,
    /// The leaf, and what stands behind it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whether the file is DER, and not PEM.
    pub der: bool,
    /// Whether its key is there and fits.
    pub key: KeyState,
    /// Where that key is.
    pub key_place: KeyPlace,
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

    /// What the server at this URL shows.
    #[must_use]
    pub fn at_server(url: &str, chain: Vec<CertificateDer<'static>>) -> Self {
        let (key, key_place) = (KeyState::Elsewhere, KeyPlace::Nowhere);
        Self {
            file: url.into(),
            told: Told { linked: false, owner: None },
            secret: None,
            chain,
            der: false,
            key,
            key_place,
            copies: 0,
        }
    }

    /// Whether it is the `etcd-cert` of a set.
    #[must_use]
    pub fn is_of_set(&self) -> bool {
        self.file.file_name().is_some_and(|name| name == CERT_FILE)
    }
}

/// A file, or a part of a manifest, without a certificate.
#[derive(Debug)]
pub struct Other {
    /// The file.
    pub file: PathBuf,
    /// What it is.
    pub what: String,
    /// Whether a certificate is to be expected there, by its name or by what it is: nobody can
    /// tell when that ends.
    pub lost: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Sight {
    /// Certificates, in the order of their places.
    pub certificates: Vec<Found>,
    /// Files without a certificate.
    pub others: Vec<Other>,
    /// Folders where a run was cut before everything was in place.
    pub cut: Vec<PathBuf>,
}

/// Looks at a file, or at all files below a folder. Hidden files are left out, as are folders
/// behind symbolic links.
///
/// # Errors
/// There is nothing at `path`, or it cannot be read.
pub fn look(path: &Path) -> Result<Sight, Diagnostics> {
    let mut sight = Sight::default();
    let mut cas = BTreeMap::new();
    if path.is_dir() {
        if let Err((path, error)) = walk(path, 0, &mut sight, &mut cas) {
            return refuse(
                &path.display().to_string(),
                format!("the folder cannot be read: {error}"),
                "",
            );
        }
    } else {
        let (bytes, told) = read_told(path, MOST);
        file(path, told, &Zeroizing::new(bytes?), &mut sight, &mut cas);
    }
    Ok(sight)
}

/// CA certificates that were seen, by their bytes: each component has a copy of one, and one line
/// says it.
type Cas = BTreeMap<Vec<u8>, usize>;

fn walk(
    folder: &Path,
    depth: usize,
    sight: &mut Sight,
    cas: &mut Cas,
) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error| (folder.to_owned(), error);
    let mut entries: Vec<fs::DirEntry> =
        fs::read_dir(folder).and_then(Iterator::collect).map_err(failed)?;
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
            if path.is_symlink() && is_called_certificate(&path) && !path.exists() {
                sight.others.push(Other {
                    file: path,
                    what: "a symbolic link that leads nowhere".to_owned(),
                    lost: true,
                });
            }
            continue;
        }
        match read_told(&path, MOST) {
            (Ok(bytes), told) => file(&path, told, &Zeroizing::new(bytes), sight, cas),
            (Err(why), _) => {
                let what = why.iter().map(|one| one.message.clone()).collect::<Vec<_>>().join(", ");
                let lost = is_called_certificate(&path) || manifest::may_be(&path);
                sight.others.push(Other { file: path, what, lost });
            }
        }
    }
    Ok(())
}

/// Whether a file's name says that it holds a certificate.
fn is_called_certificate(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == CERT_FILE)
        || path
            .extension()
            .is_some_and(|extension| ["crt", "cert", "pem"].iter().any(|known| extension == *known))
}

fn file(path: &Path, told: Told, bytes: &[u8], sight: &mut Sight, cas: &mut Cas) {
    let other =
        |what: &str, lost: bool| Other { file: path.to_owned(), what: what.to_owned(), lost };
    if manifest::may_be(path) {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return sight.others.push(other("a manifest that is not UTF-8", true));
        };
        let seen = manifest::secrets(text);
        if seen.secrets.is_empty() && seen.unreadable.is_empty() {
            sight.others.push(other("a manifest without a Secret that holds a certificate", false));
        }
        sight.others.extend(seen.unreadable.iter().map(|what| other(what, true)));
        for secret in seen.secrets {
            of_secret(path, told, &secret, sight);
        }
        return;
    }
    let Contents { chain, holds_key, der } = match contents(bytes) {
        Ok(read) => read,
        Err(why) => return sight.others.push(other(why, is_called_certificate(path))),
    };
    let mut found = Found {
        file: path.to_owned(),
        told,
        secret: None,
        chain,
        der,
        key: KeyState::OfCa,
        key_place: KeyPlace::Nowhere,
        copies: 0,
    };
    let Some(leaf) = found.chain.first() else {
        // PEM of another kind may be called `.pem`.
        let lost = is_called_certificate(path)
            && path.extension().is_none_or(|extension| extension != "pem");
        match holds_key {
            true if key::has_certificate(path) => {}
            true => sight.others.push(other("a key without a certificate beside it", lost)),
            false => sight.others.push(other("no certificate in it", lost)),
        }
        return;
    };
    let is_ca = X509Certificate::from_der(leaf).is_ok_and(|(_, certificate)| certificate.is_ca());
    if is_ca && !found.is_of_set() {
        if let Some(at) = cas.get(leaf.as_ref()) {
            if let Some(first) = sight.certificates.get_mut(*at) {
                first.copies += 1;
            }
            return;
        }
        cas.insert(leaf.to_vec(), sight.certificates.len());
    } else {
        (found.key, found.key_place) = key::of(path, leaf, holds_key.then_some(bytes));
    }
    sight.certificates.push(found);
}

fn of_secret(path: &Path, told: Told, secret: &Secret, sight: &mut Sight) {
    let chain =
        contents(secret.certificate.as_bytes()).map(|contents| contents.chain).unwrap_or_default();
    let Some(leaf) = chain.first() else {
        let what = format!(
            "Secret `{}`: its `{}` holds no certificate",
            secret.name, secret.certificate_name
        );
        return sight.others.push(Other { file: path.to_owned(), what, lost: true });
    };
    let (key, key_place) = match &secret.key {
        Some(pem) => (key::fits(pem.as_bytes(), leaf), KeyPlace::Same),
        None => (KeyState::Elsewhere, KeyPlace::Nowhere),
    };
    let secret = Some(secret.name.clone());
    sight.certificates.push(Found {
        file: path.to_owned(),
        told,
        secret,
        chain,
        der: false,
        key,
        key_place,
        copies: 0,
    });
}

/// Whether this PEM holds the certificate's key.
pub(super) fn fits(pem: &[u8], leaf: &[u8]) -> bool {
    matches!(key::fits(pem, leaf), KeyState::Fits(_))
}

/// The first certificate in a text.
pub(super) fn leaf_in(text: &str) -> Option<CertificateDer<'static>> {
    contents(text.as_bytes()).ok()?.chain.into_iter().next()
}

struct Contents {
    chain: Vec<CertificateDer<'static>>,
    /// Whether there is a private key too.
    holds_key: bool,
    der: bool,
}

fn contents(bytes: &[u8]) -> Result<Contents, &'static str> {
    if bytes.starts_with(&[0x30]) {
        return match X509Certificate::from_der(bytes) {
            Ok(([], _)) => {
                Ok(Contents { chain: vec![bytes.to_vec().into()], holds_key: false, der: true })
            }
            _ => Err("neither PEM nor a certificate in DER"),
        };
    }
    if !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err("no certificate in it");
    }
    let sections = super::sections(bytes).ok_or("PEM that is cut or malformed")?;
    let holds_key = sections.iter().any(|section| section.tag().ends_with("PRIVATE KEY"));
    let certificates = sections.into_iter().filter(|section| section.tag() == "CERTIFICATE");
    Ok(Contents {
        chain: certificates.map(|section| section.into_contents().into()).collect(),
        holds_key,
        der: false,
    })
}

#[cfg(test)]
mod tests;
