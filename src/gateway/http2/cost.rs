//! What a frame costs who receives it, in units of about a microsecond of `h2`'s work, and how much
//! of that one connection may cause.
//!
//! Two bounds. A **turn** ends after [`TURN`] units of any work, and others have theirs: that is
//! what keeps a neighbour's requests quick, whatever one client sends. The **allowance** is for
//! frames that carry nothing on: resets, windows, settings, pings, empty pieces. It fills with time
//! and with what we send ourselves, as such frames answer ours, and who uses it up is told to calm
//! down.

use super::frame::{
    ACK, CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, Head, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE,
};

/// Units after which a connection lets others have their turn.
pub const TURN: u32 = 1024;

/// Units of frames that carry nothing on, at once.
pub const ALLOWANCE: u32 = 400_000;

/// What a peer may cause for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Who it is.
    pub peer: Peer,
    /// Units for each second, up to [`ALLOWANCE`].
    pub per_second: u32,
    /// Units of a stream that is open and ends with nothing done: the proxy and etcd worked for it
    /// (CVE-2023-44487).
    pub reset: u32,
}

impl Terms {
    /// A client that is enforced: 4,000 calls given up at once, 400 a second; 4 % of a core.
    pub const ENFORCED: Self = Self { peer: Peer::Client, per_second: 40_000, reset: 100 };
    /// A client in shadow mode, where etcd knows no bound: each of 10,000 streams
    /// (`max-concurrent-streams`) given up at once, 1,600 a second.
    pub const SHADOWED: Self = Self { peer: Peer::Client, per_second: 51_200, reset: 32 };
    /// A member of etcd: it ends streams of ours.
    pub const MEMBER: Self = Self { peer: Peer::Member, per_second: 51_200, reset: 1 };
}

/// Open streams that are gone through for a unit: each takes 30 ns, and more where something waits
/// for the window that moves.
const STREAMS_PER_UNIT: u32 = 8;

/// Bytes of a piece of a message below which it is its frame that costs.
const TINY: usize = 16;

/// Who the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client: it opens the streams.
    Client,
    /// A member of etcd: it answers.
    Member,
}

/// What a frame meets.
#[derive(Clone, Copy, Debug)]
pub struct Met {
    /// Streams that are open.
    pub open: usize,
    /// Its own is one of them.
    pub is_open: bool,
    /// SETTINGS that change the window of each stream.
    pub moves_windows: bool,
}

/// What a frame costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Of the turn.
    pub work: u32,
    /// Of the allowance.
    pub idle: u32,
}

/// The price of a frame.
#[must_use]
pub fn price(terms: Terms, head: &Head, met: Met) -> Price {
    let per = |bytes: usize| u32::try_from(head.length / bytes).unwrap_or(u32::MAX);
    let walk = u32::try_from(met.open).unwrap_or(u32::MAX) / STREAMS_PER_UNIT;
    let idle = |units: u32| Price { work: units, idle: units };
    match head.kind {
        DATA => {
            let idle = match head.length {
                _ if head.has(END_STREAM) => 0,
                0 => 16,
                1..TINY => 1,
                _ => 0,
            };
            Price { work: 2 + per(2048), idle: if met.is_open { idle } else { 4 } }
        }
        // A client's are requests. A member may send any number of them on one stream (1xx).
        HEADERS => {
            Price { work: 16 + per(64), idle: if terms.peer == Peer::Member { 4 } else { 0 } }
        }
        RST_STREAM if met.is_open => Price { work: 16, idle: terms.reset },
        SETTINGS if head.has(ACK) => idle(1),
        SETTINGS => idle(2 + per(64) + if met.moves_windows { walk } else { 0 }),
        GOAWAY => idle(2 + walk),
        PING if !head.has(ACK) => idle(2),
        PING | PRIORITY | WINDOW_UPDATE | RST_STREAM => idle(1),
        CONTINUATION => idle(4 + per(64)),
        _ => idle(1 + per(1024)),
    }
}

/// What a frame that we send gives back, for the frames that may answer it.
#[must_use]
pub fn refund(peer: Peer, head: &Head) -> u32 {
    match head.kind {
        // Two windows are opened for it, or a ping measures it.
        DATA => 3,
        // An answer's head, its trailers, an end before the request's.
        HEADERS if peer == Peer::Member => 12,
        SETTINGS | PING => 1,
        _ => 0,
    }
}

/// What one connection may still cause.
#[derive(Debug)]
pub struct Ledger {
    terms: Terms,
    allowance: u32,
    turn: u32,
}

impl Ledger {
    /// Of a connection that begins.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        Self { terms, allowance: ALLOWANCE, turn: TURN }
    }

    /// Whether others are to have their turn first.
    #[must_use]
    pub const fn is_turn_over(&self) -> bool {
        self.turn == 0
    }

    /// A new turn.
    pub const fn next_turn(&mut self) {
        self.turn = TURN;
    }

    /// Whether it is worth the question how much time has passed.
    #[must_use]
    pub const fn is_low(&self) -> bool {
        self.allowance < ALLOWANCE / 2
    }

    /// Time has passed, in milliseconds since this was last said.
    pub fn fill(&mut self, milliseconds: u64) {
        let filled = u64::from(self.allowance)
            + milliseconds.saturating_mul(u64::from(self.terms.per_second)) / 1000;
        self.allowance = u32::try_from(filled).unwrap_or(ALLOWANCE).min(ALLOWANCE);
    }

    /// Something was sent.
    pub fn give_back(&mut self, units: u32) {
        self.allowance = self.allowance.saturating_add(units).min(ALLOWANCE);
    }

    /// Takes what it costs that we have to reset so many streams for what the peer sent. False: the
    /// allowance is used up.
    #[must_use]
    pub fn take_resets(&mut self, streams: u32) -> bool {
        self.take(Price { work: 0, idle: streams.saturating_mul(self.terms.reset) })
    }

    /// Takes a price. False: the allowance is used up.
    #[must_use]
    pub fn take(&mut self, price: Price) -> bool {
        self.turn = self.turn.saturating_sub(price.work);
        match self.allowance.checked_sub(price.idle) {
            Some(left) => self.allowance = left,
            None => return false,
        }
        true
    }
}
