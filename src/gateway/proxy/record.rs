//! Records each decision: always in the metrics, and in the audit log as configured.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use etcd_warden_core::authorize::Decision;
use etcd_warden_core::authorize::{Denial, Permit, Reason, check_binding};
use etcd_warden_core::method::{Effect, Method};
use etcd_warden_core::policy::{GrantId, Mode};
use etcd_warden_core::wire::{self, frame};
use http::Uri;

use super::client::Client;
use super::judge::Caller;
use super::outcome::Outcome;
use super::reply::Status;
use crate::audit::{self, OwnedAccesses, Record};
use crate::metrics::reason::Limit;
use crate::upstream::members::MemberIndex;

/// The subject of a decision.
pub enum Subject {
    /// A request of one message, framed.
    Message(Method, Bytes),
    /// One message of a bidirectional stream, or a request whose message was not read.
    Accesses(Method, OwnedAccesses),
    /// A path that is not a method of etcd.
    Path(Box<[u8]>),
}

/// How a call that may have reached etcd ended.
pub struct Ended {
    /// The member that the request was sent to, if it responded.
    pub member: Option<MemberIndex>,
    /// How the call ended.
    pub outcome: Outcome,
}

/// The record of a decision while its call is in progress. It is written on drop, with the outcome
/// known by then. So a call whose client disconnects is recorded too.
#[must_use = "the decision is recorded when this is dropped"]
pub struct Recording<'c> {
    client: &'c Client,
    caller: Rc<Caller>,
    subject: Subject,
    decision: Decision,
    grant: Option<GrantId>,
    denial: Option<Denial>,
    /// The slot of its audit line, and the line's time.
    line: Option<(audit::Slot, SystemTime)>,
    begun: Instant,
    /// The member that the request went to.
    pub member: Option<MemberIndex>,
    /// How the call ended.
    pub outcome: Outcome,
}

impl<'c> Recording<'c> {
    /// Opens the record of a decision on a request that began at `begun` and took `judged` to
    /// decide. Reserves a slot of the audit queue if a line will be written.
    ///
    /// # Errors
    /// The queue is full and `audit-on-full` is `deny`, so a request without an audit line must not
    /// be forwarded. Shadow mode refuses nothing: the line is lost, and a metric counts it.
    pub fn open(
        client: &'c Client,
        caller: Rc<Caller>,
        subject: Subject,
        verdict: &Result<Permit, Denial>,
        begun: Instant,
        judged: Duration,
    ) -> Result<Self, Denial> {
        let shared = &client.worker.shared;
        let (decision, grant, denial) = Self::decided(verdict);
        let line = if shared.audit.wants(decision, subject.effect()) {
            match shared.audit.reserve(&caller.principal.name) {
                Ok(slot) => Some((slot, SystemTime::now())),
                // A denied request is refused anyway; a metric counts its lost line.
                Err(_) if decision == Decision::Deny || caller.principal.mode == Mode::Shadow => {
                    None
                }
                Err(_) => {
                    shared.metrics.limit_hit(Limit::AuditQueue);
                    return Err(Denial::new(Reason::AuditFull, ""));
                }
            }
        } else {
            None
        };
        shared.metrics.decision_duration.record(judged.as_secs_f64());
        Ok(Self {
            client,
            caller,
            subject,
            decision,
            grant,
            denial,
            line,
            begun,
            member: None,
            outcome: Outcome::ClientGone,
        })
    }

    /// Sets how the call ended.
    pub fn end(&mut self, ended: Ended) {
        (self.member, self.outcome) = (ended.member, ended.outcome);
    }

    /// Replaces the decision of a request that waited and was judged again before it was sent. An
    /// audit line that was reserved is kept. If only the new decision needs one, it is reserved
    /// now.
    ///
    /// # Errors
    /// The new denial.
    pub fn judged_again(
        &mut self,
        caller: Rc<Caller>,
        verdict: Result<Permit, Denial>,
    ) -> Result<Permit, Denial> {
        self.caller = caller;
        (self.decision, self.grant, self.denial) = Self::decided(&verdict);
        let audit = &self.client.worker.shared.audit;
        if self.line.is_none() && audit.wants(self.decision, self.subject.effect()) {
            self.line = audit
                .reserve(&self.caller.principal.name)
                .ok()
                .map(|slot| (slot, SystemTime::now()));
        }
        if let Err(denial) = &verdict {
            self.outcome = Outcome::Answered(Status::of(denial, false).code_sent());
        }
        verdict
    }

    fn decided(verdict: &Result<Permit, Denial>) -> (Decision, Option<GrantId>, Option<Denial>) {
        match verdict {
            Ok(permit) => match permit.would_deny() {
                None => (Decision::Allow, permit.grant(), None),
                Some(denial) => (Decision::WouldDeny, None, Some(denial.clone())),
            },
            Err(denial) => (Decision::Deny, None, Some(denial.clone())),
        }
    }

    /// Replaces the denial after shadow mode has found another fault in a request whose message was
    /// already sent. Enforcement would find this fault before it reads the message. So the new
    /// denial takes precedence, except over one for the binding status.
    pub fn amend(&mut self, denial: Option<Denial>) {
        let Some(denial) = denial else { return };
        if self.denial.as_ref().is_some_and(|known| {
            check_binding(&self.caller.principal).is_err() || known.reason == denial.reason
        }) {
            return;
        }
        (self.decision, self.grant, self.denial) = (Decision::WouldDeny, None, Some(denial));
        let audit = &self.client.worker.shared.audit;
        self.line = self.line.take().or_else(|| {
            Some((audit.reserve(&self.caller.principal.name).ok()?, SystemTime::now()))
        });
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        let (shared, policy) = (&self.client.worker.shared, &self.caller.policy);
        let method = self.subject.method();
        let grant = self.grant.and_then(|id| policy.grant(id));
        let role = grant.map(|grant| grant.role_index);
        self.client.worker.roles.count(
            shared,
            policy,
            role,
            method,
            self.decision,
            self.caller.principal.mode,
        );
        shared.metrics.request_duration(method).record(self.begun.elapsed().as_secs_f64());
        let Some((slot, time)) = self.line.take() else { return };
        slot.submit(Record {
            time,
            decision: self.decision,
            identity: self.client.identity.clone(),
            principal: self.caller.principal.clone(),
            peer: self.client.peer,
            method: self.subject.name(),
            accesses: self.subject.accesses(),
            grant: grant.map(ToString::to_string),
            denial: self.denial.take(),
            policy_hash: policy.hash.clone(),
            member: self
                .member
                .and_then(|index| shared.members.at(index))
                .map(|member| member.name.clone()),
            status: match self.outcome {
                Outcome::Answered(status) => status,
                Outcome::ClientGone => None,
            },
            request_id: shared.next_request_id(),
        });
    }
}

impl Subject {
    /// The subject of a request whose path names no method.
    #[must_use]
    pub fn of_path(uri: &Uri) -> Self {
        let text = uri.path_and_query().map_or("", |path| path.as_str()).as_bytes();
        Subject::Path(text.get(..256).unwrap_or(text).into())
    }

    fn method(&self) -> Option<Method> {
        match self {
            Subject::Message(method, _) | Subject::Accesses(method, _) => Some(*method),
            Subject::Path(_) => None,
        }
    }

    /// An unknown method may be a write.
    fn effect(&self) -> Effect {
        self.method().map_or(Effect::Writes, Method::effect)
    }

    fn name(&self) -> Result<Method, Box<[u8]>> {
        match self {
            Subject::Message(method, _) | Subject::Accesses(method, _) => Ok(*method),
            Subject::Path(path) => Err(path.clone()),
        }
    }

    /// What the request accesses. A held message is parsed again for this, because most requests
    /// need no line.
    fn accesses(&mut self) -> OwnedAccesses {
        match self {
            Subject::Message(method, held) => {
                let message = frame::single(held, usize::MAX).unwrap_or_default();
                wire::inspect(*method, message)
                    .as_ref()
                    .map(OwnedAccesses::from)
                    .unwrap_or_default()
            }
            Subject::Accesses(_, accesses) => std::mem::take(accesses),
            Subject::Path(_) => OwnedAccesses::default(),
        }
    }
}
