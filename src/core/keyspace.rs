//! Keys and key ranges, with etcd's meaning of `key` and `range_end`.
//!
//! etcd encodes a range as two byte strings (`RangeRequest` in `rpc.proto`). Without a `range_end`
//! it is the single key. A `range_end` of one zero byte means every key from `key` on. Any other
//! `range_end` makes it the half-open interval `[key, range_end)`. No key in etcd is empty, so
//! `"\0"` is the smallest key and `("\0", "\0")` is the whole key space.

use std::cmp::Ordering;
use std::fmt;

/// The exclusive upper bound of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End<'k> {
    /// Up to this key, exclusive.
    Before(&'k [u8]),
    /// The range is its start key alone. This is the same set as `Before(start + "\0")` but needs
    /// no copy of the key.
    OnlyStart,
    /// No upper bound.
    Open,
}

/// A range of consecutive keys, borrowed from a request or from a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange<'k> {
    /// The first key.
    pub start: &'k [u8],
    /// The exclusive upper bound.
    pub end: End<'k>,
}

impl<'k> KeyRange<'k> {
    /// The whole key space.
    pub const WHOLE: KeyRange<'static> = KeyRange { start: b"\0", end: End::Open };

    /// The range of one key.
    pub const fn key(key: &'k [u8]) -> Self {
        Self { start: key, end: End::OnlyStart }
    }

    /// Decodes `key` and `range_end` of a request.
    pub fn from_request(key: &'k [u8], range_end: &'k [u8]) -> Self {
        let end = match range_end {
            b"" => End::OnlyStart,
            b"\0" => End::Open,
            end => End::Before(end),
        };
        Self { start: key, end }
    }

    /// Encodes `range_end` as requests do: empty for a single key, one zero byte for an open end.
    pub fn range_end(&self) -> &'k [u8] {
        match self.end {
            End::OnlyStart => b"",
            End::Open => b"\0",
            End::Before(end) => end,
        }
    }

    /// True if the range holds no key (`range_end <= key`).
    pub fn is_empty(&self) -> bool {
        match self.end {
            End::Before(end) => end <= self.start,
            End::OnlyStart | End::Open => false,
        }
    }

    /// True if `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start && cmp_end_to_key(self, key) == Ordering::Greater
    }
}

/// Compares the exclusive end of `range` with `key`. `Greater` means that `key` lies before the
/// end.
pub fn cmp_end_to_key(range: &KeyRange<'_>, key: &[u8]) -> Ordering {
    match range.end {
        End::Open => Ordering::Greater,
        End::Before(end) => end.cmp(key),
        // The end is `start` followed by one zero byte.
        End::OnlyStart => match key.strip_prefix(range.start) {
            Some([]) => Ordering::Greater,
            Some([0]) => Ordering::Equal,
            Some(_) => Ordering::Less,
            None => range.start.cmp(key),
        },
    }
}

/// The smallest byte string that is greater than every string with this prefix (clientv3's
/// `GetPrefixRangeEnd`). `None` if there is none: the prefix is empty or consists of `0xff` bytes
/// only.
pub fn prefix_end(prefix: &[u8]) -> Option<Box<[u8]>> {
    let (position, last) =
        prefix.iter().enumerate().rev().find_map(|(at, &byte)| Some((at, byte.checked_add(1)?)))?;
    let mut end = prefix.get(..position)?.to_vec();
    end.push(last);
    Some(end.into_boxed_slice())
}

/// Displays bytes reversibly: printable ASCII unchanged, `\` doubled, every other byte as `\xNN`.
///
/// This is the only spelling of keys in policies, audit lines, logs and messages. The output has no
/// control character.
#[derive(Clone, Copy)]
pub struct Escaped<'k>(pub &'k [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                0x20..=0x7e => fmt::Write::write_char(f, char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Displays a range as `KEY`, `PREFIX*`, `[A, B)`, `[A, ...)` or `every key`.
impl fmt::Display for KeyRange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            End::OnlyStart => write!(f, "{}", Escaped(self.start)),
            End::Open if self.start <= b"\0".as_slice() => f.write_str("every key"),
            End::Open => write!(f, "[{}, ...)", Escaped(self.start)),
            End::Before(end) if prefix_end(self.start).as_deref() == Some(end) => {
                write!(f, "{}*", Escaped(self.start))
            }
            End::Before(end) => write!(f, "[{}, {})", Escaped(self.start), Escaped(end)),
        }
    }
}

/// The owned form of [`End`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OwnedEnd {
    /// Up to this key, exclusive.
    Before(Box<[u8]>),
    /// The single key that the range starts with.
    OnlyStart,
    /// No upper bound.
    Open,
}

/// A [`KeyRange`] that owns its bytes, for decisions that outlive the request: live watches and
/// audit lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnedRange {
    /// The first key.
    pub start: Box<[u8]>,
    /// The exclusive upper bound.
    pub end: OwnedEnd,
}

impl OwnedRange {
    /// Borrows the range.
    pub fn as_range(&self) -> KeyRange<'_> {
        let end = match &self.end {
            OwnedEnd::Before(end) => End::Before(end),
            OwnedEnd::OnlyStart => End::OnlyStart,
            OwnedEnd::Open => End::Open,
        };
        KeyRange { start: &self.start, end }
    }
}

impl KeyRange<'_> {
    /// Total length of both bounds in bytes.
    pub fn bounds_len(&self) -> usize {
        let end = if let End::Before(end) = self.end { end.len() } else { 0 };
        self.start.len().saturating_add(end)
    }
}

impl From<KeyRange<'_>> for OwnedRange {
    fn from(range: KeyRange<'_>) -> Self {
        let end = match range.end {
            End::Before(end) => OwnedEnd::Before(end.into()),
            End::OnlyStart => OwnedEnd::OnlyStart,
            End::Open => OwnedEnd::Open,
        };
        Self { start: range.start.into(), end }
    }
}

impl fmt::Display for OwnedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_range().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_every_form_of_range() {
        let rows: [(&[u8], &[u8], &str); 11] = [
            (b"a", b"", "a"),
            (b"", b"", ""),
            (b"a\n\\\"\xff", b"", r#"a\x0a\\"\xff"#),
            (b"\0", b"\0", "every key"),
            (b"", b"\0", "every key"),
            (b"\x01", b"\0", r"[\x01, ...)"),
            (b"a", b"\0", "[a, ...)"),
            (b"/a/", b"/a0", "/a/*"),
            (b"/a\xff", b"/b", r"/a\xff*"),
            (b"/a/", b"/a1", "[/a/, /a1)"),
            (b"b", b"a", "[b, a)"),
        ];
        for (key, range_end, text) in rows {
            let range = KeyRange::from_request(key, range_end);
            assert_eq!(range.to_string(), text);
            assert_eq!(OwnedRange::from(range).to_string(), text);
            assert_eq!(OwnedRange::from(range).as_range(), range);
            assert_eq!((range.start, range.range_end()), (key, range_end));
        }
        assert_eq!(format!("{:?}", Escaped(b"a\0")), r#""a\x00""#);
    }

    #[test]
    fn a_range_is_empty_if_its_end_is_not_after_its_start() {
        for (key, range_end, empty) in [
            ("b", "", false),
            ("b", "\0", false),
            ("b", "a", true),
            ("b", "b", true),
            ("b", "b\0", false),
        ] {
            let range = KeyRange::from_request(key.as_bytes(), range_end.as_bytes());
            assert_eq!(range.is_empty(), empty, "{range}");
            assert_eq!(range.contains(b"b"), !empty, "{range}");
            assert!(!range.contains(b"a"), "{range}");
        }
    }
}
