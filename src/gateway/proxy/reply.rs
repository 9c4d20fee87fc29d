//! The proxy's own responses. No other file creates a gRPC status.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;
use etcd_warden_core::authorize::{Denial, Missing, Reason};
use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::wire::status;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

/// gRPC status codes that the proxy uses (gRPC's `doc/statuscodes.md`).
pub mod code {
    /// Success.
    pub const OK: u32 = 0;
    /// The request is malformed.
    pub const INVALID_ARGUMENT: u32 = 3;
    /// The request is denied.
    pub const PERMISSION_DENIED: u32 = 7;
    /// A limit is reached.
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    /// The state of etcd does not allow it.
    pub const FAILED_PRECONDITION: u32 = 9;
    /// The method or encoding does not exist.
    pub const UNIMPLEMENTED: u32 = 12;
    /// Temporary: a retry may succeed.
    pub const UNAVAILABLE: u32 = 14;
}

/// clientv3 compares this text (`api/v3rpc/rpctypes/error.go`, `ErrGRPCPermissionDenied`).
pub const PERMISSION_DENIED: &str = "etcdserver: permission denied";
/// clientv3 compares this text too (`ErrGRPCTooManyRequests` in the same file).
pub const TOO_MANY_REQUESTS: &str = "etcdserver: too many requests";
/// clientv3 retries even a write after UNAVAILABLE with this text, because it means that nothing
/// was sent (`client/v3/retry.go`, `isSafeRetryMutableRPC`).
pub const NOT_SENT: &str = "there is no connection available";

const REASON: HeaderName = HeaderName::from_static("etcd-warden-reason");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A response of the proxy's own: a gRPC status, or an HTTP status for a client that is not gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The gRPC status code.
    pub code: u32,
    /// The text for the client.
    pub message: Cow<'static, str>,
    /// The details of the denial, for the trailer `etcd-warden-reason`. It reveals the policy, so
    /// it is sent only if `reason-trailer` is set.
    reason: Option<String>,
    /// The HTTP status. If it is not 200, the client is not gRPC and gets only this status.
    http: StatusCode,
}

impl Status {
    /// A status with a fixed text.
    #[must_use]
    pub const fn new(code: u32, message: &'static str) -> Self {
        Self { code, message: Cow::Borrowed(message), reason: None, http: StatusCode::OK }
    }

    /// Nothing was sent to etcd, and nothing has happened.
    #[must_use]
    pub const fn not_sent() -> Self {
        Self::new(code::UNAVAILABLE, NOT_SENT)
    }

    /// The connection to etcd was lost before the response had ended.
    #[must_use]
    pub const fn lost() -> Self {
        Self::new(
            code::UNAVAILABLE,
            "etcd-warden: the connection to etcd was lost; the request may have been carried out",
        )
    }

    /// The proxy is shutting down. After UNAVAILABLE, clientv3 resumes its streams on another
    /// connection.
    #[must_use]
    pub const fn draining() -> Self {
        Self::new(code::UNAVAILABLE, "etcd-warden: shutting down")
    }

    /// The stream ends because the policy or the certificate has changed. The client opens a new
    /// stream, which is judged by the current policy.
    #[must_use]
    pub const fn open_again() -> Self {
        Self::new(
            code::UNAVAILABLE,
            "etcd-warden: the policy or the certificate has changed; open the stream again",
        )
    }

    /// There is no slot for a Watch stream, not even an overflow slot. After UNAVAILABLE, clientv3
    /// retries with all its watches; after RESOURCE_EXHAUSTED it would give up all of them for good
    /// (`client/v3/watch.go`, `isHaltErr`).
    #[must_use]
    pub const fn too_many_streams() -> Self {
        Self::new(code::UNAVAILABLE, TOO_MANY_REQUESTS)
    }

    /// A limit of the identity is reached.
    #[must_use]
    pub const fn too_many_requests() -> Self {
        Self::new(code::RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
    }

    /// The status for a denial. The text is etcd's own if etcd has one for this case. `tell_reason`
    /// adds the trailer with the details.
    #[must_use]
    pub fn of(denial: &Denial, tell_reason: bool) -> Self {
        let mut status = match denial.reason {
            Reason::NoBinding
            | Reason::NoIdentity
            | Reason::BadCapture
            | Reason::KeyNotGranted
            | Reason::CapabilityNotGranted
            | Reason::LeaseNotOwned
            | Reason::TokensStripped => Self::new(code::PERMISSION_DENIED, PERMISSION_DENIED),
            // Nothing was sent, and a retry may succeed.
            Reason::LeaseUnknown => Self::not_sent(),
            Reason::MalformedMessage | Reason::BadFraming | Reason::Http2 => {
                Self::with_text(code::INVALID_ARGUMENT, denial)
            }
            Reason::UnknownMethod | Reason::Compressed => {
                Self::with_text(code::UNIMPLEMENTED, denial)
            }
            Reason::TooLarge => Self::too_large(denial),
            Reason::NotGrpc => Self {
                http: StatusCode::UNSUPPORTED_MEDIA_TYPE,
                ..Self::with_text(code::INVALID_ARGUMENT, denial)
            },
            Reason::Limit | Reason::AuditFull => Self::too_many_requests(),
        };
        status.reason = tell_reason.then(|| denial.to_string());
        status
    }

    /// A message above the limit, with grpc-go's text (`rpc_util.go`, `recvMsg` and `decompress`),
    /// which etcd uses.
    fn too_large(denial: &Denial) -> Self {
        let text = match denial.missing {
            Missing::Size { length, limit } => {
                format!("grpc: received message larger than max ({length} vs. {limit})")
            }
            Missing::Unpacked { limit } => {
                format!("grpc: received message after decompression larger than max {limit}")
            }
            _ => return Self::with_text(code::RESOURCE_EXHAUSTED, denial),
        };
        Self { message: Cow::Owned(text), ..Self::new(code::RESOURCE_EXHAUSTED, "") }
    }

    /// etcd does not support the request's `grpc-encoding`. The text is grpc-go's (`server.go`,
    /// `processStreamingRPC`), which etcd uses.
    #[must_use]
    pub fn no_decompressor(encoding: &[u8]) -> Self {
        let text = format!(
            "grpc: Decompressor is not installed for grpc-encoding \"{}\"",
            Escaped(encoding)
        );
        Self { message: Cow::Owned(text), ..Self::new(code::UNIMPLEMENTED, "") }
    }

    /// A status with the denial's own text. The text describes the fault in the client's bytes and
    /// reveals nothing about the policy.
    fn with_text(code: u32, denial: &Denial) -> Self {
        let text = match &denial.missing {
            Missing::Form(malformed) => format!("etcd-warden: {malformed}"),
            Missing::Text(text) => format!("etcd-warden: {text}"),
            _ => format!("etcd-warden: {}", denial.reason.code()),
        };
        Self { code, message: Cow::Owned(text), reason: None, http: StatusCode::OK }
    }

    /// The gRPC status that the client gets, or `None` if it gets an HTTP status.
    #[must_use]
    pub fn code_sent(&self) -> Option<u32> {
        (self.http == StatusCode::OK).then_some(self.code)
    }

    /// Sends the status as the whole response (gRPC's *Trailers-Only*). If the client is gone, this
    /// does nothing.
    pub fn send(&self, respond: &mut SendResponse<Bytes>) {
        let mut response = Response::new(());
        *response.status_mut() = self.http;
        if self.http == StatusCode::OK {
            *response.headers_mut() = self.trailers();
            response.headers_mut().insert(CONTENT_TYPE, GRPC);
            let _ = respond.send_response(response, true);
        } else {
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            if let Ok(mut body) = respond.send_response(response, false) {
                let _ = body.send_data(Bytes::from(format!("{}\n", self.message)), true);
            }
        }
    }

    /// The status as trailers, to end a response whose head was sent.
    #[must_use]
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(4);
        trailers.insert(status::STATUS, HeaderValue::from(self.code));
        if !self.message.is_empty() {
            trailers.insert(status::MESSAGE, percent_encoded(&self.message));
        }
        if let Some(reason) = &self.reason {
            trailers.insert(REASON, percent_encoded(reason));
        }
        trailers
    }
}

/// The head of a response with messages, for use before etcd's own head has arrived.
#[must_use]
pub fn head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// Encodes a `grpc-message`: printable ASCII except `%` unchanged, every other byte as `%NN`
/// (gRPC's `PROTOCOL-HTTP2.md`).
fn percent_encoded(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0x20..=0x7e if byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or(GRPC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encodes_messages() {
        assert_eq!(percent_encoded("50% of ü\n"), "50%25 of %C3%BC%0A");
        let all: String = (0..0x2_0000).filter_map(char::from_u32).collect();
        let trailers = HeaderMap::from_iter([(status::MESSAGE, percent_encoded(&all))]);
        assert!(
            status::message(&trailers) == all.as_bytes(),
            "a message survives encoding and decoding"
        );
    }

    #[test]
    fn a_policy_denial_has_etcds_own_status_and_no_details() {
        for reason in [
            Reason::NoBinding,
            Reason::KeyNotGranted,
            Reason::LeaseNotOwned,
            Reason::CapabilityNotGranted,
        ] {
            let trailers = Status::of(&Denial::new(reason, "secret"), false).trailers();
            assert_eq!(status::code(&trailers), Some(code::PERMISSION_DENIED));
            assert_eq!(status::message(&trailers), PERMISSION_DENIED.as_bytes());
            assert_eq!(trailers.len(), 2);
        }
    }

    #[test]
    fn sends_the_reason_only_where_it_is_configured() {
        let denial = Denial::new(Reason::KeyNotGranted, "why");
        assert_eq!(
            Status::of(&denial, true).trailers().get("etcd-warden-reason").unwrap(),
            "key_not_granted: why"
        );
    }
}
