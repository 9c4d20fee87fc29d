//! Sets of keys, with all captured values filled in. Three operations: `contains` for a key,
//! `covers` and `may_overlap` for a range. The last two are approximations. `covers` may wrongly
//! return false and `may_overlap` may wrongly return true. Both errors can only deny more.

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::keyspace::{End, KeyRange, OwnedRange, cmp_end_to_key, prefix_end};

/// The keys of a grant or a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySet {
    /// A range, never empty.
    Range(OwnedRange),
    /// A pattern with inner wildcards, each for one path segment.
    Pattern(Pattern),
}

impl KeySet {
    /// True if `key` is in the set.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeySet::Range(range) => range.as_range().contains(key),
            KeySet::Pattern(pattern) => pattern.covers(&KeyRange::key(key)),
        }
    }

    /// True if a key of `range` may be in the set. False only if certainly none is. `range` must
    /// not be empty.
    pub fn may_overlap(&self, range: &KeyRange<'_>) -> bool {
        match self {
            KeySet::Range(set) => overlaps(&set.as_range(), range),
            KeySet::Pattern(pattern) => pattern.may_overlap(range),
        }
    }
}

/// True if two ranges, which must not be empty, have a key in common.
pub fn overlaps(a: &KeyRange<'_>, b: &KeyRange<'_>) -> bool {
    cmp_end_to_key(a, b.start) == Ordering::Greater
        && cmp_end_to_key(b, a.start) == Ordering::Greater
}

/// Literal pieces of text, and between them a wildcard for one path segment (one or more bytes
/// except `/`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// At least two. All except the first begin with `/`; all except the last end with `/`.
    literals: Box<[Box<[u8]>]>,
    /// True if any text may follow.
    tail: bool,
}

/// The position in a pattern at which a text ends. The text is the common prefix of a range of
/// keys.
enum Reached<'p> {
    /// The text does not match: no key of the pattern begins with it.
    Nowhere,
    /// Inside a literal or a segment. This rest of the literal must follow.
    Inside(&'p [u8]),
    /// At the end of the last literal, or after it if `more`.
    AtEnd { more: bool },
}

impl Pattern {
    pub(crate) fn new(literals: Vec<Vec<u8>>, tail: bool) -> Self {
        Self { literals: literals.into_iter().map(Vec::into_boxed_slice).collect(), tail }
    }

    /// The literal pieces, and whether any text may follow the last one.
    pub fn parts(&self) -> (&[Box<[u8]>], bool) {
        (&self.literals, self.tail)
    }

    /// True only if every key of `range` matches. `range` must not be empty.
    pub fn covers(&self, range: &KeyRange<'_>) -> bool {
        let prefix = common_prefix(range);
        match self.reach(prefix) {
            Reached::AtEnd { more } => self.tail || (!more && is_single(range)),
            Reached::Nowhere | Reached::Inside(_) => false,
        }
    }

    /// True if a key of `range` may match. False only if certainly none does. `range` must not be
    /// empty.
    pub fn may_overlap(&self, range: &KeyRange<'_>) -> bool {
        let prefix = common_prefix(range);
        match self.reach(prefix) {
            Reached::Nowhere => false,
            Reached::AtEnd { more } => self.tail || !more,
            Reached::Inside(_) if is_single(range) => false,
            Reached::Inside(rest) => {
                let mut known: SmallVec<[u8; 256]> = prefix.into();
                known.extend_from_slice(rest);
                let end = prefix_end(&known);
                let keys =
                    KeyRange { start: &known, end: end.as_deref().map_or(End::Open, End::Before) };
                overlaps(&keys, range)
            }
        }
    }

    /// Matches `text` against the pattern. A segment ends at the first `/`, so there is only one
    /// way to match.
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
        Reached::AtEnd { more: !rest.is_empty() }
    }
}

/// The longest common prefix of all keys of `range`, which must not be empty.
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
    // Every key of `[x, y)` begins with x if y is the successor of x. The same holds for the
    // following bytes if they have no successor.
    let next = (start.get(same), end.get(same));
    let steps = match next {
        (Some(low), Some(high)) if low.checked_add(1) == Some(*high) && end.len() == same + 1 => {
            1 + start.iter().skip(same + 1).take_while(|byte| **byte == 0xff).count()
        }
        _ => 0,
    };
    start.get(..same + steps).unwrap_or(start)
}

/// True if the range, which must not be empty, contains only its start. No key lies between `k` and
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

    /// A prefix that is too short only makes a pattern cover less and overlap more. A prefix that
    /// is too long would grant too much.
    #[test]
    fn computes_the_common_prefix_of_a_range() {
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
