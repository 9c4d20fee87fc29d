//! Inspects the frames of one connection: received frames before `h2` reads them, and sent frames
//! after they were written.

mod block;
mod sent;

use std::collections::BTreeSet;

use super::cost::{Account, CostLimits, FrameContext, Peer, price, refund};
use super::frame::{
    ACK, DATA, END_STREAM, HEADER, HEADERS, Head, INITIAL_WINDOW_SIZE, MAX_PAYLOAD, PADDED,
    PREFACE, RST_STREAM, SETTINGS,
};
use super::hpack::Table;
use super::streams::Streams;
pub use sent::Rejected;
use sent::SentFrames;

/// The initial window of a peer that has sent no other in SETTINGS (RFC 9113, 6.5.2).
const DEFAULT_WINDOW: u32 = 65_535;

/// Why a connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The peer has exhausted its allowance, with a frame of this type.
    Flood(u8),
    /// The peer has violated the protocol in a way that `h2` does not detect.
    ProtocolError {
        /// The error code (RFC 9113, 7).
        code: u32,
        /// A description of the violation.
        what: &'static str,
    },
}

/// The error codes PROTOCOL_ERROR and STREAM_CLOSED (RFC 9113, 7).
const PROTOCOL_ERROR: u32 = 1;
const STREAM_CLOSED: u32 = 5;

/// The result of inspecting received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The number of bytes at the front that `h2` gets.
    pub passed: usize,
    /// The offset of the bytes that must be inspected again.
    pub taken: usize,
    /// The inspection can continue when this number of bytes is available after `taken`, if the
    /// turn has not ended.
    pub wanted: usize,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Layer {
    limits: CostLimits,
    streams: Streams,
    /// The open streams of a client whose head is malformed for etcd but not for `h2`, and that
    /// [`Layer::take_malformed`] has not returned yet.
    malformed: BTreeSet<u32>,
    account: Account,
    table: Table,
    /// Bytes that pass uninspected before the next frame begins.
    rest: usize,
    window: u32,
    sent: SentFrames,
    refusal: Option<Refusal>,
    /// True if a turn has ended before everything was inspected.
    yielded: bool,
}

/// The last frame that passes, if it is a DATA frame, and its offset. The next DATA frame of the
/// same stream can be merged into it.
type LastData = Option<(usize, Head)>;

/// What happens to the next bytes, in this order.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    /// Bytes that are dropped.
    skip: usize,
    /// Bytes that pass.
    pass: usize,
    /// Bytes after these that are dropped.
    drop: usize,
    /// Bytes that pass uninspected, including those that have not arrived.
    rest: usize,
}

impl Layer {
    /// A new connection.
    #[must_use]
    pub fn new(limits: CostLimits) -> Self {
        let (rest, sent) = match limits.peer {
            Peer::Client => (PREFACE, SentFrames::new(0)),
            Peer::Member => (0, SentFrames::new(PREFACE)),
        };
        Self {
            limits,
            streams: Streams::default(),
            malformed: BTreeSet::new(),
            account: Account::new(limits),
            table: Table::new(),
            rest,
            window: DEFAULT_WINDOW,
            sent,
            refusal: None,
            yielded: false,
        }
    }

    /// Applies other limits from now on: the client's mode has changed.
    pub const fn set_limits(&mut self, limits: CostLimits) {
        self.limits = limits;
        self.account.set_limits(limits);
    }

    /// The reason to close the connection, if there is one.
    pub const fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// The cost that the peer may still cause.
    pub const fn account(&mut self) -> &mut Account {
        &mut self.account
    }

    /// Ends the turn if it is used up, and returns true if so. The remaining received bytes then
    /// wait for the next turn.
    pub const fn end_turn(&mut self) -> bool {
        let over = self.account.is_turn_over();
        if over {
            self.account.next_turn();
            self.yielded = true;
        }
        over
    }

    /// True if a turn has ended since the last call.
    pub const fn has_yielded(&mut self) -> bool {
        std::mem::replace(&mut self.yielded, false)
    }

    /// Returns the rejections by `h2` since the last call.
    pub fn rejected(&mut self) -> Option<Rejected> {
        self.sent.rejected()
    }

    /// True if `h2` accepts the head of this stream but it is malformed for etcd. Returns true only
    /// once per stream.
    pub fn take_malformed(&mut self, stream: u32) -> bool {
        self.malformed.remove(&stream)
    }

    /// True if a header block has arrived that this layer could not read. For it and for later
    /// ones, `h2` may report another path than the client sent.
    pub const fn has_unread_heads(&self) -> bool {
        self.table.is_lost()
    }

    /// Inspects bytes that were written to the peer.
    pub fn sent(&mut self, bytes: &[u8]) {
        let Self { sent, streams, malformed, account, limits: CostLimits { peer, .. }, .. } = self;
        let errors = sent.pass(bytes, |head| {
            account.refund(refund(*peer, head));
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
        if !self.account.charge_resets(errors) {
            self.refusal = Some(Refusal::Flood(RST_STREAM));
        }
        if let Some(last) = self.sent.gone_away() {
            self.streams.we_go_away(last);
            self.malformed.retain(|stream| *stream <= last);
        }
    }

    /// Inspects received bytes and changes them in place. Stops when the turn ends, or at an
    /// incomplete frame that must be inspected as a whole.
    pub fn receive(&mut self, bytes: &mut [u8]) -> Received {
        let (mut from, mut to, mut last_data) = (0, 0, None);
        let wanted = loop {
            let rest = self.rest.min(bytes.len() - from);
            shift(bytes, from, rest, to);
            (from, to, self.rest) = (from + rest, to + rest, self.rest - rest);
            let (front, tail) = bytes.split_at_mut(from);
            let Some(head) = Head::read(tail) else { break HEADER };
            if self.account.is_turn_over() || self.refusal.is_some() {
                break HEADER;
            }
            let step = match (head.kind, self.limits.peer) {
                (DATA, _) => Ok(self.data(head, front, to, &mut last_data)),
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
                last_data = None;
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
        let context = FrameContext { open: self.streams.open(), is_open, moves_windows };
        if !self.account.charge(price(self.limits, head, context)) {
            self.refusal = Some(Refusal::Flood(head.kind));
        }
    }

    /// DATA. An empty frame that does not end the stream is dropped, and consecutive frames of a
    /// stream are merged.
    fn data(&mut self, head: Head, front: &mut [u8], to: usize, last_data: &mut LastData) -> Step {
        self.charge(&head, false);
        let is_open = self.streams.get(head.stream).is_some_and(|stream| !stream.peer_ended);
        let ends = head.has(END_STREAM);
        if ends {
            self.streams.peer_ended(head.stream);
        }
        let pass = Step { pass: HEADER, rest: head.length, ..Step::default() };
        // Do not change padded frames, because padding counts against the window, and frames on a
        // wrong stream, because h2 must detect them.
        if !is_open || head.has(PADDED) {
            *last_data = None;
            return pass;
        }
        if head.length == 0 && !ends {
            return Step { skip: HEADER, ..Step::default() };
        }
        // Frames of a member are not merged, so that the pieces of a response stay as etcd sent
        // them.
        if self.limits.peer == Peer::Client
            && let Some((offset, last)) = last_data
            && last.stream == head.stream
            && last.length + head.length <= MAX_PAYLOAD
            && let Some(header) = front.get_mut(*offset..)
        {
            (last.length, last.flags) = (last.length + head.length, last.flags | head.flags);
            last.write(header);
            if ends {
                *last_data = None;
            }
            return Step { skip: HEADER, rest: head.length, ..Step::default() };
        }
        *last_data = (!ends).then_some((to, head));
        pass
    }

    /// SETTINGS; needs the whole frame. If it changes the initial window, `h2` iterates over all
    /// streams.
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

    /// HEADERS of a client; needs the whole header block.
    fn headers(&mut self, head: Head, tail: &mut [u8]) -> Result<Step, usize> {
        let Some(frames) = block::frames(head, tail)? else {
            // Either h2 will reject the frame, or the block is too large for this layer but not for
            // h2.
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
                // h2 never reports a stream that our GOAWAY has excluded.
                if block.is_malformed && !self.streams.is_ignored(head.stream) {
                    self.malformed.insert(head.stream);
                }
            }
            Some(stream) if stream.is_reset && stream.peer_ended => {
                self.refusal = Some(Refusal::ProtocolError {
                    code: STREAM_CLOSED,
                    what: "HEADERS on a stream that the client has ended",
                });
            }
            Some(stream) if stream.is_reset && !ends => {
                self.refusal = Some(Refusal::ProtocolError {
                    code: PROTOCOL_ERROR,
                    what: "a second HEADERS that does not end the stream",
                });
            }
            Some(_) if block.has_pseudo => {
                self.refusal = Some(Refusal::ProtocolError {
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

    /// Any other frame. It is charged and passes unchanged.
    fn other(&mut self, head: Head) -> Step {
        self.charge(&head, false);
        match head.kind {
            HEADERS if self.limits.peer == Peer::Client => {
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

/// Moves bytes towards the front.
fn shift(bytes: &mut [u8], from: usize, length: usize, to: usize) {
    if from != to && length > 0 {
        bytes.copy_within(from..from + length, to);
    }
}

#[cfg(test)]
mod tests;
