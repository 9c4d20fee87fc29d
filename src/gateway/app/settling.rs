//! When a file that has changed is in effect: not before it has come to rest.
//!
//! A file that is being written is, between two writes, a prefix of what it will be, and a prefix
//! may be sound: a policy without the denials at its end, a bundle without its last CA, a file of
//! revocation lists without its last one. So a change is in effect only when it was found twice,
//! and when it has stayed the same for `reload-settle`, wherever something may be missing. Nothing
//! is where all that was in effect is still there, and where a link of the path leads elsewhere and
//! is a link still: the folder that Kubernetes swaps was whole before. That the file is another one
//! (its inode) proves nothing: tar, install and git unlink a file and write a new one, and a look
//! sees only what is there then. A new file that is a policy need not rest where it ends with the
//! end marker (`...`): no beginning of it does.
//!
//! Files that need not go together come to rest each by itself: one that moves for ever holds up no
//! other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcd_warden_core::policy;
use sha2::{Digest as _, Sha256};

use crate::files::{FileState, Files};

/// Between the two looks that find the same, at least.
const TWICE: Duration = Duration::from_millis(100);

/// What the files of one thing were at a look.
type Look = BTreeMap<PathBuf, FileState>;

/// What is to be done after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing has changed since the files were used.
    Same,
    /// Something has, and may not be whole yet.
    Moving,
    /// Something has, and has come to rest.
    AtRest,
}

/// Files that are used together, from look to look.
#[derive(Debug)]
pub(super) struct Settling {
    /// As they were used last, whether they were sound or not.
    used: Files,
    /// The sections of those that are in effect.
    sections: Sections,
    /// What was found since, and when first.
    found: Option<(Look, Instant)>,
    /// Since when they have not been as they were used, until that was reported.
    moving: Option<Moving>,
    /// A new file that ends with the end marker is whole.
    by_marker: bool,
}

#[derive(Clone, Copy, Debug)]
struct Moving {
    since: Instant,
    reported: bool,
}

impl Settling {
    /// Begins with what a start has used. `by_marker`: these are policies, and another file in the
    /// place of one is whole if it ends as a whole one may.
    pub(super) fn new(files: Files, by_marker: bool) -> Self {
        Self { sections: Sections::of(&files), used: files, found: None, moving: None, by_marker }
    }

    /// Takes note of a look.
    pub(super) fn look(&mut self, files: &Files, now: Instant, settle: Duration) -> Found {
        let look = files.states();
        if same(&look, &self.used.states()) {
            // Another file, perhaps, with the same content: what is written into it is written in
            // place.
            self.used = files.clone();
            (self.found, self.moving) = (None, None);
            return Found::Same;
        }
        let since = match self.found.take() {
            Some((found, since)) if same(&found, &look) => since,
            _ => now,
        };
        let rest = if self.may_lack(files, &look) && !Sections::of(files).hold(&self.sections) {
            settle
        } else {
            TWICE.min(settle)
        };
        self.found = Some((look, since));
        let moving = self.moving.get_or_insert(Moving { since: now, reported: false });
        if now.saturating_duration_since(since) >= rest {
            return Found::AtRest;
        }
        if now.saturating_duration_since(moving.since) > settle
            && !std::mem::replace(&mut moving.reported, true)
        {
            for path in files.paths() {
                tracing::warn!(file = %path.display(), "changes for longer than `reload-settle`: what was in effect remains so until it has come to rest");
            }
        }
        Found::Moving
    }

    /// The files were used. `sound`: they are in effect.
    pub(super) fn used(&mut self, files: Files, sound: bool) {
        (self.found, self.moving) = (None, None);
        if sound {
            self.sections = Sections::of(&files);
        }
        self.used = files;
    }

    /// As they were used last.
    pub(super) fn last(&self) -> &Files {
        &self.used
    }

    /// Whether something has changed and was not used yet.
    pub(super) fn is_moving(&self) -> bool {
        self.found.is_some()
    }

    /// Whether a file that has changed may be the beginning of what it will be.
    fn may_lack(&self, files: &Files, look: &Look) -> bool {
        let is_marked = |path: &Path| files.bytes(path).is_ok_and(policy::ends_with_marker);
        let used = self.used.states();
        look.iter().filter(|(_, seen)| seen.id.is_some()).any(|(path, seen)| {
            let Some(before) = used.get(path).filter(|before| before.id.is_some()) else {
                return true;
            };
            // A link that gave way to a file says nothing: tar unlinks it, too.
            let is_swapped = before.target != seen.target && before.links == seen.links;
            let is_whole = is_swapped || self.by_marker && before.id != seen.id && is_marked(path);
            before.digest != seen.digest && !is_whole
        })
    }
}

fn same(one: &Look, other: &Look) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|((path, seen), (name, then))| path == name && seen.digest == then.digest)
}

/// The PEM sections of each file. A file that still has all that are in effect has lost none of
/// them by being cut, so that it is no harm to use it early.
#[derive(Debug)]
struct Sections(BTreeMap<PathBuf, BTreeSet<[u8; 32]>>);

impl Sections {
    const BEGIN: &[u8] = b"-----BEGIN ";

    fn of(files: &Files) -> Self {
        Self(files.iter().map(|(path, bytes)| (path.to_owned(), Self::digests(bytes))).collect())
    }

    /// Of each piece from one first line to the next. None where there is no PEM.
    fn digests(bytes: &[u8]) -> BTreeSet<[u8; 32]> {
        let starts: Vec<usize> = bytes
            .windows(Self::BEGIN.len())
            .enumerate()
            .filter(|(_, window)| *window == Self::BEGIN)
            .map(|(at, _)| at)
            .collect();
        let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
        let pieces = starts.iter().zip(ends).filter_map(|(start, end)| bytes.get(*start..end));
        pieces.map(|piece| Sha256::digest(piece.trim_ascii_end()).into()).collect()
    }

    /// Whether nothing of those is missing here, and each of their files has some.
    fn hold(&self, those: &Self) -> bool {
        those.0.iter().all(|(path, sections)| {
            !sections.is_empty() && self.0.get(path).is_some_and(|here| here.is_superset(sections))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SETTLE: Duration = Duration::from_secs(5);

    struct Folder {
        at: tempfile::TempDir,
        now: Instant,
    }

    impl Folder {
        fn new() -> Self {
            Self { at: tempfile::tempdir().unwrap(), now: Instant::now() }
        }

        fn path(&self) -> PathBuf {
            self.at.path().join("file")
        }

        fn in_place(&self, content: &str) {
            fs::write(self.path(), content).unwrap();
        }

        fn renamed(&self, content: &str) {
            fs::write(self.at.path().join("new"), content).unwrap();
            fs::rename(self.at.path().join("new"), self.path()).unwrap();
        }

        fn read(&self) -> Files {
            let path: &Path = &self.path();
            Files::read([path], 1 << 20)
        }

        /// A look so long after the one before.
        fn after(&mut self, millis: u64, settling: &mut Settling) -> Found {
            self.now += Duration::from_millis(millis);
            settling.look(&self.read(), self.now, SETTLE)
        }
    }

    #[test]
    fn what_is_written_in_place_has_to_rest() {
        let mut folder = Folder::new();
        folder.in_place("allow\ndeny\n");
        let mut settling = Settling::new(folder.read(), false);
        assert_eq!(folder.after(1000, &mut settling), Found::Same);
        folder.in_place("allow\n");
        let halves = [0, 1000, 1000, 1000, 1900].map(|millis| folder.after(millis, &mut settling));
        assert_eq!(halves, [Found::Moving; 5]);
        folder.in_place("allow\ndeny more\n");
        assert_eq!(
            [0, 4900, 100].map(|millis| folder.after(millis, &mut settling)),
            [Found::Moving, Found::Moving, Found::AtRest]
        );
        settling.used(folder.read(), true);
        assert_eq!(folder.after(0, &mut settling), Found::Same);
    }

    #[test]
    fn a_new_file_has_to_rest_unless_it_is_a_policy_with_its_end() {
        for by_marker in [false, true] {
            let mut folder = Folder::new();
            folder.in_place("one");
            let mut settling = Settling::new(folder.read(), by_marker);
            folder.renamed("one");
            assert_eq!(folder.after(1000, &mut settling), Found::Same, "the same content");
            folder.renamed("two\n...\n");
            assert_eq!(
                [0, 50].map(|millis| folder.after(millis, &mut settling)),
                [Found::Moving; 2]
            );
            assert_eq!(
                folder.after(50, &mut settling),
                if by_marker { Found::AtRest } else { Found::Moving }
            );
            assert_eq!(folder.after(4900, &mut settling), Found::AtRest);
            settling.used(folder.read(), true);
            folder.in_place("in place\n...\n");
            assert_eq!(
                [0, 4900].map(|millis| folder.after(millis, &mut settling)),
                [Found::Moving; 2],
                "in place"
            );
        }
    }

    #[test]
    fn half_a_policy_under_a_new_inode_has_to_rest() {
        let mut folder = Folder::new();
        folder.in_place("allow\ndeny\n");
        let mut settling = Settling::new(folder.read(), true);
        // Held, so that its inode is not given to the new one.
        let _old = fs::File::open(folder.path()).unwrap();
        fs::remove_file(folder.path()).unwrap();
        folder.in_place("allow\n");
        assert_eq!(
            [0, 1000, 3900].map(|millis| folder.after(millis, &mut settling)),
            [Found::Moving; 3]
        );
        folder.in_place("allow\ndeny more\n");
        assert_eq!(
            [0, 4900, 100].map(|millis| folder.after(millis, &mut settling)),
            [Found::Moving, Found::Moving, Found::AtRest]
        );
    }

    #[test]
    fn a_link_that_leads_elsewhere_has_to_be_found_twice() {
        let mut folder = Folder::new();
        let link = |folder: &Folder, day: &str, content: &str| {
            fs::create_dir_all(folder.at.path().join(day)).unwrap();
            fs::write(folder.at.path().join(day).join("file"), content).unwrap();
            std::os::unix::fs::symlink(day, folder.at.path().join("tmp")).unwrap();
            fs::rename(folder.at.path().join("tmp"), folder.at.path().join("..data")).unwrap();
        };
        link(&folder, "monday", "one");
        std::os::unix::fs::symlink("..data/file", folder.path()).unwrap();
        let mut settling = Settling::new(folder.read(), false);
        link(&folder, "tuesday", "two");
        assert_eq!(
            [0, 100].map(|millis| folder.after(millis, &mut settling)),
            [Found::Moving, Found::AtRest]
        );
        settling.used(folder.read(), true);
        link(&folder, "wednesday", "two");
        assert_eq!(folder.after(0, &mut settling), Found::Same);
        folder.in_place("t");
        assert_eq!(
            [0, 4900].map(|millis| folder.after(millis, &mut settling)),
            [Found::Moving; 2],
            "in place"
        );
        // Unlinked, and half of it written anew.
        fs::remove_file(folder.path()).unwrap();
        folder.in_place("w");
        assert_eq!(
            [0, 4900].map(|millis| folder.after(millis, &mut settling)),
            [Found::Moving; 2],
            "a file where a link was"
        );
    }

    #[test]
    fn what_comes_where_nothing_was_has_to_rest() {
        let mut folder = Folder::new();
        folder.in_place("one");
        let mut settling = Settling::new(folder.read(), false);
        fs::remove_file(folder.path()).unwrap();
        assert_eq!(
            [0, 100].map(|millis| folder.after(millis, &mut settling)),
            [Found::Moving, Found::AtRest]
        );
        settling.used(folder.read(), false);
        folder.in_place("o");
        assert_eq!([0, 4900].map(|millis| folder.after(millis, &mut settling)), [Found::Moving; 2]);
        folder.in_place("one more");
        assert_eq!(
            [100, 5000].map(|millis| folder.after(millis, &mut settling)),
            [Found::Moving, Found::AtRest]
        );
    }

    #[test]
    fn a_bundle_that_only_grows_need_not_rest() {
        let pem = |name: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n")
        };
        let mut folder = Folder::new();
        folder.in_place(&(pem("a") + &pem("b")));
        let mut settling = Settling::new(folder.read(), false);
        folder.in_place(&(pem("c") + &pem("b") + &pem("a")));
        assert_eq!(
            [0, 100].map(|millis| folder.after(millis, &mut settling)),
            [Found::Moving, Found::AtRest]
        );
        settling.used(folder.read(), true);
        for less in [
            pem("c") + &pem("a"),
            pem("c") + &pem("b") + &pem("a").replace("END", "EN"),
            String::new(),
        ] {
            folder.in_place(&less);
            assert_eq!(
                [0, 4900].map(|millis| folder.after(millis, &mut settling)),
                [Found::Moving; 2],
                "{less}"
            );
        }
    }

    #[test]
    fn without_a_time_to_rest_a_change_is_in_effect_at_once() {
        let folder = Folder::new();
        folder.in_place("one");
        let mut settling = Settling::new(folder.read(), false);
        folder.in_place("two");
        assert_eq!(settling.look(&folder.read(), folder.now, Duration::ZERO), Found::AtRest);
    }
}
