//! Certificates of components, used as an attacker who has stolen them would.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_warden_core::identity::Identity;
use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::policy::Policy;
use etcd_warden_gateway::tls::{ClientTrust, TlsErrors};

use crate::probe_tls::ProbeClient;

use super::report::{Part, Report};

/// A certificate with its key.
pub struct StolenCertificate {
    /// Its name in the report.
    pub name: String,
    /// A TLS client that sends it.
    pub probe: ProbeClient,
}

impl StolenCertificate {
    /// Reads `CERTIFICATE,KEY`, or a directory with `etcd-cert` and `etcd-key`, as Calico mounts
    /// them.
    ///
    /// # Errors
    /// The files cannot be used.
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

/// Reports the principal that the gateway derives from each certificate.
pub fn report_principals(
    stolen: &[StolenCertificate],
    trust: &ClientTrust,
    policy: &Policy,
    report: &mut Report,
) {
    for certificate in stolen {
        let subject = certificate.name.clone();
        let chain = certificate.probe.chain();
        let proved = match trust.verify(chain) {
            Ok(proved) => proved,
            Err(failure) => {
                report.warning(
                    Part::Proxy,
                    subject,
                    format!("refused in the handshake: {}", failure.code()),
                    "docs/certificates.md explains why TLS refuses a certificate",
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
                "accepted without any rights: no binding matches it",
                "add a binding, or correct its name",
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
