//! Renewal: the same names in the same place, for another lifetime.

mod decide;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::ca::{Ca, OldCa, Window};
use super::found::{Found, Sight};
use super::key::KeyType;
use super::layout::{CA_FILE, Wanted};
use super::manifest;
use crate::policy::Diagnostics;
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

/// Renews what is due of what was found below `folder`, and writes nothing. `progress` is told how many were looked at.
///
/// # Errors
/// A certificate that could not be made: then nothing is to be written.
pub fn renew(
    ca: &Ca,
    sight: &Sight,
    folder: &Path,
    terms: &Terms,
    now: SystemTime,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Outcome, Diagnostics> {
    let made = super::threads::each(&sight.certificates, progress, |found| match decide(ca, found, terms, now) {
        Err(fate) => Ok((fate, None)),
        Ok(due) => {
            let fate = Fate::Renewed(due.window.to);
            match make(ca, due, terms) {
                Ok(renewed) => Ok((fate, Some(renewed))),
                Err(message) => super::refuse(&found.place(), message, "nothing has changed"),
            }
        }
    })?;
    let mut outcome = Outcome { files: Vec::new(), fates: Vec::new() };
    let mut manifests: BTreeMap<PathBuf, Vec<(usize, &Found, Renewed)>> = BTreeMap::new();
    for (at, (found, (fate, renewed))) in sight.certificates.iter().zip(made).enumerate() {
        outcome.fates.push(fate);
        match renewed {
            None => {}
            Some(renewed) if found.secret.is_some() => manifests.entry(found.file.clone()).or_default().push((at, found, renewed)),
            Some(renewed) => outcome.files.extend(in_folder(folder, found, renewed, terms)),
        }
    }
    for (file, renewed) in manifests {
        in_manifest(folder, &file, renewed, &mut outcome)?;
    }
    Ok(outcome)
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

/// The files of a set, in the order in which they are put in place.
fn in_folder(folder: &Path, found: &Found, renewed: Renewed, terms: &Terms) -> Vec<Wanted> {
    let relative = |path: &Path| path.strip_prefix(folder).unwrap_or(path).to_owned();
    let wanted = |path: &Path, content: Zeroizing<String>, secret: bool| Wanted { path: relative(path), content, secret, renews: true };
    let mut files = Vec::new();
    if let (Some(pem), true) = (&terms.server_ca, super::found::is_set(&found.file)) {
        files.push(wanted(&found.file.with_file_name(CA_FILE), Zeroizing::new(pem.clone()), false));
    }
    match (renewed.key, found.key_file()) {
        (Some(key), Some(path)) => {
            files.push(wanted(&path, key, true));
            files.push(wanted(&found.file, Zeroizing::new(renewed.certificate), false));
        }
        // Certificate and key in one file: one rename.
        (Some(key), None) => files.push(wanted(&found.file, Zeroizing::new(renewed.certificate + &key), true)),
        (None, _) => files.push(wanted(&found.file, Zeroizing::new(renewed.certificate), false)),
    }
    files
}

/// PEM texts, old and new.
type Changes = Vec<(String, Zeroizing<String>)>;

/// A manifest is one file, and replaced as one.
fn in_manifest(folder: &Path, file: &Path, renewed: Vec<(usize, &Found, Renewed)>, outcome: &mut Outcome) -> Result<(), Diagnostics> {
    let name = file.display().to_string();
    let text = Zeroizing::new(super::read(file, 256 << 20)?);
    let Ok(text) = std::str::from_utf8(&text) else { return super::refuse(&name, "the manifest is not UTF-8", "") };
    let old: BTreeMap<String, manifest::Secret> = manifest::secrets(text).into_iter().map(|secret| (secret.name.clone(), secret)).collect();
    let mut sets = Vec::new();
    for (at, found, new) in renewed {
        let Some(secret) = found.secret.as_ref().and_then(|name| old.get(name)) else {
            return super::refuse(&name, "the manifest has changed meanwhile", "nothing has changed");
        };
        let mut own: Changes = vec![(secret.certificate.clone(), Zeroizing::new(new.certificate))];
        if let (Some(key), Some(pem)) = (new.key, &secret.key) {
            own.push((pem.to_string(), key));
        }
        sets.push((at, own));
    }
    let all = |sets: &[(usize, Changes)]| sets.iter().flat_map(|(_, own)| own.iter().cloned()).collect::<Changes>();
    let mut changes = all(&sets);
    let (mut content, mut count) = manifest::replaced(text, &changes);
    if count != changes.len() {
        // One by one, to tell which of them cannot be replaced.
        sets.retain(|(at, own)| {
            let replaced = manifest::replaced(text, own).1 == own.len();
            if let (false, Some(fate)) = (replaced, outcome.fates.get_mut(*at)) {
                *fate = Fate::Failed("the manifest writes it in a form that cannot be replaced here".to_owned());
            }
            replaced
        });
        changes = all(&sets);
        (content, count) = manifest::replaced(text, &changes);
    }
    if count != changes.len() {
        return super::refuse(&name, "two Secrets of the manifest share a certificate or a key", "nothing has changed");
    }
    if !changes.is_empty() {
        let path = file.strip_prefix(folder).unwrap_or(file).to_owned();
        outcome.files.push(Wanted { path, content, secret: true, renews: true });
    }
    Ok(())
}

/// A window's length.
fn length(window: Window) -> Duration {
    window.to.duration_since(window.from).unwrap_or_default()
}

#[cfg(test)]
mod tests;
