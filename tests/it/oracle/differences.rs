//! The verdicts that may differ, by the ids of `docs/compared-with-etcd-auth.md`. Nothing else may.

use etcd_warden::method::Method;

use super::answers::Said;
use super::probe;
use super::requests::{Known, Request};
use super::sides::Sides;

/// gRPC's code for a request that can never be right.
const INVALID_ARGUMENT: u32 = 3;

/// A difference that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A range that holds no key needs the right on its first one. etcd wants one grant that holds both of its ends.
    EmptyRange,
    /// What one granted oneself is one's own, whatever keys are attached to it.
    OwnLease,
    /// A list of leases holds only those that the caller may see.
    ListOfLeases,
    /// What only root may do at etcd has a capability.
    MoreCapability,
    /// A message that two decoders could read differently, or that etcd itself reads in a way nobody means.
    Form,
    /// We look at the rights first, etcd at the form: nothing is done either way.
    Order,
    /// An operation without a key needs a capability.
    Capability,
    /// A lease without keys belongs to whoever granted it; etcd lets everybody use it.
    LeaseWithoutKeys,
    /// etcd tells everybody the time of a lease.
    LeaseTime,
}

impl Difference {
    /// Every difference.
    pub const ALL: [Self; 9] = [
        Self::EmptyRange,
        Self::OwnLease,
        Self::ListOfLeases,
        Self::MoreCapability,
        Self::Form,
        Self::Order,
        Self::Capability,
        Self::LeaseWithoutKeys,
        Self::LeaseTime,
    ];

    /// Its id in the document.
    pub fn id(self) -> &'static str {
        match self {
            Difference::EmptyRange => "F-empty-range",
            Difference::OwnLease => "F-own-lease",
            Difference::ListOfLeases => "F-list-of-leases",
            Difference::MoreCapability => "F-capability",
            Difference::Form => "S-form",
            Difference::Order => "S-order",
            Difference::Capability => "S-capability",
            Difference::LeaseWithoutKeys => "S-lease-without-keys",
            Difference::LeaseTime => "S-lease-time",
        }
    }

    /// Why we may refuse, with this reason, what etcd allows.
    pub async fn stricter(sides: &mut Sides, user: &str, request: &Request, reason: &str, theirs: &Said, known: &Known) -> Option<Self> {
        if matches!(theirs, Said::Answered { status: INVALID_ARGUMENT, .. }) {
            return Some(Difference::Order);
        }
        let leases = request.leases();
        match reason.split(':').next()? {
            "malformed-message" => Some(Difference::Form),
            "capability-not-granted" if leases.is_empty() => ordinary(request.method).then_some(Difference::Capability),
            "capability-not-granted" | "lease-not-owned" => {
                for id in leases {
                    let own = known.leases.iter().any(|lease| lease.id == id && lease.marked && lease.owner == user);
                    if !own && sides.attached(id).await.is_empty() {
                        return Some(Difference::LeaseWithoutKeys);
                    }
                }
                (request.method == Method::LeaseTimeToLive).then_some(Difference::LeaseTime)
            }
            _ => None,
        }
    }

    /// Why we may allow what etcd refuses. Asks the judge what it is that it refuses.
    pub async fn finer(sides: &mut Sides, user: &str, request: &Request, known: &Known) -> Option<Self> {
        match request.method {
            Method::Compact | Method::HashKV => return Some(Difference::MoreCapability),
            Method::LeaseLeases => return Some(Difference::ListOfLeases),
            _ => {}
        }
        let own = request.leases().iter().all(|id| known.leases.iter().any(|lease| lease.id == *id && lease.marked && lease.owner == user));
        let Some(operation) = probe::operation(request) else { return own.then_some(Difference::OwnLease) };
        let unleased = probe::without_leases(operation.clone());
        let rest = probe::without_empty_ranges(operation.clone());
        if rest.as_ref() != Some(&operation) {
            let allowed = match rest {
                None => true,
                Some(rest) => sides.judge_allows(user, &probe::question(rest), known).await,
            };
            if allowed {
                return Some(Difference::EmptyRange);
            }
        }
        if own && unleased != operation {
            let rest = probe::without_empty_ranges(unleased);
            let allowed = match rest {
                None => true,
                Some(rest) => sides.judge_allows(user, &probe::question(rest), known).await,
            };
            return allowed.then_some(Difference::OwnLease);
        }
        None
    }
}

/// What etcd lets every user do.
fn ordinary(method: Method) -> bool {
    matches!(
        method,
        Method::MemberList
            | Method::Status
            | Method::AuthStatus
            | Method::Alarm
            | Method::LeaseGrant
            | Method::LeaseLeases
            | Method::UserGet
            | Method::RoleGet
    )
}
