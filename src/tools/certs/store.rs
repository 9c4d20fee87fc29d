//! Files into a folder: all of them beside it first, then in place by renames, so that a run that
//! is cut leaves no half file, and the next run finishes what had begun.
//!
//! Everything is written to `.etcd-warden-staged`, synced, and renamed to `.etcd-warden-complete`.
//! From there each entry moves to its place: a folder that is not there yet as a whole, a file over
//! the one that it replaces. Between the rename of a key and that of its certificate lies a moment
//! in which they do not fit; a client that loads them just then fails in TLS and loads them again.
//!
//! Others may write to the folder, or to one below it, and root may be at work here: nothing is
//! done behind a symbolic link (`open`), and only what this user alone can have written is put in
//! place.

mod open;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use etcd_warden_core::diagnostics::Diagnostics;

use super::layout::{CA_FILE, CERT_FILE, KEY_FILE, Owner, Wanted};
use super::{mistake, note, refuse};
use open::Folder;

const STAGED: &str = ".etcd-warden-staged";
pub(super) const COMPLETE: &str = ".etcd-warden-complete";

/// A folder that this process alone writes to.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// Locked until the end; the kernel lets go of it when the process ends, however it ends.
    folder: Folder,
}

/// What stands in the way of these places in a folder: with `force`, only what cannot be replaced.
/// Changes nothing.
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
        if let Some(link) = place
            .ancestors()
            .skip(1)
            .map(|above| folder.join(above))
            .find(|above| above != folder && above.is_symlink())
        {
            let message = format!(
                "`{}` is a symbolic link, and nothing is written behind one",
                link.display()
            );
            found.push(mistake(&name, message, "name the folder that it leads to by `--out`"));
        } else if path.is_dir() {
            found.push(mistake(
                &name,
                "this is a folder, and a file is to go there",
                "move it away",
            ));
        } else if let Some(file) =
            path.ancestors().skip(1).find(|above| above.exists()).filter(|above| !above.is_dir())
        {
            found.push(mistake(
                &name,
                format!("`{}` is a file, and a folder is to go there", file.display()),
                "move it away",
            ));
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
    /// Takes the folder, making it if need be, and finishes or removes what an earlier run left.
    /// The note says what that was.
    ///
    /// # Errors
    /// Another run is at work in it, or it cannot be written to.
    pub fn open(folder: &Path) -> Result<(Self, Option<Diagnostics>), Diagnostics> {
        let name = folder.display().to_string();
        let opened = create_folder(folder).and_then(|()| Folder::open(folder));
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return refuse(&name, format!("the folder cannot be used: {error}"), ""),
        };
        match opened.0.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return refuse(
                    &name,
                    "another `etcd-warden certs` is at work in this folder",
                    "wait for it",
                );
            }
            Err(TryLockError::Error(error)) => {
                return refuse(&name, format!("the folder cannot be locked: {error}"), "");
            }
        }
        let store = Self { path: folder.to_owned(), folder: opened };
        match store.recover() {
            Ok(false) => Ok((store, None)),
            Ok(true) => {
                let mut notes = Diagnostics::default();
                notes.push(note(
                    &name,
                    "an earlier run was cut while it put its files in place: they are in place now",
                    "",
                ));
                Ok((store, Some(notes)))
            }
            Err(error) => refuse(
                &name,
                format!("what an earlier run left cannot be put in place: {error}"),
                "",
            ),
        }
    }

    /// Puts all files in place. One that holds what it is to hold already (`etcd-ca`, most of the
    /// time) is left alone.
    ///
    /// # Errors
    /// Why that is not possible. Then nothing is in place, or (a disk that fails in the middle of
    /// renames) the next run goes on.
    pub fn put(&self, files: &[Wanted]) -> Result<(), Diagnostics> {
        let files: Vec<&Wanted> =
            files.iter().filter(|file| file.secret || !self.holds(file)).collect();
        if files.is_empty() {
            return Ok(());
        }
        let staged = match self.stage(&files) {
            Ok(staged) => staged,
            Err((path, error)) => {
                // Nothing is in place yet; what cannot be removed is removed by the next run.
                let _ = fs::remove_dir_all(self.path.join(STAGED));
                return refuse(
                    &path.display().to_string(),
                    format!("the file cannot be written: {error}"),
                    "nothing has changed",
                );
            }
        };
        let moved = self
            .folder
            .rename(STAGED.as_ref(), &self.folder, COMPLETE.as_ref())
            .and_then(|()| self.finish(&staged));
        moved.or_else(|error| {
            let message = format!("the files are written and cannot all be put in place: {error}");
            refuse(
                &self.path.join(COMPLETE).display().to_string(),
                message,
                "the next run goes on with it",
            )
        })
    }

    /// Whether a file is there with this content.
    fn holds(&self, wanted: &Wanted) -> bool {
        let (content, mut old) = (wanted.content.as_bytes(), Vec::new());
        let read = self.folder.find_file(&wanted.path).and_then(|file| {
            let metadata = file.metadata()?;
            let may_be = metadata.is_file()
                && usize::try_from(metadata.len()).is_ok_and(|length| length == content.len());
            if may_be { file.take(metadata.len()).read_to_end(&mut old) } else { Ok(0) }
        });
        read.is_ok() && old == content
    }

    /// Everything to the disk, in files of its own.
    fn stage(&self, files: &[&Wanted]) -> Result<Folder, (PathBuf, io::Error)> {
        let shown = self.path.join(STAGED);
        let staged = self.folder.create(STAGED.as_ref()).map_err(|error| (shown.clone(), error))?;
        for file in files {
            Self::write_new(&staged, file).map_err(|error| (shown.join(&file.path), error))?;
        }
        sync_each(&staged, files).map_err(|(path, error)| (shown.join(path), error))?;
        staged.0.sync_all().map_err(|error| (shown, error))?;
        Ok(staged)
    }

    /// Writes one file, and gives it to whom it is to belong: never to whoever has a file at its
    /// place now.
    fn write_new(staged: &Folder, wanted: &Wanted) -> io::Result<()> {
        let mode = if wanted.secret { 0o600 } else { 0o644 };
        let (parent, name) = staged.make_way(&wanted.path)?;
        let mut file = parent.create_file(name, mode)?;
        if let Some(owner) = wanted.owner {
            let own = Owner::of(&file.metadata()?);
            if (own.uid, own.gid) != (owner.uid, owner.gid) {
                fchown(&file, Some(owner.uid), Some(owner.gid))?;
            }
            let allowed = if wanted.secret { 0o770 } else { 0o777 };
            file.set_permissions(Permissions::from_mode(owner.mode & allowed))?;
        }
        file.write_all(wanted.content.as_bytes())
    }

    /// Whether there was something to finish.
    fn recover(&self) -> io::Result<bool> {
        if self.folder.own(STAGED.as_ref())?.is_some() {
            fs::remove_dir_all(self.path.join(STAGED))?;
        }
        let Some(complete) = self.folder.own(COMPLETE.as_ref())? else { return Ok(false) };
        self.finish(&complete).map(|()| true)
    }

    fn finish(&self, complete: &Folder) -> io::Result<()> {
        move_into(complete, &self.folder)?;
        complete.unmark()?;
        self.folder.remove(COMPLETE.as_ref())?;
        self.folder.0.sync_all()
    }
}

/// Moves all that `from` holds into `to`. Done again after a cut, it goes on.
fn move_into(from: &Folder, to: &Folder) -> io::Result<()> {
    let mut names: Vec<OsString> = from.names()?;
    names.retain(|name| name != open::MARK);
    names.sort_by_key(|name| {
        ([CA_FILE, KEY_FILE, CERT_FILE].iter().position(|known| name == known), name.clone())
    });
    for name in &names {
        match (from.find_folder(name)?, to.find_folder(name)?) {
            (Some(source), Some(target)) => {
                move_into(&source, &target)?;
                from.remove(name)?;
            }
            _ => from.rename(name, to, name).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", name.display()))
            })?,
        }
    }
    Ok(())
}

/// Syncs thousands of files, many at a time: a file system commits those together that wait
/// together. (One `syncfs` would wait for whatever else this machine writes.)
fn sync_each(staged: &Folder, files: &[&Wanted]) -> Result<(), (PathBuf, io::Error)> {
    const AT_A_TIME: usize = 16;
    let one = |file: &&Wanted| {
        let synced = staged.find_file(&file.path).and_then(|file| file.sync_all());
        synced.map_err(|error| (file.path.clone(), error))
    };
    std::thread::scope(|scope| {
        let chunks = files.chunks(files.len().div_ceil(AT_A_TIME).max(1));
        let workers: Vec<_> =
            chunks.map(|chunk| scope.spawn(|| chunk.iter().try_for_each(one))).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests;
