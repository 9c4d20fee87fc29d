//! As whom the load calls.

use std::path::PathBuf;

use clap::Args;
use etcd_warden_gateway::config::Endpoint;
use etcd_warden_tools::bench::identity::{Files, Identity};

/// The certificates that are shown, and the CA of those who see them.
#[derive(Debug, Args)]
pub struct Credentials {
    /// The CA of the servers. Folders of `--identities` have their own, `etcd-ca`.
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// The certificate that is shown. Beside `--identities`: that of who writes the keys
    /// beforehand, and removes them; with `calico` also of nodes and components that have none
    /// there.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// A folder with many certificates, as `certs issue --output directories` makes it.
    /// Connections take them in turn; with `calico`, each node and component has its own:
    /// `nodes/NODE/calico-node`, `nodes/NODE/cni`, `cluster/calico-kube-controllers`,
    /// `cluster/calicoctl-full`.
    #[arg(long, value_name = "DIRECTORY")]
    identities: Option<PathBuf>,
}

/// Who they are.
pub struct People {
    /// The one of `--cert`, or nobody in particular; always there without `--identities`.
    pub alone: Option<Identity>,
    /// Those of `--identities`.
    pub many: Vec<Identity>,
}

impl Credentials {
    /// Reads all of them.
    ///
    /// # Errors
    /// All that is wrong with them, or with these endpoints.
    pub fn read(&self, endpoints: &[Endpoint]) -> Result<People, Vec<String>> {
        let own = self.cert.clone().zip(self.key.clone());
        let name = own
            .as_ref()
            .map_or_else(|| "nobody".to_owned(), |(cert, _)| cert.display().to_string());
        let mut mistakes = Vec::new();
        let mut keep = |wrong: Vec<String>| mistakes.extend(wrong);
        // Folders bring their own CA, and an identity of its own is not asked for beside them.
        let alone = (own.is_some() || self.identities.is_none())
            .then(|| {
                Identity::read(name, Files { ca: self.cacert.clone(), identity: own }, endpoints)
                    .map_err(&mut keep)
                    .ok()
            })
            .flatten();
        let many = self.identities.as_ref().map(|folder| {
            Identity::read_all(folder, self.cacert.as_deref(), endpoints).map_err(&mut keep)
        });
        let many = many.and_then(Result::ok).unwrap_or_default();
        if mistakes.is_empty() { Ok(People { alone, many }) } else { Err(mistakes) }
    }
}
