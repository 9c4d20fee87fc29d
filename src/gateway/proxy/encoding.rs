//! Compressed messages (gRPC's `doc/compression.md`). The proxy decompresses a client's message
//! before it judges it.
//!
//! Under enforcement it forwards the decompressed message, without the header `grpc-encoding`. So
//! the judged bytes are the forwarded bytes. Also, etcd responds in the encoding of the request
//! (grpc-go's `server.go`), so it does not compress the responses that the proxy must read: of
//! Watch, and the lists of leases and members. In shadow mode the request is forwarded as it
//! arrived, and a decompressed copy is judged.

use std::io::Read as _;

use bytes::Bytes;
use etcd_warden_core::authorize::{Denial, Missing, Reason};
use etcd_warden_core::wire::frame::{self, HEADER};
use flate2::bufread::GzDecoder;
use http::HeaderMap;
use tokio::task::yield_now;

use super::budget::{Reservation, Share};
use super::request_body::denial_of;

/// The header with the compression algorithm of messages that have the compressed flag.
pub const GRPC_ENCODING: &str = "grpc-encoding";

/// Limit on the compression ratio of a message. Text and protobuf reach about 10. Deflate can reach
/// 1000, but only for a message with almost no content, as in a decompression bomb.
const RATIO: usize = 100;
/// A message that has at most this many bytes when decompressed is accepted at any ratio.
const SHORT: usize = 64 * 1024;
/// Bytes that are decompressed before the task yields. This takes about 0.1 ms.
const PIECE: usize = 32 * 1024;
/// Bytes that the decoder needs besides the message: its window of 32 KiB, and tables.
const WORKSPACE: usize = 48 * 1024;

/// The compression that the messages of a request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// None.
    Identity,
    /// gzip (RFC 1952), the only compression that etcd supports.
    Gzip,
    /// An encoding that etcd does not support. etcd refuses such a request without reading its
    /// body.
    Unknown,
}

impl Encoding {
    /// The encoding in the headers of a request. If there are several values, etcd uses the first
    /// (Go's `Header.Get`).
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(GRPC_ENCODING).map(http::HeaderValue::as_bytes) {
            None | Some(b"" | b"identity") => Encoding::Identity,
            Some(b"gzip") => Encoding::Gzip,
            Some(_) => Encoding::Unknown,
        }
    }
}

/// A message that is not compressed.
pub struct Plain {
    /// The message with its frame header.
    pub framed: Bytes,
    /// The budget for it, if it arrived compressed.
    _hold: Option<Reservation>,
}

impl Plain {
    /// The message without its frame header.
    ///
    /// # Errors
    /// The frame is not exactly one message.
    pub fn message(&self) -> Result<&[u8], Denial> {
        frame::single(&self.framed, usize::MAX).map_err(denial_of)
    }
}

/// Decompresses a message if it is compressed. The result has at most `limit` bytes and is charged
/// to `share`.
///
/// # Errors
/// The message is not exactly one gzip member with the right length and checksum, it is too long
/// when decompressed, or the share is exhausted.
pub async fn plain(
    framed: Bytes,
    encoding: Encoding,
    limit: usize,
    share: &Share,
) -> Result<Plain, Denial> {
    match encoding {
        Encoding::Unknown => Err(unknown()),
        _ if !frame::is_compressed(&framed) => Ok(Plain { framed, _hold: None }),
        // On the heap, because few requests are compressed.
        Encoding::Gzip => {
            Box::pin(gunzip(framed.get(HEADER..).unwrap_or_default(), limit, share)).await
        }
        Encoding::Identity => Err(Denial::new(
            Reason::BadFraming,
            "the message is compressed, but there is no grpc-encoding",
        )),
    }
}

/// The denial for an encoding that etcd does not support.
#[must_use]
pub fn unknown() -> Denial {
    Denial::new(Reason::Compressed, "etcd does not support this grpc-encoding")
}

/// Decompresses exactly one gzip member. Go would read several members as one message, but no
/// client sends that.
async fn gunzip(packed: &[u8], limit: usize, share: &Share) -> Result<Plain, Denial> {
    let limit = limit.min(packed.len().saturating_mul(RATIO).max(SHORT));
    let mut hold = Reservation::empty(share);
    let mut decoder = GzDecoder::new(packed);
    let mut framed = vec![0; HEADER];
    loop {
        let before = framed.len();
        // Read up to one byte over the limit, to see whether it is exceeded.
        let piece =
            PIECE.min(limit.saturating_sub(before.saturating_sub(HEADER)).saturating_add(1));
        if !hold.resize(before.saturating_add(piece).saturating_add(WORKSPACE)) {
            return Err(Denial::new(Reason::Limit, "too many requests are held at once"));
        }
        framed.reserve(piece);
        let read = decoder
            .by_ref()
            .take(u64::try_from(piece).unwrap_or(u64::MAX))
            .read_to_end(&mut framed);
        let length = framed.len().saturating_sub(HEADER);
        match read {
            Err(_) => return Err(damaged()),
            Ok(_) if length > limit => {
                return Err(Denial {
                    reason: Reason::TooLarge,
                    missing: Missing::Unpacked { limit },
                });
            }
            Ok(read) if read < piece => break,
            Ok(_) => yield_now().await,
        }
    }
    if !decoder.into_inner().is_empty() {
        return Err(damaged());
    }
    let length = u32::try_from(framed.len().saturating_sub(HEADER)).unwrap_or(u32::MAX);
    if let Some(field) = framed.get_mut(1..HEADER) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    let given_back = hold.resize(framed.len());
    debug_assert!(given_back, "the reservation only shrinks");
    Ok(Plain { framed: framed.into(), _hold: Some(hold) })
}

fn damaged() -> Denial {
    Denial::new(Reason::BadFraming, "the compressed message is cut, damaged, or more than one")
}

#[cfg(test)]
mod tests;
