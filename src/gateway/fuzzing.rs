//! The fuzz target `metadata`: reads the method from a request's head, and checks that no header
//! that could change the client's identity is forwarded to etcd.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a fuzz target must stop at the first unexpected result"
)]

use etcd_warden_core::fuzzing::choices::Choices;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::Mode;
use http::{HeaderName, HeaderValue, Request};

use crate::config::ClientTokens;
use crate::proxy::head;

/// Header names that etcd, gRPC or HTTP/2 use, and similar ones.
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

/// Runs the target. The input is the mode, the handling of tokens, and the HTTP method; then the
/// path; then headers, each a name (from [`NAMES`], or of the input) and a value.
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
        assert!(!text.starts_with("grpcgateway-"), "{text} is forwarded");
        assert!(
            mode == Mode::Shadow || text != "grpc-encoding",
            "the message is forwarded without compression"
        );
        assert!(
            tokens == ClientTokens::Forward || !matches!(text, "authorization" | "token"),
            "{text} is forwarded"
        );
        // Values of a forwarded header are complete and in order, up to the bound.
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
    assert_eq!(head::forwarded(kept.clone(), tokens, mode), kept, "filtering twice gives the same");
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_input_of_the_corpus_passes() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/metadata");
        let inputs: Vec<_> =
            std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "{corpus} is empty");
        for input in inputs {
            super::run(&std::fs::read(input).unwrap());
        }
    }
}
