//! The fuzz target `metadata`: which method a request's head names, and that no header which
//! changes the caller's identity is forwarded to etcd.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a target that meets the unexpected is to stop at once, and at that place"
)]

use etcd_warden_core::fuzzing::choices::Choices;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::Mode;
use http::{HeaderName, HeaderValue, Request};

use crate::config::ClientTokens;
use crate::proxy::head;

/// Names that etcd, gRPC or HTTP/2 know, and neighbours of theirs.
const NAMES: &[&str] = &[
    "te",
    "content-type",
    "user-agent",
    "grpc-timeout",
    "grpc-accept-encoding",
    "hasleader",
    "client-api-version",
    "traceparent",
    "tracestate",
    "authorization",
    "token",
    "grpc-encoding",
    "grpcgateway-authorization",
    "grpcgateway-",
    "grpcgateway",
    "grpc-gateway",
    "x-forwarded-for",
    "x-bin",
    "tokens",
    "content-length",
];

/// Mode, tokens, HTTP method; the path, by its length; then entries, each a name (a known one, or
/// one of its own) and a value.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let mode = choices.one_of(&[Mode::Enforce, Mode::Shadow]);
    let tokens = choices.one_of(&[ClientTokens::Forward, ClientTokens::Strip]);
    let post = !choices.coin();
    let path = match choices.byte() {
        known if known < 128 => {
            Method::ALL[usize::from(known) % Method::ALL.len()].path().to_owned()
        }
        length => match std::str::from_utf8(choices.take(usize::from(length - 128))) {
            Ok(path) => path.to_owned(),
            Err(_) => return,
        },
    };
    let Ok(mut request) =
        Request::builder().method(if post { "POST" } else { "GET" }).uri(&path).body(())
    else {
        return;
    };
    while !choices.is_empty() {
        let name = match choices.byte() {
            known if known < 192 => NAMES[usize::from(known) % NAMES.len()].as_bytes(),
            length => choices.take(usize::from(length - 192)),
        };
        let length = choices.below(64);
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(choices.take(length)))
        else {
            continue;
        };
        request.headers_mut().append(name, value);
    }
    let (parts, ()) = request.into_parts();

    if let Ok(method) = head::method(&parts) {
        assert!(post);
        let path = parts.uri.path_and_query().unwrap().as_str();
        assert_eq!(path, method.path(), "a path is compared byte for byte");
        assert!(
            parts.headers.get("content-type").unwrap().as_bytes().starts_with(b"application/grpc")
        );
    }

    let kept = head::forwarded(parts.headers.clone(), tokens, mode);
    for name in kept.keys() {
        let text = name.as_str();
        assert!(!text.starts_with("grpcgateway-"), "{text} goes on");
        assert!(mode == Mode::Shadow || text != "grpc-encoding", "messages go on unpacked");
        assert!(
            tokens == ClientTokens::Forward || !matches!(text, "authorization" | "token"),
            "{text} goes on"
        );
        // What is forwarded is forwarded whole: no value is lost, made or moved, but for those
        // beyond the bound.
        let bound = if mode == Mode::Enforce { head::VALUES } else { usize::MAX };
        assert!(
            kept.get_all(name).iter().eq(parts.headers.get_all(name).iter().take(bound)),
            "{text} is changed"
        );
    }
    for name in parts.headers.keys().filter(|name| !kept.contains_key(*name)) {
        let text = name.as_str();
        let stripped = tokens == ClientTokens::Strip && matches!(text, "authorization" | "token");
        let dropped = text.starts_with("grpcgateway-")
            || (mode == Mode::Enforce && !NAMES[..11].contains(&text));
        assert!(stripped || dropped, "{text} is lost");
    }
    assert_eq!(head::forwarded(kept.clone(), tokens, mode), kept, "what goes on would go on again");
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_input_of_the_corpus_keeps_the_promises() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/metadata");
        let inputs: Vec<_> =
            std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "{corpus} is empty");
        for input in inputs {
            super::run(&std::fs::read(input).unwrap());
        }
    }
}
