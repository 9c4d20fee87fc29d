//! The private key that belongs to a certificate.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::certs::encrypted::{self, PrivateKey};
use crate::certs::layout::{CERT_FILE, KEY_FILE};
use crate::certs::{Told, read_told};

/// Whether a certificate's key is there, and right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It fits; `Some` mode when others than its owner may read its file.
    Fits(Option<u32>),
    /// It is not here.
    Elsewhere,
    /// It is encrypted: nobody can be asked for its passphrase here.
    Encrypted,
    /// A key is here, and is not this certificate's, or cannot be read.
    Wrong(String),
    /// The certificate is a CA's, whose key is nobody's business here.
    OfCa,
}

/// Where a certificate's key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// Not here.
    Nowhere,
    /// In the file, or in the Secret, of the certificate.
    Same,
    /// In a file beside it.
    Beside {
        /// The file.
        file: PathBuf,
        /// What its opening tells of it.
        told: Told,
    },
}

/// Suffixes of certificates, each with those that their keys have.
const SUFFIXES: [(&str, &[&str]); 3] =
    [(".crt", &[".key"]), (".cert", &[".key"]), (".pem", &[".key", "-key.pem", ".key.pem"])];

/// The key file that belongs to a certificate's file by its name, if it is there.
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

/// Whether a certificate's file stands beside this key's.
pub(super) fn has_certificate(key: &Path) -> bool {
    let Some(name) = key.file_name().and_then(|name| name.to_str()) else { return false };
    let stems = SUFFIXES.iter().flat_map(|(suffix, keys)| {
        keys.iter().filter_map(move |key| Some(format!("{}{suffix}", name.strip_suffix(key)?)))
    });
    stems
        .chain((name == KEY_FILE).then(|| CERT_FILE.to_owned()))
        .any(|name| key.with_file_name(name).is_file())
}

/// The key of the certificate `leaf` in the file `certificate`: in the same file (`own`), or in one
/// beside it.
pub(super) fn of(certificate: &Path, leaf: &[u8], own: Option<&[u8]>) -> (KeyState, KeyPlace) {
    if let Some(bytes) = own {
        return (open_to_others(certificate, fits(bytes, leaf)), KeyPlace::Same);
    }
    let Some(file) = file_beside(certificate) else {
        return (KeyState::Elsewhere, KeyPlace::Nowhere);
    };
    let (read, told) = read_told(&file, 1 << 20);
    let state = match read.map(Zeroizing::new) {
        Ok(bytes) => fits(&bytes, leaf),
        Err(why) => KeyState::Wrong(
            why.iter().map(|one| one.message.clone()).collect::<Vec<_>>().join(", "),
        ),
    };
    (open_to_others(&file, state), KeyPlace::Beside { file, told })
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

/// Whether the one key in this PEM is that of the certificate.
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
        Ok(false) => KeyState::Wrong("the key is another certificate's".to_owned()),
        Err(_) => KeyState::Wrong("the key is of a kind that cannot be used".to_owned()),
    }
}
