//! Reading a policy file. The only part of the policy that touches the file system.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::{Diagnostics, MAX_BYTES, Mode, Policy};

/// Reads, checks and compiles the policy in `path`.
///
/// # Errors
/// Why the file cannot be read, or every mistake in it.
pub fn load(path: &Path, generation: u64, mode: Option<Mode>) -> Result<Policy, Diagnostics> {
    let name = path.display().to_string();
    Policy::parse(&name, &read(path, &name)?, generation, mode)
}

/// The bytes of the file, at most one more than a policy may have.
fn read(path: &Path, name: &str) -> Result<Vec<u8>, Diagnostics> {
    let cannot = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Diagnostics::about(name, "there is no such file", Some("check the path, or mount the file that it names")),
        ErrorKind::PermissionDenied => Diagnostics::about(name, "this process may not read the file", Some("check its owner and its mode")),
        ErrorKind::IsADirectory => Diagnostics::about(name, "this is a directory, and a policy is one file", None),
        _ => Diagnostics::about(name, format!("the file cannot be read: {error}"), None),
    };
    let file = File::open(path).map_err(cannot)?;
    if file.metadata().map_err(cannot)?.is_dir() {
        return Err(Diagnostics::about(name, "this is a directory, and a policy is one file", None));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut text).map_err(cannot)?;
    Ok(text)
}
