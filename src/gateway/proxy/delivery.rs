//! Sends responses to one client at the pace at which it reads. Bytes that wait for the client are
//! charged to its identity (`max-unread-bytes`).

use std::future::poll_fn;
use std::pin::pin;
use std::task::Context;

use bytes::Bytes;
use etcd_warden_core::authorize::Denial;
use etcd_warden_core::policy::Mode;
use etcd_warden_core::wire::frame;
use h2::SendStream;

use super::budget::Reservation;
use super::client::Client;
use super::encoding::{self, Encoding, Plain};
use super::limits::READ_BUFFER;
use super::outcome::Abort;
use super::reply::Status;
use crate::metrics::reason::Limit;
use crate::upstream::Class;
use crate::upstream::link::stream_window;

/// Sends responses to one client.
pub struct Delivery<'c> {
    client: &'c Client,
    class: Class,
    limited: bool,
}

impl<'c> Delivery<'c> {
    /// For responses that arrive over connections of `class`. Shadow mode has no limits.
    pub fn new(client: &'c Client, class: Class, mode: Mode) -> Self {
        Self { client, class, limited: mode == Mode::Enforce }
    }

    /// Sends the last bytes of a response as the client takes them.
    ///
    /// # Errors
    /// As [`Delivery::send_before`].
    pub async fn send(&self, out: &mut SendStream<Bytes>, bytes: Bytes) -> Result<(), Abort> {
        self.send_before(out, bytes, 0, |_| ()).await
    }

    /// Sends bytes as the client takes them. etcd may send `behind` bytes meanwhile (see
    /// [`Delivery::behind`]). They do not stay in `h2`: `keep` is called while this waits, and
    /// takes them out ([`super::response_body`]).
    ///
    /// # Errors
    /// The client left, or its identity has no budget left for unread bytes.
    pub async fn send_before(
        &self,
        out: &mut SendStream<Bytes>,
        mut bytes: Bytes,
        behind: usize,
        mut keep: impl FnMut(&mut Context<'_>),
    ) -> Result<(), Abort> {
        let queue = &self.client.send_queue;
        let mut hold = None;
        out.reserve_capacity(bytes.len());
        loop {
            let open = queue.may_send();
            let room = if open { out.capacity().min(bytes.len()) } else { 0 };
            if room > 0 || bytes.is_empty() {
                queue.add(room);
                out.send_data(bytes.split_to(room), false).map_err(|_| Abort::ClientGone)?;
                if bytes.is_empty() {
                    return Ok(());
                }
                out.reserve_capacity(bytes.len());
            }
            if hold.is_none() {
                // Bytes that wait must not keep the buffer of bytes that were sent.
                let behind = if behind == 0 { 0 } else { behind.max(READ_BUFFER) };
                hold = Some(self.hold(bytes.len().saturating_add(behind))?);
                if bytes.len() < READ_BUFFER {
                    bytes = Bytes::copy_from_slice(&bytes);
                }
            }
            if open {
                let capacity = poll_fn(|cx| {
                    keep(cx);
                    out.poll_capacity(cx)
                });
                match capacity.await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(Abort::ClientGone),
                }
            } else {
                let mut ready = pin!(queue.ready());
                poll_fn(|cx| {
                    keep(cx);
                    ready.as_mut().poll(cx)
                })
                .await;
            }
        }
    }

    /// Bytes that etcd may send before the present ones were passed on: one window, or what is
    /// `left` of the message of a unary response if that is less.
    pub fn behind(&self, left: Option<usize>) -> usize {
        let window = usize::try_from(stream_window(self.class)).unwrap_or(usize::MAX);
        left.map_or(window, |left| left.min(window))
    }

    /// Whether response headers are passed on unchanged, as in shadow mode. Otherwise `trailer` is
    /// removed: etcd announces three of gRPC's own trailers with it before each response. gRPC
    /// clients know them anyway, and they would be a fifth of all header fields of a request and
    /// its response.
    pub fn is_unchanged(&self) -> bool {
        !self.limited
    }

    /// Whether a short response waits for its trailers to leave in one write: where the writes of
    /// several calls can be combined. The response to a single call arrives earlier if its client
    /// reads the message while the trailers are on their way, and costs no more.
    pub fn gathers(&self) -> bool {
        self.class == Class::Unary && self.client.has_several_calls()
    }

    /// Bytes of a unary response behind its `first` chunk, if that chunk has the frame header.
    pub fn rest(&self, first: &[u8]) -> Option<usize> {
        let (&[_, a, b, c, d], begun) = first.split_first_chunk::<{ frame::HEADER }>()?;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        (self.class == Class::Unary).then(|| length.saturating_sub(begun.len()))
    }

    /// The status of a call whose client does not read. For streams it is not RESOURCE_EXHAUSTED,
    /// at which clientv3 ends all its watches for good.
    pub fn unread(&self) -> Status {
        if self.class == Class::Long {
            Status::too_many_streams()
        } else {
            Status::too_many_requests()
        }
    }

    /// Whether unread bytes are limited: for a call that began under enforcement, until shadow mode
    /// begins.
    fn is_limited(&self) -> bool {
        self.limited && self.client.caller().principal.mode == Mode::Enforce
    }

    /// Reserves budget for unread bytes.
    ///
    /// # Errors
    /// There is none left.
    pub fn hold(&self, bytes: usize) -> Result<Reservation, Abort> {
        let mut hold = Reservation::empty(&self.client.unread);
        if self.is_limited() && !hold.resize(bytes) {
            self.client.worker.shared.metrics.limit_hit(Limit::UnreadBytes);
            // Where the client takes nothing at all, a status would not reach it either.
            if self.client.send_queue.is_blocked() {
                self.client.send_queue.overflow();
                return Err(Abort::ClientGone);
            }
            return Err(Abort::Stop(self.unread()));
        }
        Ok(hold)
    }

    /// Decompresses a response of one message.
    ///
    /// # Errors
    /// See [`encoding::plain`].
    pub async fn plain(
        &self,
        framed: Bytes,
        encoding: Encoding,
        limit: usize,
    ) -> Result<Plain, Denial> {
        encoding::plain(framed, encoding, limit, &self.client.unread).await
    }

    /// Reserves `bytes` instead of what `hold` has, for a response that is read as a whole.
    ///
    /// # Errors
    /// There is no budget left.
    pub fn hold_more(&self, hold: &mut Reservation, bytes: usize) -> Result<(), Abort> {
        if self.is_limited() && !hold.resize(bytes) {
            self.client.worker.shared.metrics.limit_hit(Limit::UnreadBytes);
            return Err(Abort::Stop(self.unread()));
        }
        Ok(())
    }
}
