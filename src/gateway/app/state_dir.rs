//! The last good policy, kept in a folder (`state-dir`), so that a restart in the wrong moment,
//! with a broken policy file, comes up with what has served before: a proxy that does not start
//! shuts out everybody, also those who could mend the file.
//!
//! The text itself is kept, and read as any policy: nothing is trusted for lying there. It takes
//! the file's place only at a start.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use etcd_warden_core::policy::{MAX_BYTES, Policy};

use crate::files;

/// The kept policy's name in the folder.
pub const FILE: &str = "last-good-policy.yaml";

/// Whether the folder can keep anything: a mistyped one would be noticed on the day when it is
/// needed.
///
/// # Errors
/// It is not there, or is no folder, or anybody may write into it.
pub(super) fn check(folder: &Path) -> anyhow::Result<()> {
    let found = fs::metadata(folder).with_context(|| {
        format!("state-dir: `{}` cannot be used: make the folder first", folder.display())
    })?;
    if !found.is_dir() {
        bail!("state-dir: `{}` is no folder", folder.display());
    }
    if found.permissions().mode() & 0o002 != 0 {
        bail!(
            "state-dir: everybody may write into `{}`, and so give the proxy a policy: take that right away",
            folder.display()
        );
    }
    Ok(())
}

/// Keeps a policy that serves, in place of the one before, all at once, so that a crash leaves one
/// of the two. What is kept already is not written again.
///
/// # Errors
/// It cannot be written: the one before is still there.
pub(super) fn keep(folder: &Path, policy: &Policy) -> io::Result<()> {
    let path = path(folder);
    if files::read(&path, MAX_BYTES as u64).is_ok_and(|kept| kept == policy.text().as_bytes()) {
        return Ok(());
    }
    // Readable by nobody else: tempfile makes its files so.
    let mut new = tempfile::Builder::new().prefix(".policy-").tempfile_in(folder)?;
    new.write_all(policy.text().as_bytes())?;
    new.as_file().sync_all()?;
    new.persist(&path).map_err(|error| error.error)?;
    // The name, too, must outlive a loss of power.
    fs::File::open(folder)?.sync_all()
}

/// Where the kept policy is.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}
