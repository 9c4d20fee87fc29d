//! The open streams of a connection, by the frames of both sides (RFC 9113, 5.1).

use std::collections::{BTreeMap, VecDeque};

/// Number of streams that we have reset and still remember, the most recent ones. They are
/// remembered while the client's side is open: frames that the client sent before it received the
/// reset are no error, but real errors among them must be detected.
const LINGERING: usize = 128;

/// The state of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// True if the peer has ended its side.
    pub peer_ended: bool,
    /// True if we have ended our side.
    we_ended: bool,
    /// True if we have reset the stream.
    pub is_reset: bool,
}

/// The streams of a connection.
#[derive(Debug, Default)]
pub struct Streams {
    open: BTreeMap<u32, Stream>,
    lingering: VecDeque<u32>,
    /// The number of streams in `open` that we have reset.
    reset: usize,
    /// The highest id that was opened.
    highest: u32,
    /// The last stream of our GOAWAY: streams above it are ignored.
    last: Option<u32>,
}

impl Streams {
    /// The number of open streams.
    pub fn open(&self) -> usize {
        self.open.len().saturating_sub(self.reset)
    }

    /// The state of a stream of which at least one side is open.
    pub fn get(&self, stream: u32) -> Option<Stream> {
        self.open.get(&stream).copied()
    }

    /// True if the stream was opened or skipped: its id is not above the highest id.
    pub const fn was_opened(&self, stream: u32) -> bool {
        stream <= self.highest
    }

    /// True if our GOAWAY has excluded the stream, so its frames are ignored.
    pub fn is_ignored(&self, stream: u32) -> bool {
        self.last.is_some_and(|last| stream > last)
    }

    /// Notes that a stream was opened.
    pub fn begin(&mut self, stream: u32) {
        self.highest = self.highest.max(stream);
        if !self.is_ignored(stream) {
            self.open.insert(stream, Stream::default());
        }
    }

    /// Notes that the peer has ended its side.
    pub fn peer_ended(&mut self, stream: u32) {
        if let Some(known) = self.open.get_mut(&stream) {
            known.peer_ended = true;
            if known.we_ended && !known.is_reset {
                self.remove(stream);
            }
        }
    }

    /// Notes that we have ended our side.
    pub fn we_ended(&mut self, stream: u32) {
        if let Some(known) = self.open.get_mut(&stream) {
            known.we_ended = true;
            if known.peer_ended {
                self.remove(stream);
            }
        }
    }

    /// Notes that the peer has reset the stream.
    pub fn peer_reset(&mut self, stream: u32) {
        match self.open.get_mut(&stream) {
            Some(known) if known.is_reset => known.peer_ended = true,
            _ => self.remove(stream),
        }
    }

    /// Notes that we have reset the stream. Frames that the peer sent before may still arrive.
    pub fn we_reset(&mut self, stream: u32) {
        let Some(known) = self.open.get_mut(&stream) else { return };
        if known.peer_ended {
            return self.remove(stream);
        }
        if !std::mem::replace(&mut known.is_reset, true) {
            self.reset += 1;
            self.lingering.push_back(stream);
        }
        if self.lingering.len() > LINGERING
            && let Some(oldest) = self.lingering.pop_front()
            && self.get(oldest).is_some_and(|stream| stream.is_reset)
        {
            self.remove(oldest);
        }
    }

    /// Notes a GOAWAY of ours: streams above `last` are ignored.
    pub fn we_go_away(&mut self, last: u32) {
        self.last = Some(last);
    }

    fn remove(&mut self, stream: u32) {
        if self.open.remove(&stream).is_some_and(|known| known.is_reset) {
            self.reset = self.reset.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_open_until_both_sides_ended_or_one_reset_it() {
        let mut streams = Streams::default();
        for stream in [1, 3, 5, 7, 9] {
            streams.begin(stream);
        }
        streams.peer_ended(1);
        streams.we_ended(3);
        assert_eq!(streams.open(), 5);
        streams.we_ended(1);
        streams.peer_ended(3);
        streams.peer_reset(5);
        streams.we_reset(7);
        assert_eq!(streams.open(), 1);
        assert!(
            streams.get(7).is_some_and(|stream| stream.is_reset),
            "frames sent before the reset may arrive"
        );
        streams.peer_ended(7);
        assert!(
            streams.get(7).is_some_and(|stream| stream.peer_ended),
            "and the end of the stream"
        );
        assert!(streams.get(5).is_none() && streams.was_opened(5) && !streams.was_opened(11));
    }

    #[test]
    fn remembers_a_bounded_number_of_reset_streams() {
        let mut streams = Streams::default();
        for stream in (1..20_000).step_by(2) {
            streams.begin(stream);
            streams.we_reset(stream);
        }
        assert_eq!(
            (streams.open(), streams.open.len(), streams.lingering.len()),
            (0, LINGERING, LINGERING)
        );
        streams.we_go_away(20_001);
        streams.begin(20_003);
        assert_eq!(streams.open(), 0, "it is ignored");
    }
}
