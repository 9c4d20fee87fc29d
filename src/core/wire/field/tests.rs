use proptest::prelude::*;

use super::*;
use crate::wire::spell::{len, num, overlong, tag, varint as spelled, wire};

fn read(bytes: &[u8]) -> Result<Vec<Field<'_>>, Malformed> {
    let mut fields = Fields::of("M", Part { bytes, offset: 100 });
    std::iter::from_fn(|| fields.next().transpose()).collect()
}

fn fault(bytes: &[u8]) -> (usize, Fault) {
    let malformed = read(bytes).unwrap_err();
    (malformed.offset, malformed.fault)
}

#[test]
fn reads_fields_in_order_with_their_offsets() {
    let bytes =
        wire![num(1, 300), len(2, "abc"), tag(3, 5), *b"1234", tag(4, 1), *b"12345678", len(5, "")];
    let fields = read(&bytes).unwrap();
    let offsets: Vec<_> = fields.iter().map(|field| (field.number, field.offset)).collect();
    assert_eq!(offsets, [(1, 100), (2, 103), (3, 108), (4, 113), (5, 122)]);
    assert_eq!(fields[0].value, Value::Varint(300));
    assert_eq!(fields[1].value, Value::Bytes(Part { bytes: b"abc", offset: 105 }));
    assert_eq!(fields[2].value, Value::Fixed(b"1234"));
    assert_eq!(fields[4].value, Value::Bytes(Part { bytes: b"", offset: 124 }));
}

#[test]
fn last_of_gives_the_offset_of_the_last_listed_field() {
    let bytes = wire![num(1, 300), len(2, "abc"), num(1, 1), len(3, "")];
    let part = Part { bytes: &bytes, offset: 100 };
    for (numbers, offset) in [(1..=1, 108), (2..=2, 103), (1..=2, 108), (1..=9, 110), (4..=9, 100)]
    {
        assert_eq!(part.last_of(numbers.clone()), offset, "{numbers:?}");
    }
}

#[test]
fn each_invalid_field_has_its_fault_and_offset() {
    let good = num(1, 1);
    for (bytes, expected) in [
        (wire![tag(0, 0), [1]], Fault::FieldNumber),
        (wire![spelled(1 << 29 << 3), [1]], Fault::FieldNumber),
        // A decoder that truncates the number to 32 bits would read field 1.
        (wire![spelled(1 << 35 | 1 << 3), [1]], Fault::FieldNumber),
        (wire![overlong(8, 1), [1]], Fault::OverlongVarint),
        (wire![tag(1, 0), overlong(0, 1)], Fault::OverlongVarint),
        (wire![tag(1, 0), overlong(1, 9)], Fault::OverlongVarint),
        // More than 64 bits.
        (wire![tag(1, 0), [0xff; 9], [2]], Fault::OverlongVarint),
        (wire![tag(1, 0), [0xff; 10], [1]], Fault::OverlongVarint),
        (wire![tag(1, 2), overlong(1, 1), *b"a"], Fault::OverlongVarint),
        // Groups (3 and 4) and wire types that protobuf does not define.
        (wire![tag(1, 3)], Fault::WireType),
        (wire![tag(1, 4)], Fault::WireType),
        (wire![tag(1, 6)], Fault::WireType),
        (wire![tag(1, 7)], Fault::WireType),
        (wire![tag(1, 0)], Fault::Truncated),
        (wire![tag(1, 0), [0x80]], Fault::Truncated),
        (wire![[0x80]], Fault::Truncated),
        (wire![tag(1, 1), *b"1234567"], Fault::Truncated),
        (wire![tag(1, 5), *b"123"], Fault::Truncated),
        (wire![tag(1, 2)], Fault::Truncated),
        (wire![tag(1, 2), [4], *b"abc"], Fault::LengthBeyondMessage),
        (wire![tag(1, 2), spelled(u64::MAX), *b"abc"], Fault::LengthBeyondMessage),
    ] {
        assert_eq!(fault(&wire![good.clone(), bytes.clone()]), (102, expected), "{bytes:02x?}");
    }
}

#[test]
fn reads_the_greatest_field_number_and_varint() {
    let bytes = num(MAX_FIELD_NUMBER, -1);
    assert_eq!(
        read(&bytes).unwrap(),
        [Field { number: MAX_FIELD_NUMBER, value: Value::Varint(u64::MAX), offset: 100 }]
    );
}

proptest! {
    #[test]
    fn a_varint_has_one_encoding(value: u64, extra in 1_usize..9, rest: Vec<u8>) {
        let (bytes, longer) = (wire![spelled(value), rest.clone()], overlong(value, extra));
        prop_assert_eq!(varint(&bytes), Ok((value, &rest[..])));
        prop_assert_eq!(varint(&longer), Err(Fault::OverlongVarint));
    }

    #[test]
    fn encoding_the_fields_again_gives_the_same_bytes(bytes: Vec<u8>) {
        if let Ok(fields) = read(&bytes) {
            let encoded = fields.iter().map(|field| match field.value {
                Value::Varint(value) => num(field.number, value.cast_signed()),
                Value::Bytes(part) => len(field.number, part.bytes),
                Value::Fixed(fixed) => {
                    wire![tag(field.number, if fixed.len() == 4 { 5 } else { 1 }), fixed]
                }
            });
            prop_assert_eq!(encoded.collect::<Vec<_>>().concat(), bytes);
        }
    }
}
