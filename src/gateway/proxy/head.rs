//! A request's head: which method it names, and which of its metadata goes on to etcd.

use etcd_warden_core::authorize::{Denial, Reason};
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::Mode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use crate::config::ClientTokens;

/// The metadata that goes to etcd; everything else stays here: also `grpc-encoding`, since messages
/// go on unpacked (`encoding.rs`). etcd acts on `hasleader`, `client-api-version`, `authorization`,
/// `token` and on everything that starts with `grpcgateway-`, which tells it to ignore the client
/// certificate's name (`server/auth/store.go`, `AuthInfoFromTLS`) and is therefore never forwarded.
/// The trace context serves etcd's own tracing.
fn is_forwarded(name: &str) -> bool {
    matches!(name, "te" | "content-type" | "user-agent" | "grpc-timeout" | "grpc-accept-encoding")
        || matches!(name, "hasleader" | "client-api-version" | "traceparent" | "tracestate")
        || is_token(name)
}

/// What carries a client's token.
fn is_token(name: &str) -> bool {
    matches!(name, "authorization" | "token")
}

/// The method that a request names.
///
/// # Errors
/// The request is no gRPC, or names no method of etcd. The path is compared as it came, query and
/// all (CVE-2026-33186).
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

/// `application/grpc`, with a subtype (`+proto`) or parameters (`;`) or without: what grpc-go
/// takes.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    content_type
        .strip_prefix("application/grpc")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('+') || rest.starts_with(';'))
}

/// Never forwarded, whatever the mode: metadata that begins so changes who the caller is.
const GATEWAY: &str = "grpcgateway-";

/// Values of one name that go on. gRPC knows no metadata of etcd's with more than one; each costs
/// more than its bytes while a request waits.
pub const VALUES: usize = 4;

/// The metadata that goes on. The usual request has nothing else, and keeps its map; else what goes
/// on is copied, so that nothing of the rest is held. Shadow mode keeps what etcd answers to in
/// ways of its own (a malformed `-bin` entry, CORS), and so leaves out only what may never pass.
#[must_use]
pub fn forwarded(headers: HeaderMap, tokens: ClientTokens, mode: Mode) -> HeaderMap {
    let (listed, values): (fn(&str) -> bool, _) = match mode {
        Mode::Enforce => (is_forwarded, VALUES),
        Mode::Shadow => (|name| !name.starts_with(GATEWAY), usize::MAX),
    };
    let goes_on = |name: &HeaderName| {
        listed(name.as_str()) && (tokens == ClientTokens::Forward || !is_token(name.as_str()))
    };
    if headers.len() < headers.keys_len().saturating_add(values) && headers.keys().all(goes_on) {
        return headers;
    }
    let mut kept = HeaderMap::with_capacity(headers.keys().filter(|name| goes_on(name)).count());
    for name in headers.keys().filter(|name| goes_on(name)) {
        for value in headers.get_all(name).iter().take(values) {
            kept.append(name.clone(), copied(value));
        }
    }
    kept
}

/// The same value with its own bytes: as it came it is a part of the frame that brought it, and
/// would hold all of that.
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
    fn gateway_metadata_and_everything_unlisted_stay_here() {
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
    fn shadow_mode_keeps_all_but_gateway_metadata() {
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
    fn of_many_values_of_one_name_only_the_first_go_on() {
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
    fn what_goes_on_holds_nothing_of_what_does_not() {
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
    fn stripped_tokens_stay_here() {
        let kept = forwarded(
            map(&[("authorization", "x"), ("token", "a"), ("hasleader", "true")]),
            ClientTokens::Strip,
            Mode::Enforce,
        );
        assert_eq!(kept, map(&[("hasleader", "true")]));
    }

    #[test]
    fn only_grpc_content_types_are_grpc() {
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
