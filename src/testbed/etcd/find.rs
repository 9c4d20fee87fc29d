//! Which etcd to run.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::build::{self, BuildError, Release};

/// The environment variable that names an etcd.
pub const NAMED_BY: &str = "ETCD_WARDEN_ETCD";

/// Where an etcd may come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// This one: the program itself, or the folder that holds it.
    Named(PathBuf),
    /// An `etcd` on `PATH` of at least this version; else the release.
    PathOr(Version, &'static Release),
    /// This release, built from its Go module if it is not there yet.
    Pinned(&'static Release),
}

/// The programs of one etcd release.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The server.
    pub etcd: PathBuf,
    /// The client, when it lies beside the server.
    pub etcdctl: Option<PathBuf>,
    /// The tool for files of a stopped server, when it lies beside the server.
    pub etcdutl: Option<PathBuf>,
    /// What the server says its version is.
    pub version: Version,
}

/// A release number. Pre-releases count as the release that they lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 3, in any etcd of today.
    pub major: u32,
    /// What a cluster agrees on.
    pub minor: u32,
    /// Fixes.
    pub patch: u32,
}

impl Version {
    /// The version `MAJOR.MINOR.PATCH`.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let release = text.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
        let mut numbers = release.split('.').map(|number| number.parse::<u32>().map_err(drop));
        let mut next = || numbers.next().ok_or(())?;
        let version = Self::new(next()?, next()?, next()?);
        if numbers.next().is_some() { Err(()) } else { Ok(version) }
    }
}

/// Why there is no etcd.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The named program is not there.
    #[error("there is no etcd at `{}`", .0.display())]
    NotThere(PathBuf),
    /// The named program does not behave like etcd.
    #[error("`{} --version` did not say an etcd version: {said}", .program.display())]
    NotEtcd {
        /// The program.
        program: PathBuf,
        /// What came instead.
        said: String,
    },
    /// Nothing was named, nothing found, and the release could not be built.
    #[error(
        "no etcd: name one with `--etcd PATH` or {NAMED_BY}, or put etcd 3.5 or newer on PATH, or install Go so that etcd {release} can be built ({why})"
    )]
    Nothing {
        /// The release that would have been built.
        release: Version,
        /// Why it was not.
        #[source]
        why: BuildError,
    },
}

/// Finds an etcd, or builds one. A build takes about a minute per program, once; it says so on
/// standard error. Blocks.
///
/// # Errors
/// One sentence that names what can be done.
pub fn find(source: &Source) -> Result<Programs, FindError> {
    match source {
        Source::Named(path) => named(path),
        Source::PathOr(least, release) => match on_path(*least) {
            Some(programs) => Ok(programs),
            None => pinned(release),
        },
        Source::Pinned(release) => pinned(release),
    }
}

fn named(path: &Path) -> Result<Programs, FindError> {
    let etcd = if path.is_dir() { path.join("etcd") } else { path.to_owned() };
    if !etcd.is_file() {
        return Err(FindError::NotThere(etcd));
    }
    let version = version_of(&etcd)?;
    Ok(with_companions(etcd, version))
}

fn on_path(least: Version) -> Option<Programs> {
    let path = std::env::var_os("PATH")?;
    let etcd = std::env::split_paths(&path)
        .map(|folder| folder.join("etcd"))
        .find(|program| program.is_file())?;
    let version = version_of(&etcd).ok().filter(|version| *version >= least)?;
    Some(with_companions(etcd, version))
}

fn pinned(release: &Release) -> Result<Programs, FindError> {
    let nothing = |why| FindError::Nothing { release: release.version(), why };
    let folder = build::build(release).map_err(nothing)?;
    Ok(with_companions(folder.join("etcd"), release.version()))
}

fn with_companions(etcd: PathBuf, version: Version) -> Programs {
    let beside = |name: &str| Some(etcd.with_file_name(name)).filter(|program| program.is_file());
    Programs { etcdctl: beside("etcdctl"), etcdutl: beside("etcdutl"), etcd, version }
}

/// For its answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of its first line that are read.
const LONGEST: u64 = 4096;

/// Asks the program itself. Its first line is `etcd Version: 3.7.3`.
fn version_of(etcd: &Path) -> Result<Version, FindError> {
    let not_etcd = |said: String| FindError::NotEtcd { program: etcd.to_owned(), said };
    let mut command = Command::new(etcd);
    command
        .arg(OsStr::new("--version"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| not_etcd(error.to_string()))?;
    let (tell, told) = sync_channel(1);
    if let Some(said) = child.stdout.take() {
        // It ends when the program does, or with this process.
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(said.take(LONGEST)).read_line(&mut line);
            let _ = tell.send(read.map(|_| line));
        });
    }
    let line = told.recv_timeout(PATIENCE);
    // One that is not etcd may go on for ever.
    let _ = child.kill().and_then(|()| child.wait());
    let line = line
        .map_err(|_| not_etcd(format!("nothing within {} s", PATIENCE.as_secs())))?
        .unwrap_or_default();
    let first = line.trim_end();
    first
        .strip_prefix("etcd Version: ")
        .and_then(|version| version.parse().ok())
        .ok_or_else(|| not_etcd(format!("`{first}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("3.10.0") > version("3.7.3"));
        assert_eq!(version("v3.6.0-rc.1"), Version::new(3, 6, 0));
        for wrong in ["", "3.7", "3.7.x", "3.7.3.1", "-3.7.3", "etcd"] {
            assert_eq!(wrong.parse::<Version>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_named_etcd_that_is_none_is_an_error_and_not_a_reason_to_look_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let error = find(&Source::Named(directory.path().to_owned())).unwrap_err().to_string();
        assert!(error.starts_with("there is no etcd at `"), "{error}");
        let error = find(&Source::Named("/bin/echo".into())).unwrap_err().to_string();
        assert!(
            error.contains("did not say an etcd version: `--version`")
                || error.contains("did not say an etcd version: `echo"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_never_ends_is_read_to_its_first_line() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd");
        std::fs::write(&path, "#!/bin/sh\nwhile :; do echo x; done\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = find(&Source::Named(path)).unwrap_err().to_string();
        assert!(error.contains("did not say an etcd version: `x`"), "{error}");
    }

    #[test]
    fn the_closing_sentence_names_the_three_ways() {
        let error = FindError::Nothing { release: Version::new(3, 7, 3), why: BuildError::NoGo }
            .to_string();
        for way in ["--etcd PATH", NAMED_BY, "on PATH", "install Go"] {
            assert!(error.contains(way), "{error}");
        }
    }
}
