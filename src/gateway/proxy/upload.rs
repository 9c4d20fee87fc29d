//! Writes a client's request to etcd. [`Upload`] is the only way to write to a stream of etcd's
//! after its head, and each write needs a permit that holds at that moment. Bytes that must wait
//! for a window or for the socket wait here and not in `h2`, so that the permit is checked after
//! the wait.

use std::cell::Cell;
use std::future::poll_fn;

use bytes::Bytes;
use etcd_warden_core::wire::{frame, watch};
use h2::{Reason, RecvStream, SendStream};

use super::live_permit::LivePermit;
use super::outcome::{Abort, UpstreamError};
use crate::upstream::window::Window;

/// The request side of one stream to etcd. If it is dropped before the end of the request or the
/// response, the stream is reset.
pub struct Upload {
    stream: SendStream<Bytes>,
    window: Window,
    written: usize,
    answered: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.answered {
            self.window.give_back(self.written);
        } else {
            // Bytes that h2 has not written yet must not be sent: `Window` relies on it. A reset
            // does nothing to a stream that has ended.
            self.stream.send_reset(Reason::CANCEL);
            self.window.give_up(self.written);
        }
    }
}

/// Why bytes were not written to etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// etcd has ended the stream, and its response says why.
    Closed,
    /// The permit was withdrawn before any of the bytes was written.
    Withdrawn,
    /// The permit was withdrawn after a part of them was written. The stream must end, because more
    /// bytes would complete that part.
    Cut,
}

/// How much of a request was written to etcd.
#[derive(Default)]
pub struct Progress {
    begun: Cell<bool>,
    ended: Cell<bool>,
}

impl Progress {
    /// The progress of a request whose head was sent with these bytes.
    pub fn of(body: &Bytes, ends: bool) -> Self {
        Self { begun: Cell::new(ends || !body.is_empty()), ended: Cell::new(ends) }
    }

    /// Whether any byte of the body was written, or its end.
    pub fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Whether the whole request was written.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Notes that bytes or the end were written.
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

    /// Notes that the response to a whole request has begun, so that etcd has read the request.
    pub const fn answered(&mut self) {
        self.answered = true;
    }

    /// Hands bytes to `h2`.
    fn send(&mut self, bytes: Bytes, ends: bool) -> Result<(), Unsent> {
        // Some servers close a connection after a hundred empty DATA frames.
        if bytes.is_empty() && !ends {
            return Ok(());
        }
        self.window.take(bytes.len());
        self.written = self.written.saturating_add(bytes.len());
        self.stream.send_data(bytes, ends).map_err(|_| Unsent::Closed)
    }

    /// Writes bytes as etcd's window and the socket allow, and ends the request with the last of
    /// them if `ends`. The permit is checked before each piece. No piece waits in `h2`, where the
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
            // On the heap, because most requests are short.
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

    /// Waits until [`Upload::write`] can write at least the first of this many bytes without
    /// waiting. The caller then checks what must hold when they are written. This reserves nothing
    /// of the window, because they may not be written after all.
    pub async fn ready(&mut self, bytes: usize) {
        if !self.window.has_room(bytes) {
            // An error shows at the next write.
            let _ = Box::pin(async { Reserved::of(self, bytes.min(1)).await.room().await }).await;
        }
    }

    /// Ends the request between two messages. This completes no message, so it needs no permit.
    pub fn half_close(&mut self) {
        let _ = self.stream.send_data(Bytes::new(), true);
    }

    /// Asks etcd to cancel a watch. This is the proxy's own message and only takes something away,
    /// so it needs no permit.
    pub fn cancel_watch(&mut self, id: i64) {
        // If etcd has ended the stream, it has ended the watch as well. h2 holds these few bytes
        // until etcd's window allows them.
        let _ = self.send(frame::encode(&watch::cancel_request(id)), false);
    }

    /// Forwards the rest of a request until the client ends or resets it; `observe` sees each piece
    /// before it is written. Returns only when the call must end: with [`Abort::ClientGone`], or
    /// with [`UpstreamError::Withdrawn`].
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
        // The response decides when the call ends.
        std::future::pending().await
    }

    /// Resets etcd's stream with the code with which the client reset its own.
    fn reset(&mut self, error: &h2::Error) -> Abort {
        self.stream.send_reset(error.reason().unwrap_or(Reason::CANCEL));
        Abort::ClientGone
    }
}

/// Capacity that was requested from `h2` and not used yet. It is charged to the window. On drop the
/// unused part is given back to the streams that wait for it.
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
    /// Requests capacity once the bytes of earlier requests have left.
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

    /// Hands bytes to `h2`, at most as many as [`Reserved::room`] returned.
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
        assert!(!window.has_room(0), "all of it is requested");
        reserved.send(Bytes::from_static(&[0; 1000]), false).unwrap();
        drop(reserved);
        reserve(&mut other, INITIAL - 1000).await;
        assert_eq!(upload.written, 1000);
        assert!(window.has_room(48 * 1024 - 1000) && !window.has_room(48 * 1024 - 999));
        // A wait for a window that another stream holds requests nothing after it was dropped.
        assert!(upload.ready(1_500_000).now_or_never().is_none());
        assert!(window.has_room(48 * 1024 - 1000));
    }
}
