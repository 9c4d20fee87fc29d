//! Reading a policy file. The policy itself (`etcd_warden_core::policy`) touches no file system.

use std::path::Path;

use etcd_warden_core::policy::{self, Diagnostics, MAX_BYTES, Mode, Policy};

use crate::files::{self, Unread};

/// Reads, checks and compiles the policy in `path`.
///
/// # Errors
/// Why the file cannot be read, or every mistake in it.
pub fn load(path: &Path, generation: u64, mode: Option<Mode>) -> Result<Policy, Diagnostics> {
    let read = files::read(path, MAX_BYTES as u64);
    of_read(path, read.as_deref().map_err(Clone::clone), generation, mode)
}

/// As [`load`], of what was read of the file.
///
/// # Errors
/// As [`load`].
pub fn of_read(
    path: &Path,
    read: Result<&[u8], Unread>,
    generation: u64,
    mode: Option<Mode>,
) -> Result<Policy, Diagnostics> {
    let name = path.display().to_string();
    match read {
        Ok(text) => Policy::parse(&name, text, generation, mode),
        Err(why) => Err(unread(&name, &why)),
    }
}

fn unread(name: &str, why: &Unread) -> Diagnostics {
    match why {
        Unread::Absent => Diagnostics::about(
            name,
            "there is no such file",
            Some("check the path, or mount the file that it names"),
        ),
        Unread::Forbidden => Diagnostics::about(
            name,
            "this process may not read the file",
            Some("check its owner and its mode"),
        ),
        Unread::Folder => {
            Diagnostics::about(name, "this is a directory, and a policy is one file", None)
        }
        Unread::Large(_) => policy::too_large(name),
        Unread::Special(_) | Unread::Late | Unread::Failed(_) => {
            Diagnostics::about(name, format!("the file {why}"), None)
        }
    }
}
