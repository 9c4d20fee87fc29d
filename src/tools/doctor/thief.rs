//! The certificates of components, as a thief would hold them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_warden_core::identity::Identity;
use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::policy::Policy;
use etcd_warden_gateway::tls::{ClientTrust, TlsErrors};

use crate::probe_tls::ProbeClient;

use super::report::{Part, Report};

/// A certificate with its key.
pub struct Thief {
    /// How the report calls it.
    pub name: String,
    /// Who shows it.
    pub probe: ProbeClient,
}

impl Thief {
    /// Reads `CERTIFICATE,KEY`, or a folder with `etcd-cert` and `etcd-key` in it, as Calico mounts
    /// them.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn read(written: &Path) -> Result<Self, TlsErrors> {
        let text = written.to_string_lossy();
        let (cert, key) = match text.split_once(',') {
            Some((cert, key)) if !written.is_dir() => (PathBuf::from(cert), PathBuf::from(key)),
            _ => (written.join("etcd-cert"), written.join("etcd-key")),
        };
        let probe = ProbeClient::with_certificate(&cert, &key)?;
        let name =
            probe.chain().first().map(|leaf| Identity::from_certificate(leaf, Arc::from("")));
        let name = name
            .and_then(|identity| identity.common_name.ok())
            .map(|cn| format!("CN={}", Escaped(cn.as_bytes())));
        Ok(Self { name: name.unwrap_or_else(|| cert.display().to_string()), probe })
    }
}

/// Who the proxy takes each of them for.
pub fn known_to_the_proxy(
    thieves: &[Thief],
    trust: &ClientTrust,
    policy: &Policy,
    report: &mut Report,
) {
    for thief in thieves {
        let subject = thief.name.clone();
        let chain = thief.probe.chain();
        let proved = match trust.verify(chain) {
            Ok(proved) => proved,
            Err(failure) => {
                report.warning(
                    Part::Proxy,
                    subject,
                    format!("refused in the handshake: {}", failure.code()),
                    "docs/certificates.md says why TLS refuses what",
                );
                continue;
            }
        };
        let Some(leaf) = chain.first() else { continue };
        let principal = policy.principal(&Identity::from_certificate(leaf, proved.ca));
        if principal.roles.is_empty() {
            report.warning(
                Part::Proxy,
                subject,
                "let in, and may do nothing: no binding is for it",
                "add a binding, or fix its name",
            );
        } else {
            let roles: Vec<&str> = principal.roles.iter().map(|role| &**role).collect();
            report.ok(
                Part::Proxy,
                subject,
                format!("is {} with {} ({})", principal.name, roles.join(", "), principal.mode),
            );
        }
    }
}
