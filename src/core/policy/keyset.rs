//! Sets of keys with all captures filled in, and three questions about them: is a key in it, is a
//! whole range in it, may a range touch it. The second may say no too often, the third yes too
//! often: both errors refuse.

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::keyspace::{End, KeyRange, OwnedRange, cmp_end_to_key, prefix_end};

/// Keys that a grant or a denial means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySet {
    /// Consecutive keys. Never empty.
    Range(OwnedRange),
    /// Keys with whole path segments open.
    Pattern(Pattern),
}

impl KeySet {
    /// Whether `key` is in the set.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeySet::Range(range) => range.as_range().contains(key),
            KeySet::Pattern(pattern) => pattern.covers(&KeyRange::key(key)),
        }
    }

    /// Whether some key of `range`, which is not empty, may be in the set. Never a false no.
    #[must_use]
    pub fn may_touch(&self, range: &KeyRange<'_>) -> bool {
        match self {
            KeySet::Range(set) => overlap(&set.as_range(), range),
            KeySet::Pattern(pattern) => pattern.may_touch(range),
        }
    }
}

/// Whether two ranges, neither of them empty, have a key in common.
#[must_use]
pub fn overlap(a: &KeyRange<'_>, b: &KeyRange<'_>) -> bool {
    cmp_end_to_key(a, b.start) == Ordering::Greater
        && cmp_end_to_key(b, a.start) == Ordering::Greater
}

/// Literal text with one open path segment (one or more bytes other than `/`) between each two
/// pieces of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// At least two; all but the first begin with `/`, all but the last end with `/`.
    literals: Box<[Box<[u8]>]>,
    /// Whether anything may follow.
    tail: bool,
}

/// Where in a pattern a text ends that every key in question begins with.
enum Reached<'p> {
    /// No key of the pattern begins with the text.
    Nowhere,
    /// Inside the literals or a segment; this much more literal text must follow at once.
    Inside(&'p [u8]),
    /// At or behind the end of the last literal; whether something stands behind it.
    Behind { more: bool },
}

impl Pattern {
    pub(crate) fn new(literals: Vec<Vec<u8>>, tail: bool) -> Self {
        Self { literals: literals.into_iter().map(Vec::into_boxed_slice).collect(), tail }
    }

    /// The literal pieces, and whether anything may follow the last one.
    #[must_use]
    pub fn parts(&self) -> (&[Box<[u8]>], bool) {
        (&self.literals, self.tail)
    }

    /// Whether every key of `range`, which is not empty, matches.
    #[must_use]
    pub fn covers(&self, range: &KeyRange<'_>) -> bool {
        let prefix = common_prefix(range);
        match self.reach(prefix) {
            Reached::Behind { more } => self.tail || (!more && is_single(range)),
            Reached::Nowhere | Reached::Inside(_) => false,
        }
    }

    /// Whether some key of `range`, which is not empty, may match. Never a false no.
    #[must_use]
    pub fn may_touch(&self, range: &KeyRange<'_>) -> bool {
        let prefix = common_prefix(range);
        match self.reach(prefix) {
            Reached::Nowhere => false,
            Reached::Behind { more } => self.tail || !more,
            Reached::Inside(_) if is_single(range) => false,
            Reached::Inside(rest) => {
                let mut known: SmallVec<[u8; 256]> = prefix.into();
                known.extend_from_slice(rest);
                let end = prefix_end(&known);
                let keys =
                    KeyRange { start: &known, end: end.as_deref().map_or(End::Open, End::Before) };
                overlap(&keys, range)
            }
        }
    }

    /// Follows `text` through the pattern. A segment ends at the first `/`, so that there is one
    /// way only.
    fn reach(&self, text: &[u8]) -> Reached<'_> {
        let mut rest = text;
        for (at, literal) in self.literals.iter().enumerate() {
            if at > 0 {
                match rest.iter().position(|byte| *byte == b'/') {
                    None => return Reached::Inside(b""),
                    Some(0) => return Reached::Nowhere,
                    Some(length) => rest = rest.get(length..).unwrap_or_default(),
                }
            }
            match rest.strip_prefix(&**literal) {
                Some(after) => rest = after,
                None => {
                    return literal.strip_prefix(rest).map_or(Reached::Nowhere, Reached::Inside);
                }
            }
        }
        Reached::Behind { more: !rest.is_empty() }
    }
}

/// The longest text that every key of `range`, which is not empty, begins with.
fn common_prefix<'k>(range: &KeyRange<'k>) -> &'k [u8] {
    let start = range.start;
    let end = match range.end {
        End::OnlyStart => return start,
        End::Open => {
            return start
                .get(..start.iter().take_while(|byte| **byte == 0xff).count())
                .unwrap_or_default();
        }
        End::Before(end) => end,
    };
    let same = start.iter().zip(end).take_while(|(a, b)| a == b).count();
    // `[x, y)` with y the successor of x begins with x throughout; and so on through bytes that
    // have no successor.
    let next = (start.get(same), end.get(same));
    let steps = match next {
        (Some(low), Some(high)) if low.checked_add(1) == Some(*high) && end.len() == same + 1 => {
            1 + start.iter().skip(same + 1).take_while(|byte| **byte == 0xff).count()
        }
        _ => 0,
    };
    start.get(..same + steps).unwrap_or(start)
}

/// Whether the range, which is not empty, holds exactly its start: no key lies between `k` and
/// `k\0`.
fn is_single(range: &KeyRange<'_>) -> bool {
    match range.end {
        End::OnlyStart => true,
        End::Before(end) => end.strip_prefix(range.start) == Some(b"\0"),
        End::Open => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shorter it is said to be, the less is granted by a pattern and the more is denied: too
    /// long is what must never be.
    #[test]
    fn every_key_of_a_range_begins_with_its_common_prefix() {
        let rows: [(&[u8], &[u8], &[u8]); 13] = [
            (b"a/b", b"", b"a/b"),
            (b"a/b", b"a/b\0", b"a/b"),
            (b"a/b", b"\0", b""),
            (b"\xff\xffa", b"\0", b"\xff\xff"),
            (b"a/", b"c", b""),
            (b"a/b", b"a/c", b"a/b"),
            (b"a/b/d", b"a/c", b"a/b"),
            (b"a/b", b"a/d", b"a/"),
            (b"a/b", b"a/c\0", b"a/"),
            (b"a/b\xff\xff", b"a/c", b"a/b\xff\xff"),
            (b"a/b\xff\xffx", b"a/c", b"a/b\xff\xff"),
            (b"a/\xff", b"a0", b"a/\xff"),
            (b"abc/", b"abc/x", b"abc/"),
        ];
        for (key, range_end, prefix) in rows {
            let range = KeyRange::from_request(key, range_end);
            assert_eq!(KeyRange::key(common_prefix(&range)), KeyRange::key(prefix), "{range}");
        }
    }
}
