//! Finds the messages in the bytes of etcd's answer without holding them: only the head of each is
//! looked at.

use bytes::{Buf, Bytes, BytesMut};
use etcd_warden_core::wire::frame;
use smallvec::SmallVec;

/// What becomes of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Whether the client gets it.
    pub pass: bool,
    /// Messages, framed, that the client gets right after it.
    pub after: SmallVec<[Bytes; 1]>,
}

/// The state between two chunks.
#[derive(Default)]
pub struct Splitter {
    /// Bytes of the current message that are still to come, header included.
    left: usize,
    fate: Fate,
    /// The beginning of a message whose head is not there yet.
    partial: BytesMut,
}

impl Splitter {
    /// Whether a message of our own may be put in now.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.left == 0
    }

    /// Takes the next bytes of the answer and gives the pieces that go to the client, in order, to
    /// `out`. `decide` sees the flag of the message, the message so far (without its frame,
    /// perhaps cut) and its whole length, and says `None` while it needs more of it.
    ///
    /// # Errors
    /// Those of `decide`.
    pub fn feed<E>(
        &mut self,
        mut chunk: Bytes,
        mut decide: impl FnMut(u8, &[u8], usize) -> Result<Option<Fate>, E>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), E> {
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(&chunk);
            chunk = self.partial.split().freeze();
        }
        // Bytes at the front of `chunk` that go to the client in one piece.
        let mut run = 0_usize;
        while run < chunk.len() {
            if self.left == 0 {
                let Some((length, fate)) =
                    begin(chunk.get(run..).unwrap_or_default(), &mut decide)?
                else {
                    self.partial.extend_from_slice(&chunk.split_off(run));
                    break;
                };
                (self.left, self.fate) = (length, fate);
            }
            let step = self.left.min(chunk.len().saturating_sub(run));
            self.left = self.left.saturating_sub(step);
            if self.fate.pass {
                run = run.saturating_add(step);
            } else {
                flush(chunk.split_to(run), out);
                chunk.advance(step);
                run = 0;
            }
            if self.left == 0 && !self.fate.after.is_empty() {
                flush(chunk.split_to(run), out);
                run = 0;
                out.extend(self.fate.after.drain(..));
            }
        }
        flush(chunk, out);
        Ok(())
    }
}

/// The length of the message that begins here, with its frame, and what becomes of it.
fn begin<E>(
    bytes: &[u8],
    decide: &mut impl FnMut(u8, &[u8], usize) -> Result<Option<Fate>, E>,
) -> Result<Option<(usize, Fate)>, E> {
    let Some((&[flag, a, b, c, d], message)) = bytes.split_first_chunk::<{ frame::HEADER }>()
    else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let seen = message.get(..length).unwrap_or(message);
    Ok(decide(flag, seen, length)?.map(|fate| (length.saturating_add(frame::HEADER), fate)))
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

    /// Messages that begin with `x` are swallowed, those with `+` get a message behind them; a head
    /// has two bytes.
    fn decide(_flag: u8, seen: &[u8], length: usize) -> Result<Option<Fate>, ()> {
        if seen.len() < length.min(2) {
            return Ok(None);
        }
        let after = if seen.first() == Some(&b'+') {
            SmallVec::from_iter([Bytes::from(framed(b"after"))])
        } else {
            SmallVec::new()
        };
        Ok(Some(Fate { pass: seen.first() != Some(&b'x'), after }))
    }

    #[test]
    fn however_the_bytes_are_cut_the_client_gets_the_same_messages() {
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
    fn a_chunk_that_passes_whole_stays_one_piece() {
        let chunk: Vec<u8> = [b"one".as_slice(), b"two", b"three"]
            .iter()
            .flat_map(|message| framed(message))
            .collect();
        let mut out = Vec::new();
        Splitter::default().feed(Bytes::from(chunk.clone()), decide, &mut out).unwrap();
        assert_eq!(out, [Bytes::from(chunk)]);
    }
}
