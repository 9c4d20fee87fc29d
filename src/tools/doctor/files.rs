//! Checks the gateway's own files: whether `serve` would start with them, when they expire, and who
//! may read them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use etcd_warden_core::policy::{Mode, Policy};
use etcd_warden_gateway::config::Config;
use etcd_warden_gateway::policy_file;
use etcd_warden_gateway::tls::{Expiring, Tls};

use super::report::{Part, Report};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The files that could be read, for the checks that follow.
pub struct Files {
    /// The policy, if it has no errors.
    pub policy: Option<Policy>,
    /// All certificates, if they have no errors.
    pub tls: Option<Tls>,
}

/// Checks every file that the configuration names.
pub fn check(config: &Config, report: &mut Report) -> Files {
    let tls = Tls::load(config)
        .map_err(|errors| {
            for error in errors.0 {
                report.wrong(
                    Part::Files,
                    error.path.display().to_string(),
                    error.message,
                    "serve does not start with this error",
                );
            }
        })
        .ok();
    for expired in tls.iter().flat_map(Tls::expired) {
        let advice = "it is not needed: remove or replace it";
        report.warning(
            Part::Files,
            expired.path.display().to_string(),
            expired.message.clone(),
            advice,
        );
    }
    for expiry in tls.iter().flat_map(Tls::expiries) {
        let left = expiry.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        // A CA publishes lists automatically; a certificate may need manual work.
        let (soon, advice) = match expiry.what {
            Expiring::Crl => (
                DAY / 4,
                "publish the next list of this CA in time: clients cannot connect after this one has expired",
            ),
            _ => (14 * DAY, "renew it: serve loads the new file while it runs"),
        };
        let (subject, seen) = (
            format!("{} certificate", expiry.what.code())
                .replace("crl certificate", "revocation list"),
            expires_in(left),
        );
        match left < soon {
            true => report.warning(Part::Files, subject, seen, advice),
            false => report.ok(Part::Files, subject, seen),
        }
    }
    let keys = config
        .upstream
        .identity
        .iter()
        .map(|(_, key)| key)
        .chain([&config.downstream.key_file])
        .chain(&config.lease_key_file);
    for path in keys {
        private(path, report);
    }
    if config.lease_key_file.is_none() {
        let advice = "give all gateways in front of one etcd the same file, so that each of them recognizes the owner of a lease";
        report.warning(
            Part::Files,
            "lease-key-file",
            "not set: only this process can tell who owns a lease",
            advice,
        );
    }
    Files { policy: policy(config, report), tls }
}

fn policy(config: &Config, report: &mut Report) -> Option<Policy> {
    let subject = config.policy.display().to_string();
    let policy = match policy_file::load(&config.policy, 1, config.mode) {
        Ok(policy) => policy,
        Err(errors) => {
            let first = errors.iter().next().map(|error| error.message.clone()).unwrap_or_default();
            report.wrong(
                Part::Files,
                subject,
                first,
                "run `etcd-warden policy check` to see all errors",
            );
            return None;
        }
    };
    let cas: Vec<&str> = config.downstream.client_cas.iter().map(|ca| &*ca.name).collect();
    for finding in policy.warnings().iter().chain(policy.check_cas(&cas).iter()) {
        let place =
            finding.position.map(|position| format!(":{}", position.line)).unwrap_or_default();
        report.warning(
            Part::Files,
            format!("{subject}{place}"),
            finding.message.clone(),
            finding.help.as_deref().unwrap_or_default(),
        );
    }
    match (policy.mode(), policy.has_shadow()) {
        (Mode::Shadow, _) => {
            report.warning(
                Part::Files,
                subject,
                "in shadow mode: nothing is denied",
                "check the audit log, then set `mode: enforce` (docs/shadow.md)",
            );
        }
        (Mode::Enforce, true) => {
            report.warning(
                Part::Files,
                subject,
                "enforced, but some bindings are in shadow mode",
                "their identities may do whatever the gateway may",
            );
        }
        (Mode::Enforce, false) => report.ok(Part::Files, subject, "enforced"),
    }
    Some(policy)
}

fn private(path: &Path, report: &mut Report) {
    let subject = path.display().to_string();
    match std::fs::metadata(path) {
        Ok(file) if file.permissions().mode() & 0o007 != 0 => {
            let seen = format!(
                "mode {:04o}: every user of this host can read it",
                file.permissions().mode() & 0o7777
            );
            report.wrong(
                Part::Files,
                subject,
                seen,
                "run `chmod o=` on it: the gateway's key gives access to all of etcd",
            );
        }
        Ok(_) => report.ok(Part::Files, subject, "not readable by other users"),
        // Reported above.
        Err(_) => {}
    }
}

fn expires_in(left: Duration) -> String {
    match left.as_secs() / DAY.as_secs() {
        0 => format!("expires in {} hours", left.as_secs() / 3600),
        1 => "expires in 1 day".to_owned(),
        days => format!("expires in {days} days"),
    }
}
