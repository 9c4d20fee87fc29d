//! Admission of a call by its head alone. It checks the slots and the rate of the identity, and the
//! encoding of the messages.

use std::time::Instant;

use bytes::Bytes;
use etcd_warden_core::authorize::{Denial, Reason, check_binding, refuse};
use etcd_warden_core::method::{CallKind, Method};
use etcd_warden_core::policy::Mode;
use h2::server::SendResponse;
use http::HeaderMap;
use http::request::Parts;

use super::Call;
use crate::audit::OwnedAccesses;
use crate::metrics::reason::Limit;
use crate::proxy::client::Client;
use crate::proxy::encoding::{self, GRPC_ENCODING};
use crate::proxy::quota::Slot;
use crate::proxy::record::Subject;
use crate::proxy::reply::Status;

/// The kind of slot that a call holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// One of the identity's request slots. In shadow mode, no slot: it has no limits.
    Regular,
    /// An overflow slot, for a Watch stream over the limit. The proxy refuses each create on it and
    /// sends nothing to etcd.
    Overflow,
}

/// Counts one open call until this is dropped. If the connection ends while the call waits, its
/// future is dropped, so the count is always corrected.
pub(super) struct OpenCall<'c>(&'c Client);

impl<'c> OpenCall<'c> {
    pub(super) fn count(client: &'c Client) -> Self {
        client.worker.shared.metrics.requests_in_flight.increment(1.0);
        client.count_call(true);
        Self(client)
    }
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.0.worker.shared.metrics.requests_in_flight.decrement(1.0);
        self.0.count_call(false);
    }
}

/// The denial for a limit of the identity that is reached.
#[must_use]
pub fn limited(limit: Limit) -> Denial {
    let text = match limit {
        Limit::RequestsPerSecond => "too many requests per second",
        Limit::Watches => "too many watches",
        _ => "too many requests in flight",
    };
    Denial::new(Reason::Limit, text)
}

impl Call<'_> {
    /// Takes one of the identity's slots, which the call holds until its response has ended. Shadow
    /// mode has no limits and takes no slot.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn admit(&self, method: Option<Method>) -> Result<(Option<Slot>, Admission), Limit> {
        let quota = &self.client.quota;
        if self.caller.principal.mode == Mode::Shadow {
            return Ok((None, Admission::Regular));
        }
        // On a bidirectional stream, each message is charged to the rate instead.
        if method.is_none_or(|method| method.call_kind() != CallKind::BidiStreaming) {
            quota.try_request().map_err(|_| Limit::RequestsPerSecond)?;
        }
        if let Some(slot) = quota.requests.try_acquire() {
            return Ok((Some(slot), Admission::Regular));
        }
        // clientv3 gives up all its watches for good if a Watch stream ends with
        // RESOURCE_EXHAUSTED. So the stream is accepted, and each create on it is refused.
        let overflow =
            if method == Some(Method::Watch) { quota.overflow_streams.try_acquire() } else { None };
        overflow.map(|slot| (Some(slot), Admission::Overflow)).ok_or(Limit::RequestsInFlight)
    }

    /// Refuses a call over a limit without reading its body.
    pub(super) fn refuse_over_limit(
        &self,
        method: Result<Method, Denial>,
        parts: &Parts,
        limit: Limit,
        respond: &mut SendResponse<Bytes>,
    ) {
        self.shared().metrics.limit_hit(limit);
        let is_watch = matches!(method, Ok(Method::Watch));
        let subject = match method {
            Ok(method) => Subject::Accesses(method, OwnedAccesses::default()),
            Err(_) => Subject::of_path(&parts.uri),
        };
        if let Err(denial) = self.record(subject, Err(limited(limit)), Instant::now()) {
            if is_watch {
                Status::too_many_streams().send(respond);
            } else {
                self.refuse(&denial, respond);
            }
        }
    }

    /// Refuses a call whose `grpc-encoding` etcd does not support. Like etcd, it does not read the
    /// body first.
    pub(super) fn refuse_unknown_encoding(
        &self,
        method: Method,
        headers: &HeaderMap,
        respond: &mut SendResponse<Bytes>,
    ) {
        let principal = &self.caller.principal;
        let denial = check_binding(principal).err().unwrap_or_else(encoding::unknown);
        let subject = Subject::Accesses(method, OwnedAccesses::default());
        match self.record(subject, refuse(principal, denial), Instant::now()) {
            Err(denial) if denial.reason == Reason::Compressed => {
                let named =
                    headers.get(GRPC_ENCODING).map(http::HeaderValue::as_bytes).unwrap_or_default();
                Status::no_decompressor(named).send(respond);
            }
            Err(denial) => self.refuse(&denial, respond),
            Ok(_) => {}
        }
    }
}
