//! Finds certificates in directories, files and Secret manifests, and the key of each.

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
use super::{FileInfo, read_with_info, refuse};
pub use key::{KeyLocation, KeyState};

/// Bytes that a file may have: enough for a manifest of thousands of Secrets.
const MOST: u64 = 256 << 20;

/// A certificate and its location.
#[derive(Clone, Debug)]
pub struct FoundCertificate {
    /// The file that contains it.
    pub file: PathBuf,
    /// Owner and kind of that file.
    pub info: FileInfo,
    /// The Secret that contains it, if the file is a manifest.
    pub secret: Option<SecretName>,
    /// The leaf first, then its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// True if the file is DER rather than PEM.
    pub der: bool,
    /// Whether its key was found and matches.
    pub key: KeyState,
    /// Where that key is.
    pub key_location: KeyLocation,
    /// The number of further files with the same CA certificate.
    pub copies: usize,
}

impl FoundCertificate {
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

    /// The certificate chain that the server at this URL presents.
    #[must_use]
    pub fn at_server(url: &str, chain: Vec<CertificateDer<'static>>) -> Self {
        let (key, key_location) = (KeyState::Elsewhere, KeyLocation::NotFound);
        Self {
            file: url.into(),
            info: FileInfo { linked: false, owner: None },
            secret: None,
            chain,
            der: false,
            key,
            key_location,
            copies: 0,
        }
    }

    /// True for the `etcd-cert` of one component's files.
    #[must_use]
    pub fn is_etcd_cert(&self) -> bool {
        self.file.file_name().is_some_and(|name| name == CERT_FILE)
    }
}

/// A file, or a part of a manifest, that holds no certificate.
#[derive(Debug)]
pub struct Other {
    /// The file.
    pub file: PathBuf,
    /// What was found instead, for display.
    pub what: String,
    /// True if a certificate was expected there, by the file's name or kind. Its expiry is unknown.
    pub suspect: bool,
}

/// The result of a scan.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Certificates, sorted by location.
    pub certificates: Vec<FoundCertificate>,
    /// Files without a certificate.
    pub others: Vec<Other>,
    /// Directories in which an earlier run did not put all its files in place.
    pub unfinished: Vec<PathBuf>,
}

/// Scans a file, or all files below a directory. Skips hidden files and directories behind symbolic
/// links.
///
/// # Errors
/// `path` does not exist, or cannot be read.
pub fn scan(path: &Path) -> Result<Inventory, Diagnostics> {
    let mut inventory = Inventory::default();
    let mut cas = BTreeMap::new();
    if path.is_dir() {
        if let Err((path, error)) = walk(path, 0, &mut inventory, &mut cas) {
            return refuse(
                &path.display().to_string(),
                format!("the directory cannot be read: {error}"),
                "",
            );
        }
    } else {
        let (bytes, info) = read_with_info(path, MOST);
        add_file(path, info, &Zeroizing::new(bytes?), &mut inventory, &mut cas);
    }
    Ok(inventory)
}

/// Index of each CA certificate in the result, by its DER: every component has a copy, and the list
/// shows it once.
type Cas = BTreeMap<Vec<u8>, usize>;

fn walk(
    folder: &Path,
    depth: usize,
    inventory: &mut Inventory,
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
                inventory.unfinished.push(folder.to_owned());
            }
            continue;
        }
        // Deeper than any layout of `certs issue`, and a bound.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth < 16 {
                walk(&path, depth + 1, inventory, cas)?;
            }
            continue;
        }
        if !path.is_file() {
            if path.is_symlink() && is_called_certificate(&path) && !path.exists() {
                inventory.others.push(Other {
                    file: path,
                    what: "a symbolic link whose target does not exist".to_owned(),
                    suspect: true,
                });
            }
            continue;
        }
        match read_with_info(&path, MOST) {
            (Ok(bytes), info) => add_file(&path, info, &Zeroizing::new(bytes), inventory, cas),
            (Err(why), _) => {
                let what = why.iter().map(|one| one.message.clone()).collect::<Vec<_>>().join(", ");
                let suspect = is_called_certificate(&path) || manifest::is_manifest(&path);
                inventory.others.push(Other { file: path, what, suspect });
            }
        }
    }
    Ok(())
}

/// True if the file's name is usual for certificates.
fn is_called_certificate(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == CERT_FILE)
        || path
            .extension()
            .is_some_and(|extension| ["crt", "cert", "pem"].iter().any(|known| extension == *known))
}

fn add_file(path: &Path, info: FileInfo, bytes: &[u8], inventory: &mut Inventory, cas: &mut Cas) {
    let other =
        |what: &str, suspect: bool| Other { file: path.to_owned(), what: what.to_owned(), suspect };
    if manifest::is_manifest(path) {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return inventory.others.push(other("a manifest that is not UTF-8", true));
        };
        let seen = manifest::secrets(text);
        if seen.secrets.is_empty() && seen.unreadable.is_empty() {
            inventory
                .others
                .push(other("a manifest without a Secret that holds a certificate", false));
        }
        inventory.others.extend(seen.unreadable.iter().map(|what| other(what, true)));
        for secret in seen.secrets {
            add_secret(path, info, &secret, inventory);
        }
        return;
    }
    let PemContents { chain, holds_key, der } = match contents(bytes) {
        Ok(read) => read,
        Err(why) => return inventory.others.push(other(why, is_called_certificate(path))),
    };
    let mut found = FoundCertificate {
        file: path.to_owned(),
        info,
        secret: None,
        chain,
        der,
        key: KeyState::OfCa,
        key_location: KeyLocation::NotFound,
        copies: 0,
    };
    let Some(leaf) = found.chain.first() else {
        // `.pem` is used for other PEM sections, too.
        let suspect = is_called_certificate(path)
            && path.extension().is_none_or(|extension| extension != "pem");
        match holds_key {
            true if key::has_certificate(path) => {}
            true => inventory.others.push(other("a key without a certificate beside it", suspect)),
            false => inventory.others.push(other("no certificate in it", suspect)),
        }
        return;
    };
    let is_ca = X509Certificate::from_der(leaf).is_ok_and(|(_, certificate)| certificate.is_ca());
    if is_ca && !found.is_etcd_cert() {
        if let Some(at) = cas.get(leaf.as_ref()) {
            if let Some(first) = inventory.certificates.get_mut(*at) {
                first.copies += 1;
            }
            return;
        }
        cas.insert(leaf.to_vec(), inventory.certificates.len());
    } else {
        (found.key, found.key_location) = key::of(path, leaf, holds_key.then_some(bytes));
    }
    inventory.certificates.push(found);
}

fn add_secret(path: &Path, info: FileInfo, secret: &Secret, inventory: &mut Inventory) {
    let chain =
        contents(secret.certificate.as_bytes()).map(|contents| contents.chain).unwrap_or_default();
    let Some(leaf) = chain.first() else {
        let what = format!(
            "Secret `{}`: its `{}` holds no certificate",
            secret.name, secret.certificate_name
        );
        return inventory.others.push(Other { file: path.to_owned(), what, suspect: true });
    };
    let (key, key_location) = match &secret.key {
        Some(pem) => (key::fits(pem.as_bytes(), leaf), KeyLocation::SameFile),
        None => (KeyState::Elsewhere, KeyLocation::NotFound),
    };
    let secret = Some(secret.name.clone());
    inventory.certificates.push(FoundCertificate {
        file: path.to_owned(),
        info,
        secret,
        chain,
        der: false,
        key,
        key_location,
        copies: 0,
    });
}

/// True if this PEM holds the certificate's key.
pub(super) fn fits(pem: &[u8], leaf: &[u8]) -> bool {
    matches!(key::fits(pem, leaf), KeyState::Fits(_))
}

/// The first certificate in a PEM text.
pub(super) fn leaf_in(text: &str) -> Option<CertificateDer<'static>> {
    contents(text.as_bytes()).ok()?.chain.into_iter().next()
}

struct PemContents {
    chain: Vec<CertificateDer<'static>>,
    /// True if the file holds a private key, too.
    holds_key: bool,
    der: bool,
}

fn contents(bytes: &[u8]) -> Result<PemContents, &'static str> {
    if bytes.starts_with(&[0x30]) {
        return match X509Certificate::from_der(bytes) {
            Ok(([], _)) => {
                Ok(PemContents { chain: vec![bytes.to_vec().into()], holds_key: false, der: true })
            }
            _ => Err("neither PEM nor a certificate in DER"),
        };
    }
    if !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err("no certificate in it");
    }
    let sections = super::sections(bytes).ok_or("PEM that is incomplete or malformed")?;
    let holds_key = sections.iter().any(|section| section.tag().ends_with("PRIVATE KEY"));
    let certificates = sections.into_iter().filter(|section| section.tag() == "CERTIFICATE");
    Ok(PemContents {
        chain: certificates.map(|section| section.into_contents().into()).collect(),
        holds_key,
        der: false,
    })
}

#[cfg(test)]
mod tests;
