//! The keys of a `LeaseTimeToLiveResponse`, one by one as the answer arrives: a lease may have a
//! million keys, and whether its user may touch them takes one look at each.
//!
//! It holds one key at most, and that only when the key comes in pieces.

use super::frame::HEADER;

/// What arrives is no whole answer about the lease that was asked for, in gRPC's framing and etcd's
/// encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer about a lease cannot be read: {0}")]
pub struct Unreadable(&'static str);

/// Numbers of `LeaseTimeToLiveResponse` (`rpc.proto`).
const ID: u64 = 2;
const KEYS: u64 = 5;

/// Reads one answer.
#[derive(Debug)]
pub struct LeaseKeys {
    /// The lease that was asked for.
    id: i64,
    /// Bytes of a key at most.
    longest: usize,
    at: At,
    /// Bytes of the message that have not come yet.
    left: usize,
    names_lease: bool,
    /// The first bytes of what is read at `at`.
    held: Vec<u8>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Frame,
    Tag(Varint),
    Number(u64, Varint),
    Length(u64, Varint),
    Skip(usize),
    Key(usize),
}

/// A varint of which some bytes have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Varint {
    value: u64,
    shift: u32,
}

impl LeaseKeys {
    /// For the answer about the lease `id`, whose keys have `longest` bytes at most.
    #[must_use]
    pub const fn of(id: i64, longest: usize) -> Self {
        Self { id, longest, at: At::Frame, left: 0, names_lease: false, held: Vec::new() }
    }

    /// Reads the next piece of the answer. Each key that is whole by then is shown to `see`.
    ///
    /// # Errors
    /// It is no such answer.
    pub fn push(&mut self, mut piece: &[u8], mut see: impl FnMut(&[u8])) -> Result<(), Unreadable> {
        loop {
            self.at = match self.at {
                At::Frame => {
                    let Some(length) = self.whole(&mut piece, HEADER, message_length) else {
                        return Ok(());
                    };
                    self.left = length?;
                    At::Tag(Varint::default())
                }
                At::Tag(_) if piece.is_empty() => return Ok(()),
                At::Tag(varint) => match self.varint(&mut piece, varint)? {
                    Err(begun) => At::Tag(begun),
                    Ok(tag) => self.field(tag)?,
                },
                At::Number(field, varint) => {
                    if piece.is_empty() {
                        return Ok(());
                    }
                    match self.varint(&mut piece, varint)? {
                        Err(begun) => At::Number(field, begun),
                        Ok(number) => {
                            if field == ID {
                                self.is_about(number)?;
                            }
                            At::Tag(Varint::default())
                        }
                    }
                }
                At::Length(field, varint) => {
                    if piece.is_empty() {
                        return Ok(());
                    }
                    match self.varint(&mut piece, varint)? {
                        Err(begun) => At::Length(field, begun),
                        Ok(length) => self.value(field, length)?,
                    }
                }
                At::Skip(bytes) => {
                    let skipped = bytes.min(piece.len());
                    piece = piece.get(skipped..).unwrap_or_default();
                    match bytes.saturating_sub(skipped) {
                        0 => At::Tag(Varint::default()),
                        more => {
                            self.at = At::Skip(more);
                            return Ok(());
                        }
                    }
                }
                At::Key(length) => {
                    let Some(()) = self.whole(&mut piece, length, &mut see) else { return Ok(()) };
                    At::Tag(Varint::default())
                }
            };
        }
    }

    /// The answer has ended.
    ///
    /// # Errors
    /// Not with its message, or it did not name the lease.
    pub fn finish(self) -> Result<(), Unreadable> {
        match self.at {
            At::Tag(Varint { shift: 0, .. }) if self.left == 0 && self.names_lease => Ok(()),
            At::Tag(_) if self.left == 0 => Err(Unreadable("it names no lease")),
            _ => Err(Unreadable("it is cut")),
        }
    }

    /// Bytes that are held until their key is whole.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.capacity()
    }

    /// Shows `bytes` bytes together to `look`, once all of them have come.
    fn whole<R>(
        &mut self,
        piece: &mut &[u8],
        bytes: usize,
        look: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        let Some((all, rest)) = piece.split_at_checked(bytes.saturating_sub(self.held.len()))
        else {
            if self.held.is_empty() {
                self.held.reserve_exact(bytes);
            }
            self.held.extend_from_slice(piece);
            *piece = &[];
            return None;
        };
        *piece = rest;
        // The usual case: nothing has to be copied.
        if self.held.is_empty() {
            return Some(look(all));
        }
        self.held.extend_from_slice(all);
        let looked = look(&self.held);
        self.held.clear();
        Some(looked)
    }

    /// Reads on at a varint: its value, or what has come of it.
    fn varint(
        &mut self,
        piece: &mut &[u8],
        mut varint: Varint,
    ) -> Result<Result<u64, Varint>, Unreadable> {
        while let Some((&byte, rest)) = piece.split_first() {
            *piece = rest;
            self.left = self.left.checked_sub(1).ok_or(Unreadable("more than one message"))?;
            let bits = u64::from(byte & 0x7f);
            let placed =
                bits.checked_shl(varint.shift).filter(|placed| placed >> varint.shift == bits);
            varint.value |= placed.ok_or(Unreadable("a number of more than 64 bits"))?;
            varint.shift = varint.shift.saturating_add(7);
            if byte & 0x80 == 0 {
                return Ok(Ok(varint.value));
            }
        }
        Ok(Err(varint))
    }

    fn field(&mut self, tag: u64) -> Result<At, Unreadable> {
        match (tag >> 3, tag & 7) {
            (0, _) => Err(Unreadable("field number 0")),
            (KEYS, 2) => Ok(At::Length(KEYS, Varint::default())),
            (KEYS, _) => Err(Unreadable("keys in another wire type")),
            (ID, wire_type) if wire_type != 0 => Err(Unreadable("an id in another wire type")),
            (field, 0) => Ok(At::Number(field, Varint::default())),
            (field, 2) => Ok(At::Length(field, Varint::default())),
            (_, 1) => self.take(8).map(At::Skip),
            (_, 5) => self.take(4).map(At::Skip),
            _ => Err(Unreadable("a group")),
        }
    }

    fn value(&mut self, field: u64, length: u64) -> Result<At, Unreadable> {
        let length = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        match field {
            KEYS if length > self.longest => Err(Unreadable("a key that no request could name")),
            KEYS => Ok(At::Key(length)),
            _ => Ok(At::Skip(length)),
        }
    }

    /// Takes the bytes of a value from the message.
    fn take(&mut self, bytes: usize) -> Result<usize, Unreadable> {
        self.left =
            self.left.checked_sub(bytes).ok_or(Unreadable("a length beyond the message"))?;
        Ok(bytes)
    }

    fn is_about(&mut self, id: u64) -> Result<(), Unreadable> {
        self.names_lease = id == self.id.cast_unsigned();
        if self.names_lease { Ok(()) } else { Err(Unreadable("it is about another lease")) }
    }
}

/// The length in gRPC's header of a message.
fn message_length(header: &[u8]) -> Result<usize, Unreadable> {
    match header.first_chunk::<HEADER>() {
        Some(&[0, a, b, c, d]) => {
            Ok(usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX))
        }
        _ => Err(Unreadable("it is compressed")),
    }
}

#[cfg(test)]
mod tests {
    use etcd_warden_proto::etcdserverpb::{LeaseTimeToLiveResponse, ResponseHeader};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::wire::frame;

    fn answer(id: i64, keys: &[Vec<u8>]) -> Vec<u8> {
        let header =
            Some(ResponseHeader { cluster_id: 1, member_id: u64::MAX, revision: -1, raft_term: 3 });
        let message =
            LeaseTimeToLiveResponse { header, id, ttl: 7, granted_ttl: 60, keys: keys.to_vec() };
        frame::encode(&message.encode_to_vec()).to_vec()
    }

    /// The keys of an answer that comes in pieces of these sizes, over and over.
    fn read(bytes: &[u8], id: i64, pieces: &[usize]) -> Result<Vec<Vec<u8>>, Unreadable> {
        let (mut scan, mut keys, mut rest) = (LeaseKeys::of(id, 100), Vec::new(), bytes);
        for size in pieces.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min((*size).max(1)));
            scan.push(piece, |key| keys.push(key.to_vec()))?;
            assert!(scan.held() <= 100, "one key at most: {}", scan.held());
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        scan.finish().map(|()| keys)
    }

    proptest! {
        #[test]
        fn every_key_is_seen_whatever_the_pieces(
            id in prop_oneof![any::<i64>().prop_filter("0 is not encoded", |id| *id != 0), Just(7)],
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..6),
            pieces in prop::collection::vec(1_usize..40, 1..6),
        ) {
            prop_assert_eq!(read(&answer(id, &keys), id, &pieces), Ok(keys));
        }

        /// What prost reads otherwise is not read at all.
        #[test]
        fn a_mutated_answer_is_read_as_prost_reads_it(
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..4),
            at in 5_usize..60,
            byte: u8,
            pieces in prop::collection::vec(1_usize..40, 1..4),
        ) {
            let mut bytes = answer(7, &keys);
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            if let Ok(seen) = read(&bytes, 7, &pieces) {
                let theirs = LeaseTimeToLiveResponse::decode(&bytes[5..]);
                // A header that cannot be read is skipped here.
                prop_assert!(theirs.is_err() || theirs.as_ref().is_ok_and(|theirs| theirs.keys == seen), "{seen:?} {theirs:?}");
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), pieces in prop::collection::vec(1_usize..9, 1..4)) {
            let _ = read(&[&[0, 0, 0, 0, 60][..], &bytes].concat(), 7, &pieces);
            let _ = read(&bytes, 7, &pieces);
        }
    }

    #[test]
    fn a_lease_that_is_gone_has_no_keys() {
        let gone = LeaseTimeToLiveResponse { id: 7, ttl: -1, ..LeaseTimeToLiveResponse::default() };
        assert_eq!(read(&frame::encode(&gone.encode_to_vec()), 7, &[99]), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_whole_answer_is_unreadable() {
        let whole = answer(7, &[b"/a".to_vec(), b"/b".to_vec()]);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut], 7, &[99]).is_err(), "cut at {cut}");
        }
        let twice = [&whole[..], &whole].concat();
        let longer = [&whole[..], &[0]].concat();
        let compressed = [&[1], &whole[1..]].concat();
        let long = answer(7, &[vec![b'k'; 101]]);
        for (what, bytes) in [
            ("two messages", twice),
            ("a byte more", longer),
            ("compressed", compressed),
            ("a long key", long),
        ] {
            assert!(read(&bytes, 7, &[99]).is_err(), "{what}");
        }
        assert!(read(&answer(8, &[]), 7, &[99]).is_err(), "another lease");
        assert!(read(&answer(0, &[]), 7, &[99]).is_err(), "no lease");
        for message in [
            &b"\x2a\x7f"[..],
            b"\x28\x01",
            b"\x00\x01",
            b"\x12\x01\x07",
            b"\x0b",
            b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        ] {
            assert!(read(&frame::encode(message), 7, &[99]).is_err(), "{message:?}");
        }
    }
}
