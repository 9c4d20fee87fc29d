//! The identities that send the load.

use std::path::PathBuf;

use clap::Args;
use etcd_warden_gateway::config::Endpoint;
use etcd_warden_tools::bench::identity::{Files, Identity};

/// Options for client certificates and the CA of the servers.
#[derive(Debug, Args)]
pub struct Credentials {
    /// CA of the servers. Directories of `--identities` contain their own, `etcd-ca`.
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// The client certificate. With `--identities`: the certificate that writes and deletes the
    /// keys; with `calico`, also for nodes and components that have none there.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of `--cert`.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// A directory with many certificates, as `certs issue --output directories` writes it. The
    /// connections use them in turn. With `calico`, each node and component uses its own:
    /// `nodes/NODE/calico-node`, `nodes/NODE/cni`, `cluster/calico-kube-controllers`,
    /// `cluster/calicoctl-full`.
    #[arg(long, value_name = "DIRECTORY")]
    identities: Option<PathBuf>,
}

/// The identities that were read.
pub struct Identities {
    /// The one of `--cert`; anonymous without it. Always `Some` without `--identities`.
    pub default: Option<Identity>,
    /// Those of `--identities`.
    pub many: Vec<Identity>,
}

impl Credentials {
    /// Reads all certificates.
    ///
    /// # Errors
    /// Every problem with the files, or with these endpoints.
    pub fn read(&self, endpoints: &[Endpoint]) -> Result<Identities, Vec<String>> {
        let own = self.cert.clone().zip(self.key.clone());
        let name = own
            .as_ref()
            .map_or_else(|| "anonymous".to_owned(), |(cert, _)| cert.display().to_string());
        let mut errors = Vec::new();
        let mut keep = |wrong: Vec<String>| errors.extend(wrong);
        // The directories contain their own CA, so `--cacert` alone defines no identity.
        let default = (own.is_some() || self.identities.is_none())
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
        if errors.is_empty() { Ok(Identities { default, many }) } else { Err(errors) }
    }
}
