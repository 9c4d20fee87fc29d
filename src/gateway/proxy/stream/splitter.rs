//! Splits the bytes of etcd's response into messages without holding whole messages. It reads only
//! the beginning of each message.

use bytes::{Buf, Bytes, BytesMut};
use etcd_warden_core::wire::frame;
use smallvec::SmallVec;

/// How to relay a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Disposition {
    /// True if the message is passed on to the client.
    pub pass: bool,
    /// Framed messages to insert immediately after it.
    pub after: SmallVec<[Bytes; 1]>,
}

/// The position in the response between two chunks.
#[derive(Default)]
pub struct Splitter {
    /// Number of bytes of the current message that have not arrived, frame header included.
    left: usize,
    /// How to relay the current message.
    disposition: Disposition,
    /// The beginning of a message, until it is long enough for `decide`.
    partial: BytesMut,
}

impl Splitter {
    /// True between two messages: one of the proxy's own messages may be inserted now.
    pub fn at_boundary(&self) -> bool {
        self.left == 0
    }

    /// Takes the next bytes of the response, and appends the pieces for the client to `out`.
    /// `decide` gets the compressed flag of a message, its bytes that have arrived (without the
    /// frame header), and its whole length. It returns `None` if it needs more bytes.
    ///
    /// # Errors
    /// The error of `decide`.
    pub fn feed<E>(
        &mut self,
        mut chunk: Bytes,
        mut decide: impl FnMut(u8, &[u8], usize) -> Result<Option<Disposition>, E>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), E> {
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(&chunk);
            chunk = self.partial.split().freeze();
        }
        // Number of bytes at the front of `chunk` that are passed on as one piece.
        let mut run = 0_usize;
        while run < chunk.len() {
            if self.left == 0 {
                let Some((length, disposition)) =
                    begin(chunk.get(run..).unwrap_or_default(), &mut decide)?
                else {
                    self.partial.extend_from_slice(&chunk.split_off(run));
                    break;
                };
                (self.left, self.disposition) = (length, disposition);
            }
            let step = self.left.min(chunk.len().saturating_sub(run));
            self.left = self.left.saturating_sub(step);
            if self.disposition.pass {
                run = run.saturating_add(step);
            } else {
                flush(chunk.split_to(run), out);
                chunk.advance(step);
                run = 0;
            }
            if self.left == 0 && !self.disposition.after.is_empty() {
                flush(chunk.split_to(run), out);
                run = 0;
                out.extend(self.disposition.after.drain(..));
            }
        }
        flush(chunk, out);
        Ok(())
    }
}

/// The length of the message that begins here, frame header included, and its disposition.
fn begin<E>(
    bytes: &[u8],
    decide: &mut impl FnMut(u8, &[u8], usize) -> Result<Option<Disposition>, E>,
) -> Result<Option<(usize, Disposition)>, E> {
    let Some((&[flag, a, b, c, d], message)) = bytes.split_first_chunk::<{ frame::HEADER }>()
    else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let seen = message.get(..length).unwrap_or(message);
    Ok(decide(flag, seen, length)?
        .map(|disposition| (length.saturating_add(frame::HEADER), disposition)))
}

fn flush(run: Bytes, out: &mut Vec<Bytes>) {
    if !run.is_empty() {
        out.push(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        frame::encode(message).to_vec()
    }

    /// Drops messages that begin with `x`, and inserts one after each message that begins with `+`.
    /// Needs two bytes.
    fn decide(_flag: u8, seen: &[u8], length: usize) -> Result<Option<Disposition>, ()> {
        if seen.len() < length.min(2) {
            return Ok(None);
        }
        let after = if seen.first() == Some(&b'+') {
            SmallVec::from_iter([Bytes::from(framed(b"after"))])
        } else {
            SmallVec::new()
        };
        Ok(Some(Disposition { pass: seen.first() != Some(&b'x'), after }))
    }

    #[test]
    fn chunk_boundaries_do_not_change_the_messages() {
        let messages: [&[u8]; 7] = [b"one", b"xgone", b"", b"+with", b"xx", b"+", b"end"];
        let stream: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        let expected: Vec<u8> =
            [b"one".as_slice(), b"", b"+with", b"after", b"+", b"after", b"end"]
                .iter()
                .flat_map(|message| framed(message))
                .collect();
        for size in 1..=stream.len() {
            let mut splitter = Splitter::default();
            let mut out = Vec::new();
            for chunk in stream.chunks(size) {
                splitter.feed(Bytes::copy_from_slice(chunk), decide, &mut out).unwrap();
            }
            assert_eq!(out.concat(), expected, "chunks of {size}");
            assert!(splitter.at_boundary());
        }
    }

    #[test]
    fn passes_on_a_whole_chunk_as_one_piece() {
        let chunk: Vec<u8> = [b"one".as_slice(), b"two", b"three"]
            .iter()
            .flat_map(|message| framed(message))
            .collect();
        let mut out = Vec::new();
        Splitter::default().feed(Bytes::from(chunk.clone()), decide, &mut out).unwrap();
        assert_eq!(out, [Bytes::from(chunk)]);
    }
}
