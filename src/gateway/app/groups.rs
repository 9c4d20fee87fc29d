//! The groups of files that are reloaded together. Each group settles by itself; until then, its
//! previous content is used.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::settling::{Change, FileKind, Settling};
use crate::files::Files;

/// Groups of files, over successive checks.
#[derive(Debug)]
pub(super) struct Groups(Vec<Settling>);

/// The files to use after a check.
#[derive(Debug)]
pub(super) struct Usable {
    /// The content of all groups. Of an unstable one, the content that is used already.
    pub(super) files: Files,
    /// A group has changed and is stable.
    pub(super) changed: bool,
    /// The files of groups that may be incomplete.
    pub(super) unstable: Vec<PathBuf>,
}

impl Groups {
    /// Begins with the files that the start has used.
    pub(super) fn new(groups: Vec<Files>, kind: FileKind) -> Self {
        Self(groups.into_iter().map(|files| Settling::new(files, kind)).collect())
    }

    /// Compares `files` with those that are used. `settle`: the setting `reload-settle`.
    pub(super) fn check(&mut self, files: &Files, now: Instant, settle: Duration) -> Usable {
        let mut usable = Usable { files: Files::default(), changed: false, unstable: Vec::new() };
        for group in &mut self.0 {
            let its = files.among(group.last_used());
            let its = match group.check(&its, now, settle) {
                Change::Unstable => {
                    usable.unstable.extend(its.paths().map(Path::to_owned));
                    group.last_used().clone()
                }
                Change::Stable => {
                    usable.changed = true;
                    its
                }
                Change::None => its,
            };
            usable.files = usable.files.and(its);
        }
        usable
    }

    /// Notes that the files were used. `valid`: whether the content of a file is in effect.
    pub(super) fn used(&mut self, usable: &Usable, valid: impl Fn(&Path) -> bool) {
        for group in &mut self.0 {
            let its = usable.files.among(group.last_used());
            let is_unstable =
                its.paths().any(|path| usable.unstable.iter().any(|file| file == path));
            if !is_unstable {
                let valid = its.paths().all(&valid);
                group.used(its, valid);
            }
        }
    }

    /// Whether the last check found a change that was not used yet.
    pub(super) fn has_change(&self) -> bool {
        self.0.iter().any(Settling::has_change)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SETTLE: Duration = Duration::from_secs(5);

    #[test]
    fn a_file_that_never_settles_delays_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let read = |path: &Path| Files::read([path], 100);
        fs::write(&one, "old").unwrap();
        fs::write(&two, "old").unwrap();
        let (mut groups, mut now) =
            (Groups::new(vec![read(&one), read(&two)], FileKind::Pem), Instant::now());
        let mut check = |groups: &mut Groups, files: Files| {
            now += Duration::from_secs(1);
            groups.check(&files, now, SETTLE)
        };
        fs::write(&one, "new").unwrap();
        for second in 0..=5 {
            fs::write(&two, format!("part {second}")).unwrap();
            let usable = check(&mut groups, read(&one).and(read(&two)));
            assert_eq!(
                (usable.changed, &usable.unstable[usable.unstable.len() - 1]),
                (second == 5, &two)
            );
            assert_eq!(
                usable.files.bytes(&one).unwrap(),
                if second == 5 { b"new" } else { b"old" }
            );
            assert_eq!(usable.files.bytes(&two).unwrap(), b"old");
            if usable.changed {
                groups.used(&usable, |_| true);
            }
        }
        assert!(groups.has_change());
        // Nor does a file that is not read in time.
        let late = || read(&one).and(Files::timed_out([two.as_path()]));
        check(&mut groups, late());
        let usable = check(&mut groups, late());
        assert!(usable.changed && usable.unstable.is_empty());
        assert_eq!(usable.files.bytes(&one).unwrap(), b"new");
        assert!(usable.files.bytes(&two).is_err());
    }
}
