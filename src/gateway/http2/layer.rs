//! One connection, frame by frame: what has come is looked at before `h2` reads it, what is sent
//! when it has been written.

mod block;
mod outgoing;

use std::collections::BTreeSet;

use super::cost::{Ledger, Met, Peer, Terms, price, refund};
use super::frame::{
    ACK, DATA, END_STREAM, HEADER, HEADERS, Head, INITIAL_WINDOW_SIZE, MAX_PAYLOAD, PADDED,
    PREFACE, RST_STREAM, SETTINGS,
};
use super::hpack::Table;
use super::streams::Streams;
use outgoing::Outgoing;
pub use outgoing::Rejected;

/// `INITIAL_WINDOW_SIZE` of who has not said another (RFC 9113, 6.5.2).
const DEFAULT_WINDOW: u32 = 65_535;

/// Why a peer is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has used up its allowance, with a frame of this type.
    Flood(u8),
    /// It broke the protocol where `h2` does not look.
    Broken {
        /// The error code (RFC 9113, 7).
        code: u32,
        /// What it did.
        what: &'static str,
    },
}

/// `PROTOCOL_ERROR` and `STREAM_CLOSED`.
const PROTOCOL_ERROR: u32 = 1;
const STREAM_CLOSED: u32 = 5;

/// What became of bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes in front that go on.
    pub passed: usize,
    /// From here on they are to be shown again.
    pub taken: usize,
    /// When so many are there, if the turn is not over.
    pub wanted: usize,
}

/// What is known of one connection.
#[derive(Debug)]
pub struct Layer {
    terms: Terms,
    streams: Streams,
    /// Of those that a client has opened with a head that is none for etcd, the ones that were not
    /// refused yet.
    malformed: BTreeSet<u32>,
    ledger: Ledger,
    table: Table,
    /// Bytes that pass before the next frame begins.
    rest: usize,
    window: u32,
    outgoing: Outgoing,
    refusal: Option<Refusal>,
    /// A turn has ended before all was read.
    yielded: bool,
}

/// The DATA frame that stands last of what goes on, and where: another of its stream can be joined
/// to it.
type Open = Option<(usize, Head)>;

/// What is done with the bytes at hand, in this order.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    /// Bytes that do not go on.
    skip: usize,
    /// Bytes that do.
    pass: usize,
    /// Bytes behind them that do not.
    drop: usize,
    /// Bytes that go on without being looked at, as many as there are and those that come.
    rest: usize,
}

impl Layer {
    /// A connection that begins.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let (rest, outgoing) = match terms.peer {
            Peer::Client => (PREFACE, Outgoing::new(0)),
            Peer::Member => (0, Outgoing::new(PREFACE)),
        };
        Self {
            terms,
            streams: Streams::default(),
            malformed: BTreeSet::new(),
            ledger: Ledger::new(terms),
            table: Table::new(),
            rest,
            window: DEFAULT_WINDOW,
            outgoing,
            refusal: None,
            yielded: false,
        }
    }

    /// Why the peer is to go, if it is.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// What it may still cause.
    pub const fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Ends the turn if it is used up. The rest of what has come waits for the next.
    pub const fn end_turn(&mut self) -> bool {
        let over = self.ledger.is_turn_over();
        if over {
            self.ledger.next_turn();
            self.yielded = true;
        }
        over
    }

    /// Whether a turn has ended since this was last asked.
    pub const fn has_yielded(&mut self) -> bool {
        std::mem::replace(&mut self.yielded, false)
    }

    /// What HTTP/2 has refused since this was last asked.
    pub fn rejected(&mut self) -> Option<Rejected> {
        self.outgoing.rejected()
    }

    /// Whether a client has opened this stream with a head that is none for etcd, though `h2` takes
    /// it. Asked once.
    pub fn take_malformed(&mut self, stream: u32) -> bool {
        self.malformed.remove(&stream)
    }

    /// Whether a head has come that was not read here, so that neither it nor a later one is known
    /// to be what `h2` makes of it.
    #[must_use]
    pub const fn has_unread_heads(&self) -> bool {
        self.table.is_lost()
    }

    /// Bytes were written to the peer.
    pub fn sent(&mut self, bytes: &[u8]) {
        let Self { outgoing, streams, malformed, ledger, terms: Terms { peer, .. }, .. } = self;
        let errors = outgoing.pass(bytes, |head| {
            ledger.give_back(refund(*peer, head));
            if head.kind == HEADERS && *peer == Peer::Member && !streams.was_opened(head.stream) {
                streams.begin(head.stream);
            }
            if matches!(head.kind, DATA | HEADERS) && head.has(END_STREAM) {
                streams.we_ended(head.stream);
            }
            if head.kind == RST_STREAM {
                streams.we_reset(head.stream);
                malformed.remove(&head.stream);
            }
        });
        if !self.ledger.take_resets(errors) {
            self.refusal = Some(Refusal::Flood(RST_STREAM));
        }
        if let Some(last) = self.outgoing.gone_away() {
            self.streams.we_go_away(last);
        }
    }

    /// Looks at what has come, as far as the turn lets it and frames are whole where they must be,
    /// and changes it in place.
    pub fn receive(&mut self, bytes: &mut [u8]) -> Received {
        let (mut from, mut to, mut open) = (0, 0, None);
        let wanted = loop {
            let rest = self.rest.min(bytes.len() - from);
            shift(bytes, from, rest, to);
            (from, to, self.rest) = (from + rest, to + rest, self.rest - rest);
            let (front, tail) = bytes.split_at_mut(from);
            let Some(head) = Head::read(tail) else { break HEADER };
            if self.ledger.is_turn_over() || self.refusal.is_some() {
                break HEADER;
            }
            let step = match (head.kind, self.terms.peer) {
                (DATA, _) => Ok(self.data(head, front, to, &mut open)),
                (HEADERS, Peer::Client) => self.headers(head, tail),
                (SETTINGS, _) if !head.has(ACK) && head.length <= MAX_PAYLOAD => {
                    self.settings(head, tail)
                }
                _ => Ok(self.other(head)),
            };
            let step = match step {
                Ok(step) => step,
                Err(wanted) => break wanted,
            };
            if self.refusal.is_some() {
                break HEADER;
            }
            if head.kind != DATA {
                open = None;
            }
            from += step.skip;
            shift(bytes, from, step.pass, to);
            (from, to, self.rest) = (from + step.pass + step.drop, to + step.pass, step.rest);
        };
        Received { passed: to, taken: from, wanted }
    }

    /// Charges a frame.
    fn charge(&mut self, head: &Head, moves_windows: bool) {
        let is_open = self.streams.get(head.stream).is_some_and(|stream| !stream.is_reset);
        let met = Met { open: self.streams.open(), is_open, moves_windows };
        if !self.ledger.take(price(self.terms, head, met)) {
            self.refusal = Some(Refusal::Flood(head.kind));
        }
    }

    /// DATA: an empty frame that ends nothing says nothing, and of several on end `h2` needs to see
    /// but one.
    fn data(&mut self, head: Head, front: &mut [u8], to: usize, open: &mut Open) -> Step {
        self.charge(&head, false);
        let is_open = self.streams.get(head.stream).is_some_and(|stream| !stream.peer_ended);
        let ends = head.has(END_STREAM);
        if ends {
            self.streams.peer_ended(head.stream);
        }
        let pass = Step { pass: HEADER, rest: head.length, ..Step::default() };
        // What is padded takes of the window, and what is not in its place is for h2 to find.
        if !is_open || head.has(PADDED) {
            *open = None;
            return pass;
        }
        if head.length == 0 && !ends {
            return Step { skip: HEADER, ..Step::default() };
        }
        // A member's are left as they come: it is etcd's business what it says together.
        if self.terms.peer == Peer::Client
            && let Some((place, last)) = open
            && last.stream == head.stream
            && last.length + head.length <= MAX_PAYLOAD
            && let Some(header) = front.get_mut(*place..)
        {
            (last.length, last.flags) = (last.length + head.length, last.flags | head.flags);
            last.write(header);
            if ends {
                *open = None;
            }
            return Step { skip: HEADER, rest: head.length, ..Step::default() };
        }
        *open = (!ends).then_some((to, head));
        pass
    }

    /// SETTINGS, once they are whole: h2 goes through all streams where the window of each changes.
    fn settings(&mut self, head: Head, tail: &[u8]) -> Result<Step, usize> {
        let whole = HEADER + head.length;
        let payload = tail.get(HEADER..whole).ok_or(whole)?;
        let entries = payload.as_chunks::<6>().0.iter();
        let window = entries.rev().find_map(|&[a, b, window @ ..]| {
            (u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE)
                .then_some(u32::from_be_bytes(window))
        });
        let moves_windows = window.is_some_and(|window| window != self.window);
        self.window = window.unwrap_or(self.window);
        self.charge(&head, moves_windows);
        Ok(Step { pass: whole, ..Step::default() })
    }

    /// A client's HEADERS, once its block is whole.
    fn headers(&mut self, head: Head, tail: &mut [u8]) -> Result<Step, usize> {
        let Some(frames) = block::frames(head, tail)? else {
            // h2 refuses it, or reads what is too much to be put together here.
            self.table.lose();
            return Ok(self.other(head));
        };
        for frame in frames.heads(tail) {
            self.charge(&frame, false);
        }
        let block = frames.read(&mut self.table, tail);
        let ends = head.has(END_STREAM);
        match self.streams.get(head.stream) {
            None if head.stream % 2 == 1 && !self.streams.was_opened(head.stream) => {
                self.streams.begin(head.stream);
                if block.is_malformed {
                    self.malformed.insert(head.stream);
                }
            }
            Some(stream) if stream.is_reset && stream.peer_ended => {
                self.refusal = Some(Refusal::Broken {
                    code: STREAM_CLOSED,
                    what: "HEADERS on a stream that it had ended",
                });
            }
            Some(stream) if stream.is_reset && !ends => {
                self.refusal = Some(Refusal::Broken {
                    code: PROTOCOL_ERROR,
                    what: "second HEADERS that do not end the stream",
                });
            }
            Some(_) if block.has_pseudo => {
                self.refusal = Some(Refusal::Broken {
                    code: PROTOCOL_ERROR,
                    what: "a pseudo-header in trailers",
                });
            }
            _ => {}
        }
        if ends {
            self.streams.peer_ended(head.stream);
        }
        Ok(Step { pass: block.length, drop: frames.length - block.length, ..Step::default() })
    }

    /// What only costs.
    fn other(&mut self, head: Head) -> Step {
        self.charge(&head, false);
        match head.kind {
            HEADERS if self.terms.peer == Peer::Client => {
                if head.stream % 2 == 1 && !self.streams.was_opened(head.stream) {
                    self.streams.begin(head.stream);
                }
                if head.has(END_STREAM) {
                    self.streams.peer_ended(head.stream);
                }
            }
            HEADERS if head.has(END_STREAM) => self.streams.peer_ended(head.stream),
            RST_STREAM => {
                self.streams.peer_reset(head.stream);
                self.malformed.remove(&head.stream);
            }
            _ => {}
        }
        Step { pass: HEADER, rest: head.length, ..Step::default() }
    }
}

/// Moves bytes to the front.
fn shift(bytes: &mut [u8], from: usize, length: usize, to: usize) {
    if from != to && length > 0 {
        bytes.copy_within(from..from + length, to);
    }
}

#[cfg(test)]
mod tests;
