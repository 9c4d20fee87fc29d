//! Reads the keys of a `LeaseTimeToLiveResponse` one by one while the response arrives. A lease may
//! have a million keys, and the decision looks at each key once.
//!
//! The reader holds at most one key, and only if the key arrives in pieces.

use super::frame::HEADER;

/// Why a response is not a complete `LeaseTimeToLiveResponse` about the requested lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseKeysError {
    /// The response ended early.
    #[error("the response about a lease is truncated")]
    Truncated,
    /// gRPC's framing or the encoding of the message is invalid.
    #[error("the response about a lease is malformed: {0}")]
    Malformed(&'static str),
    /// A key is longer than the limit, so that no request could name it.
    #[error("the response about a lease has a key longer than any request")]
    KeyTooLong,
    /// The response has another lease id, or none.
    #[error("the response is about another lease")]
    OtherLease,
}

/// Field numbers of `LeaseTimeToLiveResponse` (`rpc.proto`).
const ID: u64 = 2;
const KEYS: u64 = 5;

/// A streaming reader of one response.
#[derive(Debug)]
pub struct LeaseKeys {
    /// The requested lease.
    id: i64,
    /// Maximum length of a key in bytes.
    max_key_len: usize,
    state: State,
    /// Bytes of the message that have not arrived, including the value that `state` reads.
    left: usize,
    has_id: bool,
    /// The first bytes of the frame header or of a key that arrives in pieces.
    partial: Vec<u8>,
}

/// The element that the next bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    FrameHeader,
    Tag(Varint),
    Number(u64, Varint),
    Length(u64, Varint),
    Skip(usize),
    Key(usize),
}

/// A varint of which `shift / 7` bytes have arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Varint {
    value: u64,
    shift: u32,
}

/// The result of reading more bytes of a varint.
enum Progress {
    Complete(u64),
    Partial(Varint),
}

impl LeaseKeys {
    /// Reads the response about the lease `id`, whose keys may have at most `max_key_len` bytes.
    pub const fn new(id: i64, max_key_len: usize) -> Self {
        Self {
            id,
            max_key_len,
            state: State::FrameHeader,
            left: 0,
            has_id: false,
            partial: Vec::new(),
        }
    }

    /// Reads the next piece of the response. Calls `on_key` for each key that is complete.
    ///
    /// # Errors
    /// See [`LeaseKeysError`].
    pub fn push(
        &mut self,
        mut piece: &[u8],
        mut on_key: impl FnMut(&[u8]),
    ) -> Result<(), LeaseKeysError> {
        loop {
            self.state = match self.state {
                State::FrameHeader => {
                    let Some(length) = self.complete(&mut piece, HEADER, message_length) else {
                        return Ok(());
                    };
                    self.left = length?;
                    State::Tag(Varint::default())
                }
                State::Tag(_) | State::Number(..) | State::Length(..) if piece.is_empty() => {
                    return Ok(());
                }
                State::Tag(varint) => match self.varint(&mut piece, varint)? {
                    Progress::Partial(varint) => State::Tag(varint),
                    Progress::Complete(tag) => self.field(tag)?,
                },
                State::Number(field, varint) => match self.varint(&mut piece, varint)? {
                    Progress::Partial(varint) => State::Number(field, varint),
                    Progress::Complete(number) => {
                        if field == ID {
                            self.check_id(number)?;
                        }
                        State::Tag(Varint::default())
                    }
                },
                State::Length(field, varint) => match self.varint(&mut piece, varint)? {
                    Progress::Partial(varint) => State::Length(field, varint),
                    Progress::Complete(length) => self.value(field, length)?,
                },
                State::Skip(bytes) => {
                    let skipped = bytes.min(piece.len());
                    piece = piece.get(skipped..).unwrap_or_default();
                    match bytes.saturating_sub(skipped) {
                        0 => State::Tag(Varint::default()),
                        more => {
                            self.state = State::Skip(more);
                            return Ok(());
                        }
                    }
                }
                State::Key(length) => {
                    let Some(()) = self.complete(&mut piece, length, &mut on_key) else {
                        return Ok(());
                    };
                    State::Tag(Varint::default())
                }
            };
        }
    }

    /// Ends the response.
    ///
    /// # Errors
    /// If the message is incomplete or does not contain the id of the lease.
    pub fn finish(self) -> Result<(), LeaseKeysError> {
        match self.state {
            State::Tag(Varint { shift: 0, .. }) if self.left == 0 && self.has_id => Ok(()),
            State::Tag(Varint { shift: 0, .. }) if self.left == 0 => {
                Err(LeaseKeysError::OtherLease)
            }
            _ => Err(LeaseKeysError::Truncated),
        }
    }

    /// Bytes allocated for a key that is not complete.
    pub fn held(&self) -> usize {
        self.partial.capacity()
    }

    /// Passes the next `bytes` bytes to `read` once all of them have arrived.
    fn complete<R>(
        &mut self,
        piece: &mut &[u8],
        bytes: usize,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        let Some((all, rest)) = piece.split_at_checked(bytes.saturating_sub(self.partial.len()))
        else {
            if self.partial.is_empty() {
                self.partial.reserve_exact(bytes);
            }
            self.partial.extend_from_slice(piece);
            *piece = &[];
            return None;
        };
        *piece = rest;
        // The usual case needs no copy.
        if self.partial.is_empty() {
            return Some(read(all));
        }
        self.partial.extend_from_slice(all);
        let result = read(&self.partial);
        self.partial.clear();
        Some(result)
    }

    /// Continues a varint with the bytes of `piece`.
    fn varint(
        &mut self,
        piece: &mut &[u8],
        mut varint: Varint,
    ) -> Result<Progress, LeaseKeysError> {
        while let Some((&byte, rest)) = piece.split_first() {
            *piece = rest;
            self.left = self
                .left
                .checked_sub(1)
                .ok_or(LeaseKeysError::Malformed("more than one message"))?;
            let bits = u64::from(byte & 0x7f);
            let shifted =
                bits.checked_shl(varint.shift).filter(|shifted| shifted >> varint.shift == bits);
            varint.value |= shifted.ok_or(LeaseKeysError::Malformed("varint exceeds 64 bits"))?;
            varint.shift = varint.shift.saturating_add(7);
            if byte & 0x80 == 0 {
                return Ok(Progress::Complete(varint.value));
            }
        }
        Ok(Progress::Partial(varint))
    }

    fn field(&mut self, tag: u64) -> Result<State, LeaseKeysError> {
        match (tag >> 3, tag & 7) {
            (0, _) => Err(LeaseKeysError::Malformed("field number 0")),
            (KEYS, 2) => Ok(State::Length(KEYS, Varint::default())),
            (KEYS, _) => Err(LeaseKeysError::Malformed("wrong wire type of `keys`")),
            (ID, wire_type) if wire_type != 0 => {
                Err(LeaseKeysError::Malformed("wrong wire type of `ID`"))
            }
            (field, 0) => Ok(State::Number(field, Varint::default())),
            (field, 2) => Ok(State::Length(field, Varint::default())),
            (_, 1) => self.take(8).map(State::Skip),
            (_, 5) => self.take(4).map(State::Skip),
            _ => Err(LeaseKeysError::Malformed("group or unknown wire type")),
        }
    }

    fn value(&mut self, field: u64, length: u64) -> Result<State, LeaseKeysError> {
        let length = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        match field {
            KEYS if length > self.max_key_len => Err(LeaseKeysError::KeyTooLong),
            KEYS => Ok(State::Key(length)),
            _ => Ok(State::Skip(length)),
        }
    }

    /// Subtracts the bytes of a value from the rest of the message.
    fn take(&mut self, bytes: usize) -> Result<usize, LeaseKeysError> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or(LeaseKeysError::Malformed("length beyond the message"))?;
        Ok(bytes)
    }

    fn check_id(&mut self, id: u64) -> Result<(), LeaseKeysError> {
        self.has_id = id == self.id.cast_unsigned();
        if self.has_id { Ok(()) } else { Err(LeaseKeysError::OtherLease) }
    }
}

/// Reads the message length from gRPC's frame header.
fn message_length(header: &[u8]) -> Result<usize, LeaseKeysError> {
    match header.first_chunk::<HEADER>() {
        Some(&[0, a, b, c, d]) => {
            Ok(usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX))
        }
        _ => Err(LeaseKeysError::Malformed("compressed message")),
    }
}

#[cfg(test)]
mod tests {
    use etcd_warden_proto::etcdserverpb::{LeaseTimeToLiveResponse, ResponseHeader};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::wire::frame;

    fn response(id: i64, keys: &[Vec<u8>]) -> Vec<u8> {
        let header =
            Some(ResponseHeader { cluster_id: 1, member_id: u64::MAX, revision: -1, raft_term: 3 });
        let message =
            LeaseTimeToLiveResponse { header, id, ttl: 7, granted_ttl: 60, keys: keys.to_vec() };
        frame::encode(&message.encode_to_vec()).to_vec()
    }

    /// Reads the keys of a response that arrives in pieces of these sizes, repeated.
    fn read(bytes: &[u8], id: i64, pieces: &[usize]) -> Result<Vec<Vec<u8>>, LeaseKeysError> {
        let (mut scan, mut keys, mut rest) = (LeaseKeys::new(id, 100), Vec::new(), bytes);
        for size in pieces.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min((*size).max(1)));
            scan.push(piece, |key| keys.push(key.to_vec()))?;
            assert!(scan.held() <= 100, "holds more than one key: {}", scan.held());
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        scan.finish().map(|()| keys)
    }

    proptest! {
        #[test]
        fn every_key_is_read_however_the_response_is_cut(
            id in prop_oneof![any::<i64>().prop_filter("0 is not encoded", |id| *id != 0), Just(7)],
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..6),
            pieces in prop::collection::vec(1_usize..40, 1..6),
        ) {
            prop_assert_eq!(read(&response(id, &keys), id, &pieces), Ok(keys));
        }

        /// A response that prost reads differently is refused.
        #[test]
        fn a_mutated_response_is_refused_or_read_as_prost_does(
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..4),
            at in 5_usize..60,
            byte: u8,
            pieces in prop::collection::vec(1_usize..40, 1..4),
        ) {
            let mut bytes = response(7, &keys);
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            if let Ok(seen) = read(&bytes, 7, &pieces) {
                let theirs = LeaseTimeToLiveResponse::decode(&bytes[5..]);
                // A malformed `header` field is skipped here, but not by prost.
                let same = theirs.as_ref().is_ok_and(|theirs| theirs.keys == seen);
                prop_assert!(theirs.is_err() || same, "{seen:?} {theirs:?}");
            }
        }

        #[test]
        fn the_reader_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            pieces in prop::collection::vec(1_usize..9, 1..4),
        ) {
            let _ = read(&[&[0, 0, 0, 0, 60][..], &bytes].concat(), 7, &pieces);
            let _ = read(&bytes, 7, &pieces);
        }
    }

    #[test]
    fn a_lease_that_does_not_exist_has_no_keys() {
        let gone = LeaseTimeToLiveResponse { id: 7, ttl: -1, ..LeaseTimeToLiveResponse::default() };
        assert_eq!(read(&frame::encode(&gone.encode_to_vec()), 7, &[99]), Ok(Vec::new()));
    }

    #[test]
    fn refuses_a_response_that_is_not_one_complete_message() {
        let whole = response(7, &[b"/a".to_vec(), b"/b".to_vec()]);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut], 7, &[99]).is_err(), "cut at {cut}");
        }
        let twice = [&whole[..], &whole].concat();
        let longer = [&whole[..], &[0]].concat();
        let compressed = [&[1], &whole[1..]].concat();
        let long = response(7, &[vec![b'k'; 101]]);
        for (what, bytes) in [
            ("two messages", twice),
            ("a byte more", longer),
            ("compressed", compressed),
            ("a long key", long),
        ] {
            assert!(read(&bytes, 7, &[99]).is_err(), "{what}");
        }
        assert!(read(&response(8, &[]), 7, &[99]).is_err(), "another lease");
        assert!(read(&response(0, &[]), 7, &[99]).is_err(), "no lease");
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
