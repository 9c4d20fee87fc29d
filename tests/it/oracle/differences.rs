//! The permitted differences between decisions, by the ids of `docs/compared-with-etcd-auth.md`.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;

use super::answers::Reply;
use super::probe;
use super::requests::{Known, Request};
use super::rules::Rules;
use super::sides::Sides;
use super::watches::Creation;

/// gRPC's code for a request that can never be valid.
const INVALID_ARGUMENT: u32 = 3;

/// A request, its user, and the rules in effect.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub user: &'static str,
    pub request: &'a Request,
    pub rules: &'a Rules,
    pub known: &'a Known,
}

/// An intended difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// An empty range needs the right on its first key. etcd requires one grant that holds both of
    /// its ends.
    EmptyRange,
    /// A client owns the lease that it created, whatever keys are attached to it.
    OwnLease,
    /// A list of leases holds only those that the client may see.
    ListOfLeases,
    /// Operations that only root may do at etcd need a capability.
    MoreCapability,
    /// A message that two decoders could read differently, or that etcd reads in an unintended way.
    Form,
    /// The proxy checks rights first, etcd the form first. Neither executes the request.
    Order,
    /// An operation without a key needs a capability.
    Capability,
    /// A lease without keys belongs to the client that created it; etcd lets every client use it.
    LeaseWithoutKeys,
    /// etcd reports the TTL of a lease to every client.
    LeaseTime,
    /// etcd's elections renew any lease that a request names.
    RenewedByElection,
    /// A lock's key is one of many under its name: the proxy requires the right to all of them.
    LockName,
    /// A Txn that crashes etcd. It is not sent to the judge.
    Deadly,
}

impl Difference {
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

    /// The difference that explains why the proxy refuses, for this reason, what etcd allows.
    pub async fn stricter(
        asked: Asked<'_>,
        sides: &mut Sides,
        reason: &str,
        theirs: &Reply,
    ) -> Option<Self> {
        let Asked { user, request, rules, known } = asked;
        if matches!(theirs, Reply::Answered { status: INVALID_ARGUMENT, .. }) {
            return Some(Difference::Order);
        }
        let leases = request.leases();
        match reason.split(':').next()? {
            "malformed_message" => request.is_ambiguous().then_some(Difference::Form),
            "key_not_granted" => request.waits().map(|_| Difference::LockName),
            // Creating or renewing a lease and attaching a key need the capability; revoking a
            // lease and reading its TTL do not.
            "capability_not_granted"
                if !matches!(request.method, Method::LeaseRevoke | Method::LeaseTimeToLive) =>
            {
                let capability =
                    if leases.is_empty() { ordinary(request.method)? } else { "lease" };
                (!rules.grant(user, capability)).then_some(Difference::Capability)
            }
            "capability_not_granted" | "lease_not_owned" => {
                for id in leases {
                    if !known.owned(user).contains(&id) && sides.attached(id).await.is_empty() {
                        return Some(Difference::LeaseWithoutKeys);
                    }
                }
                match request.method {
                    // A refused keepalive gets a response inside the stream, without a reason.
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

    /// The difference that explains why only one side creates a watch.
    pub fn of_watch(
        create: &pb::WatchCreateRequest,
        ours: &Creation,
        theirs: &Creation,
    ) -> Option<Self> {
        match (ours, theirs) {
            (Creation::Refused(_), Creation::Impossible(_)) => Some(Difference::Order),
            (Creation::Impossible(_), Creation::Refused(_)) => {
                (!probe::holds(&create.key, &create.range_end)).then_some(Difference::EmptyRange)
            }
            _ => None,
        }
    }

    /// The difference that explains why the proxy allows what etcd refuses. Asks the judge which
    /// part it refuses.
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
        // First without empty ranges, then also without leases: the first form that the judge
        // accepts shows the reason.
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

/// The capability that this operation needs here, if etcd lets every user do it.
fn ordinary(method: Method) -> Option<&'static str> {
    Some(match method {
        Method::MemberList => "member-list",
        Method::Status | Method::AuthStatus | Method::Alarm => "status",
        Method::LeaseGrant | Method::LeaseLeases => "lease",
        // About the user itself.
        Method::UserGet | Method::RoleGet => "auth-admin",
        _ => return None,
    })
}
