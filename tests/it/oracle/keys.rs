//! The keys of all requests: few and close together, so that the edges of ranges meet.

use etcd_warden_core::keyspace::prefix_end;

use super::rng::Rng;

/// The lowest and the highest byte, the separator, and three adjacent letters.
pub const ALPHABET: [u8; 6] = [b'a', b'b', b'c', b'\0', 0xff, b'/'];

/// `key` and `range_end` as in etcd's messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub key: Vec<u8>,
    pub end: Vec<u8>,
}

/// A key of one to three bytes, each length equally likely.
pub fn key(rng: &mut Rng) -> Vec<u8> {
    let length = 1 + rng.below(3);
    (0..length).map(|_| rng.of(&ALPHABET)).collect()
}

/// A non-empty range, which can be granted.
pub fn granted(rng: &mut Rng) -> Range {
    let key = key(rng);
    match rng.below(12) {
        0..=2 => Range { key, end: Vec::new() },
        3..=5 => prefix(key),
        6 => Range { key, end: b"\0".to_vec() },
        7 if rng.once_in(3) => Range { key: b"\0".to_vec(), end: b"\0".to_vec() },
        _ => between(key, self::key(rng)),
    }
}

/// Any range that a request can hold: also an empty or reversed one, or one without a first key.
pub fn asked(rng: &mut Rng) -> Range {
    match rng.below(24) {
        0 => Range { key: Vec::new(), end: rng.of(&[&b""[..], b"\0", b"b"]).to_vec() },
        1 | 2 => Range { key: key(rng), end: key(rng) },
        3..=10 => Range { key: key(rng), end: Vec::new() },
        _ => granted(rng),
    }
}

/// Every key with this prefix.
pub fn prefix(key: Vec<u8>) -> Range {
    let end = prefix_end(&key).map_or_else(|| b"\0".to_vec(), Vec::from);
    Range { key, end }
}

/// The half-open interval of these two, or the single key if they are equal. An end of one zero
/// byte would have another meaning.
fn between(one: Vec<u8>, other: Vec<u8>) -> Range {
    let (key, end) = if one < other { (one, other) } else { (other, one) };
    if key == end || end == b"\0" { Range { key, end: Vec::new() } } else { Range { key, end } }
}
