//! Replaces files of the proxy while it runs.

use std::path::Path;

use etcd_warden_testbed::pki::{Authority, Issued, Leaf, write_private};

use super::{World, authorities};

/// Replaces a file atomically, by a rename.
pub fn replace(path: &Path, content: &str) {
    let folder = path.parent().unwrap();
    let new = write_private(folder, ".new", content).unwrap();
    std::fs::rename(new, path).unwrap();
}

impl World {
    /// Replaces the listener's certificate and key. The proxy is not notified.
    pub fn write_server(&self, issued: &Issued) {
        replace(&self.config.downstream.key_file, &issued.key);
        replace(&self.config.downstream.cert_file, &issued.certificate);
    }

    /// Replaces the client CAs by these, all named `default`.
    pub fn write_client_cas(&self, cas: &[&Authority]) {
        let pem: String = cas.iter().map(|ca| ca.pem()).collect();
        replace(&self.config.downstream.client_cas[0].file, &pem);
    }

    /// Replaces the proxy's client certificate and key for etcd.
    pub fn write_upstream(&self, issued: &Issued) {
        let (cert, key) = self.config.upstream.identity.as_ref().unwrap();
        replace(key, &issued.key);
        replace(cert, &issued.certificate);
    }

    /// Replaces the CA that signs etcd's certificate.
    pub fn write_cacert(&self, ca: &Authority) {
        replace(self.config.upstream.cacert.as_ref().unwrap(), &ca.pem());
    }

    /// A server certificate for the proxy, a new one on each call.
    pub fn new_server_certificate(&self) -> Issued {
        authorities().clients.issue(&Leaf::server(&["127.0.0.1", "localhost"])).unwrap()
    }

    /// Reloads everything, as SIGHUP does.
    pub async fn reload(&self) -> anyhow::Result<()> {
        self.running().reload().await
    }
}
