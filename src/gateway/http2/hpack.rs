//! The header blocks of clients (HPACK, RFC 7541), read only so far that pseudo-headers are found.
//!
//! What a client calls the server decides nothing here and is never sent on: the member's own authority goes there. `h2` parses it all the
//! same, and resets what it takes for malformed, before any of our code could see it: `#initially=[https://..]` (clientv3 3.5.0), `a:1,b:2`, a
//! path, an empty value. etcd answers them all. So the value is overwritten with letters before `h2` reads it. Its length stays what it was,
//! because it counts in the table of both sides (4.1), and the block never grows.
//!
//! A path is compared byte for byte, and `h2` shows it without what follows a `#`, and ends the connection where it is no UTF-8. etcd takes these bytes for a
//! part of the name. Each becomes `_`, so that it is the name of no method. The same with a method that is no token. Where etcd resets what `h2` takes,
//! the block is told to be malformed.

use std::collections::VecDeque;

use super::huffman;

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
const SCHEMES: [[&[u8]; 2]; 2] = [[b"https", &[0x9d, 0x29, 0xad, 0x1f]], [b"http", &[0x9d, 0x29, 0xaf]]];

/// The first bits of a coded name that begins with `:`.
const COLON_CODED: u8 = 0b101_1100;

/// A field of the same size as an empty `:authority` that no request has: `set-cookie`, empty, added to the table.
const STAND_IN: [u8; 2] = [0x40 | 55, 0];

/// A field's name, added to the table, of the same size as `:method`, which `h2` takes without a value: `expires`.
const EXPIRES: u8 = 0x40 | 36;

/// The lengths of the names in the static table (RFC 7541, appendix A), in its order.
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17,
    13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
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

/// What of the client's table must be known to read its blocks: which entries there are, not what they say.
#[derive(Debug)]
pub struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// A block could not be read. `h2` will not be able to either, or the table is not known any more: nothing is changed from here on.
    lost: bool,
}

/// What a block was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its length now, at most what it was.
    pub length: usize,
    /// It has a pseudo-header.
    pub has_pseudo: bool,
    /// No request, for etcd: it has no path, another scheme than those of HTTP, or an empty method.
    pub is_malformed: bool,
}

/// One representation (RFC 7541, 6).
enum Field {
    Indexed(Entry),
    Literal { name: Name, name_length: usize, value: Value, indexing: bool },
    Resize(usize),
}

/// The value of a literal: where its length stands, where it begins, how long it is there.
struct Value {
    head: usize,
    begin: usize,
    end: usize,
    coded: bool,
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

    /// Reads a whole block, and overwrites `:authority` in place. The block is what is left in front.
    pub fn read(&mut self, block: &mut [u8]) -> Block {
        let (mut from, mut to, mut has_pseudo) = (0, 0, false);
        let (mut has_path, mut is_malformed) = (false, false);
        // An empty `:authority` has to stand in the table, and its stand-in behind all pseudo-headers.
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
                    if entry.name == Name::StandIn || entry.name == Name::Authority && entry.size == 0 {
                        keep = end..end;
                    }
                }
                Field::Literal { mut name, name_length, value, indexing } => {
                    has_pseudo |= name != Name::Regular;
                    has_path |= name == Name::Path;
                    let is_authority = matches!(name, Name::Authority | Name::StandIn);
                    // Only these must be measured: a path is written out with each request, and goes into no table.
                    let length = if is_authority || indexing { value.length(block) } else { Some(0) };
                    let Some(length) = length else {
                        self.lose();
                        break;
                    };
                    match name {
                        Name::Path => keep.end = value.without(block, is_odd_in_path),
                        Name::Method if value.is_empty() => {
                            (name, keep) = (Name::Malformed, if indexing { value.head - 1..end } else { end..end });
                            if let Some(first) = block.get_mut(keep.clone()).and_then(<[u8]>::first_mut) {
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
                            self.insert(Entry { name, name_length, size: name_length + length + OVERHEAD });
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
        Block { length: to + (block.len() - from), has_pseudo, is_malformed: !self.lost && (is_malformed || !has_path) }
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
                // Only what goes into the table must be measured; a name that is not does no harm there.
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
        self.insert(Entry { name: Name::StandIn, name_length: AUTHORITY.len(), size: AUTHORITY.len() + OVERHEAD });
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

impl Value {
    fn read(block: &[u8], at: &mut usize) -> Option<Self> {
        let head = *at;
        let coded = *block.get(head)? & 0x80 != 0;
        let length = integer(block, at, 7)?;
        let begin = *at;
        let end = begin + length;
        *at = end;
        (end <= block.len()).then_some(Self { head, begin, end, coded })
    }

    const fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    /// Whether it is one of these texts, each plain and coded.
    fn is_of<const N: usize>(&self, block: &[u8], texts: [[&[u8]; 2]; N]) -> bool {
        let bytes = block.get(self.begin..self.end);
        texts.iter().any(|[plain, coded]| bytes == Some(if self.coded { coded } else { plain }))
    }

    /// Puts `_` in the place of each of these symbols. Gives its new end.
    fn without(&self, block: &mut [u8], is_odd: fn(u8) -> bool) -> usize {
        let Some(bytes) = block.get_mut(self.begin..self.end) else { return self.end };
        if !self.coded {
            bytes.iter_mut().filter(|byte| is_odd(**byte)).for_each(|byte| *byte = b'_');
            return self.end;
        }
        if huffman::has(bytes, is_odd) != Some(true) {
            return self.end;
        }
        let Some(text) = huffman::replaced(bytes, is_odd) else { return self.end };
        write(block, self.head, 0x80, text.len(), |room| room.copy_from_slice(&text)).unwrap_or(self.end)
    }

    /// Bytes of the text that it stands for.
    fn length(&self, block: &[u8]) -> Option<usize> {
        let bytes = block.get(self.begin..self.end)?;
        if self.coded { huffman::measure(bytes).map(|text| text.symbols) } else { Some(bytes.len()) }
    }

    /// Puts letters in place of the text, as many. Gives its new end. A text that no field may have stays, and is refused as what it is.
    fn overwrite(&self, block: &mut [u8]) -> usize {
        let Some(bytes) = block.get_mut(self.begin..self.end) else { return self.end };
        if !self.coded {
            if bytes.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()) {
                bytes.fill(b'a');
            }
            return self.end;
        }
        match huffman::measure(bytes) {
            Some(text) if text.is_printable && text.bits <= 8 * text.symbols => {
                huffman::fill(bytes, text.symbols, text.bits);
                self.end
            }
            // Its codes take more than the text itself.
            Some(text) if text.is_printable => write_plain(block, self.head, text.symbols).unwrap_or(self.end),
            _ => self.end,
        }
    }
}

/// Whether the field at `from` is a pseudo-header that neither changes the dynamic table nor refers to it.
fn can_precede(block: &[u8], from: usize) -> bool {
    let mut at = from;
    let index = match block.get(from) {
        Some(first) if first & 0x80 != 0 => integer(block, &mut at, 7),
        Some(first) if first & 0xe0 == 0 => integer(block, &mut at, 4),
        _ => None,
    };
    matches!(index, Some(1..=14))
}

/// What no path of a URI holds, and etcd takes (RFC 3986, 3.3 to 3.5): without it `h2` shows what came.
fn is_odd_in_path(byte: u8) -> bool {
    matches!(byte, b' ' | b'"' | b'#' | b'<' | b'>' | b'`' | 0x80..)
}

/// What is no letter of a method (RFC 9110, 5.6.2), control characters apart.
fn is_odd_in_method(byte: u8) -> bool {
    matches!(byte, b' ' | b'"' | b'(' | b')' | b',' | b'/' | b':'..=b'@' | b'['..=b']' | b'{' | b'}' | 0x80..)
}

/// Writes a text of `length` letters that is not coded at `at`, and gives its end.
fn write_plain(block: &mut [u8], at: usize, length: usize) -> Option<usize> {
    write(block, at, 0, length, |room| room.fill(b'a'))
}

/// Writes a text of so many bytes at `at`, and gives its end. `coded`: the first bit of its length.
fn write(block: &mut [u8], at: usize, coded: u8, length: usize, text: impl FnOnce(&mut [u8])) -> Option<usize> {
    let mut place = at;
    let mut put = |byte: usize| {
        *block.get_mut(place)? = u8::try_from(byte).ok()?;
        place += 1;
        Some(())
    };
    let coded = usize::from(coded);
    if length < 127 {
        put(coded | length)?;
    } else {
        put(coded | 127)?;
        let mut rest = length - 127;
        while rest >= 128 {
            put(rest % 128 + 128)?;
            rest /= 128;
        }
        put(rest)?;
    }
    let end = place + length;
    text(block.get_mut(place..end)?);
    Some(end)
}

/// A number whose first byte has so many bits for it (RFC 7541, 5.1), of at most five bytes, as `h2` has it.
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mask = 0xff_u8 >> (8 - prefix);
    let first = *block.get(*at)? & mask;
    *at += 1;
    let mut number = usize::from(first);
    if first < mask {
        return Some(number);
    }
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(*at)?;
        *at += 1;
        number += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests;
