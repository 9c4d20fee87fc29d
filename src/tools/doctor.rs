//! `etcd-warden doctor`: looks at a deployment as its operator would, and as a thief would. It
//! changes nothing, and reads no value.

pub mod around;
pub mod etcd;
pub mod files;
pub mod keys;
pub mod knock;
pub mod report;
pub mod thief;

use std::sync::Arc;

use etcd_warden_gateway::config::{Config, Endpoint};
use etcd_warden_gateway::tls::LiveTls;
use etcd_warden_gateway::upstream::control::Control;
use etcd_warden_gateway::upstream::members::Members;

use crate::probe_tls::ProbeClient;
use knock::{Answer, knock};
use report::{Part, Report};
use thief::Thief;

/// Client URLs of members that are tried beside the endpoints: etcd advises against more than seven
/// members.
const TOLD: usize = 16;

/// Looks at all of it. `thieves`: certificates of components, which are to open nothing but the
/// proxy.
pub async fn examine(config: &Config, thieves: &[Thief]) -> Report {
    let mut report = Report::default();
    let files::Files { policy, tls } = files::look(config, &mut report);
    let mut doors = config.upstream.endpoints.clone();
    let trust = tls.as_ref().map(|tls| tls.server.trust().clone());
    let mut etcd = None;
    if let Some(tls) = tls {
        let members = Arc::new(Members::new(&config.upstream.endpoints, config.upstream.pin));
        let control = Control::new(members.clone(), Arc::new(LiveTls::new(tls)));
        let mut told = etcd::look(&members, &control, &mut report).await;
        told.retain(|url| !doors.contains(url));
        told.sort_by_key(ToString::to_string);
        told.dedup();
        if told.len() > TOLD {
            let seen = format!(
                "{} client URLs that are no endpoints, of which the first {TOLD} are tried",
                told.len()
            );
            report.warning(
                Part::Etcd,
                "members",
                seen,
                "no cluster has so many members: look at `etcdctl member list`",
            );
        }
        doors.extend(told.into_iter().take(TOLD));
        etcd = Some((members, control));
    }
    around::look(&doors, config.listen_addr.port(), thieves, trust.as_deref(), &mut report).await;
    listener(config, &mut report).await;
    if let (Some(trust), Some(policy)) = (&trust, &policy) {
        thief::known_to_the_proxy(thieves, trust, policy, &mut report);
    }
    if let (Some(policy), Some((members, control))) = (&policy, &etcd) {
        keys::look(policy, control, members.choose(None), &mut report).await;
    }
    report
}

/// Whether the proxy is there, and asks for a certificate.
async fn listener(config: &Config, report: &mut Report) {
    let address = config.listen_addr;
    let host = match address.ip() {
        ip if !ip.is_unspecified() => ip.to_string(),
        std::net::IpAddr::V4(_) => "127.0.0.1".to_owned(),
        std::net::IpAddr::V6(_) => "::1".to_owned(),
    };
    let Ok(nobody) = ProbeClient::without_certificate() else { return };
    let door = Endpoint { tls: true, host: host.as_str().into(), port: address.port() };
    let subject = format!("{door} without a certificate");
    match knock(&host, address.port(), Some(&nobody)).await {
        Answer::ShutOut(why) => report.ok(Part::Proxy, subject, format!("shut out: {why}")),
        Answer::Nobody(why) => {
            report.warning(Part::Proxy, subject, format!("the proxy does not run here: {why}"), "")
        }
        Answer::LetIn(..) => {
            let advice = "this is no etcd-warden, which lets nobody in without a certificate: look at what listens on `listen-addr`";
            report.wrong(Part::Proxy, subject, "let in", advice);
        }
    }
}
