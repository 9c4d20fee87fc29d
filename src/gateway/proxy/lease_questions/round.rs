//! One question about a lease: those who wait for its answer, and who is charged for it.
//!
//! A lease may have a million keys, and thousands may wait. So each key is looked at once for all
//! requests of an identity that need the same on it, for none that has its answer already, and
//! others have their turn in between.

use std::collections::HashMap;
use std::sync::Arc;

use etcd_warden_core::authorize::{AttachedKeys, LeaseClaim};

use super::{Answer, NotKnown, Waiter};
use crate::proxy::budget::{Hold, Share};
use crate::proxy::quota::{Place, Quota};
use crate::upstream::lease_query::{LeaseKeyVisitor, LeaseQueryError};

/// Looks at a key, each for one group, until others have their turn: well below a millisecond.
const LOOKS: usize = 1024;

/// One question.
pub(super) struct Round {
    groups: Vec<Group>,
    charge: Charge,
    looks: usize,
}

/// Requests of one identity that have the same answer: the same rights, and the same verbs on each
/// key.
struct Group {
    keys: AttachedKeys,
    quota: Arc<Quota>,
    share: Share,
    answers: Vec<Answer>,
}

/// What an identity is charged for the question.
struct Charge {
    quota: Arc<Quota>,
    hold: Hold,
    _place: Place,
}

impl Round {
    /// One question for all of them, charged to the first that may ask one. `None`: none may, and
    /// all were told.
    pub(super) fn of(waiters: Vec<Waiter>) -> Option<Self> {
        let groups = Group::of(waiters);
        let Some(charge) = Charge::of(&groups) else {
            groups.into_iter().for_each(|group| group.tell(&Err(NotKnown::Limit)));
            return None;
        };
        Some(Self { groups, charge, looks: 0 })
    }

    /// The answer has ended: to its end, or some wait in vain.
    pub(super) fn end(self, asked: Result<(), LeaseQueryError>) {
        if let Err(error) = &asked {
            tracing::warn!(%error, "cannot ask etcd for the keys of a lease");
        }
        for group in self.groups {
            let answer =
                asked.as_ref().map(|()| group.keys.claim()).map_err(|_| NotKnown::Unanswered);
            group.tell(&answer);
        }
    }

    /// The identity that is charged has no room for more: its requests have no answer, and the next
    /// identity is charged. False: none may be.
    fn charge_the_next(&mut self) -> bool {
        let (charged, others) = std::mem::take(&mut self.groups)
            .into_iter()
            .partition(|group| Arc::ptr_eq(&group.quota, &self.charge.quota));
        self.groups = others;
        Vec::into_iter(charged).for_each(|group| group.tell(&Err(NotKnown::Unanswered)));
        let next = Charge::of(&self.groups);
        match next {
            Some(charge) => self.charge = charge,
            None => self.groups.drain(..).for_each(|group| group.tell(&Err(NotKnown::Limit))),
        }
        !self.groups.is_empty()
    }
}

impl LeaseKeyVisitor for Round {
    fn visit(&mut self, key: &[u8]) -> bool {
        let mut next = 0;
        while let Some(group) = self.groups.get_mut(next) {
            self.looks = self.looks.saturating_add(1);
            if group.waits() && group.keys.check(key) {
                next = next.saturating_add(1);
            } else {
                let decided = self.groups.swap_remove(next);
                let claim = decided.keys.claim();
                decided.tell(&Ok(claim));
            }
        }
        !self.groups.is_empty()
    }

    fn should_yield(&mut self) -> bool {
        let due = self.looks >= LOOKS;
        if due {
            self.looks = 0;
        }
        due
    }

    fn may_buffer(&mut self, bytes: usize) -> bool {
        while !self.charge.hold.set(bytes) {
            if !self.charge_the_next() {
                return false;
            }
        }
        true
    }
}

impl Group {
    /// Those who still wait, in the order of the first of each group.
    fn of(waiters: Vec<Waiter>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        let mut known = HashMap::new();
        for Waiter { keys, quota, share, answer } in
            waiters.into_iter().filter(|waiter| !waiter.answer.is_closed())
        {
            let at = *known.entry((Arc::as_ptr(&quota), keys.depends_on())).or_insert(groups.len());
            match groups.get_mut(at) {
                Some(group) => group.answers.push(answer),
                None => groups.push(Self { keys, quota, share, answers: vec![answer] }),
            }
        }
        groups
    }

    /// Whether a caller is there. Those that have left are forgotten from the end, each once.
    fn waits(&mut self) -> bool {
        while self.answers.pop_if(|answer| answer.is_closed()).is_some() {}
        !self.answers.is_empty()
    }

    fn tell(self, answer: &Result<LeaseClaim, NotKnown>) {
        // A caller that has left needs no answer.
        self.answers.into_iter().for_each(|waiter| drop(waiter.send(answer.clone())));
    }
}

impl Charge {
    /// For the first that may ask.
    fn of(groups: &[Group]) -> Option<Self> {
        groups.iter().find_map(|Group { quota, share, .. }| {
            Some(Self {
                _place: quota.questions.place()?,
                quota: quota.clone(),
                hold: Hold::none(share),
            })
        })
    }
}

#[cfg(test)]
mod tests;
