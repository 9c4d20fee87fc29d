//! What is said of a decision: metrics always, audit as configured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Shared;
use super::judge::Caller;
use super::relay::Ended;
use super::worker::RoleTable;
use crate::audit::{self, Decision, OwnedAccesses, Record};
use crate::authorize::{Denial, Permit, Reason, standing};
use crate::identity::Identity;
use crate::method::{Effect, Method};
use crate::policy::{GrantId, Mode};
use crate::upstream::members::MemberIndex;

/// The client behind a decision, as its connection knows it.
pub struct Who<'c> {
    /// What the certificate says.
    pub identity: &'c Arc<Identity>,
    /// Where it calls from.
    pub peer: SocketAddr,
    /// What the policy makes of it, at the moment of the decision.
    pub caller: &'c Caller,
}

/// One decision on its way into metrics and audit.
pub struct Note {
    decision: Decision,
    grant: Option<GrantId>,
    denial: Option<Denial>,
    slot: Option<audit::Slot>,
    time: SystemTime,
    begun: Instant,
}

impl Note {
    /// Notes a verdict on a request that began at `begun` and took `judged` to judge, and takes a place in the audit's queue if
    /// a line will be written.
    ///
    /// # Errors
    /// With `on_full: deny` and a full queue, the refusal that this is: nothing may happen that the audit cannot tell. Shadow mode
    /// refuses nothing: its line is lost, and counted.
    pub fn of(
        shared: &Shared,
        caller: &Caller,
        effect: Effect,
        verdict: &Result<Permit, Denial>,
        begun: Instant,
        judged: Duration,
    ) -> Result<Note, Denial> {
        let (decision, grant, denial) = match verdict {
            Ok(permit) => match permit.would_deny() {
                None => (Decision::Allow, permit.grant(), None),
                Some(denial) => (Decision::WouldDeny, None, Some(denial.clone())),
            },
            Err(denial) => (Decision::Deny, None, Some(denial.clone())),
        };
        let slot = if shared.audit.wants(decision, effect) {
            match shared.audit.reserve(&caller.principal.name) {
                Ok(slot) => Some(slot),
                // A refusal stands anyway, and shadow mode is never in the way: the line is counted as lost.
                Err(_) if decision == Decision::Deny || caller.principal.mode == Mode::Shadow => None,
                Err(_) => return Err(Denial::new(Reason::AuditFull, "")),
            }
        } else {
            None
        };
        shared.metrics.decision_duration.record(judged.as_secs_f64());
        Ok(Note { decision, grant, denial, slot, time: SystemTime::now(), begun })
    }

    /// Shadow mode has seen only now, with the message on its way, that the request is not one message alone: what enforcement
    /// would have refused it for before it looked at the message.
    pub fn amend(&mut self, shared: &Shared, caller: &Caller, denial: Denial) {
        (self.decision, self.grant) = (Decision::WouldDeny, None);
        self.denial = Some(standing(&caller.principal).err().unwrap_or(denial));
        self.slot = self.slot.take().or_else(|| shared.audit.reserve(&caller.principal.name).ok());
    }

    /// Whether a line will be written.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        self.slot.is_some()
    }

    /// The call has ended: counts it, and writes the line.
    #[expect(clippy::too_many_arguments, reason = "the particulars of one line, known only where the call ends")]
    pub fn close(
        self,
        shared: &Shared,
        roles: &RoleTable,
        who: &Who<'_>,
        method: Result<Method, &[u8]>,
        accesses: impl FnOnce() -> OwnedAccesses,
        member: Option<MemberIndex>,
        ended: Ended,
    ) {
        let caller = who.caller;
        let grant = self.grant.and_then(|id| caller.policy.grant(id));
        let role = grant.map(|grant| grant.role_index);
        roles.count(shared, &caller.policy, role, method.ok(), self.decision, caller.principal.mode);
        shared.metrics.request_duration(method.ok()).record(self.begun.elapsed().as_secs_f64());
        let Some(slot) = self.slot else { return };
        slot.submit(&Record {
            time: self.time,
            decision: self.decision,
            identity: who.identity.clone(),
            principal: caller.principal.clone(),
            peer: who.peer,
            method: method.map_err(Box::from),
            accesses: accesses(),
            grant: grant.map(ToString::to_string),
            denial: self.denial,
            policy_hash: caller.policy.hash.clone(),
            member: member.and_then(|index| shared.members.at(index)).map(|member| member.name.clone()),
            status: match ended {
                Ended::Answered(status) => status,
                Ended::ClientGone => None,
            },
            request_id: shared.next_request_id(),
        });
    }
}
