//! Checks the etcd members, with the gateway's certificate.

use etcd_warden_gateway::config::Endpoint;
use etcd_warden_gateway::upstream::control::{Control, ControlError};
use etcd_warden_gateway::upstream::members::Members;
use etcd_warden_gateway::upstream::release;
use etcd_warden_proto::etcdserverpb::Member;

use super::report::{Part, Report};

/// Requests the status of each member. Returns the client URLs that the members advertise.
pub async fn check(members: &Members, control: &Control, report: &mut Report) -> Vec<Endpoint> {
    let mut urls = Vec::new();
    for (index, member) in members.iter() {
        let subject = member.endpoint.to_string();
        let status = match control.status(index).await {
            Ok(status) => status,
            Err(error) => {
                report.wrong(
                    Part::Etcd,
                    subject,
                    format!("does not respond to the gateway: {error}"),
                    "check the URL, `cacert`, `cert` and `key`",
                );
                continue;
            }
        };
        let version = &status.version;
        if release::is_newer_than_known(version) {
            report.warning(
                Part::Etcd,
                subject,
                format!("etcd {version}, which is newer than this gateway knows"),
                "see docs/unknown-fields.md",
            );
        } else if release::has_known_vulnerabilities(version) {
            let advice = "upgrade etcd: the gateway authorizes the requests of its clients (docs/threat-model.md), but the gateway's host and the peers reach etcd directly";
            report.warning(
                Part::Etcd,
                subject,
                format!("etcd {version}, which has published vulnerabilities"),
                advice,
            );
        } else {
            report.ok(Part::Etcd, subject, format!("etcd {version}"));
        }
        if urls.is_empty() {
            urls = member_urls(control.member_list(index).await, report);
        }
    }
    match control.auth_enabled().await {
        Ok(true) => report.ok(
            Part::Etcd,
            "etcd's own auth",
            "on: it authorizes all requests as those of the gateway's user",
        ),
        Ok(false) => report.ok(
            Part::Etcd,
            "etcd's own auth",
            "off: a client that etcd accepts may do everything",
        ),
        Err(error) => report.warning(
            Part::Etcd,
            "etcd's own auth",
            format!("unknown: {error}"),
            "shadow mode is suspended until it is known",
        ),
    }
    urls
}

fn member_urls(list: Result<Vec<Member>, ControlError>, report: &mut Report) -> Vec<Endpoint> {
    let members = match list {
        Ok(members) => members,
        Err(error) => {
            report.warning(Part::Etcd, "members", format!("cannot be listed: {error}"), "");
            return Vec::new();
        }
    };
    let mut urls = Vec::new();
    for member in members {
        for url in member.peer_ur_ls.iter().filter(|url| url.starts_with("http://")) {
            let (subject, seen) =
                (format!("member {}", member.name), format!("peers use plain text: {url}"));
            let advice = "a host that reaches this URL can write like a member: use https URLs for peers and --peer-client-cert-auth";
            match endpoint(url).is_some_and(|peer| peer.is_loopback()) {
                true => report.warning(Part::Etcd, subject, seen, advice),
                false => report.wrong(Part::Etcd, subject, seen, advice),
            }
        }
        urls.extend(member.client_ur_ls.iter().filter_map(|url| endpoint(url)));
    }
    urls
}

/// Parses `scheme://host:port`, the form that etcd enforces (`pkg/types/urls.go`).
fn endpoint(url: &str) -> Option<Endpoint> {
    let url: http::Uri = url.parse().ok()?;
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
    Some(Endpoint { tls: url.scheme_str()? == "https", host: host.into(), port: url.port_u16()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_members_are_parsed() {
        let read = |url| endpoint(url).map(|endpoint| endpoint.to_string());
        for url in [
            "https://10.0.0.1:2379",
            "http://127.0.0.1:2379",
            "https://[fd00::1]:2379",
            "https://etcd-1.example:2379",
        ] {
            assert_eq!(read(url).as_deref(), Some(url));
        }
        assert_eq!(read("unix://localhost"), None);
    }
}
