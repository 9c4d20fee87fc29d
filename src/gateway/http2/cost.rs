//! The cost of a frame for its receiver, and the limits on it per connection. One unit is about a
//! microsecond of `h2`'s work.
//!
//! There are two limits. A **turn** ends after [`TURN`] units of any work, so that no client can
//! delay other connections much. The **allowance** covers frames without effect: RST_STREAM,
//! WINDOW_UPDATE, SETTINGS, PING, empty DATA. It fills with time. It also fills with the frames
//! that we send, because the peer answers them with such frames. A peer that exhausts its allowance
//! gets ENHANCE_YOUR_CALM.

use super::frame::{
    ACK, CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, Head, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE,
};

/// Units after which the turn of a connection ends.
pub const TURN: u32 = 1024;

/// The largest allowance, in units.
pub const ALLOWANCE: u32 = 400_000;

/// The cost of frames without effect that a peer may cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostLimits {
    /// The kind of peer.
    pub peer: Peer,
    /// Units that the allowance gains per second, up to [`ALLOWANCE`].
    pub per_second: u32,
    /// Units for a reset of an open stream. The work of the proxy and of etcd for this stream was
    /// in vain (CVE-2023-44487).
    pub reset: u32,
}

impl CostLimits {
    /// An enforced client: 4,000 resets at once, 400 per second; 4 % of a core.
    pub const ENFORCED: Self = Self { peer: Peer::Client, per_second: 40_000, reset: 100 };
    /// A client in shadow mode, where etcd has no limit: a reset of each of 10,000 streams
    /// (`max-concurrent-streams`) at once, 1,600 per second.
    pub const SHADOWED: Self = Self { peer: Peer::Client, per_second: 51_200, reset: 32 };
    /// A member of etcd, which may end our streams.
    pub const MEMBER: Self = Self { peer: Peer::Member, per_second: 51_200, reset: 1 };
}

/// Number of open streams over which `h2` iterates per unit. Each takes 30 ns, and more if data
/// waits for the window that changes.
const STREAMS_PER_UNIT: u32 = 8;

/// Payload in bytes below which most of the cost of a DATA frame is that of its header.
const TINY: usize = 16;

/// The kind of peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client, which opens the streams.
    Client,
    /// A member of etcd, which responds.
    Member,
}

/// The state of the connection when a frame arrives.
#[derive(Clone, Copy, Debug)]
pub struct FrameContext {
    /// The number of open streams.
    pub open: usize,
    /// True if the stream of the frame is open.
    pub is_open: bool,
    /// True if the frame is a SETTINGS that changes the window of each stream.
    pub moves_windows: bool,
}

/// The cost of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Units of the turn.
    pub work: u32,
    /// Units of the allowance.
    pub overhead: u32,
}

/// The cost of a frame.
pub fn price(limits: CostLimits, head: &Head, context: FrameContext) -> Price {
    let per = |bytes: usize| u32::try_from(head.length / bytes).unwrap_or(u32::MAX);
    let walk = u32::try_from(context.open).unwrap_or(u32::MAX) / STREAMS_PER_UNIT;
    let overhead = |units: u32| Price { work: units, overhead: units };
    match head.kind {
        DATA => {
            let overhead = match head.length {
                _ if head.has(END_STREAM) => 0,
                0 => 16,
                1..TINY => 1,
                _ => 0,
            };
            Price { work: 2 + per(2048), overhead: if context.is_open { overhead } else { 4 } }
        }
        // HEADERS of a client are requests. A member may send any number of them on one stream
        // (1xx responses).
        HEADERS => {
            Price { work: 16 + per(64), overhead: if limits.peer == Peer::Member { 4 } else { 0 } }
        }
        RST_STREAM if context.is_open => Price { work: 16, overhead: limits.reset },
        SETTINGS if head.has(ACK) => overhead(1),
        SETTINGS => overhead(2 + per(64) + if context.moves_windows { walk } else { 0 }),
        GOAWAY => overhead(2 + walk),
        PING if !head.has(ACK) => overhead(2),
        PING | PRIORITY | WINDOW_UPDATE | RST_STREAM => overhead(1),
        CONTINUATION => overhead(4 + per(64)),
        _ => overhead(1 + per(1024)),
    }
}

/// The units that a frame of ours refunds, for the frames that may answer it.
pub fn refund(peer: Peer, head: &Head) -> u32 {
    match head.kind {
        // The peer may answer with two WINDOW_UPDATEs, or a PING.
        DATA => 3,
        // The peer may answer with a head, trailers, and a reset.
        HEADERS if peer == Peer::Member => 12,
        SETTINGS | PING => 1,
        _ => 0,
    }
}

/// The cost that one connection may still cause.
#[derive(Debug)]
pub struct Account {
    limits: CostLimits,
    allowance: u32,
    turn: u32,
}

impl Account {
    /// The account of a new connection.
    pub const fn new(limits: CostLimits) -> Self {
        Self { limits, allowance: ALLOWANCE, turn: TURN }
    }

    /// Applies other limits from now on. The remaining allowance stays.
    pub const fn set_limits(&mut self, limits: CostLimits) {
        self.limits = limits;
    }

    /// True if the turn is used up.
    pub const fn is_turn_over(&self) -> bool {
        self.turn == 0
    }

    /// Begins a new turn.
    pub const fn next_turn(&mut self) {
        self.turn = TURN;
    }

    /// True if the allowance is so low that the clock should be read to fill it.
    pub const fn is_low(&self) -> bool {
        self.allowance < ALLOWANCE / 2
    }

    /// Fills the allowance for this many milliseconds.
    pub fn fill(&mut self, milliseconds: u64) {
        let filled = u64::from(self.allowance)
            + milliseconds.saturating_mul(u64::from(self.limits.per_second)) / 1000;
        self.allowance = u32::try_from(filled).unwrap_or(ALLOWANCE).min(ALLOWANCE);
    }

    /// Refunds units.
    pub fn refund(&mut self, units: u32) {
        self.allowance = self.allowance.saturating_add(units).min(ALLOWANCE);
    }

    /// Charges resets that we had to send because of the peer. Returns false if the allowance is
    /// exhausted.
    #[must_use]
    pub fn charge_resets(&mut self, streams: u32) -> bool {
        self.charge(Price { work: 0, overhead: streams.saturating_mul(self.limits.reset) })
    }

    /// Charges a frame. Returns false if the allowance is exhausted.
    #[must_use]
    pub fn charge(&mut self, price: Price) -> bool {
        self.turn = self.turn.saturating_sub(price.work);
        match self.allowance.checked_sub(price.overhead) {
            Some(left) => self.allowance = left,
            None => return false,
        }
        true
    }
}
