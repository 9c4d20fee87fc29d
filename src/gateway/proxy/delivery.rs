//! Sends responses to a client as fast as it reads them. Bytes that wait for the client are charged
//! to its identity (`max-unread-bytes`).

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

    /// Sends the last bytes of a response as fast as the client reads.
    ///
    /// # Errors
    /// As [`Delivery::send_before`].
    pub async fn send(&self, out: &mut SendStream<Bytes>, bytes: Bytes) -> Result<(), Abort> {
        self.send_before(out, bytes, 0, |_| ()).await
    }

    /// Sends bytes as fast as the client reads. Meanwhile etcd may send up to `behind` bytes more
    /// (see [`Delivery::behind`]). They must not stay in `h2`, so this calls `keep` while it waits,
    /// and `keep` takes them out ([`super::response_body`]).
    ///
    /// # Errors
    /// The client is gone, or its identity has no budget left for unread bytes.
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
                // The waiting bytes must not keep a large buffer alive whose other bytes were sent.
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

    /// Maximum number of bytes that etcd may send before the current ones were passed on: one
    /// window, or the bytes `left` of a unary response's message if these are fewer.
    pub fn behind(&self, left: Option<usize>) -> usize {
        let window = usize::try_from(stream_window(self.class)).unwrap_or(usize::MAX);
        left.map_or(window, |left| left.min(window))
    }

    /// True if response headers are passed on unchanged, as in shadow mode. Otherwise the header
    /// `trailer` is removed. With it, etcd announces gRPC's three standard trailers before each
    /// response. gRPC clients do not need it, and it would be a fifth of all header fields of a
    /// request and its response.
    pub fn is_unchanged(&self) -> bool {
        !self.limited
    }

    /// True if a short response waits for its trailers, to leave in one write. This pays off if the
    /// connection has several calls, whose writes can be combined. For a single call it is faster
    /// to send the message at once, and costs no more.
    pub fn gathers(&self) -> bool {
        self.class == Class::Unary && self.client.has_several_calls()
    }

    /// Number of bytes that follow the `first` chunk in the message of a unary response; `None` if
    /// the chunk does not contain the whole frame header.
    pub fn rest(&self, first: &[u8]) -> Option<usize> {
        let (&[_, a, b, c, d], begun) = first.split_first_chunk::<{ frame::HEADER }>()?;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        (self.class == Class::Unary).then(|| length.saturating_sub(begun.len()))
    }

    /// The status for a call whose client does not read. For streams it is UNAVAILABLE: with
    /// RESOURCE_EXHAUSTED, clientv3 gives up all its watches for good.
    pub fn unread(&self) -> Status {
        if self.class == Class::Long {
            Status::too_many_streams()
        } else {
            Status::too_many_requests()
        }
    }

    /// True if unread bytes are limited: the call began under enforcement, and shadow mode has not
    /// begun since.
    fn is_limited(&self) -> bool {
        self.limited && self.client.caller().principal.mode == Mode::Enforce
    }

    /// Reserves budget for unread bytes.
    ///
    /// # Errors
    /// There is no budget left.
    pub fn hold(&self, bytes: usize) -> Result<Reservation, Abort> {
        let mut hold = Reservation::empty(&self.client.unread);
        if self.is_limited() && !hold.resize(bytes) {
            self.client.worker.shared.metrics.limit_hit(Limit::UnreadBytes);
            // If the client reads nothing at all, a status would not reach it either.
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

    /// Changes the reservation `hold` to `bytes`, for a response that is read as a whole.
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
