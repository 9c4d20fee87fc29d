//! Renewal: the same names in the same place, for another lifetime.

mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::ca::{Ca, OldCa, Window};
use super::found::{self, Found, KeyPlace, Sight};
use super::key::KeyType;
use super::layout::{CA_FILE, Owner, Wanted};
use super::{manifest, store};
pub use decide::{Due, decide};

/// What is renewed, and how.
#[derive(Debug)]
pub struct Terms {
    /// What ends within this time is due; a third of its lifetime if not given.
    pub before: Option<Duration>,
    /// The new lifetime; the old one if not given.
    pub lifetime: Option<Duration>,
    /// What has expired is renewed, too.
    pub expired: bool,
    /// Only the certificate is renewed, for the same key.
    pub keep_key: bool,
    /// What new keys are; as the old ones if not given.
    pub key_type: Option<KeyType>,
    /// A CA whose certificates the new one takes over.
    pub old_ca: Option<OldCa>,
    /// What `etcd-ca` is to hold from now on, PEM.
    pub server_ca: Option<String>,
}

/// What becomes of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is renewed and then lasts until this moment.
    Renewed(SystemTime),
    /// It is due at this moment.
    NotYet(SystemTime),
    /// It is a CA's own.
    Ca,
    /// It is none of this CA's, and none of this command's business.
    Left(String),
    /// It is due, and cannot be renewed.
    Failed(String),
}

/// A new certificate, with its key if that is new too; PEM.
struct Renewed {
    certificate: String,
    key: Option<Zeroizing<String>>,
}

/// What is to be written, and what becomes of each certificate that was found.
pub struct Outcome {
    /// Relative to the folder.
    pub files: Vec<Wanted>,
    /// By the place in [`Sight::certificates`].
    pub fates: Vec<Fate>,
}

/// Renews what is due of what was found below `folder`, and writes nothing. `progress` is told how
/// many were looked at.
#[must_use]
pub fn renew(
    ca: &Ca,
    sight: &Sight,
    folder: &Path,
    terms: &Terms,
    now: SystemTime,
    progress: &(dyn Fn(usize) + Sync),
) -> Outcome {
    let shared = shared_keys(sight);
    let made = super::threads::each(&sight.certificates, progress, |found| {
        let due = match decide(ca, found, terms, now) {
            Ok(due) => due,
            Err(fate) => return (fate, None),
        };
        if !terms.keep_key
            && matches!(&found.key_place, KeyPlace::Beside { file, .. } if shared.contains(&**file))
        {
            let why = "another certificate here has the same key file: give each one of its own, or `--keep-key`";
            return (Fate::Failed(why.to_owned()), None);
        }
        let until = due.window.to;
        match make(ca, due, terms) {
            Ok(renewed) => (Fate::Renewed(until), Some(renewed)),
            Err(message) => (Fate::Failed(message), None),
        }
    });
    let mut outcome = Outcome { files: Vec::new(), fates: Vec::new() };
    let mut manifests: BTreeMap<&Path, Vec<(usize, &Found, Renewed)>> = BTreeMap::new();
    for (at, (found, (mut fate, renewed))) in sight.certificates.iter().zip(made).enumerate() {
        match renewed {
            None => {}
            Some(renewed) if found.secret.is_some() => {
                manifests.entry(&found.file).or_default().push((at, found, renewed))
            }
            Some(renewed) => {
                let files = in_folder(folder, found, renewed, terms);
                match in_the_way(folder, &files) {
                    None => outcome.files.extend(files),
                    Some(why) => fate = Fate::Failed(why),
                }
            }
        }
        outcome.fates.push(fate);
    }
    for (file, renewed) in manifests {
        in_manifest(folder, file, renewed, &mut outcome);
    }
    outcome
}

fn make(ca: &Ca, mut due: Due, terms: &Terms) -> Result<Renewed, String> {
    let new = match due.key_type.filter(|_| !terms.keep_key) {
        Some(kind) => Some(kind.generate()?),
        None => None,
    };
    let key = new.map(|new| {
        due.contents.public_key = new.public_key;
        new.pem
    });
    let der = ca.issue(&due.contents)?;
    Ok(Renewed { certificate: ca.chain_pem(&der), key })
}

/// Key files that more than one certificate has by its name.
fn shared_keys(sight: &Sight) -> BTreeSet<&Path> {
    let mut seen = BTreeSet::new();
    let files = sight.certificates.iter().filter_map(|found| match &found.key_place {
        KeyPlace::Beside { file, .. } => Some(file.as_path()),
        KeyPlace::Nowhere | KeyPlace::Same => None,
    });
    files.filter(|file| !seen.insert(*file)).collect()
}

/// Why the files of one set cannot be put in place. What is found only later stops all of them.
fn in_the_way(folder: &Path, files: &[Wanted]) -> Option<String> {
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    if let Some(link) = paths.iter().map(|path| folder.join(path)).find(|path| path.is_symlink()) {
        return Some(format!("`{}` is a symbolic link: renew it where it lies", link.display()));
    }
    store::obstacles(folder, &paths, true).iter().next().map(|obstacle| {
        let path = obstacle.origin.as_deref().unwrap_or_default();
        format!("{path}: {}", obstacle.message)
    })
}

/// The files of a set.
fn in_folder(folder: &Path, found: &Found, renewed: Renewed, terms: &Terms) -> Vec<Wanted> {
    let relative = |path: &Path| path.strip_prefix(folder).unwrap_or(path).to_owned();
    let wanted = |path: &Path, content: Zeroizing<String>, secret: bool, owner| Wanted {
        path: relative(path),
        content,
        secret,
        owner,
    };
    let owner = found.told.owner;
    let mut files = Vec::new();
    if let (Some(pem), true) = (&terms.server_ca, found.is_of_set()) {
        let ca = found.file.with_file_name(CA_FILE);
        // No secret: it does not matter who changes it in between.
        let owner = ca.symlink_metadata().ok().map(|metadata| Owner::of(&metadata));
        files.push(wanted(&ca, Zeroizing::new(pem.clone()), false, owner));
    }
    match (renewed.key, &found.key_place) {
        (Some(key), KeyPlace::Beside { file, told }) => {
            files.push(wanted(file, key, true, told.owner));
            files.push(wanted(&found.file, Zeroizing::new(renewed.certificate), false, owner));
        }
        // Certificate and key in one file: one rename.
        (Some(key), _) => {
            files.push(wanted(
                &found.file,
                Zeroizing::new([renewed.certificate.as_str(), key.as_str()].concat()),
                true,
                owner,
            ));
        }
        (None, _) => {
            files.push(wanted(&found.file, Zeroizing::new(renewed.certificate), false, owner))
        }
    }
    files
}

/// PEM texts, old and new.
type Changes = Vec<(String, Zeroizing<String>)>;

/// A manifest is one file, and replaced as one.
fn in_manifest(
    folder: &Path,
    file: &Path,
    renewed: Vec<(usize, &Found, Renewed)>,
    outcome: &mut Outcome,
) {
    let mut fail = |at: usize, why: &str| {
        if let Some(fate) = outcome.fates.get_mut(at) {
            *fate = Fate::Failed(why.to_owned());
        }
    };
    let (read, told) = super::read_told(file, 256 << 20);
    let text = read.ok().filter(|_| !told.linked).and_then(|bytes| String::from_utf8(bytes).ok());
    let text = Zeroizing::new(text.unwrap_or_default());
    let old: Vec<_> = manifest::secrets(&text)
        .secrets
        .into_iter()
        .map(|secret| (found::leaf_in(&secret.certificate), secret))
        .collect();
    let mut sets: Vec<(usize, Changes)> = Vec::new();
    for (at, found, new) in renewed {
        // By all that tells it from others: another namespace may have a Secret of its name.
        let is_it = |leaf: &Option<CertificateDer<'_>>, secret: &manifest::Secret| {
            Some(&secret.name) == found.secret.as_ref() && leaf.as_deref() == Some(found.leaf())
        };
        let Some((leaf, secret)) = old.iter().find(|(leaf, secret)| is_it(leaf, secret)) else {
            fail(at, "the manifest has changed meanwhile");
            continue;
        };
        // Texts are replaced wherever they stand.
        let shares = |(its, other): &&(Option<CertificateDer<'_>>, manifest::Secret)| {
            its == leaf || (other.key.is_some() && other.key == secret.key)
        };
        // The key is looked at again, as the manifest was read again: a new one is given for the
        // old one only.
        let is_kept = new.key.is_none()
            || secret.key.as_ref().is_some_and(|pem| found::fits(pem.as_bytes(), found.leaf()));
        if !is_kept {
            fail(at, "the manifest has changed meanwhile");
            continue;
        }
        if old.iter().filter(shares).count() != 1 {
            fail(
                at,
                "another Secret of the manifest holds the same certificate or key: each has one of its own",
            );
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
            let whole = counts.by_ref().take(own.len()).filter(|count| *count == 1).count() == own.len();
            if !whole {
                fail(*at, "the manifest writes it in a form that cannot be replaced here, or more than once");
            }
            whole
        });
        if sets.len() == all {
            break content;
        }
    };
    if !sets.is_empty() {
        let path = file.strip_prefix(folder).unwrap_or(file).to_owned();
        outcome.files.push(Wanted { path, content, secret: true, owner: told.owner });
    }
}

/// A window's length.
fn length(window: Window) -> Duration {
    window.to.duration_since(window.from).unwrap_or_default()
}

#[cfg(test)]
mod tests;
