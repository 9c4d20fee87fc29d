//! gRPC's length-prefixed messages: one byte of flags, four bytes of length (big endian), the
//! message (gRPC's `PROTOCOL-HTTP2.md`).

use std::fmt;

use bytes::{Bytes, BytesMut};

/// Bytes in front of each message.
pub const HEADER: usize = 5;

/// What can be wrong with the framing of a request. The sentences may be shown to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// The message is compressed where only plain ones can be read.
    Compressed,
    /// A flag that gRPC does not have.
    BadFlag,
    /// The message is longer than the limit.
    TooLarge {
        /// What its header says, in bytes.
        length: u32,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The body ends inside a message.
    Cut,
    /// More than one message where there is one.
    Several,
    /// No message where there is one.
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

/// A message as it stands in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'m> {
    /// Whether its flag says that its sender compressed it, in the way that `grpc-encoding` names.
    pub compressed: bool,
    /// What stands in the frame.
    pub bytes: &'m [u8],
}

/// The one message of a unary request whose whole body is `body`.
///
/// # Errors
/// If there is not exactly one whole message of at most `limit` bytes.
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

/// As [`only`], of a message that must not be compressed.
///
/// # Errors
/// As [`only`], and if it is compressed.
pub fn single(body: &[u8], limit: usize) -> Result<&[u8], FrameFault> {
    match only(body, limit)? {
        Message { compressed: false, bytes } => Ok(bytes),
        Message { compressed: true, .. } => Err(FrameFault::Compressed),
    }
}

/// Whether a frame says that its message is compressed.
#[must_use]
pub fn is_compressed(framed: &[u8]) -> bool {
    framed.first() == Some(&1)
}

/// A message with its header in front. gRPC has no messages of 4 GiB or more; those that the proxy
/// makes are a few MiB at most.
#[must_use]
pub fn encode(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut out = BytesMut::with_capacity(message.len().saturating_add(HEADER));
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    out.freeze()
}

/// What stands in front of a message.
struct Header {
    compressed: bool,
    length: usize,
}

impl Header {
    /// Reads it; the length is at most `limit`.
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

/// The messages of a stream, whole and one by one, as its chunks come in.
///
/// It holds at most one message that is not whole, and what its user pushed and has not yet asked
/// for.
#[derive(Debug)]
pub struct Frames {
    limit: usize,
    held: Held,
}

/// Bytes that wait. A frame in one chunk is split off without a copy; only what spans chunks is
/// joined.
#[derive(Debug)]
enum Held {
    Chunk(Bytes),
    Joined(BytesMut),
}

impl Frames {
    /// For messages of at most `limit` bytes each.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, held: Held::Chunk(Bytes::new()) }
    }

    /// Takes the next chunk of the stream. Ask for all frames before pushing again, or the chunks
    /// are joined by copying.
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

    /// The next whole message, with its header in front, compressed or not; `None` when more must
    /// come.
    ///
    /// # Errors
    /// As soon as a header is there that is refused; from then on always the same.
    #[expect(clippy::should_implement_trait, reason = "it goes on after `None`")]
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

    /// Bytes that are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held().len()
    }

    /// Whether nothing is held: the stream may end here.
    #[must_use]
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
