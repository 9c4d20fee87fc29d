//! Checks for a bypass: whether etcd accepts clients other than the gateway. Each endpoint is
//! probed without a certificate, in plain text, and with stolen certificates of components. The
//! ports on this host's loopback are probed, too, because pods with host networking reach them.

use etcd_warden_gateway::config::Endpoint;
use etcd_warden_gateway::tls::ClientTrust;

use crate::probe_tls::ProbeClient;
use x509_parser::prelude::{FromDer as _, X509Name};

use super::probe::{ProbeResult, probe};
use super::report::{Part, Report};
use super::stolen::StolenCertificate;

/// etcd's default client port.
const ETCD_PORT: u16 = 2379;

const ADVICE: &str = "start etcd with --client-cert-auth, and with a --trusted-ca-file whose CA issues certificates to the gateways only";

/// Probes all endpoints: those of the configuration and those that members advertise. `own` is the
/// port of the gateway itself, which is not a bypass.
pub async fn check(
    endpoints: &[Endpoint],
    own: u16,
    stolen: &[StolenCertificate],
    trust: Option<&ClientTrust>,
    report: &mut Report,
) {
    let Ok(anonymous) = ProbeClient::without_certificate() else { return };
    for endpoint in endpoints {
        without_certificate(endpoint, &anonymous, report).await;
        if let Some(trust) = trust.filter(|_| endpoint.tls) {
            trusted_cas(endpoint, &anonymous, trust, report);
        }
        plain_text(endpoint, report).await;
    }
    for certificate in stolen {
        let mut tried = false;
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.tls) {
            let result = probe(&endpoint.host, endpoint.port, Some(&certificate.probe)).await;
            tried |= !matches!(result, ProbeResult::Unreachable(_));
            judge(format!("{endpoint} with {}", certificate.name), result, true, report);
        }
        if !tried {
            let advice = "run doctor where etcd's client port is reachable, as a user that the host's firewall permits";
            report.wrong(
                Part::Bypass,
                certificate.name.as_str(),
                "not tried: no endpoint is reachable",
                advice,
            );
        }
    }
    for endpoint in loopback(endpoints, own) {
        without_certificate(&endpoint, &anonymous, report).await;
        plain_text(&endpoint, report).await;
    }
}

async fn without_certificate(endpoint: &Endpoint, anonymous: &ProbeClient, report: &mut Report) {
    if endpoint.tls {
        let result = probe(&endpoint.host, endpoint.port, Some(anonymous)).await;
        judge(format!("{endpoint} without a certificate"), result, !endpoint.is_loopback(), report);
    }
}

async fn plain_text(endpoint: &Endpoint, report: &mut Report) {
    let result = probe(&endpoint.host, endpoint.port, None).await;
    judge(
        format!("http://{} in plain text", endpoint.authority()),
        result,
        !endpoint.is_loopback(),
        report,
    );
}

/// Checks the CAs that etcd names as acceptable issuers. A CA that issues client certificates must
/// not be among them.
fn trusted_cas(
    endpoint: &Endpoint,
    anonymous: &ProbeClient,
    trust: &ClientTrust,
    report: &mut Report,
) {
    let subject = format!("{endpoint} trusts");
    let wanted = anonymous.acceptable_cas();
    let shared: Vec<String> = wanted
        .iter()
        .filter(|name| trust.has_ca_called(name))
        .map(|name| display_name(name))
        .collect();
    match (wanted.is_empty(), shared.is_empty()) {
        // It requests no certificate, which was reported above, or names no CAs.
        (true, _) => {}
        (false, true) => report.ok(
            Part::Bypass,
            subject,
            wanted.iter().map(|name| display_name(name)).collect::<Vec<_>>().join("; "),
        ),
        (false, false) => {
            let seen = format!(
                "{}, the CA of the clients' certificates: each of them is accepted by etcd itself",
                shared.join("; ")
            );
            report.wrong(
                Part::Bypass,
                subject,
                seen,
                "issue the gateways' certificates from a separate CA, and let etcd trust only that CA",
            );
        }
    }
}

fn display_name(name: &[u8]) -> String {
    X509Name::from_der(name)
        .map_or_else(|_| "a CA with an invalid name".to_owned(), |(_, name)| name.to_string())
}

/// Reports a result. `expect_server`: a server should be listening there.
fn judge(subject: String, result: ProbeResult, expect_server: bool, report: &mut Report) {
    match result {
        ProbeResult::Accepted(0, _) => report.wrong(Part::Bypass, subject, "reads keys", ADVICE),
        ProbeResult::Accepted(code, message) => {
            let seen =
                format!("accepted; only etcd's own auth denies: {message} (gRPC code {code})");
            report.warning(Part::Bypass, subject, seen, ADVICE);
        }
        ProbeResult::Refused(why) => report.ok(Part::Bypass, subject, format!("shut out: {why}")),
        ProbeResult::Unreachable(why) if expect_server => {
            report.warning(
                Part::Bypass,
                subject,
                format!("not tried: {why}"),
                "run doctor where etcd is reachable",
            );
        }
        ProbeResult::Unreachable(_) => report.ok(Part::Bypass, subject, "no server listens"),
    }
}

/// Endpoints on this host's loopback.
fn loopback(endpoints: &[Endpoint], own: u16) -> Vec<Endpoint> {
    let mut ports: Vec<u16> = endpoints
        .iter()
        .map(|endpoint| endpoint.port)
        .chain([ETCD_PORT])
        .filter(|port| *port != own)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let hosts = ["127.0.0.1", "::1"];
    let all = ports
        .iter()
        .flat_map(|port| hosts.map(|host| Endpoint { tls: true, host: host.into(), port: *port }));
    all.filter(|local| {
        endpoints.iter().all(|endpoint| endpoint.host != local.host || endpoint.port != local.port)
    })
    .collect()
}
