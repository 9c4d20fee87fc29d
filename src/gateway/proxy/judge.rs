//! Decides on a message, and obtains the evidence about its leases first.

use std::sync::Arc;

use etcd_warden_core::access::{Accesses, LeaseUse};
use etcd_warden_core::authorize::{
    AttachedKeys, Denial, LeaseClaim, LeaseEvidence, Permit, Reason, authorize, check_binding,
    refuse,
};
use etcd_warden_core::identity::Identity;
use etcd_warden_core::lease_id::Ownership;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::{Policy, Principal};
use etcd_warden_core::wire;
use smallvec::SmallVec;

use super::client::Client;
use super::lease_lookup::LookupError;
use crate::config::ClientTokens;
use crate::metrics::reason::Limit;
use crate::upstream::members::MemberIndex;

/// Limit on leases of other identities that are looked up for one message, so that a Txn with
/// 10,000 leases does not cause 10,000 requests to etcd. Leases over the limit have no evidence and
/// are denied.
const MAX_LEASES: usize = 16;

/// Decides on the message of a unary or server-streaming request.
///
/// # Errors
/// In enforce mode, the denial.
pub async fn message(
    client: &Client,
    principal: &Arc<Principal>,
    member: MemberIndex,
    method: Method,
    message: &[u8],
) -> Result<Permit, Denial> {
    // The proxy strips tokens, so the client could not use the token that etcd returns. Do not
    // forward the password.
    if method == Method::Authenticate
        && client.worker.shared.config.client_tokens == ClientTokens::Strip
    {
        return refuse(principal, Denial::new(Reason::TokensStripped, ""));
    }
    match wire::inspect(method, message) {
        Ok(accesses) => decide(client, principal, member, &accesses).await,
        // A client without a binding does not learn what is wrong with its message.
        Err(malformed) => {
            refuse(principal, check_binding(principal).err().unwrap_or_else(|| malformed.into()))
        }
    }
}

/// Decides on accesses. Asks etcd for the keys of leases whose id does not carry the client's mark.
///
/// # Errors
/// In enforce mode, the denial.
pub async fn decide(
    client: &Client,
    principal: &Arc<Principal>,
    member: MemberIndex,
    accesses: &Accesses<'_>,
) -> Result<Permit, Denial> {
    // First decide without lease evidence. Ask etcd only if the decision depends on it.
    let decision = authorize(principal, accesses, &[]);
    if !lacks_evidence(&decision) {
        return decision;
    }
    match Box::pin(lease_evidence(client, principal, member, accesses)).await {
        Ok(evidence) => authorize(principal, accesses, &evidence),
        Err(limit) => {
            client.worker.shared.metrics.limit_hit(Limit::LeaseQuestions);
            refuse(principal, limit)
        }
    }
}

/// True if the only thing missing is evidence about a lease.
fn lacks_evidence(decision: &Result<Permit, Denial>) -> bool {
    let denial = match decision {
        Ok(permit) => permit.would_deny(),
        Err(denial) => Some(denial),
    };
    denial.is_some_and(|denial| denial.reason == Reason::LeaseNotOwned)
}

/// The evidence about the leases of a message, from their ids and from etcd, sorted by id.
///
/// # Errors
/// The client has reached its limit on lookups.
async fn lease_evidence(
    client: &Client,
    principal: &Arc<Principal>,
    member: MemberIndex,
    accesses: &Accesses<'_>,
) -> Result<SmallVec<[LeaseEvidence; 1]>, Denial> {
    let mut evidence = SmallVec::new();
    let mut asked = 0_usize;
    // Each lease once, because a Txn may use ten thousand, and sorted as `authorize` expects.
    let mut leases = accesses.leases.clone();
    leases.sort_by_key(|(id, _)| *id);
    leases.dedup_by_key(|(id, _)| *id);
    for (id, lease_use) in leases {
        let ownership = client.worker.shared.lease_key.ownership(id, &principal.name);
        let claim = match ownership {
            Ownership::Own => LeaseClaim::Own,
            // A lease that does not exist yet has no keys.
            Ownership::Sealed if lease_use == LeaseUse::Grant => LeaseClaim::OtherIdentity,
            Ownership::Foreign if lease_use == LeaseUse::Grant => LeaseClaim::Unattached,
            _ if asked == MAX_LEASES => break,
            Ownership::Sealed | Ownership::Foreign => {
                asked = asked.saturating_add(1);
                let keys = AttachedKeys::of(principal.clone(), id, accesses);
                match client.worker.lease_lookups.keys(client, member, id, keys).await {
                    Ok(LeaseClaim::Unattached) if ownership == Ownership::Sealed => {
                        LeaseClaim::OtherIdentity
                    }
                    Ok(claim) => claim,
                    Err(LookupError::Limit) => {
                        return Err(Denial::new(Reason::Limit, "too many lookups of leases"));
                    }
                    Err(LookupError::NoResponse) => {
                        evidence.push(LeaseEvidence { id, claim: LeaseClaim::Unknown });
                        // The request is denied already, and etcd may be overloaded.
                        return Ok(evidence);
                    }
                }
            }
        };
        evidence.push(LeaseEvidence { id, claim });
    }
    Ok(evidence)
}

/// A client's principal together with the policy that it was made from.
pub struct Caller {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The client's principal under this policy.
    pub principal: Arc<Principal>,
}

impl Caller {
    /// Compiles the principal of `identity` under `policy`.
    #[must_use]
    pub fn of(policy: Arc<Policy>, identity: &Identity) -> Self {
        let principal = Arc::new(policy.principal(identity));
        Self { policy, principal }
    }
}
