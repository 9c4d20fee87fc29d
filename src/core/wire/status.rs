//! How a call of gRPC ended: `grpc-status` and `grpc-message`, which stand in trailers, or in the
//! head of an answer that has nothing else (gRPC's `PROTOCOL-HTTP2.md`).

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The code, as a decimal number.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The message, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The code; `None` where there is none, or something else than a number.
#[must_use]
pub fn code(headers: &HeaderMap) -> Option<u32> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// The message, decoded; empty where there is none. Whoever shows it to people escapes it: a server
/// can have written any bytes.
#[must_use]
pub fn message(headers: &HeaderMap) -> Vec<u8> {
    percent_decoded(headers.get(MESSAGE).map_or(b"", HeaderValue::as_bytes))
}

/// `%NN` is a byte. A `%` before anything else is itself: gRPC wants a wrong encoding to be shown,
/// and not to hide the message.
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
    fn a_message_is_decoded_and_a_wrong_encoding_is_left_as_it_is() {
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
    fn a_code_is_a_number_or_there_is_none() {
        assert_eq!((code(&headers("0", "")), code(&headers("16", ""))), (Some(0), Some(16)));
        for none in ["", "-1", "seven", "99999999999"] {
            assert_eq!(code(&headers(none, "")), None, "{none}");
        }
        assert_eq!(code(&HeaderMap::new()), None);
    }
}
