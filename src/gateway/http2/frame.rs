//! Frame headers (RFC 9113, 4.1), and the constants of it that are used here.

/// Bytes in front of each payload.
pub const HEADER: usize = 9;

/// The largest payload that a peer may send where no other was agreed on.
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// What a client sends first (3.4).
pub const PREFACE: usize = 24;

/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// PRIORITY.
pub const PRIORITY: u8 = 2;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;

/// Of DATA and HEADERS: the sender's last.
pub const END_STREAM: u8 = 1;
/// Of SETTINGS and PING: an answer.
pub const ACK: u8 = 1;
/// Of HEADERS and CONTINUATION: the block ends.
pub const END_HEADERS: u8 = 4;
/// Of DATA and HEADERS: there is padding.
pub const PADDED: u8 = 8;
/// Of HEADERS: five bytes of priority.
pub const WITH_PRIORITY: u8 = 32;

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of payload.
    pub length: usize,
    /// The type.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The stream; 0 is the connection.
    pub stream: u32,
}

impl Head {
    /// The header in front of `bytes`, if it is all there.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [high, mid, low, kind, flags, a, b, c, d, ..] = bytes else { return None };
        Some(Self {
            length: usize::from(*high) << 16 | usize::from(*mid) << 8 | usize::from(*low),
            kind: *kind,
            flags: *flags,
            stream: u32::from_be_bytes([*a & 0x7f, *b, *c, *d]),
        })
    }

    /// Whether a flag is set.
    #[must_use]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Writes the length and the flags into a header.
    pub fn write(&self, header: &mut [u8]) {
        if let [high, mid, low, _, flags, ..] = header {
            let [_, .., a, b, c] = self.length.to_be_bytes();
            (*high, *mid, *low, *flags) = (a, b, c, self.flags);
        }
    }
}
