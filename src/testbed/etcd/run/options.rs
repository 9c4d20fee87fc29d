//! Options for starting etcd.

use std::io;
use std::path::Path;

use crate::pki::{Issued, write_private};

/// How etcd is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of members, at least one.
    pub members: usize,
    /// TLS with client certificates on the client port; `None` for plain text.
    pub tls: Option<Tls>,
    /// Additional flags for every member.
    pub flags: Vec<String>,
}

impl Default for Options {
    /// One member, plain text.
    fn default() -> Self {
        Self { members: 1, tls: None, flags: Vec::new() }
    }
}

/// TLS of the client port. Client certificates are required.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server certificate: valid for 127.0.0.1, with `serverAuth` and `clientAuth`, because
    /// etcd uses it to connect to itself, too.
    pub server: Issued,
    /// The CA of client certificates, PEM.
    pub trusted_ca: String,
}

impl Tls {
    /// Writes the files for [`Tls::flags`].
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        self.server.write(folder, "server")?;
        write_private(folder, "trusted-ca.crt", &self.trusted_ca)?;
        Ok(())
    }

    /// The flags for these files.
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
