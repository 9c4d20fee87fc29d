//! String literals and integers (RFC 7541, 5.1 and 5.2): read, measured and overwritten in place.

use super::super::huffman;

/// The offsets of a string literal in its block: of its length, its first byte, and its end.
pub(super) struct Value {
    pub(super) head: usize,
    pub(super) begin: usize,
    pub(super) end: usize,
    pub(super) coded: bool,
}

impl Value {
    pub(super) fn read(block: &[u8], at: &mut usize) -> Option<Self> {
        let head = *at;
        let coded = *block.get(head)? & 0x80 != 0;
        let length = integer(block, at, 7)?;
        let begin = *at;
        let end = begin + length;
        *at = end;
        (end <= block.len()).then_some(Self { head, begin, end, coded })
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    /// Whether it is one of these texts, each given plain and coded.
    pub(super) fn is_of<const N: usize>(&self, block: &[u8], texts: [[&[u8]; 2]; N]) -> bool {
        let bytes = block.get(self.begin..self.end);
        texts.iter().any(|[plain, coded]| bytes == Some(if self.coded { coded } else { plain }))
    }

    /// Replaces each of these symbols by `_`. Returns the new end.
    pub(super) fn without(&self, block: &mut [u8], is_odd: fn(u8) -> bool) -> usize {
        let Some(bytes) = block.get_mut(self.begin..self.end) else { return self.end };
        if !self.coded {
            bytes.iter_mut().filter(|byte| is_odd(**byte)).for_each(|byte| *byte = b'_');
            return self.end;
        }
        if huffman::has(bytes, is_odd) != Some(true) {
            return self.end;
        }
        let Some(text) = huffman::replaced(bytes, is_odd) else { return self.end };
        write(block, self.head, 0x80, text.len(), |room| room.copy_from_slice(&text))
            .unwrap_or(self.end)
    }

    /// The length of the decoded text in bytes.
    pub(super) fn length(&self, block: &[u8]) -> Option<usize> {
        let bytes = block.get(self.begin..self.end)?;
        if self.coded {
            huffman::measure(bytes).map(|text| text.symbols)
        } else {
            Some(bytes.len())
        }
    }

    /// Replaces the text by letters of the same decoded length. Returns the new end. A text that is
    /// not valid in a field stays, so that `h2` refuses it.
    pub(super) fn overwrite(&self, block: &mut [u8]) -> usize {
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
            // The codes are longer than the plain text.
            Some(text) if text.is_printable => {
                write_plain(block, self.head, text.symbols).unwrap_or(self.end)
            }
            _ => self.end,
        }
    }
}

/// Writes a plain text of `length` letters at `at`, and returns its end.
fn write_plain(block: &mut [u8], at: usize, length: usize) -> Option<usize> {
    write(block, at, 0, length, |room| room.fill(b'a'))
}

/// Writes a string literal of `length` bytes at `at`, and returns its end. `coded` is the H bit
/// (RFC 7541, 5.2).
fn write(
    block: &mut [u8],
    at: usize,
    coded: u8,
    length: usize,
    text: impl FnOnce(&mut [u8]),
) -> Option<usize> {
    let mut offset = at;
    let mut put = |byte: usize| {
        *block.get_mut(offset)? = u8::try_from(byte).ok()?;
        offset += 1;
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
    let end = offset + length;
    text(block.get_mut(offset..end)?);
    Some(end)
}

/// Reads an integer with a prefix of this many bits (RFC 7541, 5.1), of at most five bytes, as `h2`
/// does.
pub(super) fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
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
