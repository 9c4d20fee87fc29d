//! Protobuf-aware mutations. They split a message into fields, at any depth, change some of them,
//! and reassemble the message in ways that no encoder would.

use proptest::prelude::*;

use crate::wire::field::{Fields, Part, Value};
use crate::wire::spell::{overlong, tag, varint, wire};

/// A change of one field. The last two change the bytes of the whole message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// The field again, directly after it or at the end.
    Repeat { at_end: bool },
    /// The field again under another number, perhaps another member of its oneof.
    Twin(u32),
    /// The field is removed.
    Drop,
    /// The field is swapped with the next one.
    Swap,
    /// A field of the other message is inserted before it.
    Splice,
    /// Another field number.
    Renumber(u32),
    /// Another value of the same wire type.
    Revalue(u64),
    /// Another wire type under the same number.
    Retype(u8),
    /// An overlong varint in the tag or in the length or value.
    Overlong { extra: usize, tag: bool },
    /// An unknown field, a group or an invalid field number is inserted after it.
    Insert(u8),
    /// A wrong length.
    WrongLength(i8),
    /// An explicit default value.
    Empty,
    /// One bit of the message is flipped.
    Flip,
    /// The message is truncated.
    Cut,
}

/// Changes, each with a number that selects the field.
pub(super) fn mutations() -> impl Strategy<Value = Vec<(Change, u64)>> {
    let change = prop_oneof![
        2 => any::<bool>().prop_map(|at_end| Change::Repeat { at_end }),
        3 => prop_oneof![1_u32..9, Just(64)].prop_map(Change::Twin),
        1 => Just(Change::Drop),
        2 => Just(Change::Swap),
        2 => Just(Change::Splice),
        2 => prop_oneof![1_u32..9, Just(64), Just(0), any::<u32>()].prop_map(Change::Renumber),
        4 => prop_oneof![0_u64..6, any::<u64>(), Just(1 << 32), Just(u64::MAX)]
            .prop_map(Change::Revalue),
        1 => (0_u8..8).prop_map(Change::Retype),
        2 => (1_usize..10, any::<bool>()).prop_map(|(extra, tag)| Change::Overlong { extra, tag }),
        2 => any::<u8>().prop_map(Change::Insert),
        1 => any::<i8>().prop_map(Change::WrongLength),
        1 => Just(Change::Empty),
        1 => Just(Change::Flip),
        1 => Just(Change::Cut),
    ];
    prop::collection::vec((change, any::<u64>()), 1..4)
}

pub(super) fn apply(bytes: &[u8], other: &[u8], mutations: &[(Change, u64)]) -> Vec<u8> {
    mutations
        .iter()
        .fold(bytes.to_vec(), |bytes, &(change, choice)| mutate(&bytes, other, change, choice))
}

/// Splits a message into its top-level fields; `None` if it is malformed.
fn fields(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut fields = Fields::of("", Part::whole(bytes));
    let mut out = Vec::new();
    let mut from = 0;
    while fields.next().ok()?.is_some() {
        out.push(bytes[from..fields.offset()].to_vec());
        from = fields.offset();
    }
    Some(out)
}

fn mutate(bytes: &[u8], other: &[u8], change: Change, choice: u64) -> Vec<u8> {
    let index_below =
        |length: usize| usize::try_from(choice % u64::try_from(length.max(1)).unwrap()).unwrap();
    match change {
        Change::Flip if !bytes.is_empty() => {
            let mut out = bytes.to_vec();
            out[index_below(bytes.len())] ^= 1 << (choice >> 32 & 7);
            return out;
        }
        Change::Cut => return bytes[..index_below(bytes.len() + 1)].to_vec(),
        _ => {}
    }
    let Some(mut all) = fields(bytes).filter(|all| !all.is_empty()) else { return bytes.to_vec() };
    let at = index_below(all.len());

    // Half of the time, mutate one level deeper if possible.
    if choice >> 40 & 1 == 1 {
        let mut inner = Fields::of("", Part::whole(&all[at]));
        if let Ok(Some(field)) = inner.next()
            && let Value::Bytes(part) = field.value
            && fields(part.bytes).is_some_and(|inner| !inner.is_empty())
        {
            let inner = mutate(part.bytes, other, change, choice.rotate_right(7));
            all[at] = wire![tag(field.number, 2), varint(inner.len() as u64), inner];
            return all.concat();
        }
    }

    match change {
        Change::Repeat { at_end: true } => all.push(all[at].clone()),
        Change::Repeat { at_end: false } => all.insert(at, all[at].clone()),
        Change::Twin(number) => {
            let twin = reencode(&all[at], Change::Renumber(number));
            all.insert(at + usize::from(choice >> 41 & 1 == 1), twin);
        }
        Change::Drop => drop(all.remove(at)),
        Change::Swap => {
            let next = (at + 1) % all.len();
            all.swap(at, next);
        }
        Change::Splice => {
            let theirs = fields(other).unwrap_or_default();
            if let Some(field) = theirs.get(index_below(theirs.len())) {
                all.insert(at, field.clone());
            }
        }
        Change::Insert(kind) => all.insert(at, unknown_field(kind)),
        _ => all[at] = reencode(&all[at], change),
    }
    all.concat()
}

/// Encodes the field differently.
fn reencode(field: &[u8], change: Change) -> Vec<u8> {
    let mut inner = Fields::of("", Part::whole(field));
    let Ok(Some(read)) = inner.next() else { return field.to_vec() };
    let (number, wire_type, plain, body) = match read.value {
        Value::Varint(value) => (read.number, 0, value, Vec::new()),
        Value::Bytes(part) => (read.number, 2, part.bytes.len() as u64, part.bytes.to_vec()),
        Value::Fixed(fixed) => return wire![tag(read.number, 0), fixed],
    };
    let first = u64::from(number) << 3 | wire_type;
    match change {
        Change::Renumber(number) => {
            wire![varint(u64::from(number) << 3 | wire_type), varint(plain), body]
        }
        Change::Revalue(value) if wire_type == 0 => wire![varint(first), varint(value)],
        Change::Revalue(value) => {
            wire![
                varint(first),
                varint(plain),
                body.iter().map(|byte| byte ^ value.to_le_bytes()[0] & 1).collect::<Vec<u8>>()
            ]
        }
        Change::Retype(wire_type) => wire![tag(number, wire_type), varint(plain), body],
        Change::Overlong { extra, tag: true } => wire![overlong(first, extra), varint(plain), body],
        Change::Overlong { extra, tag: false } => {
            wire![varint(first), overlong(plain, extra), body]
        }
        Change::WrongLength(by) => {
            wire![varint(first), varint(plain.wrapping_add_signed(i64::from(by))), body]
        }
        Change::Empty => wire![varint(first), varint(0)],
        _ => field.to_vec(),
    }
}

/// A field that no message of etcd has.
fn unknown_field(kind: u8) -> Vec<u8> {
    match kind % 8 {
        0 => wire![tag(15, 0), varint(1)],
        1 => wire![tag(15, 2), varint(1), [7_u8]],
        2 => wire![tag(1, 3), tag(1, 4)],
        3 => wire![tag(15, 1), [0_u8; 8]],
        4 => wire![tag(15, 5), [0_u8; 4]],
        5 => wire![varint(0), varint(1)],
        // Field 1 for a decoder that truncates field numbers to 32 bits.
        6 => wire![varint((1 << 35) | (1 << 3)), varint(1)],
        _ => wire![varint(u64::from(u32::MAX) << 3 | 2), varint(0)],
    }
}
