//! Writes files to a directory: first all of them to a staging directory, then in place by renames.
//! An interrupted run leaves no partial file, and the next run completes it.
//!
//! Everything is written to `.etcd-warden-staged`, synced, and renamed to `.etcd-warden-complete`.
//! From there each entry is renamed to its place: a new directory as a whole, a file over the one
//! it replaces. Between the renames of a key and of its certificate the two do not match; a client
//! that loads them at that moment fails in TLS and must load them again.
//!
//! Other users may be able to write to the directory or below it, and root may run this. Therefore
//! nothing is done behind a symbolic link (`open`), and a staging directory is used only if this
//! user alone can have written it.

mod open;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use etcd_warden_core::diagnostics::Diagnostics;

use super::layout::{CA_FILE, CERT_FILE, KEY_FILE, NewFile, Owner};
use super::{error, note, refuse};
use open::Folder;

const STAGED: &str = ".etcd-warden-staged";
pub(super) const COMPLETE: &str = ".etcd-warden-complete";

/// A directory, locked for this process.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// Locked until the end. The kernel releases the lock when the process ends.
    folder: Folder,
}

/// Everything that prevents writing these files to a directory. With `force`, existing files are no
/// obstacle. Changes nothing.
#[must_use]
pub fn obstacles(folder: &Path, places: &[PathBuf], force: bool) -> Diagnostics {
    let mut found = Diagnostics::default();
    let shown = folder.display().to_string();
    if folder.exists() && !folder.is_dir() {
        found.push(error(&shown, "this is a file, but `--out` must be a directory", ""));
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
                "`{}` is a symbolic link, and files are not written through links",
                link.display()
            );
            found.push(error(&name, message, "name the directory that it leads to with `--out`"));
        } else if path.is_dir() {
            found.push(error(
                &name,
                "this is a directory, but the file must be written here",
                "move it away",
            ));
        } else if let Some(file) =
            path.ancestors().skip(1).find(|above| above.exists()).filter(|above| !above.is_dir())
        {
            found.push(error(
                &name,
                format!("`{}` is a file, but must be a directory", file.display()),
                "move it away",
            ));
        } else if !force && path.symlink_metadata().is_ok() {
            found.push(error(
                &name,
                "the file exists already",
                "issue only missing files with `--missing`, replace files with `--force`, or renew \
                 with `certs renew`",
            ));
        }
    }
    found
}

impl Store {
    /// Opens and locks the directory, creates it if necessary, and completes or removes what an
    /// interrupted run left. The note is set if a run was completed.
    ///
    /// # Errors
    /// Another run holds the lock, or the directory cannot be written to.
    pub fn open(folder: &Path) -> Result<(Self, Option<Diagnostics>), Diagnostics> {
        let name = folder.display().to_string();
        let opened = create_folder(folder).and_then(|()| Folder::open(folder));
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return refuse(&name, format!("cannot use the directory: {error}"), ""),
        };
        match opened.0.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return refuse(
                    &name,
                    "another `etcd-warden certs` is running in this directory",
                    "wait until it has ended",
                );
            }
            Err(TryLockError::Error(error)) => {
                return refuse(&name, format!("cannot lock the directory: {error}"), "");
            }
        }
        let store = Self { path: folder.to_owned(), folder: opened };
        match store.recover() {
            Ok(false) => Ok((store, None)),
            Ok(true) => {
                let mut notes = Diagnostics::default();
                notes.push(note(
                    &name,
                    "an earlier run was interrupted: its files have now been put in place",
                    "",
                ));
                Ok((store, Some(notes)))
            }
            Err(error) => refuse(&name, format!("cannot complete an earlier run: {error}"), ""),
        }
    }

    /// Puts all files in place. A public file that has the right content already, as `etcd-ca`
    /// mostly does, is left alone.
    ///
    /// # Errors
    /// A file cannot be written. Then nothing is in place or, if the disk fails between renames,
    /// the next run continues.
    pub fn put(&self, files: &[NewFile]) -> Result<(), Diagnostics> {
        let files: Vec<&NewFile> =
            files.iter().filter(|file| file.secret || !self.holds(file)).collect();
        if files.is_empty() {
            return Ok(());
        }
        let staged = match self.stage(&files) {
            Ok(staged) => staged,
            Err((path, error)) => {
                // Nothing is in place yet. The next run removes what cannot be removed now.
                let _ = fs::remove_dir_all(self.path.join(STAGED));
                return refuse(
                    &path.display().to_string(),
                    format!("cannot write the file: {error}"),
                    "nothing has changed",
                );
            }
        };
        let moved = self
            .folder
            .rename(STAGED.as_ref(), &self.folder, COMPLETE.as_ref())
            .and_then(|()| self.finish(&staged));
        moved.or_else(|error| {
            let message =
                format!("the files are written, but not all could be put in place: {error}");
            refuse(
                &self.path.join(COMPLETE).display().to_string(),
                message,
                "run the command again to continue",
            )
        })
    }

    /// True if a file exists with this content.
    fn holds(&self, new_file: &NewFile) -> bool {
        let (content, mut old) = (new_file.content.as_bytes(), Vec::new());
        let read = self.folder.find_file(&new_file.path).and_then(|file| {
            let metadata = file.metadata()?;
            let may_be = metadata.is_file()
                && usize::try_from(metadata.len()).is_ok_and(|length| length == content.len());
            if may_be { file.take(metadata.len()).read_to_end(&mut old) } else { Ok(0) }
        });
        read.is_ok() && old == content
    }

    /// Writes and syncs all files to the staging directory.
    fn stage(&self, files: &[&NewFile]) -> Result<Folder, (PathBuf, io::Error)> {
        let shown = self.path.join(STAGED);
        let staged = self.folder.create(STAGED.as_ref()).map_err(|error| (shown.clone(), error))?;
        for file in files {
            Self::write_new(&staged, file).map_err(|error| (shown.join(&file.path), error))?;
        }
        sync_each(&staged, files).map_err(|(path, error)| (shown.join(path), error))?;
        staged.0.sync_all().map_err(|error| (shown, error))?;
        Ok(staged)
    }

    /// Writes one file. It gets the recorded owner, never that of the file that is at its place
    /// now.
    fn write_new(staged: &Folder, new_file: &NewFile) -> io::Result<()> {
        let mode = if new_file.secret { 0o600 } else { 0o644 };
        let (parent, name) = staged.create_parents(&new_file.path)?;
        let mut file = parent.create_file(name, mode)?;
        if let Some(owner) = new_file.owner {
            let own = Owner::of(&file.metadata()?);
            if (own.uid, own.gid) != (owner.uid, owner.gid) {
                fchown(&file, Some(owner.uid), Some(owner.gid))?;
            }
            let allowed = if new_file.secret { 0o770 } else { 0o777 };
            file.set_permissions(Permissions::from_mode(owner.mode & allowed))?;
        }
        file.write_all(new_file.content.as_bytes())
    }

    /// Completes an interrupted run. True if there was one.
    fn recover(&self) -> io::Result<bool> {
        if self.folder.open_staging(STAGED.as_ref())?.is_some() {
            fs::remove_dir_all(self.path.join(STAGED))?;
        }
        let Some(complete) = self.folder.open_staging(COMPLETE.as_ref())? else { return Ok(false) };
        self.finish(&complete).map(|()| true)
    }

    fn finish(&self, complete: &Folder) -> io::Result<()> {
        move_into(complete, &self.folder)?;
        complete.remove_marker()?;
        self.folder.remove(COMPLETE.as_ref())?;
        self.folder.0.sync_all()
    }
}

/// Moves everything from `from` to `to`. Can be repeated after an interruption.
fn move_into(from: &Folder, to: &Folder) -> io::Result<()> {
    let mut names: Vec<OsString> = from.names()?;
    names.retain(|name| name != open::MARKER);
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

/// Syncs thousands of files in parallel: the file system commits syncs that wait together in one
/// go. (`syncfs` would wait for everything else that is written on this machine.)
fn sync_each(staged: &Folder, files: &[&NewFile]) -> Result<(), (PathBuf, io::Error)> {
    const AT_A_TIME: usize = 16;
    let one = |file: &&NewFile| {
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
