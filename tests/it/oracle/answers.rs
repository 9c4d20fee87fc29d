//! What a side said, so that it can be compared with what the other one said.

use std::collections::BTreeSet;

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;

use super::requests::Known;
use crate::world::raw::Answer;

/// What one side said to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Not allowed, and why, where the side tells.
    Refused(String),
    /// Not a matter of rights: what etcd answered, comparable.
    Answered { status: u32, message: String, revision: i64, body: Vec<u8> },
}

impl Said {
    /// Reads an answer.
    pub fn of(method: Method, answer: &Answer, known: &Known) -> Self {
        let status = answer
            .grpc_status()
            .unwrap_or_else(|| panic!("{method:?}: no gRPC status: {answer:?}"));
        if let Some(reason) = answer
            .trailers
            .get("etcd-warden-reason")
            .or_else(|| answer.headers.get("etcd-warden-reason"))
        {
            return Said::Refused(reason.to_str().unwrap().to_owned());
        }
        // Lock and Election pass on what etcd's own client says to them, and Maintenance of 3.5
        // what its auth store says.
        if answer.grpc_message().ends_with(": permission denied") {
            return Said::Refused(String::new());
        }
        let (revision, body) = answer
            .messages()
            .first()
            .map_or((0, Vec::new()), |message| comparable(method, message));
        if method == Method::LeaseKeepAlive && status == 0 {
            let kept = pb::LeaseKeepAliveResponse::decode(&body[..]).unwrap();
            // The proxy refuses in the stream, as if the lease were gone.
            if kept.ttl == 0 {
                // A lease that is gone; the proxy says so with the last header that it saw.
                let gone = known.leases.iter().all(|lease| lease.id != kept.id);
                let said = Said::Answered { status, message: String::new(), revision: 0, body };
                return if gone { said } else { Said::Refused("lease-not-owned".to_owned()) };
            }
        }
        Said::Answered { status, message: answer.grpc_message().to_owned(), revision, body }
    }

    /// Whether it was done.
    pub fn is_ok(&self) -> bool {
        matches!(self, Said::Answered { status: 0, .. })
    }

    /// The lease that was granted.
    pub fn granted(&self) -> Option<i64> {
        match self {
            Said::Answered { status: 0, body, .. } => {
                Some(pb::LeaseGrantResponse::decode(&body[..]).unwrap().id)
            }
            _ => None,
        }
    }

    /// Whether both sides answered the same to a user with these leases.
    pub fn is_like(&self, theirs: &Said, method: Method, own: &[i64]) -> bool {
        match (method, self, theirs) {
            // Ours lists the caller's own.
            (
                Method::LeaseLeases,
                Said::Answered { status: 0, body: ours, .. },
                Said::Answered { status: 0, body: theirs, .. },
            ) => {
                let ids = |body: &[u8]| {
                    pb::LeaseLeasesResponse::decode(body)
                        .unwrap()
                        .leases
                        .into_iter()
                        .map(|lease| lease.id)
                };
                ids(ours).collect::<BTreeSet<_>>()
                    == ids(theirs).filter(|id| own.contains(id)).collect()
            }
            // Users and roles are theirs alone.
            (method, ..) if method.path().starts_with("/etcdserverpb.Auth/") => true,
            _ => self == theirs,
        }
    }
}

/// The revision, and the rest without what no two etcds have in common: every answer begins with
/// its header (field 1).
fn comparable(method: Method, message: &[u8]) -> (i64, Vec<u8>) {
    #[derive(prost::Message)]
    struct Headed {
        #[prost(message, tag = "1")]
        header: Option<pb::ResponseHeader>,
    }
    let revision = Headed::decode(message).unwrap().header.unwrap_or_default().revision;
    let body = match method {
        // Times, sizes, addresses, and whether auth is on.
        Method::MemberList | Method::Status | Method::AuthStatus | Method::Snapshot => Vec::new(),
        Method::LeaseTimeToLive => {
            let mut answer = pb::LeaseTimeToLiveResponse::decode(message).unwrap();
            // The keys come in the order of a Go map.
            answer.keys.sort();
            pb::LeaseTimeToLiveResponse { ttl: answer.ttl.signum(), header: None, ..answer }
                .encode_to_vec()
        }
        _ => match message {
            [0x0a, length, rest @ ..] if *length < 0x80 => rest[usize::from(*length)..].to_vec(),
            other => other.to_vec(),
        },
    };
    (revision, body)
}
