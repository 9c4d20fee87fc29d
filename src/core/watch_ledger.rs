//! The watches of one Watch stream: the range of each watch id, and the order of the responses to
//! creates.
//!
//! ```text
//!              denied, once it is first in the queue
//!   create ──┬──────────────────────▶ refused: created + canceled, id -1
//!            │ allowed: sent to etcd
//!            ▼              created, with the id          canceled by etcd or by the client
//!         pending ────────────────────────────────▶ live ──────────────────────────────────▶ gone
//!            │ right lost                             │ right lost: canceled to the client, cancel to etcd
//!            ▼              created                   ▼                      canceled
//!         revoked ────────────────────────────▶ canceling (responses are dropped) ─────────▶ gone
//! ```
//!
//! clientv3 sends one create at a time and pairs responses with creates in order
//! (`client/v3/watch.go`). Other clients may send several creates before the first response, and
//! pair them in the same way. So a refusal must wait: if it overtook the response to an earlier
//! create, the client would take it for that response.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::keyspace::{KeyRange, OwnedRange};
use crate::wire::watch::ResponseHead;

/// Bytes of range bounds per additional slot.
const BYTES_PER_SLOT: usize = 1024;

/// Number of slots that a watch on this range takes: one, plus one for each full KiB of its
/// bounds, because a key may be as long as a request.
pub fn slots_for(range: KeyRange<'_>) -> usize {
    extra_slots(range).saturating_add(1)
}

/// The watches of one stream.
#[derive(Debug, Default)]
pub struct WatchLedger {
    pending: VecDeque<Pending>,
    /// Number of [`Pending::Create`] entries.
    awaiting_etcd: usize,
    /// Slots that ranges take beyond the first one each.
    extra: usize,
    live: HashMap<i64, OwnedRange>,
    canceling: HashSet<i64>,
}

/// A create to which the client has no response yet.
#[derive(Debug)]
enum Pending {
    /// The create was sent to etcd. `revoked`: the client lost the right meanwhile.
    Create { range: OwnedRange, revoked: bool },
    /// The create was refused. The refusal waits for the responses to earlier creates.
    Refused(Refusal),
}

/// Why a create is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The policy denies it.
    Denied,
    /// A limit is reached.
    TooMany,
}

/// How to handle one response from etcd.
#[derive(Debug, PartialEq, Eq)]
pub struct Action {
    /// True: forward the response to the client. False: drop it.
    pub forward: bool,
    /// Cancel this watch: the client lost the right before etcd had created it.
    pub cancel: Option<i64>,
    /// After that, send these refusals to the client, in this order.
    pub refusals: Vec<Refusal>,
}

impl WatchLedger {
    /// Records an allowed create that is sent to etcd.
    pub fn create_forwarded(&mut self, range: OwnedRange) {
        self.extra = self.extra.saturating_add(extra_slots(range.as_range()));
        self.pending.push_back(Pending::Create { range, revoked: false });
        self.awaiting_etcd = self.awaiting_etcd.saturating_add(1);
    }

    /// Records a refused create. Returns true if the refusal must be sent now. If not, a later call
    /// of [`WatchLedger::on_response`] returns it.
    #[must_use]
    pub fn create_refused(&mut self, refusal: Refusal) -> bool {
        if self.pending.is_empty() {
            return true;
        }
        self.pending.push_back(Pending::Refused(refusal));
        false
    }

    /// Records a response of etcd.
    pub fn on_response(&mut self, head: &ResponseHead<'_>) -> Action {
        if head.created {
            return self.on_created(head);
        }
        let forward = !self.canceling.contains(&head.watch_id);
        if head.canceled {
            self.forget(head.watch_id);
            self.canceling.remove(&head.watch_id);
        }
        Action { forward, cancel: None, refusals: Vec::new() }
    }

    fn on_created(&mut self, head: &ResponseHead<'_>) -> Action {
        let mut cancel = None;
        if let Some(Pending::Create { range, revoked }) = self.pending.pop_front() {
            self.awaiting_etcd = self.awaiting_etcd.saturating_sub(1);
            let extra = extra_slots(range.as_range());
            match (head.canceled, revoked) {
                // etcd refused the create.
                (true, _) => self.extra = self.extra.saturating_sub(extra),
                (false, true) => {
                    self.extra = self.extra.saturating_sub(extra);
                    self.canceling.insert(head.watch_id);
                    cancel = Some(head.watch_id);
                }
                (false, false) => {
                    self.forget(head.watch_id);
                    self.live.insert(head.watch_id, range);
                }
            }
        }
        let mut refusals = Vec::new();
        while let Some(&Pending::Refused(refusal)) = self.pending.front() {
            self.pending.pop_front();
            refusals.push(refusal);
        }
        Action { forward: true, cancel, refusals }
    }

    /// Ids of the live watches, in ascending order.
    pub fn live_ids(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.live.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Checks pending creates, and the live watches among `ids`, against a changed policy. Returns
    /// the watches that are no longer allowed. Cancel each of them at etcd, and report it to the
    /// client. A stream may have 500,000 watches, so call this for a part of them at a time.
    #[must_use]
    pub fn recheck(
        &mut self,
        ids: &[i64],
        mut allowed: impl FnMut(&OwnedRange) -> bool,
    ) -> Vec<i64> {
        for pending in &mut self.pending {
            if let Pending::Create { range, revoked } = pending {
                *revoked = *revoked || !allowed(range);
            }
        }
        let is_lost = |id: &i64| self.live.get(id).is_some_and(|range| !allowed(range));
        let lost: Vec<i64> = ids.iter().copied().filter(is_lost).collect();
        for id in &lost {
            self.forget(*id);
            self.canceling.insert(*id);
        }
        lost
    }

    fn forget(&mut self, id: i64) {
        if let Some(range) = self.live.remove(&id) {
            self.extra = self.extra.saturating_sub(extra_slots(range.as_range()));
        }
    }

    /// Number of live watches.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Number of slots of all watches that etcd has or is about to create ([`slots_for`]).
    pub fn slots(&self) -> usize {
        self.awaiting_etcd
            .saturating_add(self.live.len())
            .saturating_add(self.canceling.len())
            .saturating_add(self.extra)
    }

    /// Number of creates to which the client has no response yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}

fn extra_slots(range: KeyRange<'_>) -> usize {
    range.bounds_len() / BYTES_PER_SLOT
}

#[cfg(test)]
mod tests {
    use super::Refusal::{Denied, TooMany};
    use super::*;
    use crate::keyspace::KeyRange;

    fn head(watch_id: i64, created: bool, canceled: bool) -> ResponseHead<'static> {
        ResponseHead { header: b"", watch_id, created, canceled }
    }

    fn range(key: &str) -> OwnedRange {
        KeyRange::key(key.as_bytes()).into()
    }

    fn forwarded(refusals: &[Refusal]) -> Action {
        Action { forward: true, cancel: None, refusals: refusals.to_vec() }
    }

    #[test]
    fn a_refusal_waits_for_the_responses_to_earlier_creates() {
        let mut ledger = WatchLedger::default();
        ledger.create_forwarded(range("a"));
        assert!(!ledger.create_refused(Denied));
        ledger.create_forwarded(range("b"));
        assert!(!ledger.create_refused(TooMany));
        assert!(!ledger.create_refused(Denied));
        assert_eq!(ledger.slots(), 2);
        assert_eq!(ledger.on_response(&head(0, true, false)), forwarded(&[Denied]));
        assert_eq!(ledger.on_response(&head(0, false, false)), forwarded(&[]));
        assert_eq!(ledger.on_response(&head(1, true, false)), forwarded(&[TooMany, Denied]));
        assert!(ledger.create_refused(Denied));
        assert_eq!(ledger.slots(), 2);
        assert_eq!(ledger.live(), 2);
    }

    #[test]
    fn drops_responses_of_a_revoked_watch_until_it_is_canceled() {
        let mut ledger = WatchLedger::default();
        for (id, key) in [(7, "a"), (8, "b")] {
            ledger.create_forwarded(range(key));
            ledger.on_response(&head(id, true, false));
        }
        assert_eq!(ledger.recheck(&[7, 8], |held| *held == range("b")), [7]);
        assert_eq!(
            ledger.on_response(&head(7, false, false)),
            Action { forward: false, cancel: None, refusals: Vec::new() }
        );
        assert_eq!(ledger.on_response(&head(8, false, false)), forwarded(&[]));
        assert_eq!(
            ledger.on_response(&head(7, false, true)),
            Action { forward: false, cancel: None, refusals: Vec::new() }
        );
        assert_eq!(ledger.slots(), 1);
        // The id is free again and may be reused.
        ledger.create_forwarded(range("b"));
        assert_eq!(ledger.on_response(&head(7, true, false)), forwarded(&[]));
        assert_eq!(ledger.on_response(&head(7, false, false)), forwarded(&[]));
        assert_eq!(ledger.live(), 2);
    }

    #[test]
    fn a_watch_revoked_before_its_creation_is_canceled_once_created() {
        let mut ledger = WatchLedger::default();
        ledger.create_forwarded(range("a"));
        assert!(ledger.recheck(&[], |_| false).is_empty());
        assert_eq!(
            ledger.on_response(&head(3, true, false)),
            Action { forward: true, cancel: Some(3), refusals: Vec::new() }
        );
        assert!(!ledger.on_response(&head(3, false, false)).forward);
        assert_eq!((ledger.live(), ledger.slots()), (0, 1));
        ledger.on_response(&head(3, false, true));
        assert_eq!(ledger.slots(), 0);
    }

    #[test]
    fn extra_slots_of_a_long_range_are_freed_however_it_ends() {
        let long = "k".repeat(3000);
        assert_eq!(slots_for(KeyRange::key(long.as_bytes())), 3);
        let ledger_with = |id, canceled| {
            let mut ledger = WatchLedger::default();
            ledger.create_forwarded(range(&long));
            assert_eq!(ledger.slots(), 3);
            ledger.on_response(&head(id, true, canceled));
            ledger
        };
        assert_eq!(ledger_with(-1, true).slots(), 0);
        let mut canceled = ledger_with(0, false);
        assert_eq!(canceled.slots(), 3);
        canceled.on_response(&head(0, false, true));
        assert_eq!(canceled.slots(), 0);
        let mut ended = ledger_with(0, false);
        assert_eq!(ended.recheck(&[0], |_| false), [0]);
        assert_eq!(ended.slots(), 1);
        let mut revoked = WatchLedger::default();
        revoked.create_forwarded(range(&long));
        assert!(revoked.recheck(&[0], |_| false).is_empty());
        revoked.on_response(&head(0, true, false));
        assert_eq!(revoked.slots(), 1);
    }

    #[test]
    fn a_create_refused_by_etcd_keeps_its_order_and_frees_its_slot() {
        let mut ledger = WatchLedger::default();
        ledger.create_forwarded(range("a"));
        assert!(!ledger.create_refused(Denied));
        assert_eq!(ledger.on_response(&head(-1, true, true)), forwarded(&[Denied]));
        assert_eq!((ledger.live(), ledger.slots()), (0, 0));
    }
}
