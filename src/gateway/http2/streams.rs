//! Which streams of a connection are open, as both sides' frames say (RFC 9113, 5.1).

use std::collections::{BTreeMap, VecDeque};

/// Streams that we reset while the client's side was open, the latest of which are remembered: what
/// it sent meanwhile is not in error, and what is in error is seen.
const LINGERING: usize = 128;

/// What is known of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The peer has ended its side.
    pub peer_ended: bool,
    /// We have ended ours.
    we_ended: bool,
    /// We have reset it.
    pub is_reset: bool,
}

/// The streams of a connection.
#[derive(Debug, Default)]
pub struct Streams {
    open: BTreeMap<u32, Stream>,
    lingering: VecDeque<u32>,
    /// How many of `open` were reset by us.
    reset: usize,
    /// The highest that was opened.
    highest: u32,
    /// Those above were given up with a GOAWAY of ours.
    last: Option<u32>,
}

impl Streams {
    /// How many are open, so that something may be sent or come.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len().saturating_sub(self.reset)
    }

    /// A stream, if one of its sides is open.
    #[must_use]
    pub fn get(&self, stream: u32) -> Option<Stream> {
        self.open.get(&stream).copied()
    }

    /// Whether there was such a stream, or could have been: it is not above the highest.
    #[must_use]
    pub const fn was_opened(&self, stream: u32) -> bool {
        stream <= self.highest
    }

    /// Whether what comes on it is of no interest, because we have said so in a GOAWAY.
    #[must_use]
    pub fn is_given_up(&self, stream: u32) -> bool {
        self.last.is_some_and(|last| stream > last)
    }

    /// A stream begins.
    pub fn begin(&mut self, stream: u32) {
        self.highest = self.highest.max(stream);
        if !self.is_given_up(stream) {
            self.open.insert(stream, Stream::default());
        }
    }

    /// The peer has sent its last.
    pub fn peer_ended(&mut self, stream: u32) {
        if let Some(known) = self.open.get_mut(&stream) {
            known.peer_ended = true;
            if known.we_ended && !known.is_reset {
                self.remove(stream);
            }
        }
    }

    /// We have sent our last.
    pub fn we_ended(&mut self, stream: u32) {
        if let Some(known) = self.open.get_mut(&stream) {
            known.we_ended = true;
            if known.peer_ended {
                self.remove(stream);
            }
        }
    }

    /// The peer has reset it.
    pub fn peer_reset(&mut self, stream: u32) {
        match self.open.get_mut(&stream) {
            Some(known) if known.is_reset => known.peer_ended = true,
            _ => self.remove(stream),
        }
    }

    /// We have reset it. What the peer has sent meanwhile may still come.
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

    /// We have said that we take no more than those up to `last`.
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
            "what it has sent meanwhile may come"
        );
        streams.peer_ended(7);
        assert!(streams.get(7).is_some_and(|stream| stream.peer_ended), "and its end");
        assert!(streams.get(5).is_none() && streams.was_opened(5) && !streams.was_opened(11));
    }

    #[test]
    fn what_is_remembered_of_streams_that_are_gone_has_a_bound() {
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
        assert_eq!(streams.open(), 0, "nobody answers it");
    }
}
