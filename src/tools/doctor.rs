//! `etcd-warden doctor`: examines a deployment from the view of its operator and of an attacker
//! with stolen certificates. It changes nothing, and reads no values.

pub mod bypass;
pub mod etcd;
pub mod files;
pub mod keys;
pub mod probe;
pub mod report;
pub mod stolen;

use std::sync::Arc;

use etcd_warden_gateway::config::{Config, Endpoint};
use etcd_warden_gateway::tls::LiveTls;
use etcd_warden_gateway::upstream::control::Control;
use etcd_warden_gateway::upstream::members::Members;

use crate::probe_tls::ProbeClient;
use probe::{ProbeResult, probe};
use report::{Part, Report};
use stolen::StolenCertificate;

/// Limit of advertised client URLs that are probed in addition to the endpoints. etcd advises
/// against more than seven members.
const MAX_ADVERTISED: usize = 16;

/// Runs all checks. `stolen` are certificates of components, which must be accepted by the gateway
/// only.
pub async fn examine(config: &Config, stolen: &[StolenCertificate]) -> Report {
    let mut report = Report::default();
    let files::Files { policy, tls } = files::check(config, &mut report);
    let mut endpoints = config.upstream.endpoints.clone();
    let trust = tls.as_ref().map(|tls| tls.server.trust().clone());
    let mut etcd = None;
    if let Some(tls) = tls {
        let members = Arc::new(Members::new(&config.upstream.endpoints, config.upstream.pin));
        let control = Control::new(members.clone(), Arc::new(LiveTls::new(tls)));
        let mut advertised = etcd::check(&members, &control, &mut report).await;
        advertised.retain(|url| !endpoints.contains(url));
        advertised.sort_by_key(ToString::to_string);
        advertised.dedup();
        if advertised.len() > MAX_ADVERTISED {
            let seen = format!(
                "{} client URLs that are not endpoints; the first {MAX_ADVERTISED} are probed",
                advertised.len()
            );
            report.warning(
                Part::Etcd,
                "members",
                seen,
                "a cluster should not have that many members: check `etcdctl member list`",
            );
        }
        endpoints.extend(advertised.into_iter().take(MAX_ADVERTISED));
        etcd = Some((members, control));
    }
    bypass::check(&endpoints, config.listen_addr.port(), stolen, trust.as_deref(), &mut report)
        .await;
    listener(config, &mut report).await;
    if let (Some(trust), Some(policy)) = (&trust, &policy) {
        stolen::report_principals(stolen, trust, policy, &mut report);
    }
    if let (Some(policy), Some((members, control))) = (&policy, &etcd) {
        keys::check(policy, control, members.choose(None), &mut report).await;
    }
    report
}

/// Checks that the gateway runs and requires a client certificate.
async fn listener(config: &Config, report: &mut Report) {
    let address = config.listen_addr;
    let host = match address.ip() {
        ip if !ip.is_unspecified() => ip.to_string(),
        std::net::IpAddr::V4(_) => "127.0.0.1".to_owned(),
        std::net::IpAddr::V6(_) => "::1".to_owned(),
    };
    let Ok(anonymous) = ProbeClient::without_certificate() else { return };
    let endpoint = Endpoint { tls: true, host: host.as_str().into(), port: address.port() };
    let subject = format!("{endpoint} without a certificate");
    match probe(&host, address.port(), Some(&anonymous)).await {
        ProbeResult::Refused(why) => report.ok(Part::Proxy, subject, format!("shut out: {why}")),
        ProbeResult::Unreachable(why) => report.warning(
            Part::Proxy,
            subject,
            format!("the gateway does not run here: {why}"),
            "",
        ),
        ProbeResult::Accepted(..) => {
            let advice = "this is not etcd-warden, which accepts no client without a certificate: check what listens on `listen-addr`";
            report.wrong(Part::Proxy, subject, "accepted", advice);
        }
    }
}
