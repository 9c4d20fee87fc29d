//! Folders that are open: what is done in one is done there, wherever its path leads meanwhile, and
//! never behind a symbolic link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;

/// A file by which a folder of a run of this program is known from others of its user, which
/// somebody may have given its name.
pub(super) const MARK: &str = ".etcd-warden";

/// A folder.
#[derive(Debug)]
pub(super) struct Folder(pub(super) File);

impl Folder {
    /// The one that the operator names; links on the way to it are his own.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?.into()))
    }

    /// The folder of this name in it, if anything has that name.
    ///
    /// # Errors
    /// What has that name is no folder.
    pub(super) fn find(&self, name: &OsStr) -> io::Result<Option<Self>> {
        match self.entry(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(file) => Ok(Some(Self(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same, where a file or a link of this name is as good as nothing.
    pub(super) fn find_folder(&self, name: &OsStr) -> io::Result<Option<Self>> {
        self.find(name).or_else(|error| if is_no_folder(&error) { Ok(None) } else { Err(error) })
    }

    /// A file below it, for reading.
    pub(super) fn find_file(&self, path: &Path) -> io::Result<File> {
        let (folder, name) = self.way(path, |folder, name| {
            folder.find(name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
        })?;
        folder.entry(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
    }

    /// The folders on the way to a file below it, made with mode 0700 where there are none; and the
    /// file's name.
    pub(super) fn make_way<'p>(&self, path: &'p Path) -> io::Result<(Self, &'p OsStr)> {
        self.way(path, Self::make)
    }

    fn way<'p>(
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

    /// A new folder of this process' own, mode 0700, marked.
    pub(super) fn create(&self, name: &OsStr) -> io::Result<Self> {
        mkdirat(&self.0, name, Mode::RWXU)?;
        let folder = self.own(name)?.ok_or(io::ErrorKind::NotFound)?;
        folder.create_file(MARK.as_ref(), 0o600)?;
        Ok(folder)
    }

    /// Takes the mark away.
    pub(super) fn unmark(&self) -> io::Result<()> {
        match unlinkat(&self.0, MARK, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder of this name, if it is there and a run of this user's has made it: what is in it,
    /// nobody else can have put there.
    ///
    /// # Errors
    /// It is another user's, or others may write to it, or it is no folder, or something is in it
    /// and no mark.
    pub(super) fn own(&self, name: &OsStr) -> io::Result<Option<Self>> {
        let refused = |why: String| {
            let name = name.display();
            Err(io::Error::other(format!(
                "`{name}` {why}, and so was not left by a run of this user's: look at it, and remove it"
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
        if !names.is_empty() && !names.iter().any(|name| name == MARK) {
            return refused("holds no mark of one".to_owned());
        }
        Ok(Some(folder))
    }

    /// A new file, for writing.
    pub(super) fn create_file(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        self.entry(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(mode))
    }

    fn entry(&self, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<File> {
        Ok(openat(&self.0, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?.into())
    }

    /// The names of all that is in it.
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

    /// Moves an entry of this name to another folder, over a file that has that name there.
    pub(super) fn rename(&self, name: &OsStr, to: &Self, new: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.0, name, &to.0, new)?)
    }

    /// Removes an empty folder.
    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }
}

/// Linux and POSIX differ in what a link is called that was to be a folder.
fn is_no_folder(error: &io::Error) -> bool {
    [Errno::NOTDIR, Errno::LOOP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
