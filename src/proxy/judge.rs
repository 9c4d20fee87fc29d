//! From a message to a verdict, with the evidence that leases need.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Shared;
use crate::access::Accesses;
use crate::authorize::{Denial, LeaseEvidence, LeaseStanding, Permit, Reason, authorize, refuse, standing};
use crate::config::ClientTokens;
use crate::identity::Identity;
use crate::lease_id::Ownership;
use crate::method::Method;
use crate::policy::{Policy, Principal};
use crate::upstream::members::MemberIndex;
use crate::wire;

/// Leases of others that one message may name and still be judged: a Txn of 10,000 of them must not become 10,000 questions to etcd. Those
/// beyond have no evidence, and are refused.
const MAX_LEASES: usize = 16;

/// Judges the one message of a request.
///
/// # Errors
/// In enforce mode, why it is refused.
pub async fn message(
    shared: &Shared,
    principal: &Principal,
    member: MemberIndex,
    method: Method,
    message: &[u8],
) -> Result<Permit, Denial> {
    // Tokens that are stripped cannot be used: the password would travel for nothing.
    if method == Method::Authenticate && shared.config.client_tokens == ClientTokens::Strip {
        return refuse(principal, Denial::new(Reason::TokensStripped, ""));
    }
    match wire::inspect(method, message) {
        Ok(accesses) => verdict(shared, principal, member, &accesses).await,
        // Who may not speak at all learns nothing of how its message was read.
        Err(malformed) => refuse(principal, standing(principal).err().unwrap_or_else(|| malformed.into())),
    }
}

/// Judges accesses, asking etcd for the keys of leases that do not carry the caller's mark.
///
/// # Errors
/// In enforce mode, why they are refused.
pub async fn verdict(shared: &Shared, principal: &Principal, member: MemberIndex, accesses: &Accesses<'_>) -> Result<Permit, Denial> {
    // Everything but leases first: etcd is asked only where its answer decides.
    let verdict = authorize(principal, accesses, &[]);
    if !lacks_evidence(&verdict) {
        return verdict;
    }
    let evidence = Box::pin(lease_evidence(shared, principal, member, accesses)).await;
    authorize(principal, accesses, &evidence)
}

/// Whether what is missing is only to know whose a lease is.
fn lacks_evidence(verdict: &Result<Permit, Denial>) -> bool {
    let denial = match verdict {
        Ok(permit) => permit.would_deny(),
        Err(denial) => Some(denial),
    };
    denial.is_some_and(|denial| denial.reason == Reason::LeaseNotOwned)
}

async fn lease_evidence(
    shared: &Shared,
    principal: &Principal,
    member: MemberIndex,
    accesses: &Accesses<'_>,
) -> SmallVec<[LeaseEvidence; 1]> {
    let mut evidence = SmallVec::new();
    let mut asked = 0_usize;
    for &(id, _) in &accesses.leases {
        if evidence.iter().any(|known: &LeaseEvidence| known.id == id) {
            continue;
        }
        let ownership = shared.lease_key.ownership(id, &principal.name);
        let standing = match ownership {
            Ownership::Own => LeaseStanding::Own,
            _ if asked == MAX_LEASES => break,
            Ownership::Sealed | Ownership::Foreign => match shared.control.lease_keys(member, id).await {
                Ok(keys) if keys.is_empty() && ownership == Ownership::Sealed => LeaseStanding::AnotherIdentity,
                Ok(keys) => LeaseStanding::Attached(keys),
                Err(error) => {
                    tracing::warn!(%error, "cannot ask etcd for the keys of a lease");
                    evidence.push(LeaseEvidence { id, standing: LeaseStanding::Unknown });
                    // One refusal is enough, and etcd has other worries than the next question.
                    return evidence;
                }
            },
        };
        asked = asked.saturating_add(usize::from(standing != LeaseStanding::Own));
        evidence.push(LeaseEvidence { id, standing });
    }
    evidence
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
