//! The body of a request, which is held until the request can be judged.

use bytes::{Bytes, BytesMut};
use etcd_warden_core::authorize::{Denial, Missing, Reason};
use etcd_warden_core::wire::frame::{self, FrameFault};
use h2::RecvStream;
use http::HeaderMap;

use super::budget::Share;
use super::encoding::{self, Encoding, GRPC_ENCODING, Plain};
use super::limits::READ_BUFFER;
use super::outcome::Abort;

/// How much of a body must have arrived before its message is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The end of the stream, so that nothing can follow the message. Enforcement waits for this.
    End,
    /// The first whole message, or a fault that rules one out. etcd itself waits for this.
    FirstMessage,
}

/// A request body: the bytes that have arrived, and the stream for the rest.
pub struct RequestBody {
    body: RecvStream,
    /// The bytes that have arrived, if they are one chunk.
    held: Bytes,
    /// The bytes that have arrived, if they are several chunks.
    more: BytesMut,
    ended: bool,
    share: Share,
    /// Bytes taken from `share`.
    taken: usize,
    encoding: Encoding,
    /// The decompressed message, if it arrived compressed.
    plain: Option<Plain>,
    /// The denial, if the body can no longer become one acceptable message.
    refused: Option<Denial>,
}

impl RequestBody {
    /// Wraps a body that was not read yet. Held bytes are charged to `share`.
    #[must_use]
    pub fn new(body: RecvStream, encoding: Encoding, share: Share) -> Self {
        Self {
            body,
            held: Bytes::new(),
            more: BytesMut::new(),
            ended: false,
            share,
            taken: 0,
            encoding,
            plain: None,
            refused: None,
        }
    }

    /// Reads until there is enough to judge, or until the body is refused. Then
    /// [`RequestBody::message`] returns the result. All bytes that have arrived stay held.
    ///
    /// # Errors
    /// [`Abort::ClientGone`].
    pub async fn fill(&mut self, until: Until, limit: usize) -> Result<(), Abort> {
        // etcd refuses an unknown encoding for the head alone.
        if self.encoding == Encoding::Unknown {
            self.refused = Some(encoding::unknown());
            return Ok(());
        }
        loop {
            self.refused = self.excess(limit);
            if self.refused.is_some() {
                return Ok(());
            }
            let more_may_come = matches!(
                frame::only(self.bytes(), limit),
                Err(FrameFault::NoMessage | FrameFault::Cut)
            );
            if until == Until::FirstMessage && !more_may_come {
                self.decompress(limit).await;
                return Ok(());
            }
            match self.body.data().await {
                Some(Ok(chunk)) => {
                    if !self.keep(chunk) {
                        let text = "too many requests are held at once";
                        self.refused = Some(Denial::new(Reason::Limit, text));
                        return Ok(());
                    }
                }
                Some(Err(_)) => return Err(Abort::ClientGone),
                None => break,
            }
        }
        self.ended = true;
        if !self.body.is_end_stream() {
            match self.body.trailers().await {
                Ok(None) => {}
                Ok(Some(_)) => {
                    self.refused = Some(trailers_denial());
                    return Ok(());
                }
                Err(_) => return Err(Abort::ClientGone),
            }
        }
        self.decompress(limit).await;
        Ok(())
    }

    /// The denial, if [`RequestBody::fill`] refused the body.
    pub fn refused(&self) -> Option<&Denial> {
        self.refused.as_ref()
    }

    /// Decompresses the message if it arrived compressed. [`RequestBody::message`] reports framing
    /// errors.
    async fn decompress(&mut self, limit: usize) {
        if !frame::is_compressed(self.bytes())
            || self.plain.is_some()
            || frame::only(self.bytes(), limit).is_err()
        {
            return;
        }
        if !self.more.is_empty() {
            self.held = self.more.split().freeze();
        }
        match encoding::plain(self.held.clone(), self.encoding, limit, &self.share).await {
            Ok(plain) => self.plain = Some(plain),
            Err(denial) => self.refused = Some(denial),
        }
    }

    /// The message, if the body is exactly one message.
    ///
    /// # Errors
    /// The framing error, or the denial with which [`RequestBody::fill`] refused the body.
    pub fn message(&self, limit: usize) -> Result<&[u8], Denial> {
        if let Some(denial) = &self.refused {
            return Err(denial.clone());
        }
        let message = frame::only(self.bytes(), limit).map_err(denial_of)?;
        match &self.plain {
            Some(plain) if message.compressed => plain.message(),
            None if message.compressed => Err(denial_of(FrameFault::Compressed)),
            _ => Ok(message.bytes),
        }
    }

    /// The bytes that have arrived.
    fn bytes(&self) -> &[u8] {
        if self.more.is_empty() { &self.held } else { &self.more }
    }

    /// Takes the held bytes out. Returns the bytes that were judged, and the bytes to forward with
    /// these headers. They differ only if a compressed message is forwarded as it arrived, together
    /// with `grpc-encoding`, which only shadow mode does.
    pub fn take(&mut self, headers: &HeaderMap) -> (Bytes, Bytes) {
        let arrived = if self.more.is_empty() {
            std::mem::take(&mut self.held)
        } else {
            self.more.split().freeze()
        };
        match &self.plain {
            None => (arrived.clone(), arrived),
            Some(plain) if headers.contains_key(GRPC_ENCODING) => (plain.framed.clone(), arrived),
            Some(plain) => (plain.framed.clone(), plain.framed.clone()),
        }
    }

    /// True if the client has ended the request.
    pub fn ended(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    /// The rest of the body, for a request that is forwarded as it arrives.
    pub fn rest(&mut self) -> &mut RecvStream {
        &mut self.body
    }

    /// Keeps a chunk. Returns false if this exceeds the budget. The chunk is kept even then,
    /// because shadow mode forwards everything that arrived. A single large or final chunk is not
    /// copied, so the usual request never is.
    fn keep(&mut self, chunk: Bytes) -> bool {
        // Return the flow-control capacity at once: the budget limits the held bytes.
        let _ = self.body.flow_control().release_capacity(chunk.len());
        let has_room = self.share.take(chunk.len());
        if has_room {
            self.taken = self.taken.saturating_add(chunk.len());
        }
        if self.held.is_empty() && self.more.is_empty() {
            let waits = !self.body.is_end_stream() && chunk.len() < READ_BUFFER;
            self.held = if waits { Bytes::copy_from_slice(&chunk) } else { chunk };
        } else {
            if self.more.is_empty() {
                self.more.extend_from_slice(&std::mem::take(&mut self.held));
            }
            self.more.extend_from_slice(&chunk);
        }
        has_room
    }

    /// Returns a denial if the frame header announces a message over the limit, before its bytes
    /// are held, or if more bytes have arrived than one message can have.
    fn excess(&self, limit: usize) -> Option<Denial> {
        match frame::only(self.bytes(), limit) {
            Err(fault @ FrameFault::TooLarge { .. }) => Some(denial_of(fault)),
            _ if self.bytes().len() > limit.saturating_add(frame::HEADER) => {
                Some(denial_of(FrameFault::Several))
            }
            _ => None,
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.share.give_back(self.taken);
    }
}

/// The denial for a framing error.
#[must_use]
pub fn denial_of(fault: FrameFault) -> Denial {
    match fault {
        FrameFault::Compressed => Denial::new(Reason::BadFraming, "the message is compressed"),
        FrameFault::TooLarge { length, limit } => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            Denial { reason: Reason::TooLarge, missing: Missing::Size { length, limit } }
        }
        FrameFault::BadFlag => {
            Denial::new(Reason::BadFraming, "the message's flag byte is neither 0 nor 1")
        }
        FrameFault::Cut => Denial::new(Reason::BadFraming, "the message is cut short"),
        FrameFault::Several => {
            Denial::new(Reason::BadFraming, "more than one message in a unary call")
        }
        FrameFault::NoMessage => Denial::new(Reason::BadFraming, "a unary call without a message"),
    }
}

/// The denial for a request with trailers.
#[must_use]
pub fn trailers_denial() -> Denial {
    Denial::new(Reason::BadFraming, "requests have no trailers")
}
