//! A response body from etcd. While the client does not read, arriving bytes are taken out of `h2`
//! and coalesced. In `h2`, each small piece would cost some hundreds of bytes, keep its whole read
//! buffer alive, and use up the window of the connection, which other clients share.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;

use super::limits::READ_BUFFER;
use super::outcome::UpstreamError;

/// A piece of at least this many bytes is not copied: the buffer that it keeps alive is at most
/// twice as large.
const LARGE: usize = READ_BUFFER / 2;

/// The body of a response.
pub struct ResponseBody {
    body: RecvStream,
    /// Bytes that arrived while the client was not reading. `None` for most responses.
    kept: Option<Box<Kept>>,
}

impl ResponseBody {
    /// Wraps a body that was not read yet.
    #[must_use]
    pub const fn new(body: RecvStream) -> Self {
        Self { body, kept: None }
    }

    /// The next bytes, or `None` before the trailers.
    pub fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        if let Some(kept) = &mut self.kept {
            if let Some(piece) = kept.next() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if let Some(end) = self.kept.take().and_then(|kept| kept.end) {
                return Poll::Ready(end.err().map(Err));
            }
        }
        self.body.poll_data(cx).map_err(|error| UpstreamError::of(&error))
    }

    /// The next bytes, or `None` before the trailers.
    pub async fn data(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// The trailers. Call this after all bytes were read.
    ///
    /// # Errors
    /// The response ended early.
    pub async fn trailers(&mut self) -> Result<Option<HeaderMap>, UpstreamError> {
        self.body.trailers().await.map_err(|error| UpstreamError::of(&error))
    }

    /// Takes all bytes that have arrived out of `h2`, and registers the task to be woken for more.
    /// This is at most one window, because no capacity is released meanwhile.
    pub fn keep(&mut self, cx: &mut Context<'_>) {
        while self.kept.as_ref().is_none_or(|kept| kept.end.is_none())
            && let Poll::Ready(arrived) = self.body.poll_data(cx)
        {
            let kept = self.kept.get_or_insert_default();
            match arrived {
                Some(Ok(piece)) => kept.push(piece),
                Some(Err(error)) => kept.end = Some(Err(UpstreamError::of(&error))),
                None => kept.end = Some(Ok(())),
            }
        }
    }

    /// Returns flow-control capacity for bytes that were passed on, so that etcd may send more.
    pub fn release(&mut self, bytes: usize) {
        let _ = self.body.flow_control().release_capacity(bytes);
    }

    /// True if nothing follows, not even trailers.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.is_empty()) && self.body.is_end_stream()
    }
}

/// Bytes that were taken out of `h2`, in large pieces.
#[derive(Default)]
struct Kept {
    pieces: VecDeque<Bytes>,
    /// The small pieces after `pieces`, coalesced.
    last: BytesMut,
    /// The end of the data, or the error that ended it.
    end: Option<Result<(), UpstreamError>>,
}

impl Kept {
    fn push(&mut self, piece: Bytes) {
        if piece.len() >= LARGE {
            self.finish();
            return self.pieces.push_back(piece);
        }
        self.last.extend_from_slice(&piece);
        if self.last.len() >= LARGE {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if !self.last.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.last).freeze());
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        self.pieces
            .pop_front()
            .or_else(|| (!self.last.is_empty()).then(|| std::mem::take(&mut self.last).freeze()))
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.last.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(kept: &mut Kept) -> Vec<usize> {
        std::iter::from_fn(|| kept.next()).map(|piece| piece.len()).collect()
    }

    #[test]
    fn coalesces_small_pieces_in_order() {
        let mut kept = Kept::default();
        let pieces: Vec<Bytes> =
            (0..2000_u32).map(|n| Bytes::from(vec![n as u8; 1 + n as usize % 50])).collect();
        let all: Vec<u8> = pieces.iter().flatten().copied().collect();
        pieces.into_iter().for_each(|piece| kept.push(piece));
        let mut seen = Vec::new();
        let mut count = 0;
        while let Some(piece) = kept.next() {
            seen.extend_from_slice(&piece);
            count += 1;
        }
        assert!(seen == all && kept.is_empty());
        assert!(count <= all.len() / LARGE + 1, "{count} pieces");
    }

    #[test]
    fn keeps_large_pieces_uncopied_and_in_order() {
        let mut kept = Kept::default();
        let large = Bytes::from(vec![1; LARGE]);
        for piece in [
            Bytes::from_static(b"a"),
            large.clone(),
            Bytes::from_static(b"b"),
            Bytes::from_static(b"c"),
            large.clone(),
        ] {
            kept.push(piece);
        }
        assert_eq!(kept.pieces[1].as_ptr(), large.as_ptr());
        assert_eq!(lengths(&mut kept), [1, LARGE, 2, LARGE]);
    }
}
