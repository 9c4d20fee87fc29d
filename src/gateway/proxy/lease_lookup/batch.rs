//! One lookup of the keys of a lease: the requests that wait for it, and the identity that is
//! charged.
//!
//! A lease may have a million keys, and thousands of requests may wait. So each key is checked once
//! for all requests of an identity with the same needs, and no longer for requests that are
//! decided. The task yields in between.

use std::collections::HashMap;
use std::sync::Arc;

use etcd_warden_core::authorize::{AttachedKeys, LeaseClaim};

use super::{LookupError, ResultSender, Waiter};
use crate::proxy::budget::{Reservation, Share};
use crate::proxy::quota::{Quota, Slot};
use crate::upstream::lease_query::{LeaseKeyVisitor, LeaseQueryError};

/// Checks of a key, each for one group, before the task yields: well below a millisecond.
const CHECKS_PER_TURN: usize = 1024;

/// One lookup.
pub(super) struct Batch {
    groups: Vec<Group>,
    charge: Charge,
    checks: usize,
}

/// Requests of one identity that get the same result, because they have the same rights and need
/// the same verbs on each key.
struct Group {
    keys: AttachedKeys,
    quota: Arc<Quota>,
    share: Share,
    waiters: Vec<ResultSender>,
}

/// The slot and the bytes that a lookup takes from the limits of one identity.
struct Charge {
    quota: Arc<Quota>,
    hold: Reservation,
    _slot: Slot,
}

impl Batch {
    /// Groups the requests, and charges the first identity that may cause a lookup. If none may,
    /// sends [`LookupError::Limit`] to all requests and returns `None`.
    pub(super) fn of(waiters: Vec<Waiter>) -> Option<Self> {
        let groups = Group::of(waiters);
        let Some(charge) = Charge::of(&groups) else {
            groups.into_iter().for_each(|group| group.send(&Err(LookupError::Limit)));
            return None;
        };
        Some(Self { groups, charge, checks: 0 })
    }

    /// Sends the results of a lookup that has ended.
    pub(super) fn end(self, read: Result<(), LeaseQueryError>) {
        if let Err(error) = &read {
            tracing::warn!(%error, "cannot read the keys of a lease from etcd");
        }
        for group in self.groups {
            let result =
                read.as_ref().map(|()| group.keys.claim()).map_err(|_| LookupError::NoResponse);
            group.send(&result);
        }
    }

    /// Fails the requests of the charged identity, whose share is exhausted, and charges the next
    /// identity. Returns false if there is none that can be charged.
    fn charge_next(&mut self) -> bool {
        let (charged, others) = std::mem::take(&mut self.groups)
            .into_iter()
            .partition(|group| Arc::ptr_eq(&group.quota, &self.charge.quota));
        self.groups = others;
        Vec::into_iter(charged).for_each(|group| group.send(&Err(LookupError::NoResponse)));
        let next = Charge::of(&self.groups);
        match next {
            Some(charge) => self.charge = charge,
            None => self.groups.drain(..).for_each(|group| group.send(&Err(LookupError::Limit))),
        }
        !self.groups.is_empty()
    }
}

impl LeaseKeyVisitor for Batch {
    fn visit(&mut self, key: &[u8]) -> bool {
        let mut next = 0;
        while let Some(group) = self.groups.get_mut(next) {
            self.checks = self.checks.saturating_add(1);
            if group.is_waited_for() && group.keys.check(key) {
                next = next.saturating_add(1);
            } else {
                let decided = self.groups.swap_remove(next);
                let claim = decided.keys.claim();
                decided.send(&Ok(claim));
            }
        }
        !self.groups.is_empty()
    }

    fn should_yield(&mut self) -> bool {
        let due = self.checks >= CHECKS_PER_TURN;
        if due {
            self.checks = 0;
        }
        due
    }

    fn may_buffer(&mut self, bytes: usize) -> bool {
        while !self.charge.hold.resize(bytes) {
            if !self.charge_next() {
                return false;
            }
        }
        true
    }
}

impl Group {
    /// Groups the requests that still wait, in the order of their arrival.
    fn of(waiters: Vec<Waiter>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        let mut known = HashMap::new();
        for Waiter { keys, quota, share, result } in
            waiters.into_iter().filter(|waiter| !waiter.result.is_closed())
        {
            let at = *known.entry((Arc::as_ptr(&quota), keys.depends_on())).or_insert(groups.len());
            match groups.get_mut(at) {
                Some(group) => group.waiters.push(result),
                None => groups.push(Self { keys, quota, share, waiters: vec![result] }),
            }
        }
        groups
    }

    /// True if a request still waits. Removes cancelled requests from the end of the list, so each
    /// is checked only once.
    fn is_waited_for(&mut self) -> bool {
        while self.waiters.pop_if(|waiter| waiter.is_closed()).is_some() {}
        !self.waiters.is_empty()
    }

    fn send(self, result: &Result<LeaseClaim, LookupError>) {
        // An error means that the request was cancelled.
        self.waiters.into_iter().for_each(|waiter| drop(waiter.send(result.clone())));
    }
}

impl Charge {
    /// Charges the first identity that may cause a lookup.
    fn of(groups: &[Group]) -> Option<Self> {
        groups.iter().find_map(|Group { quota, share, .. }| {
            Some(Self {
                _slot: quota.questions.try_acquire()?,
                quota: quota.clone(),
                hold: Reservation::empty(share),
            })
        })
    }
}

#[cfg(test)]
mod tests;
