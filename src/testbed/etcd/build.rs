//! Builds a pinned etcd release from its Go module. The module files (`tools/etcd/MINOR/go.mod` and
//! `go.sum`, which pin the version and all hashes) are embedded in this program, so that an
//! installed binary can build etcd, too. The releases under `tools/etcd/vulnerable` are not
//! embedded: only tests build them, with [`Release::pinned`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::find::Version;

/// The environment variable for the directory of built programs, instead of `target/tools`.
pub const TOOLS_FOLDER: &str = "ETCD_WARDEN_TOOLS";

const SERVER_MODULE: &str = "go.etcd.io/etcd/server/v3";
/// All programs of etcd with their packages. In 3.4 there was a single module, and the server was
/// its root package.
const PROGRAMS: [(&str, &str); 4] = [
    ("etcd", SERVER_MODULE),
    ("etcd", "go.etcd.io/etcd"),
    ("etcdctl", "go.etcd.io/etcd/etcdctl/v3"),
    ("etcdutl", "go.etcd.io/etcd/etcdutl/v3"),
];

/// A pinned release of etcd.
#[derive(Debug)]
pub struct Release {
    /// The minor version, such as `3.7`.
    pub minor: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    named: Option<Version>,
}

macro_rules! release {
    ($minor:literal) => {
        Release::pinned(
            $minor,
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../tools/etcd/",
                $minor,
                "/go.mod"
            )),
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../tools/etcd/",
                $minor,
                "/go.sum"
            )),
        )
    };
}

/// The releases that can be built, newest first.
pub static RELEASES: [Release; 3] = [release!("3.7"), release!("3.6"), release!("3.5")];

impl Release {
    /// The release that a `go.mod` requires. Its `tool` lines determine which of etcd's programs
    /// are built; `go.sum` has the hash of every module.
    #[must_use]
    pub const fn pinned(minor: &'static str, go_mod: &'static str, go_sum: &'static str) -> Self {
        Self { minor, go_mod, go_sum, named: None }
    }

    /// Sets the version, for a `go.mod` that requires a commit (before 3.5, releases were not Go
    /// modules).
    #[must_use]
    pub const fn named(mut self, version: Version) -> Self {
        self.named = Some(version);
        self
    }

    /// The newest release.
    #[must_use]
    pub fn newest() -> &'static Release {
        let [newest, ..] = &RELEASES;
        newest
    }

    /// The release of this minor version in [`RELEASES`].
    #[must_use]
    pub fn of_minor(minor: &str) -> Option<&'static Release> {
        RELEASES.iter().find(|release| release.minor == minor)
    }

    /// The version that its go.mod requires.
    #[must_use]
    pub fn version(&self) -> Version {
        if let Some(version) = self.named {
            return version;
        }
        let required = self
            .go_mod
            .lines()
            .find_map(|line| line.trim().strip_prefix(SERVER_MODULE)?.split_whitespace().next());
        // A unit test reads all of them, so the default is never used.
        required.and_then(|version| version.parse().ok()).unwrap_or(Version::new(0, 0, 0))
    }

    /// Name and package of each program that its go.mod requires.
    fn programs(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let is_tool = |package: &str| {
            self.go_mod.lines().any(|line| line.trim().trim_start_matches("tool ") == package)
        };
        PROGRAMS.into_iter().filter(move |(_, package)| is_tool(package))
    }

    fn is_complete(&self, folder: &Path) -> bool {
        self.programs().all(|(name, _)| folder.join(name).is_file())
    }
}

/// Why a release was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `go` is not installed.
    #[error("there is no `go` on PATH")]
    NoGo,
    /// Downloading or compiling the module failed.
    #[error("`go build {package}` failed: {output_tail}")]
    Go {
        /// The package.
        package: &'static str,
        /// The end of the output.
        output_tail: String,
    },
    /// A directory or file could not be written.
    #[error("cannot write to `{}`: {error}", .path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
}

/// The directory with the release's programs. Builds them if they do not exist. Of two concurrent
/// processes only one builds, and an interrupted build is not mistaken for a complete one.
///
/// # Errors
/// Go is not installed or fails, or the directory cannot be written.
pub fn build(release: &Release) -> Result<PathBuf, BuildError> {
    build_into(release, &tools_folder())
}

fn build_into(release: &Release, tools: &Path) -> Result<PathBuf, BuildError> {
    let version = release.version();
    let finished = tools.join(format!("etcd-{version}"));
    if release.is_complete(&finished) {
        return Ok(finished);
    }
    std::fs::create_dir_all(tools).map_err(|error| cannot_write(tools, error))?;
    let lock_path = tools.join(format!("etcd-{version}.lock"));
    let lock = File::create(&lock_path).map_err(|error| cannot_write(&lock_path, error))?;
    lock.lock().map_err(|error| cannot_write(&lock_path, error))?;
    // Another process may have built it while this one waited for the lock.
    if release.is_complete(&finished) {
        return Ok(finished);
    }
    let workshop = tempfile::Builder::new()
        .prefix(".etcd-build-")
        .tempdir_in(tools)
        .map_err(|error| cannot_write(tools, error))?;
    let programs = workshop.path().join("programs");
    compile(release, workshop.path(), &programs)?;
    if finished.exists() {
        // Incomplete, as checked above.
        std::fs::remove_dir_all(&finished).map_err(|error| cannot_write(&finished, error))?;
    }
    std::fs::rename(&programs, &finished).map_err(|error| cannot_write(&finished, error))?;
    Ok(finished)
}

fn compile(release: &Release, module: &Path, programs: &Path) -> Result<(), BuildError> {
    for (name, content) in [("go.mod", release.go_mod), ("go.sum", release.go_sum)] {
        let path = module.join(name);
        std::fs::write(&path, content).map_err(|error| cannot_write(&path, error))?;
    }
    for (name, package) in release.programs() {
        let started = Instant::now();
        announce(&format!(
            "building {name} {} from its Go module (once; a minute or two)",
            release.version()
        ));
        go_build(module, &programs.join(name), package)?;
        announce(&format!("built {name} in {} s", started.elapsed().as_secs()));
    }
    Ok(())
}

/// Writes a line to standard error directly: `eprintln!` is captured by the test harness, and the
/// first `cargo test` would seem to hang.
fn announce(line: &str) {
    etcd_warden_gateway::terminal::err(format_args!("{line}"));
}

fn go_build(module: &Path, program: &Path, package: &'static str) -> Result<(), BuildError> {
    let output = Command::new("go")
        .current_dir(module)
        .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(program)
        .arg(package)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOFLAGS", "-mod=readonly")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BuildError::NoGo,
            _ => BuildError::Go { package, output_tail: error.to_string() },
        })?;
    if output.status.success() {
        return Ok(());
    }
    #[expect(clippy::disallowed_methods, reason = "compiler output, shown to a person")]
    let output_tail = last_words(&String::from_utf8_lossy(&output.stderr));
    Err(BuildError::Go { package, output_tail })
}

/// The last lines of the compiler's output, joined into one.
fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let tail = lines.get(lines.len().saturating_sub(4)..).unwrap_or_default();
    tail.join("; ")
}

/// `target/tools` of the source tree that this was built from or, if that does not exist, a
/// directory in the user's cache.
fn tools_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(TOOLS_FOLDER) {
        return folder.into();
    }
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    if source.join("Cargo.toml").is_file() {
        return source.join("target/tools");
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("etcd-warden")
}

fn cannot_write(path: &Path, error: io::Error) -> BuildError {
    BuildError::Write { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_has_the_minor_version_of_its_directory() {
        for release in &RELEASES {
            let version = release.version();
            assert_eq!(release.minor, format!("{}.{}", version.major, version.minor));
        }
        assert!(RELEASES.windows(2).all(|pair| pair[0].version() > pair[1].version()));
    }

    #[test]
    fn every_release_has_the_security_fixes_of_its_line() {
        // The first releases of each line without the authorization vulnerabilities of 2026.
        let least = [Version::new(3, 7, 1), Version::new(3, 6, 14), Version::new(3, 5, 33)];
        for (release, least) in RELEASES.iter().zip(least) {
            assert!(release.version() >= least, "{}", release.version());
        }
    }

    #[test]
    fn a_directory_that_lacks_a_program_is_not_complete() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["etcd", "etcdctl", "etcdutl"] {
            assert!(!Release::newest().is_complete(directory.path()));
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        assert!(Release::newest().is_complete(directory.path()));
    }

    #[test]
    fn the_tools_in_go_mod_are_built() {
        for release in &RELEASES {
            assert!(
                release.programs().map(|(name, _)| name).eq(["etcd", "etcdctl", "etcdutl"]),
                "{release:?}"
            );
        }
        let server = Release::pinned(
            "3.5",
            "module m\n\ntool go.etcd.io/etcd/server/v3\n\nrequire (\n\tgo.etcd.io/etcd/server/v3 v3.5.7\n)\n",
            "",
        );
        assert!(server.programs().eq([("etcd", SERVER_MODULE)]));
        assert_eq!(server.version(), Version::new(3, 5, 7));
        let commit = Release::pinned("3.4", "module m\n\ntool go.etcd.io/etcd\n", "")
            .named(Version::new(3, 4, 13));
        assert!(commit.programs().eq([("etcd", "go.etcd.io/etcd")]));
        assert_eq!(commit.version(), Version::new(3, 4, 13));
    }

    #[test]
    fn a_complete_build_is_used_without_go() {
        let directory = tempfile::tempdir().unwrap();
        let release = Release::newest();
        let folder = directory.path().join(format!("etcd-{}", release.version()));
        std::fs::create_dir(&folder).unwrap();
        for (name, _) in release.programs() {
            std::fs::write(folder.join(name), "").unwrap();
        }
        assert_eq!(build_into(release, directory.path()).unwrap(), folder);
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "nothing else was created");
    }
}
