//! The configuration of a gateway on 127.0.0.1 in front of an [`Etcd`].

use std::net::SocketAddr;
use std::path::PathBuf;

use etcd_warden_gateway::config::settings::Key;
use etcd_warden_gateway::config::{Config, ServeArgs, load};

use crate::etcd::Etcd;
use crate::pki::Files;

/// The files that a gateway needs.
pub struct GatewayFiles {
    /// The server certificate, and its key.
    pub server: Files,
    /// The CA of clients.
    pub client_ca: PathBuf,
    /// The gateway's client certificate for etcd, and its key.
    pub upstream: Files,
    /// The CA of etcd's server certificate.
    pub upstream_ca: PathBuf,
    /// The policy. It need not exist yet.
    pub policy: PathBuf,
}

/// A configuration with one worker, a port that the system chooses, no admin address, no automatic
/// reload and all requests in the audit log. `settings` are added, or replace these.
///
/// # Errors
/// The settings are no valid configuration.
pub fn config(
    etcd: &Etcd,
    files: &GatewayFiles,
    settings: &[(Key, String)],
) -> anyhow::Result<Config> {
    let endpoints: Vec<String> = etcd.addresses().iter().map(SocketAddr::to_string).collect();
    let path = |path: &PathBuf| path.display().to_string();
    let common = [
        (Key::ListenAddr, "127.0.0.1:0".to_owned()),
        (Key::CertFile, path(&files.server.cert)),
        (Key::KeyFile, path(&files.server.key)),
        (Key::TrustedCaFile, path(&files.client_ca)),
        (Key::Endpoints, endpoints.join(",")),
        (Key::Cert, path(&files.upstream.cert)),
        (Key::Key, path(&files.upstream.key)),
        (Key::Cacert, path(&files.upstream_ca)),
        (Key::Policy, path(&files.policy)),
        (Key::AuditAllowed, "all".to_owned()),
        (Key::AdminAddr, "none".to_owned()),
        (Key::ReloadInterval, "0s".to_owned()),
        (Key::ReloadSettle, "0s".to_owned()),
        (Key::Workers, "1".to_owned()),
    ];
    let is_replaced = |key: Key| settings.iter().any(|(other, _)| *other == key);
    let variables = common
        .iter()
        .filter(|(key, _)| !is_replaced(*key))
        .chain(settings)
        .map(|(key, value)| (key.setting().variable().into(), value.into()));
    Ok(load(&ServeArgs::default(), variables)?.0)
}
