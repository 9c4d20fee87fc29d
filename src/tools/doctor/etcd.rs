//! etcd as the proxy sees it, with the proxy's own certificate.

use etcd_warden_gateway::config::Endpoint;
use etcd_warden_gateway::upstream::control::{Control, ControlError};
use etcd_warden_gateway::upstream::members::Members;
use etcd_warden_gateway::upstream::release;
use etcd_warden_proto::etcdserverpb::Member;

use super::report::{Part, Report};

/// Asks each member how it is. Returns the client URLs that the members tell their clients.
pub async fn look(members: &Members, control: &Control, report: &mut Report) -> Vec<Endpoint> {
    let mut urls = Vec::new();
    for (index, member) in members.iter() {
        let subject = member.endpoint.to_string();
        let status = match control.status(index).await {
            Ok(status) => status,
            Err(error) => {
                report.wrong(
                    Part::Etcd,
                    subject,
                    format!("does not answer the proxy: {error}"),
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
                format!("etcd {version}, newer than this proxy knows"),
                "see docs/unknown-fields.md",
            );
        } else if release::has_known_vulnerabilities(version) {
            let advice = "upgrade etcd: what goes through the proxy is judged by it (docs/threat-model.md), but the proxy's host and peers are not";
            report.warning(
                Part::Etcd,
                subject,
                format!("etcd {version}, which has published holes"),
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
            "on: it judges what the proxy forwards as the proxy's user",
        ),
        Ok(false) => {
            report.ok(Part::Etcd, "etcd's own auth", "off: whoever etcd lets in may do everything")
        }
        Err(error) => report.warning(
            Part::Etcd,
            "etcd's own auth",
            format!("not known: {error}"),
            "shadow mode waits until it is",
        ),
    }
    urls
}

fn member_urls(list: Result<Vec<Member>, ControlError>, report: &mut Report) -> Vec<Endpoint> {
    let members = match list {
        Ok(members) => members,
        Err(error) => {
            report.warning(Part::Etcd, "members", format!("not told: {error}"), "");
            return Vec::new();
        }
    };
    let mut urls = Vec::new();
    for member in members {
        for url in member.peer_ur_ls.iter().filter(|url| url.starts_with("http://")) {
            let (subject, seen) =
                (format!("member {}", member.name), format!("its peers speak plain text: {url}"));
            let advice = "whoever reaches it can write as a member does: give peers https URLs and --peer-client-cert-auth";
            match endpoint(url).is_some_and(|peer| peer.is_loopback()) {
                true => report.warning(Part::Etcd, subject, seen, advice),
                false => report.wrong(Part::Etcd, subject, seen, advice),
            }
        }
        urls.extend(member.client_ur_ls.iter().filter_map(|url| endpoint(url)));
    }
    urls
}

/// `scheme://host:port`, as etcd checks it (`pkg/types/urls.go`).
fn endpoint(url: &str) -> Option<Endpoint> {
    let url: http::Uri = url.parse().ok()?;
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
    Some(Endpoint { tls: url.scheme_str()? == "https", host: host.into(), port: url.port_u16()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_urls_of_members_are_read_as_they_are_written() {
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
