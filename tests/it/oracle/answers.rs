//! Responses of a side in a comparable form.

use std::collections::BTreeSet;

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;

use super::requests::Known;
use crate::world::raw::Answer;

/// One side's response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Not allowed, with the reason if the side reports it.
    Refused(String),
    /// A response that does not depend on rights, in comparable form.
    Answered { status: u32, message: String, revision: i64, body: Vec<u8> },
}

impl Reply {
    /// Reads a response.
    pub fn of(method: Method, answer: &Answer, known: &Known) -> Self {
        let status = answer
            .grpc_status()
            .unwrap_or_else(|| panic!("{method:?}: no gRPC status: {answer:?}"));
        if let Some(reason) = answer
            .trailers
            .get("etcd-warden-reason")
            .or_else(|| answer.headers.get("etcd-warden-reason"))
        {
            return Reply::Refused(reason.to_str().unwrap().to_owned());
        }
        // Lock and Election pass on the error of etcd's own client; Maintenance of 3.5 passes on
        // that of its auth store.
        if answer.grpc_message().ends_with(": permission denied") {
            return Reply::Refused(String::new());
        }
        let (revision, body) = answer
            .messages()
            .first()
            .map_or((0, Vec::new()), |message| comparable(method, message));
        if method == Method::LeaseKeepAlive && status == 0 {
            let kept = pb::LeaseKeepAliveResponse::decode(&body[..]).unwrap();
            // The proxy refuses inside the stream, as if the lease did not exist.
            if kept.ttl == 0 {
                // A lease that does not exist; the proxy reports it with the last header that it
                // saw.
                let gone = known.leases.iter().all(|lease| lease.id != kept.id);
                let said = Reply::Answered { status, message: String::new(), revision: 0, body };
                return if gone { said } else { Reply::Refused("lease_not_owned".to_owned()) };
            }
        }
        Reply::Answered { status, message: answer.grpc_message().to_owned(), revision, body }
    }

    /// True if the request was executed.
    pub fn is_ok(&self) -> bool {
        matches!(self, Reply::Answered { status: 0, .. })
    }

    /// The lease that was granted.
    pub fn granted(&self) -> Option<i64> {
        match self {
            Reply::Answered { status: 0, body, .. } => {
                Some(pb::LeaseGrantResponse::decode(&body[..]).unwrap().id)
            }
            _ => None,
        }
    }

    /// True if both sides gave the same response to a user with these leases.
    pub fn is_like(&self, theirs: &Reply, method: Method, own: &[i64]) -> bool {
        match (method, self, theirs) {
            // Ours lists only the client's own leases.
            (
                Method::LeaseLeases,
                Reply::Answered { status: 0, body: ours, .. },
                Reply::Answered { status: 0, body: theirs, .. },
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
            // Only the judge has users and roles.
            (method, ..) if method.path().starts_with("/etcdserverpb.Auth/") => true,
            _ => self == theirs,
        }
    }
}

/// The revision, and the rest of the response without fields that always differ between two etcds.
/// Every response begins with its header (field 1).
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
            // The keys are in the order of a Go map.
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
