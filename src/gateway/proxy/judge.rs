//! From a message to a verdict, with the evidence that leases need.

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
use super::lease_questions::NotKnown;
use crate::config::ClientTokens;
use crate::metrics::reason::Limit;
use crate::upstream::members::MemberIndex;

/// Leases of others that one message may name and still be judged: a Txn of 10,000 of them must not
/// become 10,000 questions to etcd. Those beyond have no evidence, and are refused.
const MAX_LEASES: usize = 16;

/// Judges the one message of a request.
///
/// # Errors
/// In enforce mode, why it is refused.
pub async fn message(
    client: &Client,
    principal: &Arc<Principal>,
    member: MemberIndex,
    method: Method,
    message: &[u8],
) -> Result<Permit, Denial> {
    // Tokens that are stripped cannot be used: the password would travel for nothing.
    if method == Method::Authenticate
        && client.worker.shared.config.client_tokens == ClientTokens::Strip
    {
        return refuse(principal, Denial::new(Reason::TokensStripped, ""));
    }
    match wire::inspect(method, message) {
        Ok(accesses) => verdict(client, principal, member, &accesses).await,
        // Who may not speak at all learns nothing of how its message was read.
        Err(malformed) => {
            refuse(principal, check_binding(principal).err().unwrap_or_else(|| malformed.into()))
        }
    }
}

/// Judges accesses, asking etcd for the keys of leases that do not carry the caller's mark.
///
/// # Errors
/// In enforce mode, why they are refused.
pub async fn verdict(
    client: &Client,
    principal: &Arc<Principal>,
    member: MemberIndex,
    accesses: &Accesses<'_>,
) -> Result<Permit, Denial> {
    // Everything but leases first: etcd is asked only where its answer decides.
    let verdict = authorize(principal, accesses, &[]);
    if !lacks_evidence(&verdict) {
        return verdict;
    }
    match Box::pin(lease_evidence(client, principal, member, accesses)).await {
        Ok(evidence) => authorize(principal, accesses, &evidence),
        Err(limit) => {
            client.worker.shared.metrics.limit_hit(Limit::LeaseQuestions);
            refuse(principal, limit)
        }
    }
}

/// Whether what is missing is only to know whose a lease is.
fn lacks_evidence(verdict: &Result<Permit, Denial>) -> bool {
    let denial = match verdict {
        Ok(permit) => permit.would_deny(),
        Err(denial) => Some(denial),
    };
    denial.is_some_and(|denial| denial.reason == Reason::LeaseNotOwned)
}

/// What etcd and the ids say of the leases that a message names, sorted by id.
///
/// # Errors
/// The caller may not ask now.
async fn lease_evidence(
    client: &Client,
    principal: &Arc<Principal>,
    member: MemberIndex,
    accesses: &Accesses<'_>,
) -> Result<SmallVec<[LeaseEvidence; 1]>, Denial> {
    let mut evidence = SmallVec::new();
    let mut asked = 0_usize;
    // Each lease once, and in the order that the decision wants: a Txn may name ten thousand.
    let mut leases = accesses.leases.clone();
    leases.sort_by_key(|(id, _)| *id);
    leases.dedup_by_key(|(id, _)| *id);
    for (id, lease_use) in leases {
        let ownership = client.worker.shared.lease_key.ownership(id, &principal.name);
        let claim = match ownership {
            Ownership::Own => LeaseClaim::Own,
            // Of a lease to come etcd has nothing to say: no key is attached to it.
            Ownership::Sealed if lease_use == LeaseUse::Grant => LeaseClaim::OtherIdentity,
            Ownership::Foreign if lease_use == LeaseUse::Grant => LeaseClaim::Unattached,
            _ if asked == MAX_LEASES => break,
            Ownership::Sealed | Ownership::Foreign => {
                asked = asked.saturating_add(1);
                let keys = AttachedKeys::of(principal.clone(), id, accesses);
                match client.worker.questions.ask(client, member, id, keys).await {
                    Ok(LeaseClaim::Unattached) if ownership == Ownership::Sealed => {
                        LeaseClaim::OtherIdentity
                    }
                    Ok(claim) => claim,
                    Err(NotKnown::Limit) => {
                        return Err(Denial::new(Reason::Limit, "too many questions about leases"));
                    }
                    Err(NotKnown::Unanswered) => {
                        evidence.push(LeaseEvidence { id, claim: LeaseClaim::Unknown });
                        // One refusal is enough, and etcd has other worries than the next question.
                        return Ok(evidence);
                    }
                }
            }
        };
        evidence.push(LeaseEvidence { id, claim });
    }
    Ok(evidence)
}

/// A caller under the policy that counts now, kept by its connection.
pub struct Caller {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The caller under it.
    pub principal: Arc<Principal>,
}

impl Caller {
    /// What `policy` makes of `identity`.
    #[must_use]
    pub fn of(policy: Arc<Policy>, identity: &Identity) -> Self {
        let principal = Arc::new(policy.principal(identity));
        Self { policy, principal }
    }
}
