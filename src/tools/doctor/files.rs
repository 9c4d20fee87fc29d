//! The proxy's own files: whether it would start with them, how long they last, who else may read
//! them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use etcd_warden_core::policy::{Mode, Policy};
use etcd_warden_gateway::config::Config;
use etcd_warden_gateway::policy_file;
use etcd_warden_gateway::tls::{Expiring, Tls};

use super::report::{Part, Report};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What could be read, for the parts that follow.
pub struct Files {
    /// The policy, if it has no mistake.
    pub policy: Option<Policy>,
    /// All certificates, if they have none.
    pub tls: Option<Tls>,
}

/// Looks at every file that the configuration names.
pub fn look(config: &Config, report: &mut Report) -> Files {
    let tls = Tls::load(config)
        .map_err(|mistakes| {
            for mistake in mistakes.0 {
                report.wrong(
                    Part::Files,
                    mistake.path.display().to_string(),
                    mistake.message,
                    "serve does not start with it",
                );
            }
        })
        .ok();
    for stale in tls.iter().flat_map(Tls::expired) {
        let advice = "it is in the way of nothing else: take it out, or put a new one in its place";
        report.warning(
            Part::Files,
            stale.path.display().to_string(),
            stale.message.clone(),
            advice,
        );
    }
    for expiry in tls.iter().flat_map(Tls::expiries) {
        let left = expiry.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        // A list is followed by the next one before it ends; a certificate is somebody's work.
        let (soon, advice) = match expiry.what {
            Expiring::Crl => (
                DAY / 4,
                "let the CA publish its next list before this one ends: then nobody can connect any more",
            ),
            _ => (14 * DAY, "renew it: serve reads the new file while it runs"),
        };
        let (subject, seen) = (
            format!("{} certificate", expiry.what.code())
                .replace("crl certificate", "revocation list"),
            ends_in(left),
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
        let advice = "with several proxies in front of one etcd give all of them the same file: each lease is its owner's at any of them";
        report.warning(
            Part::Files,
            "lease-key-file",
            "not set: who owns a lease is known to this process alone",
            advice,
        );
    }
    Files { policy: policy(config, report), tls }
}

fn policy(config: &Config, report: &mut Report) -> Option<Policy> {
    let subject = config.policy.display().to_string();
    let policy = match policy_file::load(&config.policy, 1, config.mode) {
        Ok(policy) => policy,
        Err(mistakes) => {
            let first =
                mistakes.iter().next().map(|mistake| mistake.message.clone()).unwrap_or_default();
            report.wrong(
                Part::Files,
                subject,
                first,
                "`etcd-warden policy check` shows each mistake in its place",
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
                "in shadow mode: refuses nobody",
                "read its audit, then say `mode: enforce` (docs/shadow.md)",
            );
        }
        (Mode::Enforce, true) => {
            report.warning(
                Part::Files,
                subject,
                "enforces, but some bindings are in shadow mode",
                "they may do whatever the proxy may",
            );
        }
        (Mode::Enforce, false) => report.ok(Part::Files, subject, "enforces"),
    }
    Some(policy)
}

fn private(path: &Path, report: &mut Report) {
    let subject = path.display().to_string();
    match std::fs::metadata(path) {
        Ok(file) if file.permissions().mode() & 0o007 != 0 => {
            let seen = format!(
                "mode {:04o}: every user of this host may read it",
                file.permissions().mode() & 0o7777
            );
            report.wrong(
                Part::Files,
                subject,
                seen,
                "chmod o= it: with the proxy's key to etcd anybody has all of etcd",
            );
        }
        Ok(_) => report.ok(Part::Files, subject, "not readable by everybody"),
        // That it cannot be read has been told above.
        Err(_) => {}
    }
}

fn ends_in(left: Duration) -> String {
    match left.as_secs() / DAY.as_secs() {
        0 => format!("ends in {} hours", left.as_secs() / 3600),
        1 => "ends in 1 day".to_owned(),
        days => format!("ends in {days} days"),
    }
}
