//! What HTTP/2 has refused before a request was there to be judged: counted, logged, and in the
//! audit, under the client's name.

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

/// The client's connection ends: it has sent too many frames that carry nothing on, the last of
/// this type.
pub fn flood(client: &Client, limit: Limit, kind: u8) {
    let caller = client.caller();
    let name = &caller.principal.name;
    tracing::warn!(peer = %client.peer, identity = %Escaped(name.as_bytes()), limit = limit.code(), frame = kind, "too many frames for nothing: the connection ends");
    audit(
        client,
        &caller,
        Denial::new(
            Reason::Limit,
            "too many HTTP/2 frames that carry nothing on: the connection ends",
        ),
    );
}

/// The client's connection ends: it broke the protocol.
pub fn broken(client: &Client, code: u32, what: &'static str) {
    let (caller, error) = (client.caller(), Http2Error::of(code));
    let name = &caller.principal.name;
    tracing::warn!(peer = %client.peer, identity = %Escaped(name.as_bytes()), error = error.code(), what, "not HTTP/2: the connection ends");
    client.worker.shared.metrics.http2_rejection(error, 1);
    audit(client, &caller, Denial::new(Reason::Http2, what));
}

/// `h2` has reset streams, or ended the connection. `first`: of this connection, which is worth a
/// warning.
pub fn by_h2(client: &Client, rejected: &Rejected, first: bool) {
    let caller = client.caller();
    let (peer, identity) = (client.peer, Escaped(caller.principal.name.as_bytes()));
    for (code, streams) in &rejected.streams {
        let error = Http2Error::of(*code);
        client.worker.shared.metrics.http2_rejection(error, u64::from(*streams));
        if first {
            tracing::warn!(%peer, %identity, error = error.code(), streams, "HTTP/2 reset requests before they could be judged");
        } else {
            tracing::debug!(%peer, %identity, error = error.code(), streams, "HTTP/2 reset requests before they could be judged");
        }
        audit(client, &caller, Denial::new(Reason::Http2, error.of_stream()));
    }
    if let Some(code) = rejected.connection {
        let error = Http2Error::of(code);
        client.worker.shared.metrics.http2_rejection(error, 1);
        tracing::warn!(%peer, %identity, error = error.code(), "HTTP/2 ended the connection");
        audit(client, &caller, Denial::new(Reason::Http2, error.of_connection()));
    }
}

/// A line without a method: what was asked for is not known, and may have been a write.
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
