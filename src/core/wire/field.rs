//! A bounded protobuf cursor over a message in place: no allocation, no copy, exact offsets.
//!
//! It accepts one spelling of each thing (<https://protobuf.dev/programming-guides/encoding/>), the one that every encoder
//! writes. What is refused here is what decoders are known to read differently or to forgive: a
//! varint with more bytes than it needs (gogo/protobuf of etcd 3.4 to 3.6 cuts a field number from
//! one to 32 bits), groups, field number 0.

use std::ops::RangeInclusive;

use super::{Fault, Malformed};

/// The greatest field number that protobuf has.
pub const MAX_FIELD_NUMBER: u32 = (1 << 29) - 1;

/// The bytes of a message, and where they stand in the whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'m> {
    /// The message itself.
    pub bytes: &'m [u8],
    /// Bytes in front of it, from the start of the outermost message.
    pub offset: usize,
}

impl<'m> Part<'m> {
    /// An outermost message.
    #[must_use]
    pub const fn whole(bytes: &'m [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Where the last of these fields stands in a message that has been read already; its start if
    /// there is none. Only what is to be refused is read a second time.
    #[must_use]
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

/// What stands behind a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'m> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1 or 5: eight or four bytes. No message of etcd has one.
    Fixed(&'m [u8]),
    /// Wire type 2: bytes, text, a message or packed numbers.
    Bytes(Part<'m>),
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'m> {
    /// 1 to [`MAX_FIELD_NUMBER`].
    pub number: u32,
    /// Its value.
    pub value: Value<'m>,
    /// Where its tag stands, from the start of the outermost message.
    pub offset: usize,
}

impl Field<'_> {
    /// This field is at fault; `name` is `MESSAGE.FIELD` or `MESSAGE`.
    #[must_use]
    pub const fn fault(&self, name: &'static str, fault: Fault) -> Malformed {
        Malformed { field: name, offset: self.offset, fault }
    }
}

/// The fields of one message, in the order in which they stand.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'m> {
    message: &'static str,
    rest: &'m [u8],
    end: usize,
}

impl<'m> Fields<'m> {
    /// The fields of `part`, which is a message of the type `message`.
    #[must_use]
    pub const fn of(message: &'static str, part: Part<'m>) -> Self {
        Self { message, rest: part.bytes, end: part.offset.saturating_add(part.bytes.len()) }
    }

    /// Where the next field stands, from the start of the outermost message.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.end.saturating_sub(self.rest.len())
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'m [u8] {
        self.rest
    }

    /// The next field, or `None` at the end of the message.
    ///
    /// # Errors
    /// If what stands there is no field, or one that is not written the one way; see the module.
    #[inline(always)] // Measured: half of the time of a whole scan.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator of results would go on after an error"
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

/// Reads one field; `end` is the offset at which `bytes` end.
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

/// Reads one varint, and returns what stands behind it.
///
/// # Errors
/// [`Fault::Truncated`] if the bytes end inside it, [`Fault::OverlongVarint`] if fewer bytes would
/// have done or 64 bits do not hold it.
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
        // The tenth byte has room for the 64th bit alone.
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
