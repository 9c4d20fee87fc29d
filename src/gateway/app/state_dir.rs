//! Reads and writes the file in `state-dir` that keeps the last valid policy
//! ([`super::kept_policy`]).
//!
//! It holds the text of the policy, which is checked like any other policy file. It is used only at
//! a start.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use etcd_warden_core::policy::{MAX_BYTES, Policy};

use crate::files;

/// The file name of the kept policy.
pub const FILE: &str = "last-good-policy.yaml";

/// Checks the folder at the start: a mistyped one would be noticed only when it is needed.
///
/// # Errors
/// It does not exist, is not a directory, or is writable for all users.
pub(super) fn check(folder: &Path) -> anyhow::Result<()> {
    let found = fs::metadata(folder).with_context(|| {
        format!("state-dir: `{}` cannot be used; create the directory first", folder.display())
    })?;
    if !found.is_dir() {
        bail!("state-dir: `{}` is not a directory", folder.display());
    }
    if found.permissions().mode() & 0o002 != 0 {
        bail!(
            "state-dir: `{}` is writable for all users, who could replace the policy; remove that \
             permission",
            folder.display()
        );
    }
    Ok(())
}

/// Keeps a policy in place of the previous one. The replacement is atomic: a crash leaves one of
/// the two. Does nothing if this policy is kept already.
///
/// # Errors
/// The file cannot be written. The previous one is still there.
pub(super) fn keep(folder: &Path, policy: &Policy) -> io::Result<()> {
    let path = path(folder);
    if files::read(&path, MAX_BYTES as u64).is_ok_and(|kept| kept == policy.text().as_bytes()) {
        return Ok(());
    }
    // tempfile creates it with mode 0600.
    let mut new = tempfile::Builder::new().prefix(".policy-").tempfile_in(folder)?;
    new.write_all(policy.text().as_bytes())?;
    new.as_file().sync_all()?;
    new.persist(&path).map_err(|error| error.error)?;
    // The rename must survive a loss of power, too.
    fs::File::open(folder)?.sync_all()
}

/// The path of the kept policy.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}
