//! Messages that are not sent, by name and with their reason: each does what it is for, and leaves
//! a cluster on which nothing can be tried.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;

pub struct Spared {
    /// The ids of the members that there are.
    members: Vec<u64>,
}

impl Spared {
    pub fn new(members: Vec<u64>) -> Self {
        Self { members }
    }

    /// Why a message is not sent; `None` for almost all.
    pub fn why(&self, method: Method, message: &[u8]) -> Option<&'static str> {
        let is_member = |id: u64| self.members.contains(&id);
        match method {
            Method::MemberAdd => {
                let add = pb::MemberAddRequest::decode(message).ok()?;
                (!add.peer_ur_ls.is_empty())
                    .then_some("a member that never starts counts for the majority, and the place of a learner is taken once")
            }
            Method::MemberRemove => {
                let remove = pb::MemberRemoveRequest::decode(message).ok()?;
                is_member(remove.id).then_some(
                    "a member that is removed ends, as it should, and does not come back",
                )
            }
            Method::MemberUpdate => {
                let update = pb::MemberUpdateRequest::decode(message).ok()?;
                let reads =
                    |url: &String| ["http://127.0.0.1:1", "unix://a:1"].contains(&url.as_str());
                let lost = is_member(update.id)
                    && !update.peer_ur_ls.is_empty()
                    && update.peer_ur_ls.iter().all(reads);
                lost.then_some("the others look for the member where it is not")
            }
            Method::Downgrade => {
                let downgrade = pb::DowngradeRequest::decode(message).ok()?;
                (downgrade.action == 1).then_some("while a downgrade is on, members of this release do not start, as they should not")
            }
            Method::AuthEnable => {
                Some("with etcd's own auth on, all else is refused before it is looked at")
            }
            _ => None,
        }
    }
}
