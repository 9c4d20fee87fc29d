//! The frames of one header block: HEADERS, and CONTINUATION if it does not fit into one frame.

use super::super::frame::{
    CONTINUATION, END_HEADERS, HEADER, Head, MAX_PAYLOAD, PADDED, WITH_PRIORITY,
};
use super::super::hpack::{Block, Table};

/// The largest block that is read here, in frames and in bytes.
const FRAMES: usize = 64;
const BYTES: usize = 2 * MAX_PAYLOAD;

/// The frames of a whole block.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    /// Their bytes, headers included.
    pub length: usize,
    head: Head,
}

/// Finds the frames of the block at the front of `tail`, whose first frame header is `head`.
/// `Ok(None)` if they are not a header block, or if it is too long.
///
/// # Errors
/// The number of bytes that must have arrived first.
pub fn frames(head: Head, tail: &[u8]) -> Result<Option<Frames>, usize> {
    let mut length = HEADER + head.length;
    let mut last = head;
    for _ in 0..FRAMES {
        if last.length > MAX_PAYLOAD || length > BYTES {
            return Ok(None);
        }
        if last.has(END_HEADERS) {
            return if length <= tail.len() {
                Ok(Some(Frames { length, head }))
            } else {
                Err(length)
            };
        }
        last = tail.get(length..).and_then(Head::read).ok_or(length + HEADER)?;
        if last.kind != CONTINUATION || last.stream != head.stream {
            return Ok(None);
        }
        length += HEADER + last.length;
    }
    Ok(None)
}

impl Frames {
    /// The header of each frame.
    pub fn heads(self, bytes: &[u8]) -> impl Iterator<Item = Head> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let head = bytes.get(at..self.length).and_then(Head::read)?;
            at += HEADER + head.length;
            Some(head)
        })
    }

    /// Reads the block and normalises it in place. The result has the new length of the frames.
    pub fn read(self, table: &mut Table, bytes: &mut [u8]) -> Block {
        let untouched = Block { length: self.length, has_pseudo: false, is_malformed: false };
        let Some(bytes) = bytes.get_mut(..self.length) else { return untouched };
        let Some((begin, padding)) = self.bounds(bytes) else {
            table.lose();
            return untouched;
        };
        if self.head.has(END_HEADERS) {
            let end = self.length - padding;
            let block =
                bytes.get_mut(begin..end).map(|block| table.read(block)).unwrap_or(untouched);
            let gone = (end - begin).saturating_sub(block.length);
            if gone > 0 {
                bytes.copy_within(end.., end - gone);
                Head { length: self.head.length - gone, ..self.head }.write(bytes);
            }
            return Block { length: self.length - gone, ..block };
        }
        self.read_pieces(table, bytes, begin, padding)
    }

    /// Normalises a block in several frames. If possible, they become one frame. One reason is that
    /// `h2` forgets that a block is malformed if a frame ends within a field (`HeaderBlock::load`
    /// in its `frame/headers.rs`); the other is that `h2` limits the number of frames. A block that
    /// does not fit into one frame keeps its frame boundaries.
    fn read_pieces(
        self,
        table: &mut Table,
        bytes: &mut [u8],
        begin: usize,
        padding: usize,
    ) -> Block {
        let mut pieces = [(0, 0); FRAMES];
        let (mut at, mut whole) = (0, Vec::with_capacity(self.length));
        for (piece, head) in pieces.iter_mut().zip(self.heads(bytes)) {
            *piece = if at == 0 {
                (begin, HEADER + head.length - padding)
            } else {
                (at + HEADER, at + HEADER + head.length)
            };
            whole.extend_from_slice(bytes.get(piece.0..piece.1).unwrap_or_default());
            at += HEADER + head.length;
        }
        let block = table.read(&mut whole);
        let priority = if self.head.has(WITH_PRIORITY) { 5 } else { 0 };
        if priority + block.length <= MAX_PAYLOAD {
            // Shorter than before: only one frame header is left.
            bytes.copy_within(begin - priority..begin, HEADER);
            let read = whole.get(..block.length).unwrap_or_default();
            if let Some(to) = bytes.get_mut(HEADER + priority..HEADER + priority + read.len()) {
                to.copy_from_slice(read);
            }
            let flags = self.head.flags & !PADDED | END_HEADERS;
            Head { length: priority + block.length, flags, ..self.head }.write(bytes);
            return Block { length: HEADER + priority + block.length, ..block };
        }
        let mut rest = whole.get(..block.length).unwrap_or_default();
        let (mut at, mut to) = (0, 0);
        for (begin, end) in pieces.into_iter().filter(|piece| *piece != (0, 0)) {
            let (now, later) = rest.split_at(rest.len().min(end - begin));
            rest = later;
            let Some(head) = bytes.get(at..).and_then(Head::read) else { break };
            let next = at + HEADER + head.length;
            if let Some(piece) = bytes.get_mut(begin..begin + now.len()) {
                piece.copy_from_slice(now);
            }
            let gone = (end - begin) - now.len();
            // Only the first frame has padding, and only the last can be short: the others are
            // full.
            bytes.copy_within(end..next, end - gone);
            if let Some(header) = bytes.get_mut(at..) {
                Head { length: head.length - gone, ..head }.write(header);
            }
            bytes.copy_within(at..next - gone, to);
            (at, to) = (next, to + (next - gone - at));
        }
        Block { length: to, ..block }
    }

    /// Where the block begins in its first frame, and the number of padding bytes at the end of it.
    fn bounds(self, bytes: &[u8]) -> Option<(usize, usize)> {
        let padding = if self.head.has(PADDED) { usize::from(*bytes.get(HEADER)?) } else { 0 };
        let begin = HEADER
            + usize::from(self.head.has(PADDED))
            + if self.head.has(WITH_PRIORITY) { 5 } else { 0 };
        (begin + padding <= HEADER + self.head.length).then_some((begin, padding))
    }
}
