//! The layouts of issued files in a directory.

mod secret;

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use etcd_warden_core::diagnostics::Diagnostics;
use zeroize::Zeroizing;

use super::issue::Credentials;
use super::subject::Holder;
pub use secret::SecretManifest;

/// Calico's name for the trust bundle of a component (`/calico-secrets`).
pub const CA_FILE: &str = "etcd-ca";
/// Calico's name for the certificate of a component.
pub const CERT_FILE: &str = "etcd-cert";
/// Calico's name for the key of a component.
pub const KEY_FILE: &str = "etcd-key";
/// The file of `--output secret`.
pub const SECRETS_FILE: &str = "secrets.yaml";

/// The values of `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// `etcd-ca`, `etcd-cert` and `etcd-key` of one component, in the directory itself.
    Files,
    /// `secrets.yaml`: one Kubernetes Secret per component, or per component and node.
    Secret,
    /// `nodes/NODE/COMPONENT/` and `cluster/COMPONENT/`, each with the three files. The directory
    /// of a node can be copied to that node.
    Directories,
}

/// A file to write.
pub struct NewFile {
    /// Path relative to the directory.
    pub path: PathBuf,
    /// The content.
    pub content: Zeroizing<String>,
    /// True if only its owner may read it.
    pub secret: bool,
    /// Owner and mode to set: those of the file that it replaces.
    pub owner: Option<Owner>,
}

/// Owner and mode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits, as for `chmod`.
    pub mode: u32,
}

impl Owner {
    /// Taken from a file's metadata.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() & 0o777 }
    }
}

/// The directory of one holder's files in the layout `directories`. The directory of a node holds
/// nothing of another node.
#[must_use]
pub fn directory(holder: &Holder) -> PathBuf {
    match &holder.node {
        Some(node) => Path::new("nodes").join(node).join(holder.component.name),
        None => Path::new("cluster").join(holder.component.name),
    }
}

/// The files of one component, in the order in which they must be put in place.
#[must_use]
pub fn files(directory: &Path, set: Credentials) -> Vec<NewFile> {
    let open = |name: &str, content: String| NewFile {
        path: directory.join(name),
        content: Zeroizing::new(content),
        secret: false,
        owner: None,
    };
    let key = set.key.map(|content| NewFile {
        path: directory.join(KEY_FILE),
        content,
        secret: true,
        owner: None,
    });
    std::iter::once(open(CA_FILE, set.ca))
        .chain(key)
        .chain(std::iter::once(open(CERT_FILE, set.certificate)))
        .collect()
}

/// The paths of the files that these holders will have.
///
/// # Errors
/// The layout does not allow them.
pub fn places(
    layout: Layout,
    holders: &[&Holder],
    with_key: bool,
    manifest: &SecretManifest,
) -> Result<Vec<PathBuf>, Diagnostics> {
    let names =
        [CA_FILE, KEY_FILE, CERT_FILE].into_iter().filter(|name| with_key || *name != KEY_FILE);
    match layout {
        Layout::Files if holders.len() != 1 => super::refuse(
            "--output",
            format!("`files` is for one certificate, but {} are planned", holders.len()),
            "write `--output directories` or `--output secret`",
        ),
        Layout::Files => Ok(names.map(PathBuf::from).collect()),
        Layout::Directories => {
            let names: Vec<&str> = names.collect();
            Ok(holders
                .iter()
                .flat_map(|holder| names.iter().map(|name| directory(holder).join(name)))
                .collect())
        }
        Layout::Secret => manifest.check(holders).map(|()| vec![PathBuf::from(SECRETS_FILE)]),
    }
}

/// All files of all holders.
#[must_use]
pub fn lay_out(
    layout: Layout,
    sets: Vec<(&Holder, Credentials)>,
    manifest: &SecretManifest,
) -> Vec<NewFile> {
    match layout {
        Layout::Files => sets.into_iter().flat_map(|(_, set)| files(Path::new(""), set)).collect(),
        Layout::Directories => {
            sets.into_iter().flat_map(|(holder, set)| files(&directory(holder), set)).collect()
        }
        Layout::Secret => vec![NewFile {
            path: SECRETS_FILE.into(),
            content: manifest.text(&sets),
            secret: true,
            owner: None,
        }],
    }
}
