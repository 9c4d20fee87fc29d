//! How sets of certificates are laid out in a folder.

mod secret;

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use etcd_warden_core::diagnostics::Diagnostics;
use zeroize::Zeroizing;

use super::issue::Set;
use super::subject::Holder;
pub use secret::Manifest;

/// Calico's names for the three files of a component (`/calico-secrets`).
pub const CA_FILE: &str = "etcd-ca";
/// The certificate.
pub const CERT_FILE: &str = "etcd-cert";
/// The key.
pub const KEY_FILE: &str = "etcd-key";
/// The file of `--output secret`.
pub const SECRETS_FILE: &str = "secrets.yaml";

/// What `--output` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// One component's `etcd-ca`, `etcd-cert` and `etcd-key` in the folder itself.
    Files,
    /// `secrets.yaml`: a Kubernetes Secret for each component, or for each component of each node.
    Secret,
    /// `nodes/NODE/COMPONENT/` and `cluster/COMPONENT/`, each with the three files: a folder per
    /// node, to be copied there.
    Directories,
}

/// One file that is to be there.
pub struct Wanted {
    /// Its place in the folder.
    pub path: PathBuf,
    /// What stands in it.
    pub content: Zeroizing<String>,
    /// Whether only its owner may read it.
    pub secret: bool,
    /// Of the file that it replaces, where it is to have the same.
    pub owner: Option<Owner>,
}

/// Whom a file belongs to, and who may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The mode, as `chmod` has it: others in the lowest three bits.
    pub mode: u32,
}

impl Owner {
    /// As the file says.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() & 0o777 }
    }
}

/// The folder of one holder's files, in the layout `directories`. A node's own folder holds nothing
/// that is not that node's.
#[must_use]
pub fn directory(holder: &Holder) -> PathBuf {
    match &holder.node {
        Some(node) => Path::new("nodes").join(node).join(holder.component.name),
        None => Path::new("cluster").join(holder.component.name),
    }
}

/// The files of one set, in the order in which they are to be put in place.
#[must_use]
pub fn files(directory: &Path, set: Set) -> Vec<Wanted> {
    let open = |name: &str, content: String| Wanted {
        path: directory.join(name),
        content: Zeroizing::new(content),
        secret: false,
        owner: None,
    };
    let key = set.key.map(|content| Wanted {
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

/// The names of the files that holders will have, before there is anything to put into them.
///
/// # Errors
/// A name that the layout cannot have.
pub fn places(
    layout: Layout,
    holders: &[&Holder],
    with_key: bool,
    manifest: &Manifest,
) -> Result<Vec<PathBuf>, Diagnostics> {
    let names =
        [CA_FILE, KEY_FILE, CERT_FILE].into_iter().filter(|name| with_key || *name != KEY_FILE);
    match layout {
        Layout::Files if holders.len() != 1 => super::refuse(
            "--output",
            format!("`files` is for one certificate, and these are {}", holders.len()),
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

/// All files of all sets.
#[must_use]
pub fn lay_out(layout: Layout, sets: Vec<(&Holder, Set)>, manifest: &Manifest) -> Vec<Wanted> {
    match layout {
        Layout::Files => sets.into_iter().flat_map(|(_, set)| files(Path::new(""), set)).collect(),
        Layout::Directories => {
            sets.into_iter().flat_map(|(holder, set)| files(&directory(holder), set)).collect()
        }
        Layout::Secret => vec![Wanted {
            path: SECRETS_FILE.into(),
            content: manifest.text(&sets),
            secret: true,
            owner: None,
        }],
    }
}
