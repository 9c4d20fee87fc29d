//! HTTP/2 frame headers (RFC 9113, 4.1), frame types and flags.

/// Bytes of a frame header.
pub const HEADER: usize = 9;

/// The largest payload in bytes, unless SETTINGS_MAX_FRAME_SIZE was sent (6.5.2).
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// Bytes of the client preface (3.4).
pub const PREFACE: usize = 24;

/// Type of DATA (6.1).
pub const DATA: u8 = 0;
/// Type of HEADERS (6.2).
pub const HEADERS: u8 = 1;
/// Type of PRIORITY (6.3).
pub const PRIORITY: u8 = 2;
/// Type of RST_STREAM (6.4).
pub const RST_STREAM: u8 = 3;
/// Type of SETTINGS (6.5).
pub const SETTINGS: u8 = 4;
/// Type of PING (6.7).
pub const PING: u8 = 6;
/// Type of GOAWAY (6.8).
pub const GOAWAY: u8 = 7;
/// Type of WINDOW_UPDATE (6.9).
pub const WINDOW_UPDATE: u8 = 8;
/// Type of CONTINUATION (6.10).
pub const CONTINUATION: u8 = 9;

/// Flag of DATA and HEADERS: the sender ends the stream.
pub const END_STREAM: u8 = 1;
/// Flag of SETTINGS and PING: an acknowledgement.
pub const ACK: u8 = 1;
/// Flag of HEADERS and CONTINUATION: the header block ends.
pub const END_HEADERS: u8 = 4;
/// Flag of DATA and HEADERS: the payload is padded.
pub const PADDED: u8 = 8;
/// Flag of HEADERS: the payload begins with five bytes of priority.
pub const WITH_PRIORITY: u8 = 32;

/// Identifier of SETTINGS_INITIAL_WINDOW_SIZE (6.5.2).
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The length of the payload in bytes.
    pub length: usize,
    /// The frame type.
    pub kind: u8,
    /// The flags, whose meaning depends on the type.
    pub flags: u8,
    /// The stream id; 0 is the connection.
    pub stream: u32,
}

impl Head {
    /// Reads the header at the front of `bytes`. `None`: it is incomplete.
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
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Writes the length and the flags into an encoded header.
    pub fn write(&self, header: &mut [u8]) {
        if let [high, mid, low, _, flags, ..] = header {
            let [_, .., a, b, c] = self.length.to_be_bytes();
            (*high, *mid, *low, *flags) = (a, b, c, self.flags);
        }
    }
}
