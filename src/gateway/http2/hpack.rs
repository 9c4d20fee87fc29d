//! The header blocks of clients (HPACK, RFC 7541), parsed only as far as needed to find
//! pseudo-headers.
//!
//! `:authority` decides nothing here and is never forwarded: requests to a member have the member's
//! own. But `h2` parses it, and resets the stream if it considers it malformed, before any of our
//! code sees the request. Clients send `#initially=[https://..]` (clientv3 3.5.0), `a:1,b:2`, a
//! path, or an empty value, and etcd serves them all. So the value is overwritten with letters
//! before `h2` reads it. Its length stays the same, because it counts in the dynamic table of both
//! sides (4.1), and the block never grows.
//!
//! A path is compared byte for byte. But `h2` removes a `#` and what follows it, and closes the
//! connection if the path is not UTF-8. etcd takes these bytes as a part of the name. Each is
//! replaced by `_`, so that the path is no method. The same is done to a method that is not a
//! token. A block that `h2` accepts but etcd resets is reported as malformed.

mod value;

use std::collections::VecDeque;

use value::{Value, integer};

/// Bytes that a table entry has besides its name and its value (RFC 7541, 4.1).
const OVERHEAD: usize = 32;

/// The default of SETTINGS_HEADER_TABLE_SIZE (RFC 9113, 6.5.2), which we do not change.
const TABLE: usize = 4096;

/// `:authority`, plain and Huffman-coded.
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// The other pseudo-headers that are inspected, plain and Huffman-coded.
const PATH: [&[u8]; 2] = [b":path", &[0xb9, 0x58, 0xd3, 0x3f]];
const METHOD: [&[u8]; 2] = [b":method", &[0xb9, 0x49, 0x53, 0x39, 0xe4]];
const SCHEME: [&[u8]; 2] = [b":scheme", &[0xb8, 0x82, 0x4e, 0x5a, 0x4b]];

/// The schemes that etcd accepts (`golang.org/x/net/http2`), plain and Huffman-coded.
const SCHEMES: [[&[u8]; 2]; 2] =
    [[b"https", &[0x9d, 0x29, 0xad, 0x1f]], [b"http", &[0x9d, 0x29, 0xaf]]];

/// The Huffman code of `:`.
const COLON_CODED: u8 = 0b101_1100;

/// An empty `set-cookie`, added to the table: a field that no request has, of the same size as an
/// empty `:authority`.
const STAND_IN: [u8; 2] = [0x40 | 55, 0];

/// The name `expires`, added to the table: as long as `:method`, and `h2` accepts it without a
/// value.
const EXPIRES: u8 = 0x40 | 36;

/// The lengths of the names in the static table (RFC 7541, appendix A), in its order.
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];

/// The kind of a field, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Authority,
    Path,
    Method,
    Scheme,
    /// Another pseudo-header.
    Pseudo,
    /// A pseudo-header whose value makes the request malformed.
    Malformed,
    Regular,
    /// [`STAND_IN`], which in the client's table is an empty `:authority`.
    StandIn,
}

/// An entry of the dynamic table, by its size.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Name,
    name_length: usize,
    size: usize,
}

/// The client's dynamic table, as far as needed to read its blocks: the kinds and sizes of its
/// entries, not their contents.
#[derive(Debug)]
pub struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// A block could not be read. Then `h2` cannot read it either, or the table is not known any
    /// more: nothing is changed from here on.
    lost: bool,
}

/// The result of reading a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its new length, which is not larger than before.
    pub length: usize,
    /// Whether it has a pseudo-header.
    pub has_pseudo: bool,
    /// Whether it is malformed for etcd: without a path, with another scheme than those of HTTP, or
    /// with an empty method.
    pub is_malformed: bool,
}

/// One representation (RFC 7541, 6).
enum Field {
    Indexed(Entry),
    Literal { name: Name, name_length: usize, value: Value, indexing: bool },
    Resize(usize),
}

impl Table {
    /// The table of a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, max: TABLE, lost: false }
    }

    /// Notes that a block that was not read here may have changed the table.
    pub fn lose(&mut self) {
        self.lost = true;
        self.entries = VecDeque::new();
    }

    /// Whether blocks cannot be read any more.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Reads a whole block, and normalises it in place. The new block is at the front.
    pub fn read(&mut self, block: &mut [u8]) -> Block {
        let (mut from, mut to, mut has_pseudo) = (0, 0, false);
        let (mut has_path, mut is_malformed) = (false, false);
        // An empty `:authority` needs an entry in the table. Its stand-in must follow all
        // pseudo-headers.
        let mut stand_in = false;
        while from < block.len() && !self.lost {
            if stand_in && !can_precede(block, from) {
                (to, stand_in) = (self.stand_in(block, to), false);
            }
            let Some((field, end)) = self.field(block, from) else {
                self.lose();
                break;
            };
            let mut keep = from..end;
            match field {
                Field::Resize(max) => self.resize(max),
                Field::Indexed(entry) => {
                    has_pseudo |= entry.name != Name::Regular;
                    has_path |= entry.name == Name::Path;
                    is_malformed |= entry.name == Name::Malformed;
                    // The static entry is empty and does not change the table.
                    if entry.name == Name::StandIn
                        || entry.name == Name::Authority && entry.size == 0
                    {
                        keep = end..end;
                    }
                }
                Field::Literal { mut name, name_length, value, indexing } => {
                    has_pseudo |= name != Name::Regular;
                    has_path |= name == Name::Path;
                    let is_authority = matches!(name, Name::Authority | Name::StandIn);
                    // Only these lengths are needed: a path is a literal in each request, and
                    // is not added to the table.
                    let length =
                        if is_authority || indexing { value.length(block) } else { Some(0) };
                    let Some(length) = length else {
                        self.lose();
                        break;
                    };
                    match name {
                        Name::Path => keep.end = value.without(block, is_odd_in_path),
                        Name::Method if value.is_empty() => {
                            (name, keep) = (
                                Name::Malformed,
                                if indexing { value.head - 1..end } else { end..end },
                            );
                            if let Some(first) =
                                block.get_mut(keep.clone()).and_then(<[u8]>::first_mut)
                            {
                                *first = EXPIRES;
                            }
                        }
                        Name::Method => keep.end = value.without(block, is_odd_in_method),
                        Name::Scheme if !value.is_of(block, SCHEMES) => name = Name::Malformed,
                        _ => {}
                    }
                    is_malformed |= name == Name::Malformed;
                    if is_authority && length == 0 {
                        (keep, stand_in) = (end..end, stand_in | indexing);
                    } else {
                        if is_authority {
                            keep.end = value.overwrite(block);
                        }
                        if indexing {
                            self.insert(Entry {
                                name,
                                name_length,
                                size: name_length + length + OVERHEAD,
                            });
                        }
                    }
                }
            }
            let kept = keep.len();
            if keep.start != to {
                block.copy_within(keep, to);
            }
            (from, to) = (end, to + kept);
        }
        if stand_in {
            to = self.stand_in(block, to);
        }
        // The part that could not be read is not changed.
        block.copy_within(from.., to);
        Block {
            length: to + (block.len() - from),
            has_pseudo,
            is_malformed: !self.lost && (is_malformed || !has_path),
        }
    }

    /// The representation at `from`, and where it ends.
    fn field(&self, block: &[u8], from: usize) -> Option<(Field, usize)> {
        let first = *block.get(from)?;
        let mut at = from;
        if first & 0x80 != 0 {
            let index = integer(block, &mut at, 7)?;
            return Some((Field::Indexed(self.entry(index)?), at));
        }
        if first & 0xe0 == 0x20 {
            return Some((Field::Resize(integer(block, &mut at, 5)?), at));
        }
        let indexing = first & 0xc0 == 0x40;
        let (name, name_length) = match integer(block, &mut at, if indexing { 6 } else { 4 })? {
            0 => {
                let text = Value::read(block, &mut at)?;
                let bytes = block.get(text.begin..text.end)?;
                let name = match (text.coded, bytes) {
                    (false, AUTHORITY) | (true, AUTHORITY_CODED) => Name::Authority,
                    _ if text.is_of(block, [PATH]) => Name::Path,
                    _ if text.is_of(block, [METHOD]) => Name::Method,
                    _ if text.is_of(block, [SCHEME]) => Name::Scheme,
                    (false, [b':', ..]) => Name::Pseudo,
                    (true, [first, ..]) if first >> 1 == COLON_CODED => Name::Pseudo,
                    _ => Name::Regular,
                };
                // The length is only needed for the table.
                (name, if indexing { text.length(block)? } else { 0 })
            }
            index => {
                let entry = self.entry(index)?;
                (entry.name, entry.name_length)
            }
        };
        let value = Value::read(block, &mut at)?;
        Some((Field::Literal { name, name_length, value, indexing }, at))
    }

    /// The entry at an index. The size of a static entry is not used.
    fn entry(&self, index: usize) -> Option<Entry> {
        match index.checked_sub(1)? {
            index if index < STATIC_NAMES.len() => {
                let name = match index {
                    0 => Name::Authority,
                    1..3 => Name::Method,
                    3..5 => Name::Path,
                    5..7 => Name::Scheme,
                    7..14 => Name::Pseudo,
                    _ => Name::Regular,
                };
                Some(Entry { name, name_length: usize::from(*STATIC_NAMES.get(index)?), size: 0 })
            }
            index => self.entries.get(index - STATIC_NAMES.len()).copied(),
        }
    }

    /// Writes the stand-in at `to`, in the space of the field that was removed.
    fn stand_in(&mut self, block: &mut [u8], to: usize) -> usize {
        self.insert(Entry {
            name: Name::StandIn,
            name_length: AUTHORITY.len(),
            size: AUTHORITY.len() + OVERHEAD,
        });
        match block.get_mut(to..to + STAND_IN.len()) {
            Some(room) => {
                room.copy_from_slice(&STAND_IN);
                to + STAND_IN.len()
            }
            // Impossible: an empty literal has at least two bytes.
            None => to,
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.evict(entry.size);
        if self.size + entry.size <= self.max {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    fn resize(&mut self, max: usize) {
        if max > TABLE {
            return self.lose();
        }
        self.max = max;
        self.evict(0);
    }

    /// Evicts entries until `size` bytes fit, or the table is empty (RFC 7541, 4.3 and 4.4).
    fn evict(&mut self, size: usize) {
        while self.size + size > self.max
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the field at `from` is a pseudo-header that neither changes the dynamic table nor refers
/// to it.
fn can_precede(block: &[u8], from: usize) -> bool {
    let mut at = from;
    let index = match block.get(from) {
        Some(first) if first & 0x80 != 0 => integer(block, &mut at, 7),
        Some(first) if first & 0xe0 == 0 => integer(block, &mut at, 4),
        _ => None,
    };
    matches!(index, Some(1..=14))
}

/// Bytes that are not valid in the path of a URI (RFC 3986, 3.3 to 3.5), but that etcd accepts.
/// Without them `h2` reports the path unchanged.
fn is_odd_in_path(byte: u8) -> bool {
    matches!(byte, b' ' | b'"' | b'#' | b'<' | b'>' | b'`' | 0x80..)
}

/// Bytes that are not valid in a method (RFC 9110, 5.6.2), except control characters.
fn is_odd_in_method(byte: u8) -> bool {
    matches!(byte, b' ' | b'"' | b'(' | b')' | b',' | b'/' | b':'..=b'@')
        || matches!(byte, b'['..=b']' | b'{' | b'}' | 0x80..)
}

#[cfg(test)]
mod tests;
