//! What is written to the peer: its frame headers, and the error codes in it.

use std::collections::BTreeMap;

use super::super::frame::{GOAWAY, HEADER, Head, RST_STREAM};

/// Codes that say that nothing was wrong: `NO_ERROR` and `CANCEL` (RFC 9113, 7).
const HARMLESS: [u32; 2] = [0, 8];

/// What HTTP/2 has refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Streams that were reset, by the error code.
    pub streams: BTreeMap<u32, u32>,
    /// The connection was ended with this error code.
    pub connection: Option<u32>,
}

/// Frames as they are written, in pieces of any length.
#[derive(Debug)]
pub struct Outgoing {
    header: [u8; HEADER],
    /// Bytes of `header` that are there.
    have: usize,
    head: Option<Head>,
    /// Bytes that are left of the payload.
    rest: usize,
    /// The first bytes of a payload that is looked at.
    payload: [u8; 8],
    seen: usize,
    gone_away: Option<u32>,
    rejected: Rejected,
}

impl Outgoing {
    /// What begins after so many bytes.
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

    /// Shows each header in `bytes`, which follow what was passed before. Gives the number of
    /// streams that were reset with an error.
    pub fn pass(&mut self, mut bytes: &[u8], mut show: impl FnMut(&Head)) -> u32 {
        let mut errors = 0;
        loop {
            let (payload, behind) = bytes.split_at(self.rest.min(bytes.len()));
            (bytes, self.rest) = (behind, self.rest - payload.len());
            if let Some(head) = self.head {
                errors += u32::from(self.look(head, payload));
            }
            if bytes.is_empty() {
                return errors;
            }
            let head = match Head::read(bytes).filter(|_| self.have == 0) {
                Some(head) => {
                    bytes = bytes.get(HEADER..).unwrap_or_default();
                    head
                }
                None => match self.piece(&mut bytes) {
                    Some(head) => head,
                    None => return errors,
                },
            };
            show(&head);
            (self.rest, self.seen) = (head.length, 0);
            self.head = matches!(head.kind, RST_STREAM | GOAWAY).then_some(head);
        }
    }

    /// The last stream of a GOAWAY that was written since this was last asked.
    pub fn gone_away(&mut self) -> Option<u32> {
        self.gone_away.take()
    }

    /// What was refused since this was last asked.
    pub fn rejected(&mut self) -> Option<Rejected> {
        let any = self.rejected.connection.is_some() || !self.rejected.streams.is_empty();
        any.then(|| std::mem::take(&mut self.rejected))
    }

    /// A header that comes in pieces.
    fn piece(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        while self.have < HEADER {
            let (byte, behind) = bytes.split_first()?;
            *self.header.get_mut(self.have)? = *byte;
            (*bytes, self.have) = (behind, self.have + 1);
        }
        self.have = 0;
        Head::read(&self.header)
    }

    /// The payload of RST_STREAM and GOAWAY. True: the stream was reset with an error.
    fn look(&mut self, head: Head, payload: &[u8]) -> bool {
        for (place, byte) in self.payload.iter_mut().skip(self.seen).zip(payload) {
            *place = *byte;
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
