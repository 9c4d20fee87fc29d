//! Peer URLs of a MemberUpdate. etcd writes them into its log without parsing them. Every other
//! member parses them when it applies the change (`types.NewURLs` in
//! `rafthttp.Transport.UpdatePeer`) and at each start, and crashes if one is invalid or if there is
//! none (3.5.35, 3.6.16 and 3.7.3; `docs/upstream-findings.md`). For MemberAdd, etcd checks the
//! URLs before it writes the log.

use core::net::Ipv6Addr;

/// True if `text` is `SCHEME://HOST:PORT` as etcd accepts it for a peer. Stricter than Go's
/// `url.Parse`, so that every release parses it the same way.
pub(super) fn is_peer_url(text: &str) -> bool {
    let Some((scheme, address)) = text.split_once("://") else { return false };
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let named = |host: &str| {
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let literal = |host: &str| {
        host.strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok())
    };
    // `parse` would accept a sign.
    let numbered = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    matches!(scheme, "http" | "https" | "unix" | "unixs")
        && (named(host) || literal(host))
        && numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_url_is_a_scheme_a_host_and_a_port() {
        for url in [
            "http://10.0.0.1:2380",
            "https://etcd-0.etcd.ns.svc:2380",
            "http://[::1]:2380",
            "unix://localhost:1",
            "unixs://m_0:65535",
        ] {
            assert!(is_peer_url(url), "{url}");
        }
        for url in [
            "",
            "x",
            "http://a",
            "http://:1",
            "http://a:",
            "http://a:+1",
            "http://a:65536",
            "http://a:1/",
            "http://a:1/p",
            "http://a:1?q",
            "ftp://a:1",
            "HTTP://a:1",
            " http://a:1",
            "http://a:1 ",
            "http://u@a:1",
            "http://%zz:1",
            "http://[::1:1",
            "http://::1:1",
            "http://[::1%25lo]:1",
            "http://[]:1",
            "http://[a]:1",
            "://a:1",
            "a:1",
            "http:///a:1",
            "http://a\u{7f}:1",
            "http://\u{e4}:1",
        ] {
            assert!(!is_peer_url(url), "{url:?}");
        }
    }
}
