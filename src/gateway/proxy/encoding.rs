//! Compressed messages (gRPC's `doc/compression.md`): what a client packed is unpacked before it is
//! judged.
//!
//! Under enforcement it is the unpacked message that goes on, without the `grpc-encoding` that
//! named its encoding. So there is one reading of it, and the bytes that are judged are the bytes
//! that are sent; and etcd, which answers in the encoding of the request (grpc-go's `server.go`),
//! does not compress the answers that are read here: Watch, lists of leases and of members. In
//! shadow mode the request goes on as it came, and is judged by an unpacked copy.

use std::io::Read as _;

use bytes::Bytes;
use etcd_warden_core::authorize::{Denial, Missing, Reason};
use etcd_warden_core::wire::frame::{self, HEADER};
use flate2::bufread::GzDecoder;
use http::HeaderMap;
use tokio::task::yield_now;

use super::budget::{Hold, Share};
use super::intake::denial_of;

/// How its messages are compressed, where their flag says that they are.
pub const GRPC_ENCODING: &str = "grpc-encoding";

/// A message may become so many times as long as it came, whatever it is. Deflate can pack a
/// thousand to one, which only a message without content does; text and protobuf reach ten to one.
const RATIO: usize = 100;
/// A short one may always become so long, in bytes.
const SHORT: usize = 64 * 1024;
/// Bytes that are unpacked before others have their turn: a tenth of a millisecond.
const PIECE: usize = 32 * 1024;
/// What unpacking takes beside that: the window of 32 KiB, and tables.
const WORKSPACE: usize = 48 * 1024;

/// How the messages of a request may be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952, the one that etcd has.
    Gzip,
    /// In a way that etcd does not have: it refuses the request for its head alone.
    Unknown,
}

impl Encoding {
    /// What a head says. Of several values etcd takes the first (Go's `Header.Get`).
    #[must_use]
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
    /// The message in its frame.
    pub framed: Bytes,
    /// The room that it takes, if it came otherwise.
    _hold: Option<Hold>,
}

impl Plain {
    /// The message itself.
    ///
    /// # Errors
    /// There is not exactly one in the frame.
    pub fn message(&self) -> Result<&[u8], Denial> {
        frame::single(&self.framed, usize::MAX).map_err(denial_of)
    }
}

/// The same message without compression. What is unpacked is at most `limit` bytes, and is held
/// against `share`.
///
/// # Errors
/// The message is not exactly one gzip member with its right length and check sum, it becomes too
/// long, or there is no room for it.
pub async fn plain(
    framed: Bytes,
    encoding: Encoding,
    limit: usize,
    share: &Share,
) -> Result<Plain, Denial> {
    match encoding {
        Encoding::Unknown => Err(unknown()),
        _ if !frame::is_compressed(&framed) => Ok(Plain { framed, _hold: None }),
        // On the heap: a request has this in it, and hardly one is compressed.
        Encoding::Gzip => {
            Box::pin(gunzip(framed.get(HEADER..).unwrap_or_default(), limit, share)).await
        }
        Encoding::Identity => Err(Denial::new(
            Reason::BadFraming,
            "a compressed message, and no grpc-encoding says how",
        )),
    }
}

/// The refusal of an encoding that etcd does not have.
#[must_use]
pub fn unknown() -> Denial {
    Denial::new(Reason::Compressed, "etcd does not have this grpc-encoding")
}

/// One member and nothing behind it. Go reads several as one message, which no client sends.
async fn gunzip(packed: &[u8], limit: usize, share: &Share) -> Result<Plain, Denial> {
    let limit = limit.min(packed.len().saturating_mul(RATIO).max(SHORT));
    let mut hold = Hold::none(share);
    let mut decoder = GzDecoder::new(packed);
    let mut framed = vec![0; HEADER];
    loop {
        let before = framed.len();
        // One byte above the limit is enough to see that it is exceeded.
        let piece =
            PIECE.min(limit.saturating_sub(before.saturating_sub(HEADER)).saturating_add(1));
        if !hold.set(before.saturating_add(piece).saturating_add(WORKSPACE)) {
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
    if let Some(place) = framed.get_mut(1..HEADER) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    let given_back = hold.set(framed.len());
    debug_assert!(given_back, "it only shrinks");
    Ok(Plain { framed: framed.into(), _hold: Some(hold) })
}

fn damaged() -> Denial {
    Denial::new(Reason::BadFraming, "the compressed message is cut, damaged, or more than one")
}

#[cfg(test)]
mod tests;
