//! Client identities: certificates, keys and the CA of the servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use etcd_warden_gateway::config::{Endpoint, Upstream};
use etcd_warden_gateway::tls::ClientTls;

use crate::certs::layout::{CA_FILE, CERT_FILE, KEY_FILE};

/// A client identity, and the CA of the servers that it connects to.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name in reports: the directory, or the certificate file.
    pub name: String,
    /// Its node, from a directory `nodes/NODE/COMPONENT`.
    pub node: Option<String>,
    /// Its component, from the same directory or `cluster/COMPONENT`.
    pub component: Option<String>,
    /// TLS configuration; `None` for plain text.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// The files of one identity.
#[derive(Clone, Debug)]
pub struct Files {
    /// CA of the servers.
    pub ca: Option<PathBuf>,
    /// Client certificate and key, if any.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Identity {
    /// Reads an identity from files.
    ///
    /// # Errors
    /// Every problem with the files.
    pub fn read(name: String, files: Files, endpoints: &[Endpoint]) -> Result<Self, Vec<String>> {
        let upstream = Upstream {
            endpoints: endpoints.to_vec(),
            identity: files.identity,
            cacert: files.ca,
            insecure_plaintext: false,
            pin: false,
            health_interval: Duration::from_secs(1),
        };
        let tls = ClientTls::load(&upstream)
            .map_err(|wrong| wrong.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        Ok(Self { name, node: None, component: None, tls: tls.map(|tls| tls.rustls_config()) })
    }

    /// Reads all identities below a directory, sorted by name. Each directory with `etcd-cert` and
    /// `etcd-key` is one; it has its own `etcd-ca`, unless `ca` is given.
    ///
    /// # Errors
    /// Every problem with the files, or that there are none.
    pub fn read_all(
        folder: &Path,
        ca: Option<&Path>,
        endpoints: &[Endpoint],
    ) -> Result<Vec<Self>, Vec<String>> {
        let mut folders = Vec::new();
        walk(folder, 0, &mut folders).map_err(|error| {
            vec![format!("{}: cannot read the directory: {error}", folder.display())]
        })?;
        let (mut identities, mut wrong) = (Vec::new(), Vec::new());
        for found in folders {
            let name = found.strip_prefix(folder).unwrap_or(&found).display().to_string();
            let own = Some(found.join(CA_FILE)).filter(|file| file.is_file());
            let files = Files {
                ca: ca.map(Path::to_owned).or(own),
                identity: Some((found.join(CERT_FILE), found.join(KEY_FILE))),
            };
            match Self::read(name.clone(), files, endpoints) {
                Ok(identity) => identities.push(identity.called(&name)),
                Err(more) => wrong.extend(more),
            }
        }
        if identities.is_empty() && wrong.is_empty() {
            wrong.push(format!(
                "{}: no directory below it has a file `{CERT_FILE}`: issue certificates with \
                 `certs issue --output directories`",
                folder.display()
            ));
        }
        if wrong.is_empty() { Ok(identities) } else { Err(wrong) }
    }

    fn called(mut self, name: &str) -> Self {
        let parts: Vec<&str> = name.split('/').collect();
        if let [.., "nodes", node, component] = parts.as_slice() {
            (self.node, self.component) = (Some((*node).to_owned()), Some((*component).to_owned()));
        } else if let [.., "cluster", component] = parts.as_slice() {
            self.component = Some((*component).to_owned());
        }
        self
    }
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if folder.join(CERT_FILE).is_file() {
        found.push(folder.to_owned());
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    entries.sort();
    for entry in entries.iter().filter(|entry| entry.is_dir() && !entry.is_symlink()) {
        // Deeper than any layout of `certs issue`.
        if depth < 8 {
            walk(entry, depth + 1, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use etcd_warden_testbed::pki::{Authority, write_private};

    use super::*;

    fn put(folder: &Path, name: &str, authority: &Authority) {
        let at = folder.join(name);
        fs::create_dir_all(&at).unwrap();
        let issued = authority.client("x").unwrap();
        write_private(&at, CERT_FILE, &issued.certificate).unwrap();
        write_private(&at, KEY_FILE, &issued.key).unwrap();
        write_private(&at, CA_FILE, &authority.pem()).unwrap();
    }

    #[test]
    fn directories_of_certs_issue_give_node_and_component() {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("ca").unwrap());
        for name in ["nodes/n2/cni", "nodes/n1/calico-node", "cluster/calicoctl-full", "other"] {
            put(folder.path(), name, &authority);
        }
        let endpoints: Vec<Endpoint> = vec!["https://127.0.0.1:1".parse().unwrap()];
        let found = Identity::read_all(folder.path(), None, &endpoints).unwrap();
        let last_watched: Vec<_> = found
            .iter()
            .map(|found| (&*found.name, found.node.as_deref(), found.component.as_deref()))
            .collect();
        assert_eq!(
            last_watched,
            [
                ("cluster/calicoctl-full", None, Some("calicoctl-full")),
                ("nodes/n1/calico-node", Some("n1"), Some("calico-node")),
                ("nodes/n2/cni", Some("n2"), Some("cni")),
                ("other", None, None)
            ]
        );
    }

    #[test]
    fn every_error_is_reported_at_once() {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("ca").unwrap());
        put(folder.path(), "a", &authority);
        put(folder.path(), "b", &authority);
        fs::remove_file(folder.path().join("a").join(KEY_FILE)).unwrap();
        fs::remove_file(folder.path().join("b").join(CA_FILE)).unwrap();
        let endpoints: Vec<Endpoint> = vec!["https://127.0.0.1:1".parse().unwrap()];
        let wrong = Identity::read_all(folder.path(), None, &endpoints).unwrap_err();
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        let none = Identity::read_all(&folder.path().join("a/none"), None, &endpoints).unwrap_err();
        assert!(none[0].contains("cannot read the directory"), "{none:?}");
    }
}
