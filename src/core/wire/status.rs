//! `grpc-status` and `grpc-message`: how a gRPC call ended. They are in trailers, or in the header
//! of a response that has nothing else (gRPC's `PROTOCOL-HTTP2.md`).

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The status code as a decimal number.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The status message, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The status code; `None` if it is absent or not a number.
pub fn code(headers: &HeaderMap) -> Option<u32> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// The decoded status message; empty if absent. A server can send any bytes: escape them before
/// display.
pub fn message(headers: &HeaderMap) -> Vec<u8> {
    percent_decoded(headers.get(MESSAGE).map_or(b"", HeaderValue::as_bytes))
}

/// Decodes `%NN`. Any other `%` stays as it is: gRPC requires that an invalid encoding does not
/// hide the message.
fn percent_decoded(mut rest: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((&first, behind)) = rest.split_first() {
        let escaped = behind
            .split_first_chunk::<2>()
            .filter(|_| first == b'%')
            .and_then(|(digits, behind)| Some((byte(digits)?, behind)));
        let (byte, behind) = escaped.unwrap_or((first, behind));
        decoded.push(byte);
        rest = behind;
    }
    decoded
}

fn byte([high, low]: &[u8; 2]) -> Option<u8> {
    let digit =
        |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(code: &'static str, message: &'static str) -> HeaderMap {
        HeaderMap::from_iter([
            (STATUS, HeaderValue::from_static(code)),
            (MESSAGE, HeaderValue::from_static(message)),
        ])
    }

    #[test]
    fn decodes_a_message_and_keeps_an_invalid_encoding() {
        for (encoded, plain) in [
            ("etcdserver: permission denied", "etcdserver: permission denied"),
            ("50%25 of %C3%bc%0A", "50% of ü\n"),
            ("%2525", "%25"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%+1%zz%%41", "%+1%zz%A"),
            ("", ""),
        ] {
            assert_eq!(message(&headers("7", encoded)), plain.as_bytes(), "{encoded}");
        }
        assert_eq!(message(&HeaderMap::new()), b"");
    }

    #[test]
    fn a_code_that_is_not_a_number_is_ignored() {
        assert_eq!((code(&headers("0", "")), code(&headers("16", ""))), (Some(0), Some(16)));
        for none in ["", "-1", "seven", "99999999999"] {
            assert_eq!(code(&headers(none, "")), None, "{none}");
        }
        assert_eq!(code(&HeaderMap::new()), None);
    }
}
