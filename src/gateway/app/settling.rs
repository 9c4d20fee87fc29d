//! Decides when a file that has changed may be used: not before it is stable.
//!
//! While a file is being written, it holds a prefix of its new content, and a prefix can be valid:
//! a policy without the denials at its end, a bundle without its last CA, a file of revocation
//! lists without its last one. So a change is used only if two checks find the same content. If
//! something may be missing, the content must also be unchanged for `reload-settle`.
//!
//! Nothing can be missing in these cases:
//! * A symbolic link of the path points to another target and is still a link. Kubernetes swaps
//!   folders this way, and the new folder is complete.
//! * The files are PEM, and every section that is in effect is still there ([`sections`]).
//! * The file is a policy, is a new file, and ends with the end marker (`...`): no prefix of it
//!   does.
//!
//! A new inode proves nothing: tar, install and git remove a file and write a new one, and a check
//! may find it incomplete.

mod sections;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcd_warden_core::policy;

use crate::files::{FileState, Files};
use sections::Sections;

/// The least time between the two checks that find the same content.
const CHECK_TWICE: Duration = Duration::from_millis(100);

/// The state of each file of a group at a check.
type Snapshot = BTreeMap<PathBuf, FileState>;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The files are as they were used.
    None,
    /// The files have changed, and may be incomplete.
    Unstable,
    /// The files have changed, and are stable.
    Stable,
}

/// How a group of files shows that it is complete.
#[derive(Clone, Copy, Debug)]
pub(super) enum FileKind {
    /// A policy may end with an end marker.
    Policy,
    /// A bundle of PEM is complete if no section is missing.
    Pem,
}

/// A group of files that are used together, over successive checks.
#[derive(Debug)]
pub(super) struct Settling {
    /// The files as they were last used, valid or not.
    used: Files,
    complete: Completeness,
    /// The change that the last check found, and when it was first found.
    found: Option<(Snapshot, Instant)>,
    /// Set while the files differ from `used`.
    unstable: Option<Unstable>,
}

/// The state by which complete files of a [`FileKind`] are recognized.
#[derive(Debug)]
enum Completeness {
    EndMarker,
    /// The sections that are in effect.
    Sections(Sections),
}

#[derive(Clone, Copy, Debug)]
struct Unstable {
    since: Instant,
    logged: bool,
}

impl Settling {
    /// Begins with the files that the start has used.
    pub(super) fn new(files: Files, kind: FileKind) -> Self {
        let complete = match kind {
            FileKind::Policy => Completeness::EndMarker,
            FileKind::Pem => Completeness::Sections(Sections::of(&files)),
        };
        Self { used: files, complete, found: None, unstable: None }
    }

    /// Compares `files` with those that are used. `settle`: the setting `reload-settle`.
    pub(super) fn check(&mut self, files: &Files, now: Instant, settle: Duration) -> Change {
        let snapshot = files.states();
        if same_content(&snapshot, &self.used.states()) {
            // The inode may be new. Without this, writing into that file in place would count as a
            // new file.
            self.used = files.clone();
            (self.found, self.unstable) = (None, None);
            return Change::None;
        }
        let since = match self.found.take() {
            Some((found, since)) if same_content(&found, &snapshot) => since,
            _ => now,
        };
        let wait =
            if self.may_be_incomplete(files, &snapshot) { settle } else { CHECK_TWICE.min(settle) };
        self.found = Some((snapshot, since));
        let unstable = self.unstable.get_or_insert(Unstable { since: now, logged: false });
        if now.saturating_duration_since(since) >= wait {
            return Change::Stable;
        }
        if now.saturating_duration_since(unstable.since) > settle
            && !std::mem::replace(&mut unstable.logged, true)
        {
            for path in files.paths() {
                tracing::warn!(
                    file = %path.display(),
                    "file changes for longer than `reload-settle`; not reloaded until it is stable"
                );
            }
        }
        Change::Unstable
    }

    /// Notes that the files were used. `valid`: they are in effect.
    pub(super) fn used(&mut self, files: Files, valid: bool) {
        (self.found, self.unstable) = (None, None);
        if valid && let Completeness::Sections(sections) = &mut self.complete {
            *sections = Sections::of(&files);
        }
        self.used = files;
    }

    /// The files as they were last used.
    pub(super) fn last_used(&self) -> &Files {
        &self.used
    }

    /// Whether the last check found a change that was not used yet.
    pub(super) fn has_change(&self) -> bool {
        self.found.is_some()
    }

    /// Whether a changed file may be a prefix of its new content.
    fn may_be_incomplete(&self, files: &Files, snapshot: &Snapshot) -> bool {
        let used = self.used.states();
        let may_be_prefix = |path: &Path, seen: &FileState| {
            let Some(before) = used.get(path).filter(|before| before.id.is_some()) else {
                return true;
            };
            // A link that was replaced by a file proves nothing: tar removes a link, too.
            let is_swapped = before.target != seen.target && before.links == seen.links;
            let is_marked = matches!(self.complete, Completeness::EndMarker)
                && before.id != seen.id
                && files.bytes(path).is_ok_and(policy::ends_with_marker);
            before.digest != seen.digest && !is_swapped && !is_marked
        };
        let has_prefix =
            snapshot.iter().any(|(path, seen)| seen.id.is_some() && may_be_prefix(path, seen));
        let lacks_sections = match &self.complete {
            Completeness::EndMarker => true,
            Completeness::Sections(in_effect) => !Sections::of(files).contain(in_effect),
        };
        has_prefix && lacks_sections
    }
}

fn same_content(one: &Snapshot, other: &Snapshot) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|((path, seen), (name, then))| path == name && seen.digest == then.digest)
}

#[cfg(test)]
mod tests;
