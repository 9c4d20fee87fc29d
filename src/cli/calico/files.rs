//! The files of `calico segment`: read whole, written whole or not at all.

use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::NamedTempFile;

/// A manifest, or standard input for `-`.
pub(super) fn read(path: &Path, input: &mut dyn Read, limit: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    let done = if path.as_os_str() == "-" {
        input.take(limit + 1).read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
    };
    done.map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(format!("is larger than {} MiB: no manifest of Calico", limit >> 20));
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8, from byte {} on", error.utf8_error().valid_up_to()))
}

/// A file that is written beside its place, and moved there when all are written.
pub(super) struct Target<'p> {
    path: &'p Path,
    file: NamedTempFile,
    force: bool,
}

impl<'p> Target<'p> {
    /// Writes the text, for those who may read what was there, or else the file `like`.
    pub(super) fn prepare(path: &'p Path, text: &str, like: Option<&Path>, force: bool) -> Result<Self, String> {
        let wrong = |error: &std::io::Error| format!("{}: cannot be written: {error}", path.display());
        let there = path.symlink_metadata().ok();
        if there.is_some() && !force {
            return Err(format!("{} is there already: name another file, or say --force", path.display()));
        }
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            return Err(format!("{} is no file, and is not written over", path.display()));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let like = there.or_else(|| like.and_then(|like| like.metadata().ok())).filter(fs::Metadata::is_file);
        // The umask takes its part of it.
        let mode = like.map_or(0o666, |like| like.permissions().mode());
        let mut builder = tempfile::Builder::new();
        let mut file = builder
            .prefix(".etcd-warden-")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(folder)
            .map_err(|error| wrong(&error))?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(|error| wrong(&error))?;
        Ok(Self { path, file, force })
    }

    /// Moves it to its place.
    pub(super) fn finish(self) -> Result<(), String> {
        let path = self.path;
        let moved = if self.force { self.file.persist(path) } else { self.file.persist_noclobber(path) };
        moved.map(|_| ()).map_err(|error| format!("{}: cannot be written: {}", path.display(), error.error))
    }
}
