//! Formats single values of a line.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_warden_core::keyspace::Escaped;
use serde::{Serialize, Serializer};

/// The bytes that [`Escaped`] has written as `text`. `None` if `text` is not in that format, as a
/// text that was cut.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return Some(bytes),
            [b'\\', b'\\', rest @ ..] => {
                bytes.push(b'\\');
                rest
            }
            [b'\\', b'x', high, low, rest @ ..] => {
                let digit = |digit: &u8| {
                    char::from(*digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase())
                };
                bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                rest
            }
            [b'\\', ..] => return None,
            [byte @ 0x20..=0x7e, rest @ ..] => {
                bytes.push(*byte);
                rest
            }
            _ => return None,
        };
    }
}

/// Bytes from a client, escaped. Bytes beyond `limit` are replaced by `\...+N`, where N is their
/// number. [`Escaped`] never writes that.
pub(super) struct EscapedText<'r> {
    pub(super) bytes: &'r [u8],
    pub(super) limit: usize,
}

impl fmt::Display for EscapedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes.split_at_checked(self.limit) {
            Some((shown, rest)) if !rest.is_empty() => {
                write!(f, "{}\\...+{}", Escaped(shown), rest.len())
            }
            _ => Escaped(self.bytes).fmt(f),
        }
    }
}

impl Serialize for EscapedText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A lease id in the format of etcdctl: 16 hexadecimal digits (Go's `%016x`, which writes the sign
/// of a negative number).
pub(super) struct LeaseId(pub(super) i64);

impl Serialize for LeaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            id @ 0.. => serializer.collect_str(&format_args!("{id:016x}")),
            id => serializer.collect_str(&format_args!("-{:015x}", id.unsigned_abs())),
        }
    }
}

/// A time in RFC 3339, UTC, with microseconds. Times outside 1970 to 9999, for which humantime
/// panics, are clamped to that range.
pub(in crate::audit) fn timestamp(time: SystemTime) -> String {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST);
    humantime::format_rfc3339_micros(UNIX_EPOCH + since_1970).to_string()
}
