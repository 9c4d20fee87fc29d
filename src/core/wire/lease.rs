//! Messages of the Lease service that the gateway itself creates or changes:
//! * LeaseGrant: the gateway chooses the id.
//! * LeaseKeepAlive: the gateway sends refusals on its stream.
//! * LeaseTimeToLive: the gateway looks up the keys of a lease.
//! * LeaseLeases: the gateway filters its response.

use super::encode::{bytes, int64, number};
use super::field::{Fields, Part, Value};
use super::message::messages;
use super::{Fault, Malformed};

messages! {
    LeaseGrantRequest (Refuse) {
        1 TTL: int64;
        2 ID: int64;
    }
    LeaseKeepAliveRequest (Refuse) {
        1 ID: int64;
    }
    LeaseStatus (Pass) {
        1 ID: int64;
    }
}

/// The fields of a `LeaseGrantRequest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Requested time to live in seconds.
    pub ttl: i64,
    /// The id that the client chose, or 0 if the server chooses.
    pub id: i64,
}

/// Decodes a `LeaseGrantRequest`.
///
/// # Errors
/// As for [`super::inspect()`].
pub fn grant(message: &[u8]) -> Result<LeaseGrant, Malformed> {
    let request = LeaseGrantRequest::read(Part::whole(message))?;
    Ok(LeaseGrant { ttl: request.TTL, id: request.ID })
}

/// Decodes the id of a `LeaseKeepAliveRequest`.
///
/// # Errors
/// As for [`super::inspect()`].
pub fn keep_alive(message: &[u8]) -> Result<i64, Malformed> {
    LeaseKeepAliveRequest::read(Part::whole(message)).map(|request| request.ID)
}

/// Encodes a `LeaseGrantRequest`; `ttl` in seconds.
pub fn encode_grant(ttl: i64, id: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(22);
    int64(&mut out, 1, ttl);
    int64(&mut out, 2, id);
    out
}

/// Encodes a `LeaseTimeToLiveRequest` that asks for the attached keys.
pub fn encode_time_to_live(id: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(13);
    int64(&mut out, 1, id);
    number(&mut out, 2, 1);
    out
}

/// Encodes the `LeaseKeepAliveResponse` for a lease that does not exist: TTL 0. `header` is an
/// encoded `ResponseHeader`.
pub fn keep_alive_gone(header: &[u8], id: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(header.len().saturating_add(16));
    bytes(&mut out, 1, header);
    int64(&mut out, 2, id);
    out
}

/// Removes the leases that `keep` rejects from a `LeaseLeasesResponse`. All other fields are copied
/// unchanged.
///
/// # Errors
/// If `response` is not a valid message.
pub fn retain_leases(
    response: &[u8],
    mut keep: impl FnMut(i64) -> bool,
) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(response.len());
    let mut fields = Fields::of("LeaseLeasesResponse", Part::whole(response));
    let mut rest = fields.rest();
    while let Some(field) = fields.next()? {
        let (raw, _) = rest
            .split_at_checked(rest.len().saturating_sub(fields.rest().len()))
            .unwrap_or_default();
        rest = fields.rest();
        let kept = match (field.number, field.value) {
            (2, Value::Bytes(status)) => keep(LeaseStatus::read(status)?.ID),
            (2, _) => return Err(field.fault("LeaseLeasesResponse.leases", Fault::WrongWireType)),
            _ => true,
        };
        if kept {
            out.extend_from_slice(raw);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use etcd_warden_proto::etcdserverpb as pb;
    use prost::Message as _;

    use super::*;

    #[test]
    fn decodes_and_encodes_a_grant() {
        for (ttl, id) in [(0, 0), (5, 0), (-1, i64::MAX), (60, -7)] {
            let bytes = encode_grant(ttl, id);
            assert_eq!(bytes, pb::LeaseGrantRequest { ttl, id }.encode_to_vec());
            assert_eq!(grant(&bytes), Ok(LeaseGrant { ttl, id }));
            assert_eq!(
                encode_time_to_live(id),
                pb::LeaseTimeToLiveRequest { id, keys: true }.encode_to_vec()
            );
        }
    }

    #[test]
    fn a_keep_alive_names_one_lease() {
        assert_eq!(keep_alive(&pb::LeaseKeepAliveRequest { id: 0x7ab }.encode_to_vec()), Ok(0x7ab));
        assert_eq!(keep_alive(b""), Ok(0));
        let twice = keep_alive(b"\x08\x01\x08\x02").unwrap_err();
        assert_eq!(
            (twice.field, twice.offset, twice.fault),
            ("LeaseKeepAliveRequest.ID", 2, Fault::Repeated)
        );
        assert_eq!(keep_alive(b"\x10\x01").unwrap_err().fault, Fault::UnknownField);
    }

    #[test]
    fn a_lease_that_does_not_exist_has_ttl_0() {
        let header = pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 3, raft_term: 4 };
        let bytes = keep_alive_gone(&header.encode_to_vec(), 9);
        let answer = pb::LeaseKeepAliveResponse::decode(&bytes[..]).unwrap();
        assert_eq!(answer, pb::LeaseKeepAliveResponse { header: Some(header), id: 9, ttl: 0 });
    }

    #[test]
    fn keeps_selected_leases_and_unknown_fields() {
        let header = Some(pb::ResponseHeader { revision: 3, ..Default::default() });
        let leases = |ids: &[i64]| pb::LeaseLeasesResponse {
            header,
            leases: ids.iter().map(|&id| pb::LeaseStatus { id }).collect(),
        };
        let mut bytes = leases(&[1, 2, 0, i64::MIN, 3]).encode_to_vec();
        bytes.extend_from_slice(b"\xfa\x01\x02hi");
        let kept = retain_leases(&bytes, |id| id == 2 || id == i64::MIN).unwrap();
        assert!(kept.ends_with(b"\xfa\x01\x02hi"));
        assert_eq!(pb::LeaseLeasesResponse::decode(&kept[..]).unwrap(), leases(&[2, i64::MIN]));
        assert_eq!(retain_leases(b"\x10\x01", |_| true).unwrap_err().fault, Fault::WrongWireType);
        assert_eq!(
            retain_leases(b"\x12\x05", |_| true).unwrap_err().fault,
            Fault::LengthBeyondMessage
        );
    }
}
