//! When a file that has changed is in effect: not before it has come to rest.
//!
//! A file that is being written in place is, between two writes, a prefix of what it will be, and a prefix may be sound: a policy without the denials
//! at its end, a bundle without its last CA, a file of revocation lists without its last one. So a change is in effect only when it was found twice, and
//! where the file is the same as before (its inode), so that it was written in place, only when it has stayed the same for `reload-settle`.
//! A file that took the place of another by a rename was whole before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::files::{Files, Seen};

/// Between the two looks that find the same, at least.
const TWICE: Duration = Duration::from_millis(100);

/// What the files of one thing were at a look.
type Look = BTreeMap<PathBuf, Seen>;

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

/// The files of one thing, from look to look.
#[derive(Debug)]
pub(super) struct Settling {
    /// As they were used last, whether they were sound or not.
    used: Look,
    /// The sections of those that are in effect.
    sections: Sections,
    /// What was found since, and when first.
    found: Option<(Look, Instant)>,
}

impl Settling {
    /// Begins with what a start has used.
    pub(super) fn new(files: &Files) -> Self {
        Self { used: files.seen(), sections: Sections::of(files), found: None }
    }

    /// Takes note of a look.
    pub(super) fn look(&mut self, files: &Files, now: Instant, settle: Duration) -> Found {
        let look = files.seen();
        if same(&look, &self.used) {
            self.found = None;
            return Found::Same;
        }
        let since = match self.found.take() {
            Some((found, since)) if same(&found, &look) => since,
            _ => now,
        };
        let rest = if self.is_in_place(&look) && !Sections::of(files).hold(&self.sections) { settle } else { TWICE.min(settle) };
        self.found = Some((look, since));
        if now.saturating_duration_since(since) >= rest { Found::AtRest } else { Found::Moving }
    }

    /// The files were used. `sound`: they are in effect.
    pub(super) fn used(&mut self, files: &Files, sound: bool) {
        self.used = files.seen();
        self.found = None;
        if sound {
            self.sections = Sections::of(files);
        }
    }

    /// Whether something has changed and was not used yet.
    pub(super) fn is_moving(&self) -> bool {
        self.found.is_some()
    }

    /// Whether a file that has changed is the one that it was, or has come where there was none.
    fn is_in_place(&self, look: &Look) -> bool {
        look.iter().any(|(path, seen)| {
            let before = self.used.get(path);
            before.is_none_or(|before| before.digest != seen.digest && (before.place.is_none() || before.place == seen.place))
        })
    }
}

fn same(one: &Look, other: &Look) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|((path, seen), (name, then))| path == name && seen.digest == then.digest)
}

/// The PEM sections of each file. A file that still has all that are in effect has lost none of them by being cut, so that it is no harm to use it early.
#[derive(Debug)]
struct Sections(BTreeMap<PathBuf, BTreeSet<[u8; 32]>>);

impl Sections {
    const BEGIN: &[u8] = b"-----BEGIN ";

    fn of(files: &Files) -> Self {
        Self(files.iter().map(|(path, bytes)| (path.to_owned(), Self::digests(bytes))).collect())
    }

    /// Of each piece from one first line to the next. None where there is no PEM.
    fn digests(bytes: &[u8]) -> BTreeSet<[u8; 32]> {
        let starts: Vec<usize> =
            bytes.windows(Self::BEGIN.len()).enumerate().filter(|(_, window)| *window == Self::BEGIN).map(|(at, _)| at).collect();
        let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
        let pieces = starts.iter().zip(ends).filter_map(|(start, end)| bytes.get(*start..end));
        pieces.map(|piece| Sha256::digest(piece.trim_ascii_end()).into()).collect()
    }

    /// Whether nothing of those is missing here, and each of their files has some.
    fn hold(&self, those: &Self) -> bool {
        those.0.iter().all(|(path, sections)| !sections.is_empty() && self.0.get(path).is_some_and(|here| here.is_superset(sections)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

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
        let mut settling = Settling::new(&folder.read());
        assert_eq!(folder.after(1000, &mut settling), Found::Same);
        folder.in_place("allow\n");
        let halves = [0, 1000, 1000, 1000, 1900].map(|millis| folder.after(millis, &mut settling));
        assert_eq!(halves, [Found::Moving; 5]);
        folder.in_place("allow\ndeny more\n");
        assert_eq!([0, 4900, 100].map(|millis| folder.after(millis, &mut settling)), [Found::Moving, Found::Moving, Found::AtRest]);
        settling.used(&folder.read(), true);
        assert_eq!(folder.after(0, &mut settling), Found::Same);
    }

    #[test]
    fn what_is_renamed_has_to_be_found_twice() {
        let mut folder = Folder::new();
        folder.in_place("one");
        let mut settling = Settling::new(&folder.read());
        folder.renamed("two");
        assert_eq!([0, 50, 50].map(|millis| folder.after(millis, &mut settling)), [Found::Moving, Found::Moving, Found::AtRest]);
        settling.used(&folder.read(), true);
        folder.renamed("two");
        assert_eq!(folder.after(1000, &mut settling), Found::Same, "the same content");
    }

    #[test]
    fn what_comes_where_nothing_was_has_to_rest() {
        let mut folder = Folder::new();
        folder.in_place("one");
        let mut settling = Settling::new(&folder.read());
        fs::remove_file(folder.path()).unwrap();
        assert_eq!([0, 100].map(|millis| folder.after(millis, &mut settling)), [Found::Moving, Found::AtRest]);
        settling.used(&folder.read(), false);
        folder.in_place("o");
        assert_eq!([0, 4900].map(|millis| folder.after(millis, &mut settling)), [Found::Moving; 2]);
        folder.in_place("one more");
        assert_eq!([100, 5000].map(|millis| folder.after(millis, &mut settling)), [Found::Moving, Found::AtRest]);
    }

    #[test]
    fn a_bundle_that_only_grows_need_not_rest() {
        let pem = |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n");
        let mut folder = Folder::new();
        folder.in_place(&(pem("a") + &pem("b")));
        let mut settling = Settling::new(&folder.read());
        folder.in_place(&(pem("c") + &pem("b") + &pem("a")));
        assert_eq!([0, 100].map(|millis| folder.after(millis, &mut settling)), [Found::Moving, Found::AtRest]);
        settling.used(&folder.read(), true);
        for less in [pem("c") + &pem("a"), pem("c") + &pem("b") + &pem("a").replace("END", "EN"), String::new()] {
            folder.in_place(&less);
            assert_eq!([0, 4900].map(|millis| folder.after(millis, &mut settling)), [Found::Moving; 2], "{less}");
        }
    }

    #[test]
    fn without_a_time_to_rest_a_change_is_in_effect_at_once() {
        let folder = Folder::new();
        folder.in_place("one");
        let mut settling = Settling::new(&folder.read());
        folder.in_place("two");
        assert_eq!(settling.look(&folder.read(), folder.now, Duration::ZERO), Found::AtRest);
    }
}
