//! The groups of files of one thing: each comes to rest by itself, and contributes what it had
//! until then.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::settling::{Found, Settling};
use crate::files::Files;

/// The groups, from look to look.
#[derive(Debug)]
pub(super) struct Groups(Vec<Settling>);

/// What is to be used after a look.
#[derive(Debug)]
pub(super) struct Usable {
    /// Of a group that moves, as it was used last.
    pub(super) files: Files,
    /// A group has changed, and has come to rest.
    pub(super) rested: bool,
    /// The files of groups that may not be whole yet.
    pub(super) moving: Vec<PathBuf>,
}

impl Groups {
    /// Begins with what a start has used. `by_marker`: see [`Settling::new`].
    pub(super) fn new(groups: Vec<Files>, by_marker: bool) -> Self {
        Self(groups.into_iter().map(|files| Settling::new(files, by_marker)).collect())
    }

    /// Takes note of a look.
    pub(super) fn look(&mut self, files: &Files, now: Instant, settle: Duration) -> Usable {
        let mut usable = Usable { files: Files::default(), rested: false, moving: Vec::new() };
        for group in &mut self.0 {
            let its = files.among(group.last());
            let its = match group.look(&its, now, settle) {
                Found::Moving => {
                    usable.moving.extend(its.paths().map(Path::to_owned));
                    group.last().clone()
                }
                Found::AtRest => {
                    usable.rested = true;
                    its
                }
                Found::Same => its,
            };
            usable.files = usable.files.and(its);
        }
        usable
    }

    /// These were used. `sound`: whether what a file has is in effect.
    pub(super) fn used(&mut self, usable: &Usable, sound: impl Fn(&Path) -> bool) {
        for group in &mut self.0 {
            let its = usable.files.among(group.last());
            let moves = its.paths().any(|path| usable.moving.iter().any(|moving| moving == path));
            if !moves {
                let sound = its.paths().all(&sound);
                group.used(its, sound);
            }
        }
    }

    /// Whether something has changed and was not used yet.
    pub(super) fn is_moving(&self) -> bool {
        self.0.iter().any(Settling::is_moving)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SETTLE: Duration = Duration::from_secs(5);

    #[test]
    fn a_file_that_moves_for_ever_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let read = |path: &Path| Files::read([path], 100);
        fs::write(&one, "old").unwrap();
        fs::write(&two, "old").unwrap();
        let (mut groups, mut now) =
            (Groups::new(vec![read(&one), read(&two)], false), Instant::now());
        let mut look = |groups: &mut Groups, files: Files| {
            now += Duration::from_secs(1);
            groups.look(&files, now, SETTLE)
        };
        fs::write(&one, "new").unwrap();
        for second in 0..=5 {
            fs::write(&two, format!("part {second}")).unwrap();
            let usable = look(&mut groups, read(&one).and(read(&two)));
            assert_eq!(
                (usable.rested, &usable.moving[usable.moving.len() - 1]),
                (second == 5, &two)
            );
            assert_eq!(
                usable.files.bytes(&one).unwrap(),
                if second == 5 { b"new" } else { b"old" }
            );
            assert_eq!(usable.files.bytes(&two).unwrap(), b"old");
            if usable.rested {
                groups.used(&usable, |_| true);
            }
        }
        assert!(groups.is_moving());
        // Neither does one that is not read in time.
        let late = || read(&one).and(Files::timed_out([two.as_path()]));
        look(&mut groups, late());
        let usable = look(&mut groups, late());
        assert!(usable.rested && usable.moving.is_empty());
        assert_eq!(usable.files.bytes(&one).unwrap(), b"new");
        assert!(usable.files.bytes(&two).is_err());
    }
}
