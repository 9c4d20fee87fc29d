//! gRPC's framing: the frames do not depend on how the stream is cut, and equal those of a simple
//! second parser.

use bytes::Bytes;

use super::choices::Choices;
use crate::wire::frame::{FrameFault, Frames, HEADER, encode, single};

/// Input: the limit, whether frames are read after each chunk or at the end, four chunk lengths,
/// and the stream.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let limit = choices.below(80);
    let drain_at_end = choices.coin();
    let cuts = [(); 4].map(|()| choices.below(40) + 1);
    let stream = choices.rest();
    let read = read(stream, limit);

    assert_eq!(
        single(stream, limit),
        read.as_single(stream),
        "as the one message of a unary request"
    );
    let (frames, fault, empty) = streamed(stream, limit, &cuts, drain_at_end);
    let expected: Vec<Bytes> =
        read.messages.iter().map(|&(compressed, message)| framed(compressed, message)).collect();
    assert_eq!(frames, expected);
    assert_eq!(fault, read.fault);
    assert_eq!(empty, read.fault.is_none() && read.left == 0);
}

/// Frames a message.
fn framed(compressed: bool, message: &[u8]) -> Bytes {
    let mut framed = encode(message).to_vec();
    framed[0] = u8::from(compressed);
    framed.into()
}

/// A stream as the simple parser reads it.
struct Read<'s> {
    /// Each message with its compression flag.
    messages: Vec<(bool, &'s [u8])>,
    /// The fault at which parsing stops.
    fault: Option<FrameFault>,
    /// Number of bytes after the last complete message.
    left: usize,
}

fn read(mut stream: &[u8], limit: usize) -> Read<'_> {
    let (mut messages, mut fault) = (Vec::new(), None);
    while stream.len() >= HEADER && fault.is_none() {
        let length =
            stream[1..HEADER].iter().fold(0_u32, |length, &byte| length << 8 | u32::from(byte));
        let message = usize::try_from(length).unwrap();
        fault = match stream[0] {
            0 | 1 if message > limit => Some(FrameFault::TooLarge { length, limit }),
            0 | 1 => None,
            _ => Some(FrameFault::BadFlag),
        };
        if fault.is_none() {
            if stream.len() - HEADER < message {
                break;
            }
            messages.push((stream[0] == 1, &stream[HEADER..HEADER + message]));
            stream = &stream[HEADER + message..];
        }
    }
    Read { messages, fault, left: stream.len() }
}

impl<'s> Read<'s> {
    fn as_single(&self, stream: &[u8]) -> Result<&'s [u8], FrameFault> {
        match (&self.messages[..], self.fault) {
            ([], Some(fault)) => Err(fault),
            ([], None) if stream.is_empty() => Err(FrameFault::NoMessage),
            ([], None) => Err(FrameFault::Cut),
            ([(true, _)], None) if self.left == 0 => Err(FrameFault::Compressed),
            ([(false, message)], None) if self.left == 0 => Ok(message),
            _ => Err(FrameFault::Several),
        }
    }
}

/// Splits a stream that arrives in chunks of these lengths, repeated.
fn streamed(
    stream: &[u8],
    limit: usize,
    cuts: &[usize],
    drain_at_end: bool,
) -> (Vec<Bytes>, Option<FrameFault>, bool) {
    let (mut frames, mut seen, mut rest) =
        (Frames::new(limit), Vec::new(), Bytes::copy_from_slice(stream));
    let mut fault = None;
    for cut in cuts.iter().cycle() {
        if !drain_at_end || rest.is_empty() {
            fault = drain(&mut frames, &mut seen);
        }
        if rest.is_empty() {
            break;
        }
        frames.push(rest.split_to((*cut).min(rest.len())));
    }
    if let Some(fault) = fault {
        assert_eq!(frames.next(), Err(fault), "the fault is not repeated");
    }
    (seen, fault, frames.is_empty())
}

fn drain(frames: &mut Frames, seen: &mut Vec<Bytes>) -> Option<FrameFault> {
    loop {
        match frames.next() {
            Ok(Some(frame)) => seen.push(frame),
            Ok(None) => return None,
            Err(fault) => return Some(fault),
        }
    }
}
