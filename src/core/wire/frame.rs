//! gRPC's length-prefixed messages: one byte of flags, four bytes of length (big endian), the
//! message (gRPC's `PROTOCOL-HTTP2.md`).

use std::fmt;

use bytes::{Bytes, BytesMut};

/// Length of a frame header in bytes.
pub const HEADER: usize = 5;

/// A fault in the framing of a request. Its text may be sent to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// The message is compressed where only an uncompressed one is accepted.
    Compressed,
    /// The flag byte is neither 0 nor 1.
    BadFlag,
    /// The message is longer than the limit.
    TooLarge {
        /// Length in the frame header, in bytes.
        length: u32,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The body ends inside a message.
    Cut,
    /// More than one message where exactly one is allowed.
    Several,
    /// No message where exactly one is required.
    NoMessage,
}

impl fmt::Display for FrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameFault::Compressed => f.write_str("the message is compressed"),
            FrameFault::BadFlag => f.write_str("the flag byte of the message is neither 0 nor 1"),
            FrameFault::TooLarge { length, limit } => {
                write!(f, "the message of {length} bytes is larger than the limit of {limit}")
            }
            FrameFault::Cut => f.write_str("the request ends inside a message"),
            FrameFault::Several => f.write_str("the request has more than one message"),
            FrameFault::NoMessage => f.write_str("the request has no message"),
        }
    }
}

impl std::error::Error for FrameFault {}

/// The content of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'m> {
    /// The compressed flag. The header `grpc-encoding` names the algorithm.
    pub compressed: bool,
    /// The message as it was received, without its frame header.
    pub bytes: &'m [u8],
}

/// Returns the message of a unary request with this body.
///
/// # Errors
/// If the body is not exactly one complete message of at most `limit` bytes.
pub fn only(body: &[u8], limit: usize) -> Result<Message<'_>, FrameFault> {
    let Some((header, rest)) = body.split_first_chunk::<HEADER>() else {
        return Err(if body.is_empty() { FrameFault::NoMessage } else { FrameFault::Cut });
    };
    let Header { compressed, length } = Header::read(*header, limit)?;
    match rest.split_at_checked(length) {
        Some((bytes, [])) => Ok(Message { compressed, bytes }),
        Some(_) => Err(FrameFault::Several),
        None => Err(FrameFault::Cut),
    }
}

/// Like [`only`], but refuses a compressed message.
///
/// # Errors
/// As [`only`], and if the message is compressed.
pub fn single(body: &[u8], limit: usize) -> Result<&[u8], FrameFault> {
    match only(body, limit)? {
        Message { compressed: false, bytes } => Ok(bytes),
        Message { compressed: true, .. } => Err(FrameFault::Compressed),
    }
}

/// True if the compressed flag of the frame is set.
pub fn is_compressed(framed: &[u8]) -> bool {
    framed.first() == Some(&1)
}

/// Frames a message that is not compressed. The length field has 32 bits, so a frame cannot hold
/// 4 GiB or more. The gateway's own messages have a few MiB at most.
pub fn encode(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut out = BytesMut::with_capacity(message.len().saturating_add(HEADER));
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    out.freeze()
}

/// A decoded frame header.
struct Header {
    compressed: bool,
    length: usize,
}

impl Header {
    /// Decodes a header; the length must not exceed `limit`.
    fn read(header: [u8; HEADER], limit: usize) -> Result<Self, FrameFault> {
        let [flag, length @ ..] = header;
        if flag > 1 {
            return Err(FrameFault::BadFlag);
        }
        let length = u32::from_be_bytes(length);
        match usize::try_from(length) {
            Ok(bytes) if bytes <= limit => Ok(Self { compressed: flag == 1, length: bytes }),
            _ => Err(FrameFault::TooLarge { length, limit }),
        }
    }
}

/// Splits a stream into frames while its chunks arrive.
///
/// Holds the chunks that were pushed and not yet returned by [`Frames::next`].
#[derive(Debug)]
pub struct Frames {
    limit: usize,
    held: Held,
}

/// Bytes that were pushed and not yet returned. A frame within one chunk is split off without a
/// copy. A frame that spans chunks is copied into one buffer.
#[derive(Debug)]
enum Held {
    /// The unread rest of one chunk.
    Chunk(Bytes),
    /// The unread rest of several chunks.
    Joined(BytesMut),
}

impl Frames {
    /// A splitter for messages of at most `limit` bytes each.
    pub const fn new(limit: usize) -> Self {
        Self { limit, held: Held::Chunk(Bytes::new()) }
    }

    /// Adds the next chunk of the stream. To avoid a copy, first call [`Frames::next`] until it
    /// returns `None`. If bytes are still held, the chunk is appended to them by copying.
    pub fn push(&mut self, chunk: Bytes) {
        match &mut self.held {
            Held::Chunk(held) if held.is_empty() => *held = chunk,
            Held::Chunk(held) => {
                let mut joined = BytesMut::from(std::mem::take(held));
                joined.extend_from_slice(&chunk);
                self.held = Held::Joined(joined);
            }
            Held::Joined(held) if held.is_empty() => self.held = Held::Chunk(chunk),
            Held::Joined(held) => held.extend_from_slice(&chunk),
        }
    }

    /// Returns the next complete frame with its header, compressed or not; `None` if more bytes are
    /// needed.
    ///
    /// # Errors
    /// As soon as an invalid header is complete. Every later call returns the same error.
    #[expect(
        clippy::should_implement_trait,
        reason = "not an iterator: more frames may follow after `None`"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, FrameFault> {
        let Some((header, rest)) = self.held().split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let Header { length, .. } = Header::read(*header, self.limit)?;
        if rest.len() < length {
            return Ok(None);
        }
        let frame = length.saturating_add(HEADER);
        Ok(Some(match &mut self.held {
            Held::Chunk(held) => held.split_to(frame),
            Held::Joined(held) => held.split_to(frame).freeze(),
        }))
    }

    /// Number of bytes held.
    pub fn len(&self) -> usize {
        self.held().len()
    }

    /// True if no byte is held: the stream may end here.
    pub fn is_empty(&self) -> bool {
        self.held().is_empty()
    }

    fn held(&self) -> &[u8] {
        match &self.held {
            Held::Chunk(held) => held,
            Held::Joined(held) => held,
        }
    }
}

#[cfg(test)]
mod tests;
