//! What can be asked for when etcd is started.

use std::io;
use std::path::Path;

use crate::pki::{Issued, write_private};

/// How etcd is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Members of the cluster, at least one.
    pub members: usize,
    /// TLS and client certificates on the client port; plain text without.
    pub tls: Option<Tls>,
    /// More flags, for every member.
    pub flags: Vec<String>,
}

impl Default for Options {
    /// One member, plain text.
    fn default() -> Self {
        Self { members: 1, tls: None, flags: Vec::new() }
    }
}

/// TLS of etcd's client port. Client certificates are required.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server certificate, good for 127.0.0.1, for `serverAuth` and `clientAuth` (etcd also
    /// calls itself with it).
    pub server: Issued,
    /// Who must have signed client certificates, PEM.
    pub trusted_ca: String,
}

impl Tls {
    /// Writes the files that [`Tls::flags`] names.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        self.server.write(folder, "server")?;
        write_private(folder, "trusted-ca.crt", &self.trusted_ca)?;
        Ok(())
    }

    /// The flags that name them.
    pub(super) fn flags(folder: &Path) -> [String; 4] {
        let flag = |name: &str, file: &str| format!("--{name}={}", folder.join(file).display());
        [
            flag("cert-file", "server.crt"),
            flag("key-file", "server.key"),
            flag("trusted-ca-file", "trusted-ca.crt"),
            "--client-cert-auth".to_owned(),
        ]
    }
}
