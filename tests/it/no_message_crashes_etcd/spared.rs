//! Messages that are not sent, with the reason: each does legitimately leave a cluster on which
//! nothing more can be tried.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;

pub struct Spared {
    /// The ids of the members that exist.
    members: Vec<u64>,
}

impl Spared {
    pub fn new(members: Vec<u64>) -> Self {
        Self { members }
    }

    /// The reason why a message is not sent; `None` for almost all.
    pub fn why(&self, method: Method, message: &[u8]) -> Option<&'static str> {
        let is_member = |id: u64| self.members.contains(&id);
        match method {
            Method::MemberAdd => {
                let add = pb::MemberAddRequest::decode(message).ok()?;
                (!add.peer_ur_ls.is_empty())
                    .then_some("a member that never starts counts for the quorum, and there may be only one learner")
            }
            Method::MemberRemove => {
                let remove = pb::MemberRemoveRequest::decode(message).ok()?;
                is_member(remove.id)
                    .then_some("a removed member ends, as it should, and does not come back")
            }
            Method::MemberUpdate => {
                let update = pb::MemberUpdateRequest::decode(message).ok()?;
                let reads =
                    |url: &String| ["http://127.0.0.1:1", "unix://a:1"].contains(&url.as_str());
                let lost = is_member(update.id)
                    && !update.peer_ur_ls.is_empty()
                    && update.peer_ur_ls.iter().all(reads);
                lost.then_some("the other members would connect to a wrong address")
            }
            Method::Downgrade => {
                let downgrade = pb::DowngradeRequest::decode(message).ok()?;
                (downgrade.action == 1).then_some(
                    "during a downgrade, members of this release do not start, as intended",
                )
            }
            Method::AuthEnable => Some(
                "with etcd's own auth on, all other messages are refused before etcd reads them",
            ),
            _ => None,
        }
    }
}
