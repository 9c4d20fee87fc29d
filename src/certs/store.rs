//! Files into a folder: all of them beside it first, then in place by renames, so that a run that is cut leaves no half file, and the next
//! run finishes what had begun.
//!
//! Everything is written to `.etcd-warden-staged`, synced, and renamed to `.etcd-warden-complete`. From there each entry moves to its place:
//! a folder that is not there yet as a whole, a file over the one that it replaces. Between the rename of a key and that of its certificate
//! lies a moment in which they do not fit; a client that loads them just then fails in TLS and loads them again.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::layout::{CA_FILE, CERT_FILE, KEY_FILE, Wanted};
use super::{mistake, note, refuse};
use crate::policy::Diagnostics;

const STAGED: &str = ".etcd-warden-staged";
pub(super) const COMPLETE: &str = ".etcd-warden-complete";

/// A folder that this process alone writes to.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// The folder itself, locked until the end; the kernel lets go of it when the process ends, however it ends.
    lock: File,
}

/// What stands in the way of these places in a folder: with `force`, only what cannot be replaced. Changes nothing.
#[must_use]
pub fn obstacles(folder: &Path, places: &[PathBuf], force: bool) -> Diagnostics {
    let mut found = Diagnostics::default();
    let shown = folder.display().to_string();
    if folder.exists() && !folder.is_dir() {
        found.push(mistake(&shown, "this is a file, and `--out` is a folder", ""));
        return found;
    }
    for place in places {
        let path = folder.join(place);
        let name = path.display().to_string();
        if path.is_dir() {
            found.push(mistake(&name, "this is a folder, and a file is to go there", "move it away"));
        } else if let Some(file) = path.ancestors().skip(1).find(|above| above.exists()).filter(|above| !above.is_dir()) {
            found.push(mistake(&name, format!("`{}` is a file, and a folder is to go there", file.display()), "move it away"));
        } else if !force && path.symlink_metadata().is_ok() {
            found.push(mistake(
                &name,
                "the file is there already",
                "`--missing` issues only what is not there, `--force` replaces, `certs renew` renews",
            ));
        }
    }
    found
}

impl Store {
    /// Takes the folder, making it if need be, and finishes or removes what an earlier run left. The note says what that was.
    ///
    /// # Errors
    /// Another run is at work in it, or it cannot be written to.
    pub fn open(folder: &Path) -> Result<(Self, Option<Diagnostics>), Diagnostics> {
        let name = folder.display().to_string();
        let opened = create_folder(folder).and_then(|()| File::open(folder));
        let lock = match opened {
            Ok(lock) => lock,
            Err(error) => return refuse(&name, format!("the folder cannot be used: {error}"), ""),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return refuse(&name, "another `etcd-warden certs` is at work in this folder", "wait for it"),
            Err(TryLockError::Error(error)) => return refuse(&name, format!("the folder cannot be locked: {error}"), ""),
        }
        let store = Self { folder: folder.to_owned(), lock };
        match store.recover() {
            Ok(false) => Ok((store, None)),
            Ok(true) => {
                let mut notes = Diagnostics::default();
                notes.push(note(&name, "an earlier run was cut while it put its files in place: they are in place now", ""));
                Ok((store, Some(notes)))
            }
            Err(error) => refuse(&name, format!("what an earlier run left cannot be put in place: {error}"), ""),
        }
    }

    /// Puts all files in place. One that holds what it is to hold already (`etcd-ca`, most of the time) is left alone.
    ///
    /// # Errors
    /// Why that is not possible. Then nothing is in place, or (a disk that fails in the middle of renames) the next run goes on.
    pub fn put(&self, files: &[Wanted]) -> Result<(), Diagnostics> {
        let same = |file: &Wanted| !file.secret && fs::read(self.folder.join(&file.path)).is_ok_and(|old| old == file.content.as_bytes());
        let files: Vec<&Wanted> = files.iter().filter(|file| !same(file)).collect();
        if files.is_empty() {
            return Ok(());
        }
        let staged = self.folder.join(STAGED);
        if let Err((path, error)) = self.stage(&staged, &files) {
            // Nothing is in place yet; what cannot be removed is removed by the next run.
            let _ = fs::remove_dir_all(&staged);
            return refuse(&path.display().to_string(), format!("the file cannot be written: {error}"), "nothing has changed");
        }
        let complete = self.folder.join(COMPLETE);
        let moved = fs::rename(&staged, &complete).and_then(|()| self.finish());
        moved.or_else(|error| {
            let message = format!("the files are written and cannot all be put in place: {error}");
            refuse(&complete.display().to_string(), message, "the next run goes on with it")
        })
    }

    /// Everything to the disk, in files of its own.
    fn stage(&self, staged: &Path, files: &[&Wanted]) -> Result<(), (PathBuf, io::Error)> {
        for file in files {
            let path = staged.join(&file.path);
            let parent = path.parent().unwrap_or(staged);
            let before = self.folder.join(&file.path);
            create_folder(parent).and_then(|()| write_new(&path, file, &before)).map_err(|error| (path, error))?;
        }
        sync_each(staged, files)?;
        File::open(staged).and_then(|folder| folder.sync_all()).map_err(|error| (staged.to_owned(), error))
    }

    /// Whether there was something to finish.
    fn recover(&self) -> io::Result<bool> {
        let staged = self.folder.join(STAGED);
        if staged.exists() {
            fs::remove_dir_all(&staged)?;
        }
        let begun = self.folder.join(COMPLETE).exists();
        if begun {
            self.finish()?;
        }
        Ok(begun)
    }

    fn finish(&self) -> io::Result<()> {
        move_into(&self.folder.join(COMPLETE), &self.folder)?;
        self.lock.sync_all()
    }
}

/// Moves all that `from` holds into `to`, and removes `from`. Done again after a cut, it goes on.
fn move_into(from: &Path, to: &Path) -> io::Result<()> {
    let mut names: Vec<OsString> = fs::read_dir(from)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    names.sort_by_key(|name| ([CA_FILE, KEY_FILE, CERT_FILE].iter().position(|known| name == known), name.clone()));
    for name in names {
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() && target.is_dir() {
            move_into(&source, &target)?;
        } else {
            fs::rename(&source, &target)?;
        }
    }
    fs::remove_dir(from)
}

/// Syncs thousands of files, many at a time: a file system commits those together that wait together. (One `syncfs` would wait for whatever
/// else this machine writes.)
fn sync_each(staged: &Path, files: &[&Wanted]) -> Result<(), (PathBuf, io::Error)> {
    const AT_A_TIME: usize = 16;
    let one = |file: &&Wanted| {
        let path = staged.join(&file.path);
        File::open(&path).and_then(|file| file.sync_all()).map_err(|error| (path, error))
    };
    std::thread::scope(|scope| {
        let chunks = files.chunks(files.len().div_ceil(AT_A_TIME).max(1));
        let workers: Vec<_> = chunks.map(|chunk| scope.spawn(|| chunk.iter().try_for_each(one))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes one file. What renews a file has the owner and the mode of that.
fn write_new(path: &Path, wanted: &Wanted, before: &Path) -> io::Result<()> {
    let mode = if wanted.secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    if wanted.renews
        && let Ok(before) = before.metadata()
    {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            fchown(&file, Some(before.uid()), Some(before.gid()))?;
        }
        let allowed = if wanted.secret { 0o770 } else { 0o777 };
        file.set_permissions(Permissions::from_mode(before.mode() & allowed))?;
    }
    file.write_all(wanted.content.as_bytes())
}

#[cfg(test)]
mod tests;
