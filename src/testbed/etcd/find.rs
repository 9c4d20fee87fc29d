//! Decides which etcd to run.

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

/// Where to find etcd.
#[derive(Clone, Debug)]
pub enum Source {
    /// This program, or the directory that contains it.
    Named(PathBuf),
    /// `etcd` on `PATH` if it has at least this version, else the pinned release.
    PathOr(Version, &'static Release),
    /// The pinned release, built from its Go module if it does not exist.
    Pinned(&'static Release),
}

/// The programs of one etcd release.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The server.
    pub etcd: PathBuf,
    /// The client, if it is in the same directory.
    pub etcdctl: Option<PathBuf>,
    /// The tool for data files of a stopped server, if it is in the same directory.
    pub etcdutl: Option<PathBuf>,
    /// The version that the server reports.
    pub version: Version,
}

/// A release number. A pre-release equals the release that it precedes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major version: 3.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Patch version.
    pub patch: u32,
}

impl Version {
    /// `MAJOR.MINOR.PATCH`.
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

/// Why no etcd can be run.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The named program does not exist.
    #[error("there is no etcd at `{}`", .0.display())]
    NotThere(PathBuf),
    /// The named program does not report an etcd version.
    #[error("`{} --version` does not report an etcd version: {output}", .program.display())]
    NotEtcd {
        /// The program.
        program: PathBuf,
        /// Its output, or why there is none.
        output: String,
    },
    /// No etcd was named or found, and the release could not be built.
    #[error(
        "no etcd found: name one with `--etcd PATH` or {NAMED_BY}, put etcd 3.5 or newer on PATH, or install Go so that etcd {release} can be built ({why})"
    )]
    Nothing {
        /// The release to build.
        release: Version,
        /// Why it could not be built.
        #[source]
        why: BuildError,
    },
}

/// Finds or builds an etcd. Blocks. A build takes about a minute per program, once, and is
/// announced on standard error.
///
/// # Errors
/// No etcd was found or built. The message says what can be done.
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

/// For the output of `--version`.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of its first line that are read.
const LONGEST: u64 = 4096;

/// Runs the program with `--version`. The first line of etcd is `etcd Version: 3.7.3`.
fn version_of(etcd: &Path) -> Result<Version, FindError> {
    let not_etcd = |output: String| FindError::NotEtcd { program: etcd.to_owned(), output };
    let mut command = Command::new(etcd);
    command
        .arg(OsStr::new("--version"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| not_etcd(error.to_string()))?;
    let (sender, receiver) = sync_channel(1);
    if let Some(output) = child.stdout.take() {
        // This thread ends with the program or with this process.
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(output.take(LONGEST)).read_line(&mut line);
            let _ = sender.send(read.map(|_| line));
        });
    }
    let line = receiver.recv_timeout(TIMEOUT);
    // A program that is not etcd may never end.
    let _ = child.kill().and_then(|()| child.wait());
    let line = line
        .map_err(|_| not_etcd(format!("no output within {} s", TIMEOUT.as_secs())))?
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
    fn a_named_program_that_is_not_etcd_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = find(&Source::Named(directory.path().to_owned())).unwrap_err().to_string();
        assert!(error.starts_with("there is no etcd at `"), "{error}");
        let error = find(&Source::Named("/bin/echo".into())).unwrap_err().to_string();
        assert!(
            error.contains("does not report an etcd version: `--version`")
                || error.contains("does not report an etcd version: `echo"),
            "{error}"
        );
    }

    #[test]
    fn only_the_first_line_of_an_endless_output_is_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd");
        std::fs::write(&path, "#!/bin/sh\nwhile :; do echo x; done\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = find(&Source::Named(path)).unwrap_err().to_string();
        assert!(error.contains("does not report an etcd version: `x`"), "{error}");
    }

    #[test]
    fn the_error_names_every_way_to_provide_etcd() {
        let error = FindError::Nothing { release: Version::new(3, 7, 3), why: BuildError::NoGo }
            .to_string();
        for way in ["--etcd PATH", NAMED_BY, "on PATH", "install Go"] {
            assert!(error.contains(way), "{error}");
        }
    }
}
