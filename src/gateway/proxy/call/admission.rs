//! Admission of a call by its head alone: the slots and the rate of its identity, and its encoding.

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

/// Which slot a call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A slot among its identity's requests, or none because shadow mode has no limits.
    Regular,
    /// An overflow slot: a Watch stream over the limit, which refuses each create and sends nothing
    /// to etcd.
    Overflow,
}

/// Counts one open call until it is dropped. A call whose connection ends is dropped wherever it
/// waits.
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

/// The denial for a limit of the identity.
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
    /// Takes a slot of the identity, which the call holds until its response has ended. Shadow mode
    /// has no limits and takes none.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn admit(&self, method: Option<Method>) -> Result<(Option<Slot>, Admission), Limit> {
        let quota = &self.client.quota;
        if self.caller.principal.mode == Mode::Shadow {
            return Ok((None, Admission::Regular));
        }
        // The rate of a bidirectional stream is that of its messages.
        if method.is_none_or(|method| method.call_kind() != CallKind::BidiStreaming) {
            quota.try_request().map_err(|_| Limit::RequestsPerSecond)?;
        }
        if let Some(place) = quota.requests.try_acquire() {
            return Ok((Some(place), Admission::Regular));
        }
        // A Watch stream that ends with RESOURCE_EXHAUSTED ends all watches of its clientv3 for
        // good.
        let overflow =
            if method == Some(Method::Watch) { quota.overflow_streams.try_acquire() } else { None };
        overflow.map(|place| (Some(place), Admission::Overflow)).ok_or(Limit::RequestsInFlight)
    }

    /// Refuses a call over a limit before any of its body is read.
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

    /// Refuses a call whose `grpc-encoding` etcd does not have. etcd refuses it for its head alone,
    /// too.
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
