//! The client's side of a call, written to etcd. [`Upload`] is the only way to write to a stream of
//! etcd's after its head, and each write needs a permit that holds at that moment. What must wait,
//! for a window of etcd's or for the socket, waits here and not with `h2`, and the permit is asked
//! after it.

use std::cell::Cell;
use std::future::poll_fn;

use bytes::Bytes;
use etcd_warden_core::wire::{frame, watch};
use h2::{Reason, RecvStream, SendStream};

use super::live_permit::LivePermit;
use crate::upstream::window::Window;

/// Our side of one stream to etcd. Dropped before its end or its answer, it resets the stream.
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
            // What h2 has not written yet must not follow: `Window` relies on it. A stream that has
            // ended is left as it is.
            self.stream.send_reset(Reason::CANCEL);
            self.window.give_up(self.written);
        }
    }
}

/// Why bytes were not written to etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// etcd has ended the stream: its answer says why.
    Closed,
    /// The permit was withdrawn before any of the bytes was written.
    Withdrawn,
    /// The permit was withdrawn after a part was written: the stream must end, because what follows
    /// would complete that part.
    Cut,
}

/// Why an upload that passes through ended before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The client reset its stream, or its connection is gone.
    ClientGone,
    /// The permit was withdrawn.
    Withdrawn,
}

/// How much of a request etcd has.
#[derive(Default)]
pub struct Progress {
    begun: Cell<bool>,
    ended: Cell<bool>,
}

impl Progress {
    /// Of a request whose head was sent with these bytes.
    #[must_use]
    pub fn of(body: &Bytes, ends: bool) -> Self {
        Self { begun: Cell::new(ends || !body.is_empty()), ended: Cell::new(ends) }
    }

    /// Whether any byte of the body was written, or its end.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Whether the whole request was written.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Bytes were written, or the end.
    pub fn note(&self, ends: bool) {
        self.begun.set(true);
        self.ended.set(ends);
    }
}

/// A piece of a request that is copied as it comes.
pub enum Piece<'p> {
    /// Bytes, possibly none.
    Data(&'p Bytes),
    /// Trailers. They are not forwarded: etcd ignores them.
    Trailers,
    /// The client's side has ended.
    End,
}

impl Upload {
    /// Only `forward` opens streams to etcd.
    pub(super) const fn new(stream: SendStream<Bytes>, window: Window) -> Self {
        Self { stream, window, written: 0, answered: false }
    }

    /// The request was whole, and its answer has begun: etcd has read it.
    pub const fn answered(&mut self) {
        self.answered = true;
    }

    /// Hands bytes to `h2`.
    fn send(&mut self, bytes: Bytes, ends: bool) -> Result<(), Unsent> {
        // The frame would say nothing, and some servers end a connection for a hundred of those.
        if bytes.is_empty() && !ends {
            return Ok(());
        }
        self.window.take(bytes.len());
        self.written = self.written.saturating_add(bytes.len());
        self.stream.send_data(bytes, ends).map_err(|_| Unsent::Closed)
    }

    /// Writes bytes as etcd's window and the socket allow, and the end of our side with the last of
    /// them if it `ends`. The permit is checked before each piece: nothing is left with h2 that
    /// has to wait for a window, where no permit would be asked again.
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
            // On the heap: most requests are short.
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

    /// Waits until [`Upload::write`] can write at least the beginning of so many bytes at once:
    /// what must be true when they are written is checked after this. It keeps nothing of the
    /// window: they may turn out not to be written.
    pub async fn ready(&mut self, bytes: usize) {
        if !self.window.has_room(bytes) {
            // What ended the stream shows when it is written to.
            let _ = Box::pin(async { Reserved::of(self, bytes.min(1)).await.room().await }).await;
        }
    }

    /// Ends our side between two messages. It completes nothing, and needs no permit.
    pub fn half_close(&mut self) {
        let _ = self.stream.send_data(Bytes::new(), true);
    }

    /// Asks etcd to cancel a watch. The proxy's own message, which takes something away: it needs
    /// no permit.
    pub fn cancel_watch(&mut self, id: i64) {
        // If etcd has ended the stream the watch has ended, too. h2 holds the few bytes until
        // etcd's window takes them.
        let _ = self.send(frame::encode(&watch::cancel_request(id)), false);
    }

    /// Copies what the client still sends, until the client ends its side or resets the stream.
    /// Returns only when the call must end; `observe` sees each piece before it is written.
    pub async fn copy(
        &mut self,
        permit: &LivePermit<'_>,
        body: &mut RecvStream,
        progress: &Progress,
        mut observe: impl FnMut(Piece<'_>),
    ) -> Stopped {
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
                Err(Unsent::Withdrawn) => return Stopped::Withdrawn,
                Err(Unsent::Cut) => {
                    progress.note(false);
                    return Stopped::Withdrawn;
                }
            }
        }
        // etcd's answer decides when the call ends.
        std::future::pending().await
    }

    /// The client reset its stream: etcd gets the same reason.
    fn reset(&mut self, error: &h2::Error) -> Stopped {
        self.stream.send_reset(error.reason().unwrap_or(Reason::CANCEL));
        Stopped::ClientGone
    }
}

/// Capacity that was asked of `h2` and is not used yet. It counts in the window; when this is
/// dropped, the rest of it is given back, to others that wait.
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
    /// Asks for it when what was promised to others is out.
    async fn of(upload: &'u mut Upload, bytes: usize) -> Self {
        upload.window.take(bytes);
        let reserved = Self { upload, bytes };
        reserved.upload.window.drained().await;
        reserved.upload.stream.reserve_capacity(bytes);
        reserved
    }

    /// Waits until some of it can be written, if there is any, and gives how much.
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

    /// Hands bytes to `h2` that there is room for.
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

    /// The window that a connection begins with.
    const INITIAL: usize = 65_535;

    /// Two streams of one connection to a server that reads all and opens no window.
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

    async fn gets(stream: &mut SendStream<Bytes>, bytes: usize) {
        stream.reserve_capacity(bytes);
        while stream.capacity() < bytes {
            poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_ready_and_never_written_keeps_nothing_of_the_window() {
        let (mut upload, mut other) = two_streams().await;
        upload.ready(1_500_000).await;
        gets(&mut other, INITIAL).await;
        assert!(upload.window.has_room(48 * 1024));
    }

    #[tokio::test]
    async fn capacity_counts_until_it_is_used_or_given_back() {
        let (mut upload, mut other) = two_streams().await;
        let window = upload.window.clone();
        let mut reserved = Reserved::of(&mut upload, 100_000).await;
        assert_eq!(reserved.room().await, Ok(INITIAL));
        assert!(!window.has_room(0), "all of it is asked for");
        reserved.send(Bytes::from_static(&[0; 1000]), false).unwrap();
        drop(reserved);
        gets(&mut other, INITIAL - 1000).await;
        assert_eq!(upload.written, 1000);
        assert!(window.has_room(48 * 1024 - 1000) && !window.has_room(48 * 1024 - 999));
        // Who waits for a window that others have, and goes away, asks for nothing any more.
        assert!(upload.ready(1_500_000).now_or_never().is_none());
        assert!(window.has_room(48 * 1024 - 1000));
    }
}
