//! Loads a policy file. `etcd_warden_core::policy` does not access the file system.

use std::path::Path;

use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_core::policy::{self, MAX_BYTES, Mode, Policy};

use crate::files::{self, ReadError};

/// Reads, checks and compiles the policy in `path`.
///
/// # Errors
/// The reason why the file cannot be read, or every error in it.
pub fn load(path: &Path, generation: u64, mode: Option<Mode>) -> Result<Policy, Diagnostics> {
    let read = files::read(path, MAX_BYTES as u64);
    of_read(path, read.as_deref().map_err(Clone::clone), generation, mode)
}

/// As [`load`], from content that was read before.
///
/// # Errors
/// As [`load`].
pub fn of_read(
    path: &Path,
    read: Result<&[u8], ReadError>,
    generation: u64,
    mode: Option<Mode>,
) -> Result<Policy, Diagnostics> {
    let name = path.display().to_string();
    match read {
        Ok(text) => Policy::parse(&name, text, generation, mode),
        Err(why) => Err(read_error(&name, &why)),
    }
}

fn read_error(name: &str, why: &ReadError) -> Diagnostics {
    match why {
        ReadError::NotFound => Diagnostics::about(
            name,
            "the file does not exist",
            Some("check the path, or mount the file"),
        ),
        ReadError::PermissionDenied => Diagnostics::about(
            name,
            "this process may not read the file",
            Some("check its owner and mode"),
        ),
        ReadError::Directory => {
            Diagnostics::about(name, "this is a directory: a policy must be a file", None)
        }
        ReadError::TooLarge(_) => policy::too_large(name),
        ReadError::Special(_) | ReadError::TimedOut | ReadError::Other(_) => {
            Diagnostics::about(name, format!("the file {why}"), None)
        }
    }
}
