//! Directory handles. Operations are relative to the open directory, wherever its path leads
//! meanwhile, and never follow a symbolic link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;

/// A marker file in staging directories. It distinguishes them from other directories of the same
/// user that were given the same name.
pub(super) const MARKER: &str = ".etcd-warden";

/// An open directory.
#[derive(Debug)]
pub(super) struct Folder(pub(super) File);

impl Folder {
    /// Opens the directory that the operator names. Symbolic links in this path are followed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?.into()))
    }

    /// Opens the subdirectory of this name; `None` if nothing has this name.
    ///
    /// # Errors
    /// The entry is not a directory.
    pub(super) fn find(&self, name: &OsStr) -> io::Result<Option<Self>> {
        match self.entry(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(file) => Ok(Some(Self(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Like [`Folder::find`], but a file or a link of this name is `None`, too.
    pub(super) fn find_folder(&self, name: &OsStr) -> io::Result<Option<Self>> {
        self.find(name).or_else(|error| if is_no_folder(&error) { Ok(None) } else { Err(error) })
    }

    /// Opens a file below it for summary.
    pub(super) fn find_file(&self, path: &Path) -> io::Result<File> {
        let (folder, name) = self.parent_of(path, |folder, name| {
            folder.find(name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
        })?;
        folder.entry(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
    }

    /// Opens the parent directory of a path below it, creating directories with mode 0700. Returns
    /// the file's name, too.
    pub(super) fn create_parents<'p>(&self, path: &'p Path) -> io::Result<(Self, &'p OsStr)> {
        self.parent_of(path, Self::make)
    }

    fn parent_of<'p>(
        &self,
        path: &'p Path,
        step: impl Fn(&Self, &OsStr) -> io::Result<Self>,
    ) -> io::Result<(Self, &'p OsStr)> {
        let (mut folder, mut name) = (Self(self.0.try_clone()?), None);
        for component in path.components() {
            let Component::Normal(next) = component else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            if let Some(above) = name.replace(next) {
                folder = step(&folder, above)?;
            }
        }
        Ok((folder, name.ok_or(io::ErrorKind::InvalidInput)?))
    }

    fn make(&self, name: &OsStr) -> io::Result<Self> {
        match mkdirat(&self.0, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.find(name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Creates a subdirectory with mode 0700 and the marker file.
    pub(super) fn create(&self, name: &OsStr) -> io::Result<Self> {
        mkdirat(&self.0, name, Mode::RWXU)?;
        let folder = self.open_staging(name)?.ok_or(io::ErrorKind::NotFound)?;
        folder.create_file(MARKER.as_ref(), 0o600)?;
        Ok(folder)
    }

    /// Removes the marker file.
    pub(super) fn remove_marker(&self) -> io::Result<()> {
        match unlinkat(&self.0, MARKER, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a staging directory that a run of this user has created; `None` if there is none.
    /// No other user can have put files into it.
    ///
    /// # Errors
    /// It belongs to another user, others may write to it, it is not a directory, or it is not
    /// empty and has no marker.
    pub(super) fn open_staging(&self, name: &OsStr) -> io::Result<Option<Self>> {
        let refused = |why: String| {
            let name = name.display();
            Err(io::Error::other(format!(
                "`{name}` {why}, so it was not left by a run of this user: inspect and remove it"
            )))
        };
        let folder = match self.find(name) {
            Ok(folder) => folder,
            Err(error) if is_no_folder(&error) => {
                return refused("is a symbolic link or a file".to_owned());
            }
            Err(error) => return Err(error),
        };
        let Some(folder) = folder else { return Ok(None) };
        let (stat, own) = (fstat(&folder.0)?, rustix::process::geteuid());
        let mode = stat.st_mode & 0o7777;
        if stat.st_uid != own.as_raw() || mode & 0o777 != 0o700 {
            return refused(format!("belongs to user {} with mode {mode:04o}", stat.st_uid));
        }
        let names = folder.names()?;
        if !names.is_empty() && !names.iter().any(|name| name == MARKER) {
            return refused("has no marker file".to_owned());
        }
        Ok(Some(folder))
    }

    /// Creates a file for writing.
    pub(super) fn create_file(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        self.entry(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(mode))
    }

    fn entry(&self, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<File> {
        Ok(openat(&self.0, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?.into())
    }

    /// The names of all entries.
    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Renames an entry into another directory, replacing a file of that name.
    pub(super) fn rename(&self, name: &OsStr, to: &Self, new: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.0, name, &to.0, new)?)
    }

    /// Removes an empty subdirectory.
    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }
}

/// True if the entry is not a directory. Linux and POSIX have different error codes for a link.
fn is_no_folder(error: &io::Error) -> bool {
    [Errno::NOTDIR, Errno::LOOP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
