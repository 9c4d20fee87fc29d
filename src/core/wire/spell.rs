//! Builds messages field by field, so that a test shows the exact bytes.

/// Concatenates encoded fields.
macro_rules! wire {
    ($($field:expr),* $(,)?) => { [$( Vec::<u8>::from($field) ),*].concat() };
}
pub(crate) use wire;

/// A varint in canonical form.
pub(crate) fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(value, &mut out);
    out
}

/// A varint with `extra` unneeded bytes.
pub(crate) fn overlong(value: u64, extra: usize) -> Vec<u8> {
    let mut out = varint(value);
    for _ in 0..extra {
        *out.last_mut().unwrap() |= 0x80;
        out.push(0);
    }
    out
}

/// A tag.
pub(crate) fn tag(number: u32, wire_type: u8) -> Vec<u8> {
    varint(u64::from(number) << 3 | u64::from(wire_type))
}

/// A varint field.
pub(crate) fn num(number: u32, value: i64) -> Vec<u8> {
    wire![tag(number, 0), varint(value.cast_unsigned())]
}

/// A length-delimited field: bytes, a string or a message.
pub(crate) fn len(number: u32, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    wire![tag(number, 2), varint(bytes.len() as u64), bytes]
}
