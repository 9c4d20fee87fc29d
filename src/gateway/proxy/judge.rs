//! Decides on a message, with the evidence that leases need.

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

/// The number of other identities' leases that are looked up for one message: a Txn with 10,000 of
/// them must not become 10,000 requests to etcd. The others have no evidence and are denied.
const MAX_LEASES: usize = 16;

/// Decides on the one message of a request.
///
/// # Errors
/// In enforce mode, why it is denied.
pub async fn message(
    client: &Client,
    principal: &Arc<Principal>,
    member: MemberIndex,
    method: Method,
    message: &[u8],
) -> Result<Permit, Denial> {
    // A token that is stripped cannot be used, so the password would be sent in vain.
    if method == Method::Authenticate
        && client.worker.shared.config.client_tokens == ClientTokens::Strip
    {
        return refuse(principal, Denial::new(Reason::TokensStripped, ""));
    }
    match wire::inspect(method, message) {
        Ok(accesses) => decide(client, principal, member, &accesses).await,
        // A client without any right does not learn how its message was read.
        Err(malformed) => {
            refuse(principal, check_binding(principal).err().unwrap_or_else(|| malformed.into()))
        }
    }
}

/// Decides on accesses. Asks etcd for the keys of leases whose id does not carry the client's mark.
///
/// # Errors
/// In enforce mode, why they are denied.
pub async fn decide(
    client: &Client,
    principal: &Arc<Principal>,
    member: MemberIndex,
    accesses: &Accesses<'_>,
) -> Result<Permit, Denial> {
    // Everything but leases first: etcd is asked only if the decision depends on it.
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

/// Whether only evidence about a lease is missing.
fn lacks_evidence(decision: &Result<Permit, Denial>) -> bool {
    let denial = match decision {
        Ok(permit) => permit.would_deny(),
        Err(denial) => Some(denial),
    };
    denial.is_some_and(|denial| denial.reason == Reason::LeaseNotOwned)
}

/// The evidence about the leases that a message names, from their ids and from etcd, sorted by id.
///
/// # Errors
/// The client may not cause a lookup now.
async fn lease_evidence(
    client: &Client,
    principal: &Arc<Principal>,
    member: MemberIndex,
    accesses: &Accesses<'_>,
) -> Result<SmallVec<[LeaseEvidence; 1]>, Denial> {
    let mut evidence = SmallVec::new();
    let mut asked = 0_usize;
    // Each lease once, because a Txn may name ten thousand, and in the order that `authorize`
    // expects.
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

/// A client under one generation of the policy.
pub struct Caller {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The client's principal under it.
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
