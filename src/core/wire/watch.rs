//! Messages of the Watch stream: the client's requests, the head of each response from etcd, and
//! the gateway's own responses. Events are never read. Source of the formats:
//! `server/etcdserver/api/v3rpc/watch.go` of etcd 3.5.35, 3.6.16 and 3.7.3.

use super::encode::{bytes, int64, number};
use super::field::{Fields, Part, Value};
use super::message::{Kind, kind, messages};
use super::{Fault, Malformed};
use crate::keyspace::KeyRange;

messages! {
    WatchCreateRequest (Refuse) {
        1 key: bytes;
        2 range_end: bytes;
        3 start_revision: int64;
        4 progress_notify: bool;
        5 filters: FilterTypes;
        6 prev_kv: bool;
        7 watch_id: int64;
        8 fragment: bool;
    }
    WatchCancelRequest (Refuse) {
        1 watch_id: int64;
    }
    WatchProgressRequest (Refuse) {}
}

/// `cancel_reason` of a denied watch, as etcd writes it.
pub const PERMISSION_DENIED: &str =
    "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

/// `cancel_reason` of a watch over a limit. clientv3 knows this text, and the form is etcd's.
pub const TOO_MANY_REQUESTS: &str =
    "rpc error: code = ResourceExhausted desc = etcdserver: too many requests";

/// Watch id of a response that belongs to no single watch: a refused create, or the progress of the
/// whole stream.
pub const NO_WATCH: i64 = -1;

/// A request on a Watch stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchRequest<'m> {
    /// Create a watch on a range. An empty key is replaced by the smallest one, as etcd does before
    /// its own permission check.
    Create(KeyRange<'m>),
    /// Cancel the watch with this id.
    Cancel(i64),
    /// Report the progress of the whole stream.
    Progress,
    /// A message without a request. etcd ignores it.
    Nothing,
}

/// Decodes a `WatchRequest`.
///
/// # Errors
/// As for [`super::inspect()`].
pub fn request(message: &[u8]) -> Result<WatchRequest<'_>, Malformed> {
    let mut fields = Fields::of(REQUEST, Part::whole(message));
    let Some(field) = fields.next()? else { return Ok(WatchRequest::Nothing) };
    if let Some(second) = fields.next()? {
        let fault =
            if matches!(second.number, 1..=3) { Fault::Repeated } else { Fault::UnknownField };
        return Err(second.fault(REQUEST, fault));
    }
    let name = match field.number {
        1 => "WatchRequest.create_request",
        2 => "WatchRequest.cancel_request",
        3 => "WatchRequest.progress_request",
        _ => return Err(field.fault(REQUEST, Fault::UnknownField)),
    };
    let Value::Bytes(part) = field.value else {
        return Err(field.fault(name, Fault::WrongWireType));
    };
    match field.number {
        1 => {
            let create = WatchCreateRequest::read(part)?;
            let key = if create.key.is_empty() { KeyRange::WHOLE.start } else { create.key };
            Ok(WatchRequest::Create(KeyRange::from_request(key, create.range_end)))
        }
        2 => WatchCancelRequest::read(part).map(|cancel| WatchRequest::Cancel(cancel.watch_id)),
        _ => WatchProgressRequest::read(part).map(|_| WatchRequest::Progress),
    }
}

/// The first four fields of a `WatchResponse`: its header, its watch, and whether the watch begins
/// or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead<'m> {
    /// The encoded `ResponseHeader` ([`super::header`]); empty if absent.
    pub header: &'m [u8],
    /// The id of the watch, or [`NO_WATCH`].
    pub watch_id: i64,
    /// True for the response to a create.
    pub created: bool,
    /// True if the watch ends with this response. If `created` is true as well, etcd refused the
    /// create, and the watch never began.
    pub canceled: bool,
}

/// Maximum length of a head in bytes. Those of etcd are shorter than 100 bytes. Without a maximum,
/// waiting for the end of a head could hold an unbounded number of bytes.
const MAX_HEAD: usize = 4096;

/// Decodes the head of a `WatchResponse` of `length` bytes, of which `prefix` has arrived so far.
/// `None` if more bytes are needed. The head is complete at the first field after it or at the end
/// of the message.
///
/// # Errors
/// If the message is malformed, or if its fields are not in ascending order. etcd writes them in
/// this order; in another order, a field of the head could follow the events.
pub fn response_head(prefix: &[u8], length: usize) -> Result<Option<ResponseHead<'_>>, Malformed> {
    let mut head = ResponseHead { header: b"", watch_id: 0, created: false, canceled: false };
    let message = prefix.get(..length).unwrap_or(prefix);
    let mut fields = Fields::of(RESPONSE, Part::whole(message));
    let mut last = 0;
    loop {
        // The tag of the next field is enough to detect the end of the head. Do not wait for the
        // field itself, which may have megabytes.
        if let Ok((tag, _)) = super::field::varint(fields.rest())
            && tag >> 3 > 4
        {
            return Ok(Some(head));
        }
        let field = match fields.next() {
            Ok(Some(field)) => field,
            Ok(None) if message.len() == length => return Ok(Some(head)),
            Ok(None) => return Ok(None),
            Err(malformed)
                if is_incomplete(malformed.fault) && message.len() < length.min(MAX_HEAD) =>
            {
                return Ok(None);
            }
            Err(malformed) => return Err(malformed),
        };
        if field.number <= last {
            return Err(field.fault(RESPONSE, Fault::OutOfOrder));
        }
        last = field.number;
        let read = match field.number {
            1 => kind::bytes::read(&field).map(|header| head.header = header),
            2 => kind::int64::read(&field).map(|id| head.watch_id = id),
            3 => kind::bool::read(&field).map(|created| head.created = created),
            _ => kind::bool::read(&field).map(|canceled| head.canceled = canceled),
        };
        read.map_err(|fault| field.fault(RESPONSE, fault))?;
    }
}

/// True if more bytes could resolve the fault.
const fn is_incomplete(fault: Fault) -> bool {
    matches!(fault, Fault::Truncated | Fault::LengthBeyondMessage)
}

/// Encodes the response to a refused create. `reason` is [`PERMISSION_DENIED`] or
/// [`TOO_MANY_REQUESTS`]. `header` is an encoded `ResponseHeader`.
pub fn refused_create(header: &[u8], reason: &str) -> Vec<u8> {
    canceled_response(header, NO_WATCH, true, reason)
}

/// Encodes the response that ends a watch which is no longer allowed. The reason is the same as for
/// a denied create.
pub fn canceled(header: &[u8], watch_id: i64) -> Vec<u8> {
    canceled_response(header, watch_id, false, PERMISSION_DENIED)
}

/// Encodes the `WatchRequest` that cancels a watch.
pub fn cancel_request(watch_id: i64) -> Vec<u8> {
    let mut cancel = Vec::with_capacity(11);
    int64(&mut cancel, 1, watch_id);
    let mut out = Vec::with_capacity(13);
    bytes(&mut out, 2, &cancel);
    out
}

fn canceled_response(header: &[u8], watch_id: i64, created: bool, reason: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(header.len().saturating_add(reason.len()).saturating_add(24));
    bytes(&mut out, 1, header);
    int64(&mut out, 2, watch_id);
    number(&mut out, 3, u64::from(created));
    number(&mut out, 4, 1);
    bytes(&mut out, 6, reason.as_bytes());
    out
}

const REQUEST: &str = "WatchRequest";
const RESPONSE: &str = "WatchResponse";

#[cfg(test)]
mod tests;
