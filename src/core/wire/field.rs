//! A protobuf reader that scans a message in place: bounded, without allocation or copy, with exact
//! offsets.
//!
//! It accepts only the canonical encoding of each value
//! (<https://protobuf.dev/programming-guides/encoding/>), which every encoder writes. It refuses
//! encodings that only some decoders accept or that decoders read differently:
//! * a varint with more bytes than needed (gogo/protobuf, in etcd 3.4 to 3.6, truncates a field
//!   number from such a varint to 32 bits);
//! * groups;
//! * field number 0.

use std::ops::RangeInclusive;

use super::{Fault, Malformed};

/// The greatest field number of protobuf.
pub const MAX_FIELD_NUMBER: u32 = (1 << 29) - 1;

/// The bytes of a message or field value, and their position in the outermost message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'m> {
    /// The bytes.
    pub bytes: &'m [u8],
    /// Offset from the start of the outermost message in bytes.
    pub offset: usize,
}

impl<'m> Part<'m> {
    /// The outermost message.
    pub const fn whole(bytes: &'m [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Offset of the last field with one of these numbers, or of the message if it has none of
    /// them. The message must have been read before without a fault. This is a second scan, for
    /// error messages only.
    pub fn last_of(self, numbers: RangeInclusive<u32>) -> usize {
        let mut fields = Fields::of("", self);
        let mut last = self.offset;
        while let Ok(Some(field)) = fields.next() {
            if numbers.contains(&field.number) {
                last = field.offset;
            }
        }
        last
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'m> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1 or 5: eight or four bytes. No message of etcd uses them.
    Fixed(&'m [u8]),
    /// Wire type 2: bytes, a string, a message or packed numbers.
    Bytes(Part<'m>),
}

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'m> {
    /// 1 to [`MAX_FIELD_NUMBER`].
    pub number: u32,
    /// The value.
    pub value: Value<'m>,
    /// Offset of the tag from the start of the outermost message in bytes.
    pub offset: usize,
}

impl Field<'_> {
    /// A fault in this field. `name` is `MESSAGE.FIELD` or `MESSAGE`.
    pub const fn fault(&self, name: &'static str, fault: Fault) -> Malformed {
        Malformed { field: name, offset: self.offset, fault }
    }
}

/// Reads the fields of one message in order.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'m> {
    message: &'static str,
    rest: &'m [u8],
    end: usize,
}

impl<'m> Fields<'m> {
    /// Reads `part` as a message of the type `message`.
    pub const fn of(message: &'static str, part: Part<'m>) -> Self {
        Self { message, rest: part.bytes, end: part.offset.saturating_add(part.bytes.len()) }
    }

    /// Offset of the next field from the start of the outermost message in bytes.
    pub const fn offset(&self) -> usize {
        self.end.saturating_sub(self.rest.len())
    }

    /// The bytes that have not been read.
    pub const fn rest(&self) -> &'m [u8] {
        self.rest
    }

    /// Reads the next field; `None` at the end of the message.
    ///
    /// # Errors
    /// If the next bytes are not a field in its canonical encoding (see the module).
    #[inline(always)] // Measured: halves the time of a scan.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator of results would continue after an error"
    )]
    pub fn next(&mut self) -> Result<Option<Field<'m>>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let offset = self.offset();
        match field(self.rest, self.end) {
            Ok((number, value, rest)) => {
                self.rest = rest;
                Ok(Some(Field { number, value, offset }))
            }
            Err(fault) => Err(Malformed { field: self.message, offset, fault }),
        }
    }
}

/// Reads one field. `end` is the offset of the end of `bytes`.
#[inline(always)]
fn field(bytes: &[u8], end: usize) -> Result<(u32, Value<'_>, &[u8]), Fault> {
    let (tag, rest) = varint(bytes)?;
    let number = u32::try_from(tag >> 3).map_err(|_| Fault::FieldNumber)?;
    if number == 0 || number > MAX_FIELD_NUMBER {
        return Err(Fault::FieldNumber);
    }
    match tag & 7 {
        0 => varint(rest).map(|(value, rest)| (number, Value::Varint(value), rest)),
        2 => {
            let (length, rest) = varint(rest)?;
            let length = usize::try_from(length).map_err(|_| Fault::LengthBeyondMessage)?;
            let (bytes, tail) = rest.split_at_checked(length).ok_or(Fault::LengthBeyondMessage)?;
            let offset = end.saturating_sub(rest.len());
            Ok((number, Value::Bytes(Part { bytes, offset }), tail))
        }
        1 => fixed(number, rest, 8),
        5 => fixed(number, rest, 4),
        _ => Err(Fault::WireType),
    }
}

fn fixed(number: u32, bytes: &[u8], length: usize) -> Result<(u32, Value<'_>, &[u8]), Fault> {
    let (value, rest) = bytes.split_at_checked(length).ok_or(Fault::Truncated)?;
    Ok((number, Value::Fixed(value), rest))
}

/// Reads one varint. Returns its value and the remaining bytes.
///
/// # Errors
/// [`Fault::Truncated`] if the bytes end inside the varint. [`Fault::OverlongVarint`] if a shorter
/// encoding exists, or if the value exceeds 64 bits.
#[inline(always)]
pub fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), Fault> {
    match bytes.split_first() {
        Some((&byte, rest)) if byte < 0x80 => Ok((u64::from(byte), rest)),
        Some((&byte, rest)) => long_varint(u64::from(byte & 0x7f), rest),
        None => Err(Fault::Truncated),
    }
}

fn long_varint(first: u64, mut bytes: &[u8]) -> Result<(u64, &[u8]), Fault> {
    let mut value = first;
    for shift in (7..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Fault::Truncated)?;
        // The tenth byte may hold only the 64th bit.
        if shift == 63 && byte > 1 {
            return Err(Fault::OverlongVarint);
        }
        value |= u64::from(byte & 0x7f) << shift;
        match byte {
            0 => return Err(Fault::OverlongVarint),
            1..0x80 => return Ok((value, rest)),
            _ => bytes = rest,
        }
    }
    Err(Fault::OverlongVarint)
}

#[cfg(test)]
mod tests;
