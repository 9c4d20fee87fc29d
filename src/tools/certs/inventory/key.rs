//! Finds the private key of a certificate.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::certs::encrypted::{self, PrivateKey};
use crate::certs::layout::{CERT_FILE, KEY_FILE};
use crate::certs::{FileInfo, read_with_info};

/// The state of a certificate's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It matches the certificate. `Some(mode)` if users other than its owner may read the file.
    Fits(Option<u32>),
    /// It was not found.
    Elsewhere,
    /// It is encrypted, and a scan has no passphrase.
    Encrypted,
    /// A key was found that is another certificate's or cannot be read.
    Wrong(String),
    /// The certificate is a CA's, whose key is not looked for.
    OfCa,
}

/// The location of a certificate's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLocation {
    /// Not found.
    NotFound,
    /// In the same file or Secret as the certificate.
    SameFile,
    /// In a separate file in the same directory.
    Beside {
        /// The file.
        file: PathBuf,
        /// Owner and kind of that file.
        info: FileInfo,
    },
}

/// Suffixes of certificate files, each with those of the key file.
const SUFFIXES: [(&str, &[&str]); 3] =
    [(".crt", &[".key"]), (".cert", &[".key"]), (".pem", &[".key", "-key.pem", ".key.pem"])];

/// The key file that belongs to a certificate file by its name, if it exists.
fn file_beside(certificate: &Path) -> Option<PathBuf> {
    let name = certificate.file_name()?.to_str()?;
    let candidates =
        SUFFIXES.iter().filter_map(|(suffix, keys)| Some((name.strip_suffix(suffix)?, keys)));
    let mut candidates: Vec<String> = candidates
        .flat_map(|(stem, keys)| keys.iter().map(move |key| format!("{stem}{key}")))
        .collect();
    if name == CERT_FILE {
        candidates.push(KEY_FILE.to_owned());
    }
    candidates.into_iter().map(|name| certificate.with_file_name(name)).find(|path| path.is_file())
}

/// True if the certificate file of this key file exists.
pub(super) fn has_certificate(key: &Path) -> bool {
    let Some(name) = key.file_name().and_then(|name| name.to_str()) else { return false };
    let stems = SUFFIXES.iter().flat_map(|(suffix, keys)| {
        keys.iter().filter_map(move |key| Some(format!("{}{suffix}", name.strip_suffix(key)?)))
    });
    stems
        .chain((name == KEY_FILE).then(|| CERT_FILE.to_owned()))
        .any(|name| key.with_file_name(name).is_file())
}

/// The key of the certificate `leaf` in the file `certificate`: in the same file (`own`), or in a
/// key file with a matching name.
pub(super) fn of(certificate: &Path, leaf: &[u8], own: Option<&[u8]>) -> (KeyState, KeyLocation) {
    if let Some(bytes) = own {
        return (open_to_others(certificate, fits(bytes, leaf)), KeyLocation::SameFile);
    }
    let Some(file) = file_beside(certificate) else {
        return (KeyState::Elsewhere, KeyLocation::NotFound);
    };
    let (read, info) = read_with_info(&file, 1 << 20);
    let state = match read.map(Zeroizing::new) {
        Ok(bytes) => fits(&bytes, leaf),
        Err(why) => KeyState::Wrong(
            why.iter().map(|one| one.message.clone()).collect::<Vec<_>>().join(", "),
        ),
    };
    (open_to_others(&file, state), KeyLocation::Beside { file, info })
}

fn open_to_others(path: &Path, state: KeyState) -> KeyState {
    match (state, path.metadata()) {
        (KeyState::Fits(_), Ok(metadata)) => {
            let mode = metadata.permissions().mode() & 0o777;
            KeyState::Fits((mode & 0o077 != 0).then_some(mode))
        }
        (state, _) => state,
    }
}

/// Whether the only key in this PEM belongs to the certificate.
pub(super) fn fits(bytes: &[u8], leaf: &[u8]) -> KeyState {
    let key = match encrypted::private_key(bytes) {
        Ok(PrivateKey::Plain(key)) => key,
        Ok(PrivateKey::Encrypted(_)) => return KeyState::Encrypted,
        Err((message, _)) => return KeyState::Wrong(message),
    };
    let public = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key);
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return KeyState::Wrong("the certificate cannot be read".to_owned());
    };
    match public.map(|key| {
        key.public_key().is_some_and(|public| public.as_ref() == certificate.public_key().raw)
    }) {
        Ok(true) => KeyState::Fits(None),
        Ok(false) => KeyState::Wrong("the key belongs to another certificate".to_owned()),
        Err(_) => KeyState::Wrong("this type of key is not supported".to_owned()),
    }
}
