//! Renewal: new certificates with the same names in the same files.

mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::ca::{Ca, OldCa, Window};
use super::inventory::{self, FoundCertificate, Inventory, KeyLocation};
use super::key::KeyType;
use super::layout::{CA_FILE, NewFile, Owner};
use super::{manifest, store};
pub use decide::{Due, decide};

/// Options of a renewal.
#[derive(Debug)]
pub struct RenewOptions {
    /// Certificates that end within this time are due. Default: a third of their lifetime.
    pub before: Option<Duration>,
    /// The new lifetime. Default: the old one.
    pub lifetime: Option<Duration>,
    /// Renew expired certificates, too.
    pub expired: bool,
    /// Renew the certificate for its present key.
    pub keep_key: bool,
    /// The type of new keys. Default: that of the old key.
    pub key_type: Option<KeyType>,
    /// Another CA whose certificates are renewed now, for a move to a new CA.
    pub old_ca: Option<OldCa>,
    /// New content of `etcd-ca`, PEM.
    pub server_ca: Option<String>,
}

/// The result for one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenewalResult {
    /// Renewed; the new certificate is valid until this time.
    Renewed(SystemTime),
    /// Not due before this time.
    NotDue(SystemTime),
    /// A CA certificate, which is never renewed.
    Ca,
    /// Not issued by this CA, or otherwise out of scope. Not an error.
    Skipped(String),
    /// Due, but it cannot be renewed.
    Failed(String),
}

/// A new certificate, and its key if that is new. PEM.
struct Renewed {
    certificate: String,
    key: Option<Zeroizing<String>>,
}

/// The files to write, and the result for each certificate.
pub struct Outcome {
    /// Paths are relative to the directory.
    pub files: Vec<NewFile>,
    /// By index in [`Inventory::certificates`].
    pub results: Vec<RenewalResult>,
}

/// Renews the due certificates below `folder` in memory; writes nothing. `progress` receives the
/// number of certificates done so far.
#[must_use]
pub fn renew(
    ca: &Ca,
    inventory: &Inventory,
    folder: &Path,
    options: &RenewOptions,
    now: SystemTime,
    progress: &(dyn Fn(usize) + Sync),
) -> Outcome {
    let shared = shared_keys(inventory);
    let made = super::parallel::map(&inventory.certificates, progress, |found| {
        let due = match decide(ca, found, options, now) {
            Ok(due) => due,
            Err(result) => return (result, None),
        };
        if !options.keep_key
            && matches!(&found.key_location, KeyLocation::Beside { file, .. } if shared.contains(&**file))
        {
            let why = "another certificate has the same key file: give each its own key file, or \
                       use `--keep-key`";
            return (RenewalResult::Failed(why.to_owned()), None);
        }
        let until = due.window.to;
        match make(ca, due, options) {
            Ok(renewed) => (RenewalResult::Renewed(until), Some(renewed)),
            Err(message) => (RenewalResult::Failed(message), None),
        }
    });
    let mut outcome = Outcome { files: Vec::new(), results: Vec::new() };
    let mut manifests: BTreeMap<&Path, Vec<(usize, &FoundCertificate, Renewed)>> = BTreeMap::new();
    for (at, (found, (mut result, renewed))) in inventory.certificates.iter().zip(made).enumerate()
    {
        match renewed {
            None => {}
            Some(renewed) if found.secret.is_some() => {
                manifests.entry(&found.file).or_default().push((at, found, renewed));
            }
            Some(renewed) => {
                let files = in_folder(folder, found, renewed, options);
                match obstacle_to(folder, &files) {
                    None => outcome.files.extend(files),
                    Some(why) => result = RenewalResult::Failed(why),
                }
            }
        }
        outcome.results.push(result);
    }
    for (file, renewed) in manifests {
        in_manifest(folder, file, renewed, &mut outcome);
    }
    outcome
}

fn make(ca: &Ca, mut due: Due, options: &RenewOptions) -> Result<Renewed, String> {
    let new = match due.key_type.filter(|_| !options.keep_key) {
        Some(kind) => Some(kind.generate()?),
        None => None,
    };
    let key = new.map(|new| {
        due.template.public_key = new.public_key;
        new.pem
    });
    let der = ca.issue(&due.template)?;
    Ok(Renewed { certificate: ca.chain_pem(&der), key })
}

/// Key files that belong to more than one certificate by their names.
fn shared_keys(inventory: &Inventory) -> BTreeSet<&Path> {
    let mut seen = BTreeSet::new();
    let files = inventory.certificates.iter().filter_map(|found| match &found.key_location {
        KeyLocation::Beside { file, .. } => Some(file.as_path()),
        KeyLocation::NotFound | KeyLocation::SameFile => None,
    });
    files.filter(|file| !seen.insert(*file)).collect()
}

/// Why the files of one set cannot be written. An obstacle that is found later stops all sets.
fn obstacle_to(folder: &Path, files: &[NewFile]) -> Option<String> {
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    if let Some(link) = paths.iter().map(|path| folder.join(path)).find(|path| path.is_symlink()) {
        return Some(format!(
            "`{}` is a symbolic link: renew the file it leads to",
            link.display()
        ));
    }
    store::obstacles(folder, &paths, true).iter().next().map(|obstacle| {
        let path = obstacle.origin.as_deref().unwrap_or_default();
        format!("{path}: {}", obstacle.message)
    })
}

/// The files of one set.
fn in_folder(
    folder: &Path,
    found: &FoundCertificate,
    renewed: Renewed,
    options: &RenewOptions,
) -> Vec<NewFile> {
    let relative = |path: &Path| path.strip_prefix(folder).unwrap_or(path).to_owned();
    let new_file = |path: &Path, content: Zeroizing<String>, secret: bool, owner| NewFile {
        path: relative(path),
        content,
        secret,
        owner,
    };
    let owner = found.info.owner;
    let mut files = Vec::new();
    if let (Some(pem), true) = (&options.server_ca, found.is_etcd_cert()) {
        let ca = found.file.with_file_name(CA_FILE);
        // `etcd-ca` is public, so a change of its owner meanwhile does no harm.
        let owner = ca.symlink_metadata().ok().map(|metadata| Owner::of(&metadata));
        files.push(new_file(&ca, Zeroizing::new(pem.clone()), false, owner));
    }
    match (renewed.key, &found.key_location) {
        (Some(key), KeyLocation::Beside { file, info }) => {
            files.push(new_file(file, key, true, info.owner));
            files.push(new_file(&found.file, Zeroizing::new(renewed.certificate), false, owner));
        }
        // Certificate and key in one file: a single rename replaces both.
        (Some(key), _) => {
            files.push(new_file(
                &found.file,
                Zeroizing::new([renewed.certificate.as_str(), key.as_str()].concat()),
                true,
                owner,
            ));
        }
        (None, _) => {
            files.push(new_file(&found.file, Zeroizing::new(renewed.certificate), false, owner));
        }
    }
    files
}

/// Old and new PEM texts.
type Changes = Vec<(String, Zeroizing<String>)>;

/// Renews Secrets of one manifest, which is replaced as one file.
fn in_manifest(
    folder: &Path,
    file: &Path,
    renewed: Vec<(usize, &FoundCertificate, Renewed)>,
    outcome: &mut Outcome,
) {
    let mut fail = |at: usize, why: &str| {
        if let Some(result) = outcome.results.get_mut(at) {
            *result = RenewalResult::Failed(why.to_owned());
        }
    };
    let (read, info) = super::read_with_info(file, 256 << 20);
    let text = read.ok().filter(|_| !info.linked).and_then(|bytes| String::from_utf8(bytes).ok());
    let text = Zeroizing::new(text.unwrap_or_default());
    let old: Vec<_> = manifest::secrets(&text)
        .secrets
        .into_iter()
        .map(|secret| (inventory::leaf_in(&secret.certificate), secret))
        .collect();
    let mut sets: Vec<(usize, Changes)> = Vec::new();
    for (at, found, new) in renewed {
        // The name is not enough: another namespace may have a Secret of the same name.
        let is_it = |leaf: &Option<CertificateDer<'_>>, secret: &manifest::Secret| {
            Some(&secret.name) == found.secret.as_ref() && leaf.as_deref() == Some(found.leaf())
        };
        let Some((leaf, secret)) = old.iter().find(|(leaf, secret)| is_it(leaf, secret)) else {
            fail(at, "the manifest has changed during the run");
            continue;
        };
        // A text is replaced at every occurrence, so it must belong to one Secret.
        let shares = |(its, other): &&(Option<CertificateDer<'_>>, manifest::Secret)| {
            its == leaf || (other.key.is_some() && other.key == secret.key)
        };
        // The manifest was read again, so the key is checked again: a new key is issued only in
        // place of the matching old one.
        let is_kept = new.key.is_none()
            || secret.key.as_ref().is_some_and(|pem| inventory::fits(pem.as_bytes(), found.leaf()));
        if !is_kept {
            fail(at, "the manifest has changed during the run");
            continue;
        }
        if old.iter().filter(shares).count() != 1 {
            let why = "another Secret of the manifest holds the same certificate or key: give each \
                       its own";
            fail(at, why);
            continue;
        }
        let mut own: Changes = vec![(secret.certificate.clone(), Zeroizing::new(new.certificate))];
        if let (Some(key), Some(pem)) = (new.key, &secret.key) {
            own.push((pem.to_string(), key));
        }
        sets.push((at, own));
    }
    let content = loop {
        let changes: Changes = sets.iter().flat_map(|(_, own)| own.iter().cloned()).collect();
        let (content, counts) = manifest::replaced(&text, &changes);
        let (mut counts, all) = (counts.into_iter(), sets.len());
        sets.retain(|(at, own)| {
            let whole =
                counts.by_ref().take(own.len()).filter(|count| *count == 1).count() == own.len();
            if !whole {
                let why =
                    "the manifest has it in a form that cannot be replaced, or more than once";
                fail(*at, why);
            }
            whole
        });
        if sets.len() == all {
            break content;
        }
    };
    if !sets.is_empty() {
        let path = file.strip_prefix(folder).unwrap_or(file).to_owned();
        outcome.files.push(NewFile { path, content, secret: true, owner: info.owner });
    }
}

/// The length of a validity period.
fn length(window: Window) -> Duration {
    window.to.duration_since(window.from).unwrap_or_default()
}

#[cfg(test)]
mod tests;
