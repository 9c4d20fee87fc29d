//! gRPC's length-prefixed messages: one byte of flags, four bytes of length (big endian), the message
//! (gRPC's `PROTOCOL-HTTP2.md`).

/// Bytes in front of each message.
pub const HEADER: usize = 5;
