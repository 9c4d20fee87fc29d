//! A request's body, held until it can be judged.

use bytes::{Bytes, BytesMut};
use etcd_warden_core::authorize::{Denial, Missing, Reason};
use etcd_warden_core::wire::frame::{self, FrameFault};
use h2::RecvStream;
use http::HeaderMap;

use super::budget::Share;
use super::encoding::{self, Encoding, GRPC_ENCODING, Plain};
use super::session::READ_BUFFER;

/// The client reset the stream, or its connection ended: nobody waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientGone;

/// How much has to be there before a message is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The end of the stream: nothing may follow the message. What enforcement waits for.
    End,
    /// The first whole message, or what shows that there will be none: what etcd itself waits for.
    FirstMessage,
}

/// A request body: what has arrived of it, and the rest.
pub struct Intake {
    body: RecvStream,
    held: Bytes,
    more: BytesMut,
    ended: bool,
    share: Share,
    taken: usize,
    encoding: Encoding,
    /// The message without its compression, if it came with one.
    plain: Option<Plain>,
}

impl Intake {
    /// Nothing was read yet.
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
        }
    }

    /// Reads until there is enough to judge, or until something shows that it never will be.
    ///
    /// # Errors
    /// `Ok(Err(..))` is a refusal: what has arrived stays held. `Err` means that there is nobody to
    /// refuse.
    pub async fn fill(
        &mut self,
        until: Until,
        limit: usize,
    ) -> Result<Result<(), Denial>, ClientGone> {
        // etcd looks no further either.
        if self.encoding == Encoding::Unknown {
            return Ok(Err(encoding::unknown()));
        }
        loop {
            if let Some(denial) = self.excess(limit) {
                return Ok(Err(denial));
            }
            let more_may_come = matches!(
                frame::only(self.bytes(), limit),
                Err(FrameFault::NoMessage | FrameFault::Cut)
            );
            if until == Until::FirstMessage && !more_may_come {
                return Ok(self.unpack(limit).await);
            }
            match self.body.data().await {
                Some(Ok(chunk)) => {
                    if !self.keep(chunk) {
                        return Ok(Err(Denial::new(
                            Reason::Limit,
                            "too many requests are held at once",
                        )));
                    }
                }
                Some(Err(_)) => return Err(ClientGone),
                None => break,
            }
        }
        self.ended = true;
        if !self.body.is_end_stream() {
            match self.body.trailers().await {
                Ok(None) => {}
                Ok(Some(_)) => return Ok(Err(trailers_denial())),
                Err(_) => return Err(ClientGone),
            }
        }
        Ok(self.unpack(limit).await)
    }

    /// Unpacks the message if it came compressed. What is wrong with its frame is for
    /// [`Intake::message`] to say.
    async fn unpack(&mut self, limit: usize) -> Result<(), Denial> {
        if !frame::is_compressed(self.bytes())
            || self.plain.is_some()
            || frame::only(self.bytes(), limit).is_err()
        {
            return Ok(());
        }
        if !self.more.is_empty() {
            self.held = self.more.split().freeze();
        }
        self.plain =
            Some(encoding::plain(self.held.clone(), self.encoding, limit, &self.share).await?);
        Ok(())
    }

    /// The message, if the body is exactly one.
    ///
    /// # Errors
    /// What the body is instead.
    pub fn message(&self, limit: usize) -> Result<&[u8], Denial> {
        let message = frame::only(self.bytes(), limit).map_err(denial_of)?;
        match &self.plain {
            Some(plain) if message.compressed => plain.message(),
            None if message.compressed => Err(denial_of(FrameFault::Compressed)),
            _ => Ok(message.bytes),
        }
    }

    /// What has arrived.
    fn bytes(&self) -> &[u8] {
        if self.more.is_empty() { &self.held } else { &self.more }
    }

    /// What was judged of what has arrived, and what is forwarded with these headers: the same, but
    /// for a compressed message whose `grpc-encoding` goes with it, as it does in shadow mode
    /// alone.
    #[must_use]
    pub fn take(&mut self, headers: &HeaderMap) -> (Bytes, Bytes) {
        let came = if self.more.is_empty() {
            std::mem::take(&mut self.held)
        } else {
            self.more.split().freeze()
        };
        match &self.plain {
            None => (came.clone(), came),
            Some(plain) if headers.contains_key(GRPC_ENCODING) => (plain.framed.clone(), came),
            Some(plain) => (plain.framed.clone(), plain.framed.clone()),
        }
    }

    /// Whether the client has ended its side.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    /// The rest of the body, for a request that is relayed as it comes.
    pub fn rest(&mut self) -> &mut RecvStream {
        &mut self.body
    }

    /// Keeps a chunk; false if that was one too many. One chunk is kept as it is, so that the
    /// usual request is never copied.
    fn keep(&mut self, chunk: Bytes) -> bool {
        // The window is given back at once: the budget bounds what is held, not HTTP/2.
        let _ = self.body.flow_control().release_capacity(chunk.len());
        let has_room = self.share.take(chunk.len());
        if has_room {
            self.taken = self.taken.saturating_add(chunk.len());
        }
        // Also the last one: shadow mode passes on all that came.
        if self.held.is_empty() && self.more.is_empty() {
            let stays = !self.body.is_end_stream() && chunk.len() < READ_BUFFER;
            self.held = if stays { Bytes::copy_from_slice(&chunk) } else { chunk };
        } else {
            if self.more.is_empty() {
                self.more.extend_from_slice(&std::mem::take(&mut self.held));
            }
            self.more.extend_from_slice(&chunk);
        }
        has_room
    }

    /// Sees from the first five bytes, before the rest is held, that the message is too large.
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

impl Drop for Intake {
    fn drop(&mut self) {
        self.share.give_back(self.taken);
    }
}

/// The refusal that a framing fault is.
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

/// The refusal of a request with trailers.
#[must_use]
pub fn trailers_denial() -> Denial {
    Denial::new(Reason::BadFraming, "requests have no trailers")
}
