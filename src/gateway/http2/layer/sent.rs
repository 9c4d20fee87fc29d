//! The frames that are written to the peer: their headers, and the error codes in them.

use std::collections::BTreeMap;

use super::super::frame::{GOAWAY, HEADER, Head, RST_STREAM};

/// Error codes that report no error: NO_ERROR and CANCEL (RFC 9113, 7).
const HARMLESS: [u32; 2] = [0, 8];

/// The streams that `h2` has reset, and its reason to close the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// The number of streams that were reset, by error code.
    pub streams: BTreeMap<u32, u32>,
    /// The error code of the GOAWAY, if it was an error.
    pub connection: Option<u32>,
}

/// Reads frames as they are written, in pieces of any length.
#[derive(Debug)]
pub struct SentFrames {
    header: [u8; HEADER],
    /// The number of bytes in `header`.
    have: usize,
    head: Option<Head>,
    /// Bytes of the payload that were not written.
    rest: usize,
    /// The first bytes of the payload of a RST_STREAM or GOAWAY.
    payload: [u8; 8],
    seen: usize,
    gone_away: Option<u32>,
    rejected: Rejected,
}

impl SentFrames {
    /// Reads frames that begin after `preface` bytes.
    pub fn new(preface: usize) -> Self {
        Self {
            header: [0; HEADER],
            have: 0,
            head: None,
            rest: preface,
            payload: [0; 8],
            seen: 0,
            gone_away: None,
            rejected: Rejected::default(),
        }
    }

    /// Passes each frame header in `bytes`, which follow the previous ones, to `show`. Returns the
    /// number of streams that were reset with an error.
    pub fn pass(&mut self, mut bytes: &[u8], mut show: impl FnMut(&Head)) -> u32 {
        let mut errors = 0;
        loop {
            let (payload, behind) = bytes.split_at(self.rest.min(bytes.len()));
            (bytes, self.rest) = (behind, self.rest - payload.len());
            if let Some(head) = self.head {
                errors += u32::from(self.read_payload(head, payload));
            }
            if bytes.is_empty() {
                return errors;
            }
            let head = match Head::read(bytes).filter(|_| self.have == 0) {
                Some(head) => {
                    bytes = bytes.get(HEADER..).unwrap_or_default();
                    head
                }
                None => match self.read_header(&mut bytes) {
                    Some(head) => head,
                    None => return errors,
                },
            };
            show(&head);
            (self.rest, self.seen) = (head.length, 0);
            self.head = matches!(head.kind, RST_STREAM | GOAWAY).then_some(head);
        }
    }

    /// Returns the last stream id of a GOAWAY that was written since the last call.
    pub fn gone_away(&mut self) -> Option<u32> {
        self.gone_away.take()
    }

    /// Returns the rejections since the last call.
    pub fn rejected(&mut self) -> Option<Rejected> {
        let any = self.rejected.connection.is_some() || !self.rejected.streams.is_empty();
        any.then(|| std::mem::take(&mut self.rejected))
    }

    /// Reads a header that is written in pieces.
    fn read_header(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        while self.have < HEADER {
            let (byte, behind) = bytes.split_first()?;
            *self.header.get_mut(self.have)? = *byte;
            (*bytes, self.have) = (behind, self.have + 1);
        }
        self.have = 0;
        Head::read(&self.header)
    }

    /// Reads the payload of RST_STREAM and GOAWAY. Returns true if a stream was reset with an
    /// error.
    fn read_payload(&mut self, head: Head, payload: &[u8]) -> bool {
        for (target, byte) in self.payload.iter_mut().skip(self.seen).zip(payload) {
            *target = *byte;
            self.seen += 1;
        }
        if self.rest > 0 {
            return false;
        }
        self.head = None;
        let [a, b, c, d, e, f, g, h] = self.payload;
        let first = u32::from_be_bytes([a, b, c, d]);
        if head.kind == RST_STREAM {
            let is_error = !HARMLESS.contains(&first);
            if is_error {
                *self.rejected.streams.entry(first).or_default() += 1;
            }
            return is_error;
        }
        let code = u32::from_be_bytes([e, f, g, h]);
        self.gone_away = Some(first & 0x7fff_ffff);
        self.rejected.connection =
            Some(code).filter(|code| !HARMLESS.contains(code)).or(self.rejected.connection);
        false
    }
}
