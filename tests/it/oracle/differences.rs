//! The verdicts that may differ, by the ids of `docs/compared-with-etcd-auth.md`. Nothing else may.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;

use super::answers::Said;
use super::probe;
use super::requests::{Known, Request};
use super::rules::Rules;
use super::sides::Sides;
use super::watches::Made;

/// gRPC's code for a request that can never be right.
const INVALID_ARGUMENT: u32 = 3;

/// A request, who asked, and what counts.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub user: &'static str,
    pub request: &'a Request,
    pub rules: &'a Rules,
    pub known: &'a Known,
}

/// A difference that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A range that holds no key needs the right on its first one. etcd wants one grant that holds
    /// both of its ends.
    EmptyRange,
    /// What one granted oneself is one's own, whatever keys are attached to it.
    OwnLease,
    /// A list of leases holds only those that the caller may see.
    ListOfLeases,
    /// What only root may do at etcd has a capability.
    MoreCapability,
    /// A message that two decoders could read differently, or that etcd itself reads in a way
    /// nobody means.
    Form,
    /// We look at the rights first, etcd at the form: nothing is done either way.
    Order,
    /// An operation without a key needs a capability.
    Capability,
    /// A lease without keys belongs to whoever granted it; etcd lets everybody use it.
    LeaseWithoutKeys,
    /// etcd tells everybody the time of a lease.
    LeaseTime,
    /// etcd's elections renew any lease that they are told.
    RenewedByElection,
    /// A lock's key is one of many under its name: the right is asked for all of them.
    LockName,
    /// A Txn of which etcd dies. It is not sent to the judge.
    Deadly,
}

impl Difference {
    /// Every difference.
    pub const ALL: [Self; 12] = [
        Self::EmptyRange,
        Self::OwnLease,
        Self::ListOfLeases,
        Self::MoreCapability,
        Self::Form,
        Self::Order,
        Self::Capability,
        Self::LeaseWithoutKeys,
        Self::LeaseTime,
        Self::RenewedByElection,
        Self::LockName,
        Self::Deadly,
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
            Difference::RenewedByElection => "S-renewed-by-election",
            Difference::LockName => "S-lock-name",
            Difference::Deadly => "S-deadly",
        }
    }

    /// Why we may refuse, with this reason, what etcd allows.
    pub async fn stricter(
        asked: Asked<'_>,
        sides: &mut Sides,
        reason: &str,
        theirs: &Said,
    ) -> Option<Self> {
        let Asked { user, request, rules, known } = asked;
        if matches!(theirs, Said::Answered { status: INVALID_ARGUMENT, .. }) {
            return Some(Difference::Order);
        }
        let leases = request.leases();
        match reason.split(':').next()? {
            "malformed-message" => request.is_odd().then_some(Difference::Form),
            "key-not-granted" => request.waits().map(|_| Difference::LockName),
            // To be granted a lease, to renew one and to attach a key takes the capability; to end
            // a lease and to look at one does not.
            "capability-not-granted"
                if !matches!(request.method, Method::LeaseRevoke | Method::LeaseTimeToLive) =>
            {
                let capability =
                    if leases.is_empty() { ordinary(request.method)? } else { "lease" };
                (!rules.grant(user, capability)).then_some(Difference::Capability)
            }
            "capability-not-granted" | "lease-not-owned" => {
                for id in leases {
                    if !known.owned(user).contains(&id) && sides.attached(id).await.is_empty() {
                        return Some(Difference::LeaseWithoutKeys);
                    }
                }
                match request.method {
                    // A keep-alive is answered in its place, without a reason.
                    Method::LeaseKeepAlive if !rules.grant(user, "lease") => {
                        Some(Difference::Capability)
                    }
                    Method::LeaseTimeToLive => Some(Difference::LeaseTime),
                    Method::Resign => Some(Difference::RenewedByElection),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Why a watch may be made by one side and refused by the other.
    pub fn of_watch(create: &pb::WatchCreateRequest, ours: &Made, theirs: &Made) -> Option<Self> {
        match (ours, theirs) {
            (Made::Refused(_), Made::Impossible(_)) => Some(Difference::Order),
            (Made::Impossible(_), Made::Refused(_)) => {
                (!probe::holds(&create.key, &create.range_end)).then_some(Difference::EmptyRange)
            }
            _ => None,
        }
    }

    /// Why we may allow what etcd refuses. Asks the judge what it is that it refuses.
    pub async fn finer(asked: Asked<'_>, sides: &mut Sides) -> Option<Self> {
        let Asked { user, request, rules, known } = asked;
        match request.method {
            Method::Compact => {
                return rules.grant(user, "compact").then_some(Difference::MoreCapability);
            }
            Method::HashKV => {
                return rules.grant(user, "hash").then_some(Difference::MoreCapability);
            }
            // Before 3.7, and before 3.6.9.
            Method::AuthStatus | Method::Status => {
                return rules.grant(user, "status").then_some(Difference::MoreCapability);
            }
            Method::LeaseLeases => return Some(Difference::ListOfLeases),
            _ => {}
        }
        let leases = request.leases();
        let own = known.owned(user);
        let Some(operation) = probe::operation(request) else {
            return (!leases.is_empty() && leases.iter().all(|id| own.contains(id)))
                .then_some(Difference::OwnLease);
        };
        // Without the empty ranges, then also without the leases: the first that the judge has
        // nothing against tells what it was.
        let unleased = probe::without_leases(operation.clone(), &own);
        for (changed, difference) in
            [(operation.clone(), Difference::EmptyRange), (unleased, Difference::OwnLease)]
        {
            let rest = probe::without_empty_ranges(changed);
            if rest.as_ref() == Some(&operation) {
                continue;
            }
            let allowed = match rest {
                None => true,
                Some(rest) => sides.judge_allows(user, &probe::question(rest), known).await,
            };
            if allowed {
                return Some(difference);
            }
        }
        None
    }
}

/// What etcd lets every user do, and the capability that it takes here.
fn ordinary(method: Method) -> Option<&'static str> {
    Some(match method {
        Method::MemberList => "member-list",
        Method::Status | Method::AuthStatus | Method::Alarm => "status",
        Method::LeaseGrant | Method::LeaseLeases => "lease",
        // Of oneself.
        Method::UserGet | Method::RoleGet => "auth-admin",
        _ => return None,
    })
}
