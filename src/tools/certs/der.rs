//! The subset of DER (ITU-T X.690) that certificates need. Each function encodes one element.

use std::time::{Duration, SystemTime};

/// 2.5.29.14, subjectKeyIdentifier.
pub(super) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
/// 2.5.29.15, keyUsage.
pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// 2.5.29.17, subjectAltName.
pub(super) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 2.5.29.35, authorityKeyIdentifier.
pub(super) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
/// 2.5.29.37, extKeyUsage.
pub(super) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// 1.3.6.1.5.5.7.3.2, clientAuth.
pub(super) const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
/// 2.5.4.3, commonName.
pub(super) const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.4.10, organizationName.
pub(super) const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// An element with this tag and content.
pub(super) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    match (significant.as_slice(), u8::try_from(significant.len())) {
        ([], _) => out.push(0),
        ([short @ 0..=0x7f], _) => out.push(*short),
        (long, count) => {
            out.push(0x80 | count.unwrap_or(8));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A SEQUENCE of these elements.
pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

/// An OBJECT IDENTIFIER of these encoded arcs.
pub(super) fn oid(arcs: &[u8]) -> Vec<u8> {
    element(0x06, arcs)
}

/// A non-negative INTEGER, from big-endian bytes.
pub(super) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    let pad: &[u8] = if digits.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    element(0x02, &[pad, &digits].concat())
}

/// A BIT STRING of whole bytes.
pub(super) fn bits(bytes: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], bytes].concat())
}

/// An OCTET STRING.
pub(super) fn octets(bytes: &[u8]) -> Vec<u8> {
    element(0x04, bytes)
}

/// One relative distinguished name: an attribute with its value as UTF8String.
pub(super) fn attribute(arcs: &[u8], value: &str) -> Vec<u8> {
    element(0x31, &sequence(&[&oid(arcs), &element(0x0c, value.as_bytes())]))
}

/// A time with a resolution of one second: UTCTime through 2049, GeneralizedTime after (RFC 5280,
/// 4.1.2.5).
pub(super) fn time(at: SystemTime) -> Vec<u8> {
    const YEAR_2050: Duration = Duration::from_secs(2_524_608_000);
    let digits: String = humantime::format_rfc3339_seconds(at)
        .to_string()
        .chars()
        .filter(|c| c.is_ascii_digit() || *c == 'Z')
        .collect();
    match digits.get(2..) {
        Some(short) if at < SystemTime::UNIX_EPOCH + YEAR_2050 => element(0x17, short.as_bytes()),
        _ => element(0x18, digits.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_the_shortest_form() {
        assert_eq!(element(0x04, &[]), [4, 0]);
        assert_eq!(element(0x04, &[7; 127]).get(..2), Some(&[4, 127][..]));
        assert_eq!(element(0x04, &[7; 128]).get(..3), Some(&[4, 0x81, 128][..]));
        assert_eq!(element(0x04, &[7; 256]).get(..4), Some(&[4, 0x82, 1, 0][..]));
    }

    #[test]
    fn integers_are_never_negative_and_have_no_leading_zeros() {
        assert_eq!(unsigned(&[0, 0, 1]), [2, 1, 1]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[]), [2, 1, 0]);
    }

    #[test]
    fn a_time_from_2050_on_is_a_generalized_time() {
        let at = |text| humantime::parse_rfc3339(text).unwrap();
        assert_eq!(
            time(at("2049-12-31T23:59:59Z")),
            [b"\x17\x0d".as_slice(), b"491231235959Z"].concat()
        );
        assert_eq!(
            time(at("2050-01-01T00:00:00Z")),
            [b"\x18\x0f".as_slice(), b"20500101000000Z"].concat()
        );
    }
}
