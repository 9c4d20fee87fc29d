//! Reads and writes the files of `calico segment`. Each is written completely or not at all.

use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use etcd_warden_gateway::files::{self, ReadError};
use tempfile::NamedTempFile;

/// Reads a manifest, or standard input for `-`.
pub(super) fn read(path: &Path, input: &mut dyn Read, limit: u64) -> Result<String, String> {
    let read =
        if path.as_os_str() == "-" { read_all(input, limit) } else { files::read(path, limit) };
    let bytes = read.map_err(|why| match why {
        ReadError::TooLarge(_) => format!("{why}, which no manifest of Calico has"),
        _ => why.to_string(),
    })?;
    String::from_utf8(bytes)
        .map_err(|error| format!("is not UTF-8, from byte {} on", error.utf8_error().valid_up_to()))
}

fn read_all(input: &mut dyn Read, limit: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    input.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        Err(ReadError::TooLarge(limit))
    } else {
        Ok(bytes)
    }
}

/// True if both paths name one file, existing or not: the same name in the same directory, however
/// the path is written.
pub(super) fn are_one(first: &Path, second: &Path) -> bool {
    let place =
        |path: &Path| Some::<PathBuf>(folder(path).canonicalize().ok()?.join(path.file_name()?));
    first == second || place(first).is_some_and(|first| place(second) == Some(first))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Moves all files into place, or none: if one cannot be moved, those before it are removed. A file
/// that was replaced cannot be restored.
///
/// # Errors
/// Which file cannot be moved, and which of those before it remain.
pub(super) fn finish<'p>(targets: impl IntoIterator<Item = Target<'p>>) -> Result<(), Vec<String>> {
    let mut placed = Vec::new();
    for target in targets {
        let (path, was_there) = (target.path, target.was_there);
        let Err(error) = target.place() else {
            placed.push((path, was_there));
            continue;
        };
        let left = |(path, was_there): (&Path, bool)| {
            if was_there {
                return Some(format!("{} has already been replaced", path.display()));
            }
            fs::remove_file(path).err().map(|error| {
                format!(
                    "{} has already been written and cannot be removed: {error}",
                    path.display()
                )
            })
        };
        return Err(std::iter::once(error).chain(placed.into_iter().filter_map(left)).collect());
    }
    Ok(())
}

/// A file that is written to a temporary name, and renamed when all files are complete.
pub(super) struct Target<'p> {
    path: &'p Path,
    file: NamedTempFile,
    force: bool,
    was_there: bool,
}

impl<'p> Target<'p> {
    /// Writes the text with the permissions of the existing file or, if there is none, of `like`.
    pub(super) fn prepare(
        path: &'p Path,
        text: &str,
        like: Option<&Path>,
        force: bool,
    ) -> Result<Self, String> {
        let wrong =
            |error: &std::io::Error| format!("{}: cannot be written: {error}", path.display());
        let there = path.symlink_metadata().ok();
        if there.is_some() && !force {
            return Err(format!(
                "{} exists already: name another file, or use --force",
                path.display()
            ));
        }
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            return Err(format!("{} is not a regular file and is not replaced", path.display()));
        }
        let was_there = there.is_some();
        let like = there
            .or_else(|| like.and_then(|like| like.metadata().ok()))
            .filter(fs::Metadata::is_file);
        // The umask is applied, too.
        let mode = like.map_or(0o666, |like| like.permissions().mode());
        let mut builder = tempfile::Builder::new();
        let mut file = builder
            .prefix(".etcd-warden-")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(folder(path))
            .map_err(|error| wrong(&error))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(|error| wrong(&error))?;
        Ok(Self { path, file, force, was_there })
    }

    /// Renames it into place.
    fn place(self) -> Result<(), String> {
        let path = self.path;
        let moved =
            if self.force { self.file.persist(path) } else { self.file.persist_noclobber(path) };
        moved
            .map(|_| ())
            .map_err(|error| format!("{}: cannot be written: {}", path.display(), error.error))
    }
}
