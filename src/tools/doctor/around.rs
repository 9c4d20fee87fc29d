//! The way around the proxy: whether etcd itself lets in anybody but the proxy. Everybody who
//! matters is tried: nobody (no certificate), plain text, also at the ports of this host's
//! loopback, which pods with the host's network share, and the certificates of components.

use etcd_warden_gateway::config::Endpoint;
use etcd_warden_gateway::tls::ClientTrust;

use crate::probe_tls::ProbeClient;
use x509_parser::prelude::{FromDer as _, X509Name};

use super::knock::{Answer, knock};
use super::report::{Part, Report};
use super::thief::Thief;

/// etcd's usual client port.
const ETCD_PORT: u16 = 2379;

const SHUT_IT: &str = "start etcd with --client-cert-auth and a --trusted-ca-file that has issued certificates to the proxies and to nobody else";

/// Knocks at every door. `doors`: the endpoints, and what members tell of themselves. `own`: where
/// the proxy listens, which is no way around it.
pub async fn look(
    doors: &[Endpoint],
    own: u16,
    thieves: &[Thief],
    trust: Option<&ClientTrust>,
    report: &mut Report,
) {
    let Ok(nobody) = ProbeClient::without_certificate() else { return };
    for door in doors {
        without_certificate(door, &nobody, report).await;
        if let Some(trust) = trust.filter(|_| door.tls) {
            trusted_cas(door, &nobody, trust, report);
        }
        plain_text(door, report).await;
    }
    for thief in thieves {
        let mut tried = false;
        for door in doors.iter().filter(|door| door.tls) {
            let answer = knock(&door.host, door.port, Some(&thief.probe)).await;
            tried |= !matches!(answer, Answer::Nobody(_));
            judge(format!("{door} with {}", thief.name), answer, true, report);
        }
        if !tried {
            let advice = "run this where etcd's client port can be reached, as a user whom its host's firewall lets through";
            report.wrong(
                Part::Around,
                thief.name.as_str(),
                "was tried at no door: nothing is known of it",
                advice,
            );
        }
    }
    for door in loopback(doors, own) {
        without_certificate(&door, &nobody, report).await;
        plain_text(&door, report).await;
    }
}

async fn without_certificate(door: &Endpoint, nobody: &ProbeClient, report: &mut Report) {
    if door.tls {
        let answer = knock(&door.host, door.port, Some(nobody)).await;
        judge(format!("{door} without a certificate"), answer, !door.is_loopback(), report);
    }
}

async fn plain_text(door: &Endpoint, report: &mut Report) {
    let answer = knock(&door.host, door.port, None).await;
    judge(
        format!("http://{} in plain text", door.authority()),
        answer,
        !door.is_loopback(),
        report,
    );
}

/// etcd says from which CAs it takes certificates: one that issues those of the clients must not be
/// among them.
fn trusted_cas(door: &Endpoint, nobody: &ProbeClient, trust: &ClientTrust, report: &mut Report) {
    let subject = format!("{door} trusts");
    let wanted = nobody.wanted();
    let shared: Vec<String> =
        wanted.iter().filter(|name| trust.has_ca_called(name)).map(|name| spelled(name)).collect();
    match (wanted.is_empty(), shared.is_empty()) {
        // It asks for no certificate, which was told above, or does not say from whom.
        (true, _) => {}
        (false, true) => report.ok(
            Part::Around,
            subject,
            wanted.iter().map(|name| spelled(name)).collect::<Vec<_>>().join("; "),
        ),
        (false, false) => {
            let seen = format!(
                "{}, the CA of the clients' certificates: each of them opens etcd itself",
                shared.join("; ")
            );
            report.wrong(
                Part::Around,
                subject,
                seen,
                "give the proxies certificates of a CA of their own, and let etcd trust that one alone",
            );
        }
    }
}

fn spelled(name: &[u8]) -> String {
    X509Name::from_der(name)
        .map_or_else(|_| "a CA whose name cannot be read".to_owned(), |(_, name)| name.to_string())
}

/// `somebody`: there should be somebody at this door.
fn judge(subject: String, answer: Answer, somebody: bool, report: &mut Report) {
    match answer {
        Answer::LetIn(0, _) => report.wrong(Part::Around, subject, "reads keys", SHUT_IT),
        Answer::LetIn(code, message) => {
            let seen =
                format!("let in; only etcd's own auth refuses: {message} (gRPC code {code})");
            report.warning(Part::Around, subject, seen, SHUT_IT);
        }
        Answer::ShutOut(why) => report.ok(Part::Around, subject, format!("shut out: {why}")),
        Answer::Nobody(why) if somebody => {
            report.warning(
                Part::Around,
                subject,
                format!("not tried: {why}"),
                "run this where etcd can be reached",
            );
        }
        Answer::Nobody(_) => report.ok(Part::Around, subject, "nobody listens"),
    }
}

/// The doors of this host that only its own processes see.
fn loopback(doors: &[Endpoint], own: u16) -> Vec<Endpoint> {
    let mut ports: Vec<u16> =
        doors.iter().map(|door| door.port).chain([ETCD_PORT]).filter(|port| *port != own).collect();
    ports.sort_unstable();
    ports.dedup();
    let hosts = ["127.0.0.1", "::1"];
    let all = ports
        .iter()
        .flat_map(|port| hosts.map(|host| Endpoint { tls: true, host: host.into(), port: *port }));
    all.filter(|local| doors.iter().all(|door| door.host != local.host || door.port != local.port))
        .collect()
}
