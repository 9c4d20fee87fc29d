//! Records requests that the HTTP/2 layer rejected before they could be judged: in the metrics, in
//! the log, and in the audit log under the client's name.

use std::sync::Arc;
use std::time::SystemTime;

use etcd_warden_core::authorize::Decision;
use etcd_warden_core::authorize::{Denial, Reason};
use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::method::Effect;

use super::client::Client;
use super::judge::Caller;
use crate::audit::{OwnedAccesses, Record};
use crate::http2::layer::Rejected;
use crate::metrics::reason::{Http2Error, Limit};

/// The log line for streams that `h2` has reset.
const RESET: &str = "HTTP/2 protocol error; h2 reset requests before they were judged";

/// Records that a connection is closed because its client has sent too many frames without effect.
/// `kind` is the type of the last one.
pub fn flood(client: &Client, limit: Limit, kind: u8) {
    let caller = client.caller();
    let name = &caller.principal.name;
    tracing::warn!(
        peer = %client.peer, identity = %Escaped(name.as_bytes()), limit = limit.code(),
        frame = kind, "too many HTTP/2 frames without effect; closing connection"
    );
    audit(
        client,
        &caller,
        Denial::new(Reason::Limit, "too many HTTP/2 frames without effect; connection closed"),
    );
}

/// Records that a connection is closed for a protocol error that `h2` does not detect.
pub fn protocol_error(client: &Client, code: u32, what: &'static str) {
    let (caller, error) = (client.caller(), Http2Error::of(code));
    let name = &caller.principal.name;
    tracing::warn!(
        peer = %client.peer, identity = %Escaped(name.as_bytes()), error = error.code(), what,
        "HTTP/2 protocol error; closing connection"
    );
    client.worker.shared.metrics.http2_rejection(error, 1);
    audit(client, &caller, Denial::new(Reason::Http2, what));
}

/// Records that `h2` has reset streams or closed the connection. Reset streams are logged as a
/// warning only the `first` time on a connection.
pub fn by_h2(client: &Client, rejected: &Rejected, first: bool) {
    let caller = client.caller();
    let (peer, identity) = (client.peer, Escaped(caller.principal.name.as_bytes()));
    for (code, streams) in &rejected.streams {
        let error = Http2Error::of(*code);
        client.worker.shared.metrics.http2_rejection(error, u64::from(*streams));
        if first {
            tracing::warn!(%peer, %identity, error = error.code(), streams, "{RESET}");
        } else {
            tracing::debug!(%peer, %identity, error = error.code(), streams, "{RESET}");
        }
        audit(client, &caller, Denial::new(Reason::Http2, error.of_stream()));
    }
    if let Some(code) = rejected.connection {
        let error = Http2Error::of(code);
        client.worker.shared.metrics.http2_rejection(error, 1);
        let (error, text) = (error.code(), error.of_connection());
        tracing::warn!(%peer, %identity, error, "HTTP/2 protocol error; h2 closed the connection");
        audit(client, &caller, Denial::new(Reason::Http2, text));
    }
}

/// Writes an audit line without a method, because the request is not known. It may have been a
/// write, so the line is treated as one.
fn audit(client: &Client, caller: &Caller, denial: Denial) {
    let shared = &client.worker.shared;
    if !shared.audit.wants(Decision::Deny, Effect::Writes) {
        return;
    }
    let Ok(slot) = shared.audit.reserve(&caller.principal.name) else { return };
    slot.submit(Record {
        time: SystemTime::now(),
        decision: Decision::Deny,
        identity: client.identity.clone(),
        principal: caller.principal.clone(),
        peer: client.peer,
        method: Err(Box::default()),
        accesses: OwnedAccesses::default(),
        grant: None,
        denial: Some(denial),
        policy_hash: Arc::clone(&caller.policy.hash),
        member: None,
        status: None,
        request_id: shared.next_request_id(),
    });
}
