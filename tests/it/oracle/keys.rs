//! The keys that everything is about: few and close together, so that the edges of ranges meet.

use etcd_warden_core::keyspace::prefix_end;

use super::dice::Dice;

/// The lowest and the highest byte, the separator, and three neighbours.
pub const ALPHABET: [u8; 6] = [b'a', b'b', b'c', b'\0', 0xff, b'/'];

/// `key` and `range_end` as etcd's messages write them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub key: Vec<u8>,
    pub end: Vec<u8>,
}

/// One to three bytes, the short ones as likely as the long ones.
pub fn key(dice: &mut Dice) -> Vec<u8> {
    let length = 1 + dice.below(3);
    (0..length).map(|_| dice.of(&ALPHABET)).collect()
}

/// A range that holds something: what may be granted.
pub fn granted(dice: &mut Dice) -> Range {
    let key = key(dice);
    match dice.below(12) {
        0..=2 => Range { key, end: Vec::new() },
        3..=5 => prefix(key),
        6 => Range { key, end: b"\0".to_vec() },
        7 if dice.once_in(3) => Range { key: b"\0".to_vec(), end: b"\0".to_vec() },
        _ => between(key, self::key(dice)),
    }
}

/// Any range that can stand in a request: also empty ones, upside-down ones and those without a
/// first key.
pub fn asked(dice: &mut Dice) -> Range {
    match dice.below(24) {
        0 => Range { key: Vec::new(), end: dice.of(&[&b""[..], b"\0", b"b"]).to_vec() },
        1 | 2 => Range { key: key(dice), end: key(dice) },
        3..=10 => Range { key: key(dice), end: Vec::new() },
        _ => granted(dice),
    }
}

/// Every key that begins so.
pub fn prefix(key: Vec<u8>) -> Range {
    let end = prefix_end(&key).map_or_else(|| b"\0".to_vec(), Vec::from);
    Range { key, end }
}

/// The half-open interval of these two, or the single key when they are the same. An end of one
/// zero byte would mean something else.
fn between(one: Vec<u8>, other: Vec<u8>) -> Range {
    let (key, end) = if one < other { (one, other) } else { (other, one) };
    if key == end || end == b"\0" { Range { key, end: Vec::new() } } else { Range { key, end } }
}
