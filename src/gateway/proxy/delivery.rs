//! An answer on its way to a client, at the client's pace. While it waits, what it makes us hold is
//! its identity's own (`max-unread-bytes`).

use std::future::poll_fn;
use std::pin::pin;
use std::task::Context;

use bytes::Bytes;
use etcd_warden_core::authorize::Denial;
use etcd_warden_core::policy::Mode;
use etcd_warden_core::wire::frame;
use h2::SendStream;

use super::budget::Hold;
use super::client::Client;
use super::encoding::{self, Encoding, Plain};
use super::reply::Status;
use super::session::READ_BUFFER;
use crate::metrics::reason::Limit;
use crate::upstream::Class;
use crate::upstream::link::stream_window;

/// Gives answers to one client.
pub struct Delivery<'c> {
    client: &'c Client,
    class: Class,
    limited: bool,
}

/// Why an answer does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// The client left.
    Gone,
    /// The client does not read, and there is no room for more of what it does not read.
    Unread,
}

impl<'c> Delivery<'c> {
    /// For answers that came over connections of `class`. Shadow mode has no limits.
    #[must_use]
    pub fn new(client: &'c Client, class: Class, mode: Mode) -> Self {
        Self { client, class, limited: mode == Mode::Enforce }
    }

    /// Sends bytes as the client takes them, where nothing comes behind them.
    ///
    /// # Errors
    /// See [`Undelivered`].
    pub async fn send(&self, out: &mut SendStream<Bytes>, bytes: Bytes) -> Result<(), Undelivered> {
        self.send_before(out, bytes, 0, |_| ()).await
    }

    /// Sends bytes as the client takes them. `behind` is what etcd may send meanwhile: see
    /// [`Delivery::behind`]. It is not left in h2: `keep` is called while the client is waited
    /// for, and takes it ([`super::inflow`]).
    ///
    /// # Errors
    /// See [`Undelivered`].
    pub async fn send_before(
        &self,
        out: &mut SendStream<Bytes>,
        mut bytes: Bytes,
        behind: usize,
        mut keep: impl FnMut(&mut Context<'_>),
    ) -> Result<(), Undelivered> {
        let outbox = &self.client.outbox;
        let mut hold = None;
        out.reserve_capacity(bytes.len());
        loop {
            let open = outbox.has_room();
            let room = if open { out.capacity().min(bytes.len()) } else { 0 };
            if room > 0 || bytes.is_empty() {
                outbox.give(room);
                out.send_data(bytes.split_to(room), false).map_err(|_| Undelivered::Gone)?;
                if bytes.is_empty() {
                    return Ok(());
                }
                out.reserve_capacity(bytes.len());
            }
            if hold.is_none() {
                // What waits must not keep the buffers of what does not.
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
                    Some(Err(_)) | None => return Err(Undelivered::Gone),
                }
            } else {
                let mut room = pin!(outbox.room());
                poll_fn(|cx| {
                    keep(cx);
                    room.as_mut().poll(cx)
                })
                .await;
            }
        }
    }

    /// Bytes that etcd may send before these were passed on: what is left of the one message of a
    /// unary answer, but a window at most.
    #[must_use]
    pub fn behind(&self, left: Option<usize>) -> usize {
        let window = usize::try_from(stream_window(self.class)).unwrap_or(usize::MAX);
        left.map_or(window, |left| left.min(window))
    }

    /// Whether nothing of an answer may be left out. Else `trailer` stays here: etcd announces
    /// three of gRPC's own trailers with it before each answer, which gRPC's clients know of
    /// anyway, and which would be a fifth of all header fields of a request and its answer.
    #[must_use]
    pub fn as_it_came(&self) -> bool {
        !self.limited
    }

    /// Whether a short answer is to leave in one write: where the writes of several calls can
    /// become one. A call that is alone is answered sooner if its client has read the message
    /// when the trailers come, and costs no more.
    #[must_use]
    pub fn gathers(&self) -> bool {
        self.class == Class::Unary && self.client.has_several_calls()
    }

    /// How long the rest of a unary answer is that begins with this chunk, if that can be seen.
    #[must_use]
    pub fn rest(&self, first: &[u8]) -> Option<usize> {
        let (&[_, a, b, c, d], begun) = first.split_first_chunk::<{ frame::HEADER }>()?;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        (self.class == Class::Unary).then(|| length.saturating_sub(begun.len()))
    }

    /// What the client is told instead of an answer that it does not read. clientv3 ends all its
    /// watches for good at RESOURCE_EXHAUSTED.
    #[must_use]
    pub fn unread(&self) -> Status {
        if self.class == Class::Long {
            Status::too_many_streams()
        } else {
            Status::too_many_requests()
        }
    }

    /// Room for these bytes.
    ///
    /// # Errors
    /// There is none.
    pub fn hold(&self, bytes: usize) -> Result<Hold, Undelivered> {
        let mut hold = Hold::none(&self.client.unread);
        if self.limited && !hold.set(bytes) {
            self.client.worker.shared.metrics.limit_hit(Limit::UnreadBytes);
            // Who takes nothing at all could not even be told.
            if self.client.outbox.is_blocked() {
                self.client.outbox.overflow();
                return Err(Undelivered::Gone);
            }
            return Err(Undelivered::Unread);
        }
        Ok(hold)
    }

    /// An answer of one message without its compression.
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

    /// Takes room for more of an answer that is held whole.
    ///
    /// # Errors
    /// There is none.
    pub fn hold_more(&self, hold: &mut Hold, bytes: usize) -> Result<(), Undelivered> {
        if self.limited && !hold.set(bytes) {
            self.client.worker.shared.metrics.limit_hit(Limit::UnreadBytes);
            return Err(Undelivered::Unread);
        }
        Ok(())
    }
}
