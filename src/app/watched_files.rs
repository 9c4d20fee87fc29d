//! Files that are read again when their content changes.
//!
//! Content is compared, not times or inodes: Kubernetes replaces a whole folder by moving one symlink, agents rename, editors write
//! in place, and all of these are the same here. A change that is half done (a certificate without its key) is a mistake, which is
//! told and changes nothing; the other half is the next change.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::reload;
use crate::config::Config;
use crate::metrics::reason::Reloaded;
use crate::proxy::Shared;

/// No file that is reloaded may be larger (`tls/material.rs`); what is behind is refused anyway.
const MAX_BYTES: u64 = 64 << 20;

/// What the files of one thing hold: equal if and only if nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Reads the files of `what`. One that cannot be read counts with the reason.
    #[must_use]
    pub fn of(config: &Config, what: Reloaded) -> Self {
        let mut all = Sha256::new();
        for path in files(config, what) {
            let one = digest(path).unwrap_or_else(|error| Sha256::digest(format!("{:?}", error.kind())).into());
            all.update(one);
        }
        Self(all.finalize().into())
    }
}

/// The files of `what`, in a fixed order.
fn files(config: &Config, what: Reloaded) -> Vec<&Path> {
    let files: Vec<&PathBuf> = match what {
        Reloaded::Clients => config.downstream.client_cas.iter().map(|ca| &ca.file).chain(&config.downstream.crl_files).collect(),
        Reloaded::Policy => vec![&config.policy],
        Reloaded::Server => vec![&config.downstream.cert_file, &config.downstream.key_file],
        Reloaded::Upstream => {
            let identity = config.upstream.identity.iter().flat_map(|(cert, key)| [cert, key]);
            config.upstream.cacert.iter().chain(identity).collect()
        }
    };
    files.into_iter().map(PathBuf::as_path).collect()
}

fn digest(path: &Path) -> std::io::Result<[u8; 32]> {
    // A pipe would be emptied by being looked at, and opening it might wait for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Ok([0; 32]);
    }
    let mut file = File::open(path)?.take(MAX_BYTES + 1);
    let mut digest = Sha256::new();
    let mut piece = [0; 16 * 1024];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(digest.finalize().into()),
            read => digest.update(piece.get(..read).unwrap_or_default()),
        }
    }
}

/// Looks at all files once each `reload-interval`, on a thread that serves nobody, and reads again what has changed.
pub(super) async fn watch(shared: Arc<Shared>) {
    let interval = shared.config.reload_interval;
    if interval.is_zero() {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        let looking = shared.clone();
        // A panic there is a bug of ours, and was logged; the next look may do better.
        let _ = tokio::task::spawn_blocking(move || reload::what_has_changed(&looking)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn content_counts_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&a, "one").unwrap();
        let before = digest(&a).unwrap();
        fs::write(&b, "one").unwrap();
        fs::rename(&b, &a).unwrap();
        assert_eq!(digest(&a).unwrap(), before, "another inode, another time");
        fs::write(&b, "two").unwrap();
        fs::remove_file(&a).unwrap();
        symlink(&b, &a).unwrap();
        assert_ne!(digest(&a).unwrap(), before, "what a link points to");
        assert!(digest(&folder.path().join("absent")).is_err());
    }
}
