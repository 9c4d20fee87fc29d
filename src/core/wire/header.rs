//! `ResponseHeader`, field 1 of nearly every response.

use super::Malformed;
use super::encode::{int64, number};
use super::field::Part;

mod wire {
    use crate::wire::message::messages;

    messages! {
        ResponseHeader (Pass) {
            1 cluster_id: uint64;
            2 member_id: uint64;
            3 revision: int64;
            4 raft_term: uint64;
        }
    }
}

/// The member that responded, and the revision of its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseHeader {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of the member.
    pub member_id: u64,
    /// Revision of the key space.
    pub revision: i64,
    /// Term of the raft group.
    pub raft_term: u64,
}

impl ResponseHeader {
    /// Decodes a header. Unknown fields are ignored.
    ///
    /// # Errors
    /// If the bytes are not a valid message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let wire::ResponseHeader { cluster_id, member_id, revision, raft_term, .. } =
            wire::ResponseHeader::read(Part::whole(bytes))?;
        Ok(Self { cluster_id, member_id, revision, raft_term })
    }

    /// Encodes the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        number(&mut out, 1, self.cluster_id);
        number(&mut out, 2, self.member_id);
        int64(&mut out, 3, self.revision);
        number(&mut out, 4, self.raft_term);
        out
    }
}

#[cfg(test)]
mod tests {
    use etcd_warden_proto::etcdserverpb;
    use prost::Message as _;

    use super::*;

    #[test]
    fn encodes_as_prost_does_and_decodes_its_own_bytes() {
        let header =
            ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: -3, raft_term: 1 << 40 };
        let bytes = header.encode();
        let theirs = etcdserverpb::ResponseHeader {
            cluster_id: u64::MAX,
            member_id: 1,
            revision: -3,
            raft_term: 1 << 40,
        };
        assert_eq!(bytes, theirs.encode_to_vec());
        assert_eq!(ResponseHeader::decode(&bytes), Ok(header));
        assert_eq!(ResponseHeader::default().encode(), b"");
    }
}
