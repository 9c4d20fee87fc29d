//! Files that an operator names, read within bounds: regular files only, of a bounded size, and
//! never with a wait for another process.
//!
//! Whoever may write into a folder that the proxy reads may put a pipe there, a link to
//! `/dev/zero`, or a sparse file of terabytes. None of these may stop a reader, least of all one
//! that has other files to read. What is read once is held here, so that the bytes that were
//! compared with the ones before are the bytes that are used.

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

/// A read of watched files that takes longer is an error: a network file system does not answer.
pub const LONGEST_READ: Duration = Duration::from_secs(5);

/// Why a file was not read, as a sentence without its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// There is no such file.
    Absent,
    /// This user may not read it.
    Forbidden,
    /// It is a folder.
    Folder,
    /// It is a pipe, a socket or a device: what it is.
    Special(&'static str),
    /// It has more bytes than are read of such a file: the bound.
    Large(u64),
    /// It was not read within [`LONGEST_READ`].
    Late,
    /// Anything else, in the system's words.
    Failed(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unread::Absent => f.write_str("does not exist"),
            Unread::Forbidden => f.write_str("may not be read by this user"),
            Unread::Folder => f.write_str("is a directory, not a file"),
            Unread::Special(what) => {
                write!(f, "is a {what}, not a regular file: write its content to a file")
            }
            Unread::Large(most) if *most >= 1 << 20 => {
                write!(f, "is larger than {} MiB", most >> 20)
            }
            Unread::Large(most) => write!(f, "is larger than {most} bytes"),
            Unread::Late => write!(
                f,
                "was not read within {} s: its file system does not answer",
                LONGEST_READ.as_secs()
            ),
            Unread::Failed(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Unread::Absent,
            io::ErrorKind::PermissionDenied => Unread::Forbidden,
            io::ErrorKind::IsADirectory => Unread::Folder,
            // A socket cannot be opened (open(2), ENXIO).
            _ if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                Unread::Special("socket")
            }
            _ => Unread::Failed(error.to_string()),
        }
    }
}

/// All bytes of a regular file.
///
/// # Errors
/// It is no regular file, has more than `most` bytes, or cannot be read.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Unread> {
    read_open(open(path)?, most)
}

/// All bytes of a file that is open already, wherever it was opened without a wait (`O_NONBLOCK`).
///
/// # Errors
/// As [`read`].
pub fn read_open(file: File, most: u64) -> Result<Vec<u8>, Unread> {
    let found = file.metadata()?;
    let kind = found.file_type();
    let special = match kind {
        _ if kind.is_dir() => return Err(Unread::Folder),
        _ if kind.is_fifo() => Some("pipe"),
        _ if kind.is_socket() => Some("socket"),
        _ if !kind.is_file() => Some("device"),
        _ => None,
    };
    if let Some(what) = special {
        return Err(Unread::Special(what));
    }
    // A sparse file costs nothing to make, and its size to read.
    if found.len() > most {
        return Err(Unread::Large(most));
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > most) {
        Err(Unread::Large(most))
    } else {
        Ok(bytes)
    }
}

/// Opens without waiting for anybody: to open a pipe waits for its writer otherwise (fifo(7)).
fn open(path: &Path) -> Result<File, Unread> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(|error| io::Error::from(error).into())
}

/// Files that were read together.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<PathBuf, Result<Arc<Held>, Unread>>);

/// A file that was read.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    place: Place,
    target: PathBuf,
    links: Vec<PathBuf>,
}

/// Which file it is, whatever its name and content: device and inode.
pub type Place = (u64, u64);

/// What a file was at a look: its content in short, and which file it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Of its bytes, or of the reason why they were not read. Equal if and only if nothing has
    /// changed.
    pub digest: [u8; 32],
    /// Unless it was not read.
    pub place: Option<Place>,
    /// Where all links of its path led, unless it was not read. It changes when a link does, as
    /// Kubernetes' `..data`, and not when a file is replaced.
    pub target: Option<PathBuf>,
    /// The path, and each folder of it, that is a link.
    pub links: Vec<PathBuf>,
}

impl Files {
    /// Reads these, at most `most` bytes of each.
    #[must_use]
    pub fn read<'p>(paths: impl IntoIterator<Item = &'p Path>, most: u64) -> Self {
        let held = |path: &Path| {
            let target = std::fs::canonicalize(path)?;
            let links =
                path.ancestors().filter(|part| part.is_symlink()).map(Path::to_owned).collect();
            let file = open(&target)?;
            let found = file.metadata()?;
            Ok(Arc::new(Held {
                place: (found.dev(), found.ino()),
                bytes: read_open(file, most)?,
                target,
                links,
            }))
        };
        Self(paths.into_iter().map(|path| (path.to_owned(), held(path))).collect())
    }

    /// These, none of which was read in time.
    #[must_use]
    pub fn late<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        Self(paths.into_iter().map(|path| (path.to_owned(), Err(Unread::Late))).collect())
    }

    /// What a file held.
    ///
    /// # Errors
    /// Why it was not read. [`Unread::Absent`] for one that was not asked for.
    pub fn bytes(&self, path: &Path) -> Result<&[u8], Unread> {
        match self.0.get(path) {
            Some(Ok(held)) => Ok(&held.bytes),
            Some(Err(why)) => Err(why.clone()),
            None => Err(Unread::Absent),
        }
    }

    /// Those that were read.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.0
            .iter()
            .filter_map(|(path, held)| Some((path.as_path(), held.as_ref().ok()?.bytes.as_slice())))
    }

    /// These and those.
    #[must_use]
    pub fn and(mut self, those: Self) -> Self {
        self.0.extend(those.0);
        self
    }

    /// Those of these that are among those, too.
    #[must_use]
    pub fn among(&self, those: &Self) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(path, _)| those.0.contains_key(*path))
                .map(|(path, held)| (path.clone(), held.clone()))
                .collect(),
        )
    }

    /// The name of each.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// What each file was.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<PathBuf, Seen> {
        let seen = |held: &Result<Arc<Held>, Unread>| match held {
            Ok(held) => Seen {
                digest: Sha256::digest(&held.bytes).into(),
                place: Some(held.place),
                target: Some(held.target.clone()),
                links: held.links.clone(),
            },
            Err(why) => Seen {
                digest: Sha256::digest(format!("{why:?}")).into(),
                place: None,
                target: None,
                links: Vec::new(),
            },
        };
        self.0.iter().map(|(path, held)| (path.clone(), seen(held))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const MOST: u64 = 100;

    #[test]
    fn only_a_regular_file_is_read_and_nothing_waits() {
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
            ("pipe", Unread::Special("pipe")),
            ("link", Unread::Special("pipe")),
            ("socket", Unread::Special("socket")),
            ("zero", Unread::Special("device")),
            ("sparse", Unread::Large(MOST)),
            ("more", Unread::Large(MOST)),
            (".", Unread::Folder),
            ("absent", Unread::Absent),
        ] {
            assert_eq!(read(&at(name), MOST), Err(why), "{name}");
        }
        assert_eq!(read(&at("most"), MOST), Ok(vec![1; 100]));
    }

    #[test]
    fn content_makes_a_change_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let look = || Files::read([a.as_path()], MOST).seen()[&a].clone();
        fs::write(&a, "one").unwrap();
        let first = look();
        fs::write(&a, "one").unwrap();
        assert_eq!(look(), first, "another time");
        fs::write(&b, "one").unwrap();
        fs::rename(&b, &a).unwrap();
        let renamed = look();
        assert!(
            renamed.digest == first.digest && renamed.place != first.place,
            "another file with the same content"
        );
        fs::write(&b, "two").unwrap();
        fs::remove_file(&a).unwrap();
        assert_ne!(look().digest, first.digest, "none");
        symlink(&b, &a).unwrap();
        assert_ne!(look().digest, first.digest, "what a link points to");
    }
}
