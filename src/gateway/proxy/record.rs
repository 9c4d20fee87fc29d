//! What is said of a decision: metrics always, audit as configured.

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
use super::relay::Ended;
use super::reply::Status;
use crate::audit::{self, OwnedAccesses, Record};
use crate::metrics::reason::Limit;
use crate::upstream::members::MemberIndex;

/// What a decision is about.
pub enum Subject {
    /// A request of one message, framed.
    Message(Method, Bytes),
    /// One message of a conversation, or a request of which nothing was read.
    Turn(Method, OwnedAccesses),
    /// A path that names no method.
    Path(Box<[u8]>),
}

/// A decision whose call is under way. It is recorded when this is dropped, with what is known by
/// then of how the call ended: a client that leaves before its answer leaves a record all the same.
#[must_use = "the decision is recorded when this is dropped"]
pub struct Recording<'c> {
    client: &'c Client,
    caller: Rc<Caller>,
    subject: Subject,
    decision: Decision,
    grant: Option<GrantId>,
    denial: Option<Denial>,
    /// Where its line will go, and the time that the line will bear.
    line: Option<(audit::Slot, SystemTime)>,
    begun: Instant,
    /// The member that the request went to.
    pub member: Option<MemberIndex>,
    /// How the call ended.
    pub ended: Ended,
}

impl<'c> Recording<'c> {
    /// Notes a verdict on a request that began at `begun` and took `judged` to judge, and takes a
    /// place in the audit's queue if a line will be written.
    ///
    /// # Errors
    /// With `on_full: deny` and a full queue, the refusal that this is: nothing may happen that the
    /// audit cannot tell. Shadow mode refuses nothing: its line is lost, and counted.
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
                // A refusal stands anyway; its line is counted as lost.
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
            ended: Ended::ClientGone,
        })
    }

    /// The request waited, and was judged again before anything of it was sent: the record is of
    /// the new verdict. Its line has a place in the queue unless it needs one only now.
    ///
    /// # Errors
    /// The new refusal.
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
            self.ended = Ended::Answered(Status::of(denial, false).code_sent());
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

    /// Shadow mode has seen only now, with the message on its way, what enforcement would have
    /// refused the request for before it had looked at the message. Only the caller's standing
    /// comes before that.
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
            status: match self.ended {
                Ended::Answered(status) => status,
                Ended::ClientGone => None,
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
            Subject::Message(method, _) | Subject::Turn(method, _) => Some(*method),
            Subject::Path(_) => None,
        }
    }

    /// What is unknown may change something.
    fn effect(&self) -> Effect {
        self.method().map_or(Effect::Writes, Method::effect)
    }

    fn name(&self) -> Result<Method, Box<[u8]>> {
        match self {
            Subject::Message(method, _) | Subject::Turn(method, _) => Ok(*method),
            Subject::Path(path) => Err(path.clone()),
        }
    }

    /// What it would touch. A held message is read once more for that, because the usual request
    /// needs no line.
    fn accesses(&mut self) -> OwnedAccesses {
        match self {
            Subject::Message(method, held) => {
                let message = frame::single(held, usize::MAX).unwrap_or_default();
                wire::inspect(*method, message)
                    .as_ref()
                    .map(OwnedAccesses::from)
                    .unwrap_or_default()
            }
            Subject::Turn(_, accesses) => std::mem::take(accesses),
            Subject::Path(_) => OwnedAccesses::default(),
        }
    }
}
