//! Writes a client's request to etcd. After the head, only [`Upload`] can write to a stream to
//! etcd. Each write needs a permit that holds at that moment. Bytes that must wait for a window or
//! for the socket wait here and not in `h2`, so that the permit is checked after the wait.

use std::cell::Cell;
use std::future::poll_fn;

use bytes::Bytes;
use etcd_warden_core::wire::{frame, watch};
use h2::{Reason, RecvStream, SendStream};

use super::live_permit::LivePermit;
use super::outcome::{Abort, UpstreamError};
use crate::upstream::window::Window;

/// The request side of one stream to etcd. If it is dropped while the request or the response has
/// not ended, the stream is reset.
pub struct Upload {
    stream: SendStream<Bytes>,
    window: Window,
    /// Bytes of the body that were passed to `h2`. They are charged to `window`.
    written: usize,
    /// True if the response to the whole request has begun, so etcd has read all of `written`.
    answered: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.answered {
            self.window.give_back(self.written);
        } else {
            // The reset makes h2 discard bytes that it has not written yet; `Window` relies on
            // that. It has no effect on a stream that has ended.
            self.stream.send_reset(Reason::CANCEL);
            self.window.give_up(self.written);
        }
    }
}

/// Why bytes were not written to etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// etcd has ended the stream. Its response has the reason.
    Closed,
    /// The permit was withdrawn before the first byte was written.
    Withdrawn,
    /// The permit was withdrawn after some of the bytes were written. The stream must be reset:
    /// etcd must not receive the rest of a message that is no longer permitted.
    Cut,
}

/// How much of a request was written to etcd.
#[derive(Default)]
pub struct Progress {
    begun: Cell<bool>,
    ended: Cell<bool>,
}

impl Progress {
    /// The progress of a request whose first bytes are `body`, and the whole body if `ends`.
    pub fn of(body: &Bytes, ends: bool) -> Self {
        Self { begun: Cell::new(ends || !body.is_empty()), ended: Cell::new(ends) }
    }

    /// True if any byte of the body, or its end, was written.
    pub fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// True if the whole request was written.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Records that bytes, or the end, were written.
    pub fn note(&self, ends: bool) {
        self.begun.set(true);
        self.ended.set(ends);
    }
}

/// A piece of a request that is forwarded as it arrives.
pub enum Piece<'p> {
    /// Bytes, possibly none.
    Data(&'p Bytes),
    /// Trailers, which are not forwarded: etcd ignores them.
    Trailers,
    /// The end of the request.
    End,
}

impl Upload {
    /// Wraps a stream that [`super::forward`] has opened; no other file opens one.
    pub(super) const fn new(stream: SendStream<Bytes>, window: Window) -> Self {
        Self { stream, window, written: 0, answered: false }
    }

    /// Records that the response to a whole request has begun. So etcd has read the request.
    pub const fn answered(&mut self) {
        self.answered = true;
    }

    /// Passes bytes to `h2`.
    fn send(&mut self, bytes: Bytes, ends: bool) -> Result<(), Unsent> {
        // Some servers close a connection after a hundred empty DATA frames.
        if bytes.is_empty() && !ends {
            return Ok(());
        }
        self.window.take(bytes.len());
        self.written = self.written.saturating_add(bytes.len());
        self.stream.send_data(bytes, ends).map_err(|_| Unsent::Closed)
    }

    /// Writes bytes in pieces, as etcd's window and the socket allow. If `ends`, the last piece
    /// ends the request. The permit is checked before each piece. No piece waits in `h2`, where the
    /// permit would not be checked again.
    ///
    /// # Errors
    /// See [`Unsent`].
    pub async fn write(
        &mut self,
        permit: &LivePermit<'_>,
        bytes: Bytes,
        ends: bool,
    ) -> Result<(), Unsent> {
        if !self.window.has_room(bytes.len()) {
            // On the heap, because most requests are short and never get here.
            return Box::pin(self.write_pieces(permit, bytes, ends)).await;
        }
        if permit.holds() { self.send(bytes, ends) } else { Err(Unsent::Withdrawn) }
    }

    async fn write_pieces(
        &mut self,
        permit: &LivePermit<'_>,
        mut bytes: Bytes,
        ends: bool,
    ) -> Result<(), Unsent> {
        let mut refused = Unsent::Withdrawn;
        let mut reserved = Reserved::of(self, bytes.len()).await;
        loop {
            let room = reserved.room().await?;
            if !permit.holds() {
                return Err(refused);
            }
            let piece = bytes.split_to(room);
            reserved.send(piece, ends && bytes.is_empty())?;
            if bytes.is_empty() {
                return Ok(());
            }
            refused = Unsent::Cut;
        }
    }

    /// Waits until [`Upload::write`] can write the first of `bytes` bytes without waiting. So a
    /// decision that is made after this wait still holds when they are written. Reserves no
    /// capacity, because the bytes may be refused and never written.
    pub async fn ready(&mut self, bytes: usize) {
        if !self.window.has_room(bytes) {
            // The next write reports any error.
            let _ = Box::pin(async { Reserved::of(self, bytes.min(1)).await.room().await }).await;
        }
    }

    /// Ends the request between two messages. This completes no message, so it needs no permit.
    pub fn half_close(&mut self) {
        let _ = self.stream.send_data(Bytes::new(), true);
    }

    /// Asks etcd to cancel a watch. The proxy itself creates this message, and it gives the client
    /// nothing, so it needs no permit.
    pub fn cancel_watch(&mut self, id: i64) {
        // An error means that etcd has ended the stream, and the watch with it. These few bytes may
        // wait in h2 for etcd's window.
        let _ = self.send(frame::encode(&watch::cancel_request(id)), false);
    }

    /// Forwards the rest of a request until the client ends or resets it. Calls `observe` with each
    /// piece before it is written. Returns only if the call must end early: [`Abort::ClientGone`]
    /// or [`UpstreamError::Withdrawn`].
    pub async fn copy(
        &mut self,
        permit: &LivePermit<'_>,
        body: &mut RecvStream,
        progress: &Progress,
        mut observe: impl FnMut(Piece<'_>),
    ) -> Abort {
        loop {
            let written = match body.data().await {
                Some(Ok(chunk)) => {
                    let length = chunk.len();
                    observe(Piece::Data(&chunk));
                    let written = self.write(permit, chunk, false).await;
                    if written.is_ok() && length > 0 {
                        progress.note(false);
                    }
                    let _ = body.flow_control().release_capacity(length);
                    written
                }
                Some(Err(error)) => return self.reset(&error),
                None => {
                    match body.trailers().await {
                        Ok(None) => {}
                        Ok(Some(_)) => observe(Piece::Trailers),
                        Err(error) => return self.reset(&error),
                    }
                    observe(Piece::End);
                    let written = self.write(permit, Bytes::new(), true).await;
                    if written.is_ok() {
                        progress.note(true);
                        break;
                    }
                    written
                }
            };
            match written {
                Ok(()) => {}
                Err(Unsent::Closed) => break,
                Err(Unsent::Withdrawn) => return UpstreamError::Withdrawn.into(),
                Err(Unsent::Cut) => {
                    progress.note(false);
                    return UpstreamError::Withdrawn.into();
                }
            }
        }
        // The request is written or no longer wanted. The response decides when the call ends.
        std::future::pending().await
    }

    /// Resets the stream to etcd with the error code of the client's reset.
    fn reset(&mut self, error: &h2::Error) -> Abort {
        self.stream.send_reset(error.reason().unwrap_or(Reason::CANCEL));
        Abort::ClientGone
    }
}

/// Capacity that was requested from `h2` and not used yet. It is charged to the window. On drop,
/// the unused part becomes available to other streams.
struct Reserved<'u> {
    upload: &'u mut Upload,
    bytes: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.upload.stream.reserve_capacity(0);
            self.upload.window.give_back(self.bytes);
        }
    }
}

impl<'u> Reserved<'u> {
    /// Requests capacity after `h2` has sent everything that it holds.
    async fn of(upload: &'u mut Upload, bytes: usize) -> Self {
        upload.window.take(bytes);
        let reserved = Self { upload, bytes };
        reserved.upload.window.drained().await;
        reserved.upload.stream.reserve_capacity(bytes);
        reserved
    }

    /// Waits until some bytes can be written, and returns how many. Returns 0 only if none are
    /// left.
    async fn room(&mut self) -> Result<usize, Unsent> {
        loop {
            if self.upload.window.is_behind() {
                self.upload.window.drained().await;
            }
            let room = self.upload.stream.capacity().min(self.bytes);
            if room > 0 || self.bytes == 0 {
                return Ok(room);
            }
            match poll_fn(|cx| self.upload.stream.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Unsent::Closed),
            }
        }
    }

    /// Passes bytes to `h2`, at most the number that [`Reserved::room`] returned.
    fn send(&mut self, bytes: Bytes, ends: bool) -> Result<(), Unsent> {
        self.bytes = self.bytes.saturating_sub(bytes.len());
        self.upload.written = self.upload.written.saturating_add(bytes.len());
        self.upload.stream.send_data(bytes, ends).map_err(|_| Unsent::Closed)?;
        self.upload.stream.reserve_capacity(self.bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http::Request;

    use super::*;

    /// The initial window of a connection (RFC 9113, 6.9.2).
    const INITIAL: usize = 65_535;

    /// Opens two streams of one connection to a server that never sends WINDOW_UPDATE.
    async fn two_streams() -> (Upload, SendStream<Bytes>) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (mut send, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let mut held = Vec::new();
            while let Some(Ok(accepted)) = connection.accept().await {
                held.push(accepted);
            }
        });
        let mut open = async || {
            send = send.clone().ready().await.unwrap();
            send.send_request(Request::post("https://etcd/").body(()).unwrap(), false).unwrap().1
        };
        let (first, second) = (open().await, open().await);
        (Upload::new(first, Window::default()), second)
    }

    async fn reserve(stream: &mut SendStream<Bytes>, bytes: usize) {
        stream.reserve_capacity(bytes);
        while stream.capacity() < bytes {
            poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn ready_without_a_write_reserves_no_window() {
        let (mut upload, mut other) = two_streams().await;
        upload.ready(1_500_000).await;
        reserve(&mut other, INITIAL).await;
        assert!(upload.window.has_room(48 * 1024));
    }

    #[tokio::test]
    async fn reserved_capacity_is_charged_until_used_or_dropped() {
        let (mut upload, mut other) = two_streams().await;
        let window = upload.window.clone();
        let mut reserved = Reserved::of(&mut upload, 100_000).await;
        assert_eq!(reserved.room().await, Ok(INITIAL));
        assert!(!window.has_room(0), "the whole window is requested");
        reserved.send(Bytes::from_static(&[0; 1000]), false).unwrap();
        drop(reserved);
        reserve(&mut other, INITIAL - 1000).await;
        assert_eq!(upload.written, 1000);
        assert!(window.has_room(48 * 1024 - 1000) && !window.has_room(48 * 1024 - 999));
        // `ready` waits for the window that the other stream holds. Dropping it leaves no request.
        assert!(upload.ready(1_500_000).now_or_never().is_none());
        assert!(window.has_room(48 * 1024 - 1000));
    }
}
