//! The header blocks of clients (HPACK, RFC 7541), read only so far that pseudo-headers are found.
//!
//! What a client calls the server decides nothing here and is never sent on: the member's own
//! authority goes there. `h2` parses it all the same, and resets what it takes for malformed, before any of our code could see it: `#initially=[https://..]` (clientv3 3.5.0), `a:1,b:2`, a
//! path, an empty value. etcd answers them all. So the value is overwritten with letters before
//! `h2` reads it. Its length stays what it was, because it counts in the table of both sides (4.1),
//! and the block never grows.
//!
//! A path is compared byte for byte, and `h2` shows it without what follows a `#`, and ends the
//! connection where it is no UTF-8. etcd takes these bytes for a part of the name. Each becomes
//! `_`, so that it is the name of no method. The same with a method that is no token. Where etcd
//! resets what `h2` takes, the block is told to be malformed.

mod value;

use std::collections::VecDeque;

use value::{Value, integer};

/// Bytes that every field has besides its name and its value (RFC 7541, 4.1).
const OVERHEAD: usize = 32;

/// `SETTINGS_HEADER_TABLE_SIZE` where none was sent (RFC 9113, 6.5.2): ours.
const TABLE: usize = 4096;

/// `:authority`, and how its letters are coded.
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// The other names of a request that are looked at, coded as well.
const PATH: [&[u8]; 2] = [b":path", &[0xb9, 0x58, 0xd3, 0x3f]];
const METHOD: [&[u8]; 2] = [b":method", &[0xb9, 0x49, 0x53, 0x39, 0xe4]];
const SCHEME: [&[u8]; 2] = [b":scheme", &[0xb8, 0x82, 0x4e, 0x5a, 0x4b]];

/// The schemes that etcd takes (`golang.org/x/net/http2`), coded as well.
const SCHEMES: [[&[u8]; 2]; 2] =
    [[b"https", &[0x9d, 0x29, 0xad, 0x1f]], [b"http", &[0x9d, 0x29, 0xaf]]];

/// The first bits of a coded name that begins with `:`.
const COLON_CODED: u8 = 0b101_1100;

/// A field of the same size as an empty `:authority` that no request has: `set-cookie`, empty,
/// added to the table.
const STAND_IN: [u8; 2] = [0x40 | 55, 0];

/// A field's name, added to the table, of the same size as `:method`, which `h2` takes without a
/// value: `expires`.
const EXPIRES: u8 = 0x40 | 36;

/// The lengths of the names in the static table (RFC 7541, appendix A), in its order.
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];

/// What a field's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Authority,
    Path,
    Method,
    Scheme,
    /// Any other that begins with `:`.
    Pseudo,
    /// One with a value that makes a request malformed.
    Malformed,
    Regular,
    /// [`STAND_IN`], which the client knows as an empty `:authority`.
    StandIn,
}

/// An entry of the dynamic table, by what it weighs.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Name,
    name_length: usize,
    size: usize,
}

/// What of the client's table must be known to read its blocks: which entries there are, not what
/// they say.
#[derive(Debug)]
pub struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// A block could not be read. `h2` will not be able to either, or the table is not known any
    /// more: nothing is changed from here on.
    lost: bool,
}

/// What a block was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its length now, at most what it was.
    pub length: usize,
    /// It has a pseudo-header.
    pub has_pseudo: bool,
    /// No request, for etcd: it has no path, another scheme than those of HTTP, or an empty
    /// method.
    pub is_malformed: bool,
}

/// One representation (RFC 7541, 6).
enum Field {
    Indexed(Entry),
    Literal { name: Name, name_length: usize, value: Value, indexing: bool },
    Resize(usize),
}

impl Table {
    /// The table of a connection that begins.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, max: TABLE, lost: false }
    }

    /// Blocks that were not shown to [`Table::read`] may have changed the table.
    pub fn lose(&mut self) {
        self.lost = true;
        self.entries = VecDeque::new();
    }

    /// Whether nothing is known of blocks any more.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Reads a whole block, and overwrites `:authority` in place. The block is what is left in
    /// front.
    pub fn read(&mut self, block: &mut [u8]) -> Block {
        let (mut from, mut to, mut has_pseudo) = (0, 0, false);
        let (mut has_path, mut is_malformed) = (false, false);
        // An empty `:authority` has to stand in the table, and its stand-in behind all
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
                    // The static entry is an empty one, and changes no table.
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
                    // Only these must be measured: a path is written out with each request, and
                    // goes into no table.
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
        // What could not be read goes on as it is.
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
                // Only what goes into the table must be measured; a name that is not does no harm
                // there.
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

    /// What an index means. The size of a static entry is of no use.
    fn entry(&self, index: usize) -> Option<Entry> {
        match index.checked_sub(1)? {
            place if place < STATIC_NAMES.len() => {
                let name = match place {
                    0 => Name::Authority,
                    1..3 => Name::Method,
                    3..5 => Name::Path,
                    5..7 => Name::Scheme,
                    7..14 => Name::Pseudo,
                    _ => Name::Regular,
                };
                Some(Entry { name, name_length: usize::from(*STATIC_NAMES.get(place)?), size: 0 })
            }
            place => self.entries.get(place - STATIC_NAMES.len()).copied(),
        }
    }

    /// Writes the stand-in at `to`, where what it stands for has left room.
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
            // Never: an empty literal has two bytes at least.
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

    /// Makes room for `size` bytes, or empties the table (RFC 7541, 4.3 and 4.4).
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

/// What no path of a URI holds, and etcd takes (RFC 3986, 3.3 to 3.5): without it `h2` shows what
/// came.
fn is_odd_in_path(byte: u8) -> bool {
    matches!(byte, b' ' | b'"' | b'#' | b'<' | b'>' | b'`' | 0x80..)
}

/// What is no letter of a method (RFC 9110, 5.6.2), control characters apart.
fn is_odd_in_method(byte: u8) -> bool {
    matches!(byte, b' ' | b'"' | b'(' | b')' | b',' | b'/' | b':'..=b'@' | b'['..=b']' | b'{' | b'}' | 0x80..)
}

#[cfg(test)]
mod tests;
