//! etcd's answer as it comes in. What waits for a client that does not read is taken out of `h2`
//! and put together: there each small piece would cost some hundreds of bytes, keep the buffer
//! alive that it was read into, and count against the connection, which others share.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::{Error, RecvStream};
use http::HeaderMap;

use super::session::READ_BUFFER;

/// Bytes of a piece that stays as it is: what it keeps alive is at most twice as much.
const LARGE: usize = READ_BUFFER / 2;

/// The body of an answer.
pub struct Inflow {
    body: RecvStream,
    /// What has waited. Most answers never do.
    kept: Option<Box<Kept>>,
}

impl Inflow {
    /// Of a body of which nothing was read.
    #[must_use]
    pub const fn new(body: RecvStream) -> Self {
        Self { body, kept: None }
    }

    /// The next bytes.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if let Some(kept) = &mut self.kept {
            if let Some(piece) = kept.next() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if let Some(end) = self.kept.take().and_then(|kept| kept.end) {
                return Poll::Ready(end.map(Err));
            }
        }
        self.body.poll_data(cx)
    }

    /// The next bytes.
    pub async fn data(&mut self) -> Option<Result<Bytes, Error>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// The trailers, once all bytes were read.
    ///
    /// # Errors
    /// etcd broke the answer off.
    pub async fn trailers(&mut self) -> Result<Option<HeaderMap>, Error> {
        self.body.trailers().await
    }

    /// Keeps what has come. The task is woken when there is more: no more than a window comes, as
    /// nothing of it is given back.
    pub fn keep(&mut self, cx: &mut Context<'_>) {
        while self.kept.as_ref().is_none_or(|kept| kept.end.is_none())
            && let Poll::Ready(came) = self.body.poll_data(cx)
        {
            let kept = self.kept.get_or_insert_default();
            match came {
                Some(Ok(piece)) => kept.push(piece),
                Some(Err(error)) => kept.end = Some(Some(error)),
                None => kept.end = Some(None),
            }
        }
    }

    /// These bytes were passed on: etcd may send more.
    pub fn release(&mut self, bytes: usize) {
        let _ = self.body.flow_control().release_capacity(bytes);
    }

    /// Whether nothing comes any more, not even trailers.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.is_empty()) && self.body.is_end_stream()
    }
}

/// Bytes in pieces that are not small.
#[derive(Default)]
struct Kept {
    pieces: VecDeque<Bytes>,
    /// Small ones that came last, put together.
    last: BytesMut,
    /// What came behind them: the end, or an error.
    end: Option<Option<Error>>,
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
    fn small_pieces_become_large_ones_and_keep_their_order() {
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
    fn what_is_large_stays_as_it_is_and_in_its_place() {
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
