//! A request's head: its method, and the metadata that is forwarded to etcd.

use etcd_warden_core::authorize::{Denial, Reason};
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::Mode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use crate::config::ClientTokens;

/// True if enforcement forwards metadata of this name to etcd. Nothing else is forwarded, not even
/// `grpc-encoding`, because messages are forwarded decompressed (`encoding.rs`).
///
/// etcd acts on `hasleader`, `client-api-version`, `authorization`, `token`, and every name that
/// starts with `grpcgateway-`. The last one makes etcd ignore the name in the client certificate
/// (`server/auth/store.go`, `AuthInfoFromTLS`), so it is never forwarded. `traceparent` and
/// `tracestate` are for etcd's own tracing.
fn is_forwarded(name: &str) -> bool {
    matches!(name, "te" | "content-type" | "user-agent" | "grpc-timeout" | "grpc-accept-encoding")
        || matches!(name, "hasleader" | "client-api-version" | "traceparent" | "tracestate")
        || is_token(name)
}

/// True if metadata of this name carries a client's token.
fn is_token(name: &str) -> bool {
    matches!(name, "authorization" | "token")
}

/// The method of a request.
///
/// # Errors
/// The request is not gRPC, or its path is not a method of etcd. The path is compared byte for
/// byte, query included (CVE-2026-33186).
pub fn method(parts: &Parts) -> Result<Method, Denial> {
    if parts.method != http::Method::POST {
        return Err(Denial::new(Reason::NotGrpc, "gRPC requests are POST requests"));
    }
    if !is_grpc(&parts.headers) {
        return Err(Denial::new(Reason::NotGrpc, "the content-type is not application/grpc"));
    }
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    Method::from_path(path).ok_or(Denial::new(Reason::UnknownMethod, "etcd has no such method"))
}

/// True if the content type is `application/grpc`, optionally with a subtype (`+proto`) or
/// parameters (`;`). grpc-go accepts the same.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    content_type
        .strip_prefix("application/grpc")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('+') || rest.starts_with(';'))
}

/// The prefix of metadata that is never forwarded, in any mode, because it changes the identity
/// that etcd sees.
const GATEWAY: &str = "grpcgateway-";

/// Limit on forwarded values per name. No metadata for etcd has more than one, and each value of a
/// waiting request costs more memory than its bytes.
pub const VALUES: usize = 4;

/// Removes the metadata that must not be forwarded. Usually there is none, and the map is returned
/// as it is. Otherwise the remaining entries are copied, so that no removed bytes stay in memory.
/// Shadow mode removes only `grpcgateway-*` (and tokens, if configured): etcd responds to some
/// other metadata (a malformed `-bin` entry, CORS), and shadow mode must not change its responses.
#[must_use]
pub fn forwarded(headers: HeaderMap, tokens: ClientTokens, mode: Mode) -> HeaderMap {
    let (listed, values): (fn(&str) -> bool, _) = match mode {
        Mode::Enforce => (is_forwarded, VALUES),
        Mode::Shadow => (|name| !name.starts_with(GATEWAY), usize::MAX),
    };
    let is_kept = |name: &HeaderName| {
        listed(name.as_str()) && (tokens == ClientTokens::Forward || !is_token(name.as_str()))
    };
    if headers.len() < headers.keys_len().saturating_add(values) && headers.keys().all(is_kept) {
        return headers;
    }
    let mut kept = HeaderMap::with_capacity(headers.keys().filter(|name| is_kept(name)).count());
    for name in headers.keys().filter(|name| is_kept(name)) {
        for value in headers.get_all(name).iter().take(values) {
            kept.append(name.clone(), copied(value));
        }
    }
    kept
}

/// Copies a value. The original is a part of the frame that it arrived in and would keep the whole
/// frame in memory.
fn copied(value: &HeaderValue) -> HeaderValue {
    let mut copy = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
    copy.set_sensitive(value.is_sensitive());
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in entries {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn drops_gateway_metadata_and_unlisted_names() {
        let kept = forwarded(
            map(&[
                ("grpcgateway-accept", "x"),
                ("te", "trailers"),
                ("x-forwarded-for", "1"),
                ("token", "a"),
                ("token", "b"),
            ]),
            ClientTokens::Forward,
            Mode::Enforce,
        );
        assert_eq!(kept, map(&[("te", "trailers"), ("token", "a"), ("token", "b")]));
    }

    #[test]
    fn shadow_mode_drops_only_gateway_metadata() {
        let kept = forwarded(
            map(&[
                ("grpcgateway-accept", "x"),
                ("grpcgateway-authorization", "x"),
                ("te", "trailers"),
                ("x-bin", "!"),
                ("token", "a"),
            ]),
            ClientTokens::Forward,
            Mode::Shadow,
        );
        assert_eq!(kept, map(&[("te", "trailers"), ("x-bin", "!"), ("token", "a")]));
    }

    #[test]
    fn forwards_only_the_first_values_of_a_name() {
        let many = || map(&[("token", "a"); 400]);
        assert_eq!(
            forwarded(many(), ClientTokens::Forward, Mode::Enforce).get_all("token").iter().count(),
            VALUES
        );
        assert_eq!(
            forwarded(many(), ClientTokens::Forward, Mode::Shadow).get_all("token").iter().count(),
            400
        );
    }

    #[test]
    fn kept_metadata_does_not_keep_its_frame() {
        let frame = bytes::Bytes::from(vec![b'v'; 16 * 1024]);
        let mut headers = map(&[("te", "trailers")]);
        headers.insert("token", HeaderValue::from_maybe_shared(frame.slice(..8)).unwrap());
        for (number, name) in
            (0..400).map(|number| (number, HeaderName::try_from(format!("x-{number}")).unwrap()))
        {
            headers.insert(
                name,
                HeaderValue::from_maybe_shared(frame.slice(number..=number)).unwrap(),
            );
        }
        let kept = forwarded(headers, ClientTokens::Forward, Mode::Enforce);
        assert_eq!(kept, map(&[("te", "trailers"), ("token", "vvvvvvvv")]));
        assert!(kept.capacity() < 8, "{}", kept.capacity());
        assert!(frame.is_unique());
    }

    #[test]
    fn drops_tokens_where_they_are_stripped() {
        let kept = forwarded(
            map(&[("authorization", "x"), ("token", "a"), ("hasleader", "true")]),
            ClientTokens::Strip,
            Mode::Enforce,
        );
        assert_eq!(kept, map(&[("hasleader", "true")]));
    }

    #[test]
    fn accepts_only_grpc_content_types() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("Application/grpc", false),
        ] {
            assert_eq!(is_grpc(&map(&[("content-type", value)])), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
