//! Reads the files that an operator configures: regular files of bounded size, without waiting for
//! another process.
//!
//! A user who can write to a directory that the gateway reads could put a pipe there, a link to
//! `/dev/zero` or a sparse file of terabytes. None of these may block a reader that has other files
//! to read. The content is read once and kept: the bytes that are compared with the previous ones
//! are the bytes that are used.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

/// Time limit of a read of watched files. A network file system may not answer.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why a file was not read. Displayed as a sentence without the path as its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The file does not exist.
    NotFound,
    /// The user of this process may not read it.
    PermissionDenied,
    /// It is a directory.
    Directory,
    /// It is a pipe, a socket or a device, as named here.
    Special(&'static str),
    /// It has more bytes than this limit.
    TooLarge(u64),
    /// It was not read within [`READ_TIMEOUT`].
    TimedOut,
    /// Any other error, with the message of the system.
    Other(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::NotFound => f.write_str("does not exist"),
            ReadError::PermissionDenied => f.write_str("may not be read by this user"),
            ReadError::Directory => f.write_str("is a directory, not a file"),
            ReadError::Special(what) => {
                write!(f, "is a {what}, not a regular file: write its content to a file")
            }
            ReadError::TooLarge(limit) if *limit >= 1 << 20 => {
                write!(f, "is larger than {} MiB", limit >> 20)
            }
            ReadError::TooLarge(limit) => write!(f, "is larger than {limit} bytes"),
            ReadError::TimedOut => write!(
                f,
                "was not read within {} s: its file system does not answer",
                READ_TIMEOUT.as_secs()
            ),
            ReadError::Other(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => ReadError::NotFound,
            io::ErrorKind::PermissionDenied => ReadError::PermissionDenied,
            io::ErrorKind::IsADirectory => ReadError::Directory,
            // A socket cannot be opened (open(2), ENXIO).
            _ if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                ReadError::Special("socket")
            }
            _ => ReadError::Other(error.to_string()),
        }
    }
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// The file is not regular, is larger, or cannot be read.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    read_open(open(path)?, limit)
}

/// Reads a file that was opened with `O_NONBLOCK`.
///
/// # Errors
/// As [`read`].
pub fn read_open(file: File, limit: u64) -> Result<Vec<u8>, ReadError> {
    let found = file.metadata()?;
    let kind = found.file_type();
    let special = match kind {
        _ if kind.is_dir() => return Err(ReadError::Directory),
        _ if kind.is_fifo() => Some("pipe"),
        _ if kind.is_socket() => Some("socket"),
        _ if !kind.is_file() => Some("device"),
        _ => None,
    };
    if let Some(what) = special {
        return Err(ReadError::Special(what));
    }
    // Check the size first: a sparse file is cheap to create and expensive to read.
    if found.len() > limit {
        return Err(ReadError::TooLarge(limit));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        Err(ReadError::TooLarge(limit))
    } else {
        Ok(bytes)
    }
}

/// Opens a file without blocking. Otherwise, opening a pipe waits for a writer (fifo(7)).
fn open(path: &Path) -> Result<File, ReadError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(|error| io::Error::from(error).into())
}

/// The content of files that were read together.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<PathBuf, Result<Arc<Content>, ReadError>>);

/// The content of a file.
#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    id: FileId,
    target: PathBuf,
    links: Vec<PathBuf>,
}

/// Device and inode: the identity of a file, independent of its name and content.
pub type FileId = (u64, u64);

/// The state of a file at one check: a digest of its content, and its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// SHA-256 of the content, or of the error. Equal if and only if neither has changed.
    pub digest: [u8; 32],
    /// `None` if the file was not read.
    pub id: Option<FileId>,
    /// The path after all symbolic links are resolved; `None` if the file was not read. It changes
    /// with a link such as Kubernetes' `..data`, but not when a file is replaced.
    pub target: Option<PathBuf>,
    /// The parts of the path that are symbolic links.
    pub links: Vec<PathBuf>,
}

impl Files {
    /// Reads files of at most `limit` bytes each.
    pub fn read<'p>(paths: impl IntoIterator<Item = &'p Path>, limit: u64) -> Self {
        let held = |path: &Path| {
            let target = std::fs::canonicalize(path)?;
            let links =
                path.ancestors().filter(|part| part.is_symlink()).map(Path::to_owned).collect();
            let file = open(&target)?;
            let found = file.metadata()?;
            Ok(Arc::new(Content {
                id: (found.dev(), found.ino()),
                bytes: read_open(file, limit)?,
                target,
                links,
            }))
        };
        Self(paths.into_iter().map(|path| (path.to_owned(), held(path))).collect())
    }

    /// Files that could not be read within [`READ_TIMEOUT`].
    pub fn timed_out<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        Self(paths.into_iter().map(|path| (path.to_owned(), Err(ReadError::TimedOut))).collect())
    }

    /// The content of a file.
    ///
    /// # Errors
    /// The reason why it was not read; [`ReadError::NotFound`] for a file that was not requested.
    pub fn bytes(&self, path: &Path) -> Result<&[u8], ReadError> {
        match self.0.get(path) {
            Some(Ok(held)) => Ok(&held.bytes),
            Some(Err(why)) => Err(why.clone()),
            None => Err(ReadError::NotFound),
        }
    }

    /// The files that were read, with their content.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.0
            .iter()
            .filter_map(|(path, held)| Some((path.as_path(), held.as_ref().ok()?.bytes.as_slice())))
    }

    /// The union of both sets. For a file in both, the content of `other` wins.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The files of this set that are also in `other`.
    pub fn among(&self, other: &Self) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(path, _)| other.0.contains_key(*path))
                .map(|(path, held)| (path.clone(), held.clone()))
                .collect(),
        )
    }

    /// The paths of all files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// The state of each file.
    pub fn states(&self) -> BTreeMap<PathBuf, FileState> {
        let state = |held: &Result<Arc<Content>, ReadError>| match held {
            Ok(held) => FileState {
                digest: Sha256::digest(&held.bytes).into(),
                id: Some(held.id),
                target: Some(held.target.clone()),
                links: held.links.clone(),
            },
            Err(why) => FileState {
                digest: Sha256::digest(format!("{why:?}")).into(),
                id: None,
                target: None,
                links: Vec::new(),
            },
        };
        self.0.iter().map(|(path, held)| (path.clone(), state(held))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const LIMIT: u64 = 100;

    #[test]
    fn reads_only_regular_files_and_never_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        symlink(at("pipe"), at("link")).unwrap();
        fs::File::create(at("sparse")).unwrap().set_len(3 << 30).unwrap();
        fs::write(at("most"), [1; 100]).unwrap();
        fs::write(at("more"), [1; 101]).unwrap();
        for (name, why) in [
            ("pipe", ReadError::Special("pipe")),
            ("link", ReadError::Special("pipe")),
            ("socket", ReadError::Special("socket")),
            ("zero", ReadError::Special("device")),
            ("sparse", ReadError::TooLarge(LIMIT)),
            ("more", ReadError::TooLarge(LIMIT)),
            (".", ReadError::Directory),
            ("absent", ReadError::NotFound),
        ] {
            assert_eq!(read(&at(name), LIMIT), Err(why), "{name}");
        }
        assert_eq!(read(&at("most"), LIMIT), Ok(vec![1; 100]));
    }

    #[test]
    fn only_a_change_of_the_content_changes_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let look = || Files::read([a.as_path()], LIMIT).states()[&a].clone();
        fs::write(&a, "one").unwrap();
        let first = look();
        fs::write(&a, "one").unwrap();
        assert_eq!(look(), first, "a new timestamp");
        fs::write(&b, "one").unwrap();
        fs::rename(&b, &a).unwrap();
        let renamed = look();
        assert!(
            renamed.digest == first.digest && renamed.id != first.id,
            "a new file with the same content"
        );
        fs::write(&b, "two").unwrap();
        fs::remove_file(&a).unwrap();
        assert_ne!(look().digest, first.digest, "no file");
        symlink(&b, &a).unwrap();
        assert_ne!(look().digest, first.digest, "the target of a link");
    }
}
