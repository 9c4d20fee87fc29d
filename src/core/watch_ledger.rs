//! Which watch of a Watch stream carries which right, and whose turn it is to be answered. Pure: no
//! clock, no socket.
//!
//! ```text
//!              refused, in its turn
//!   create ──┬──────────────────────▶ answered: created + canceled, id -1
//!            │ allowed: sent to etcd
//!            ▼              created, with the id             canceled by etcd or the client
//!         awaiting ───────────────────────────────▶ live ──────────────────────────────────▶ gone
//!            │ right lost                             │ right lost: the client is told, etcd is asked to cancel
//!            ▼              created                   ▼                      canceled
//!          doomed ───────────────────────────────▶ ending (answers swallowed) ─────────────▶ gone
//! ```
//!
//! clientv3 sends one create at a time and pairs answers with creates in order
//! (`client/v3/watch.go`), and so may others with several under way: a refusal that overtakes the
//! answer to an earlier create would be taken for that answer.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::keyspace::{KeyRange, OwnedRange};
use crate::wire::watch::ResponseHead;

/// Bytes of a range that one place is enough for.
const BYTES_OF_A_PLACE: usize = 1024;

/// Places that a watch on this range takes: one, and one more for each KiB of its bounds. A key may
/// be as long as a request.
#[must_use]
pub fn places(range: KeyRange<'_>) -> usize {
    (range.length() / BYTES_OF_A_PLACE).saturating_add(1)
}

/// The watches of one stream.
#[derive(Debug, Default)]
pub struct WatchLedger {
    turns: VecDeque<Turn>,
    awaiting: usize,
    /// Places that ranges take beyond one each.
    beyond: usize,
    live: HashMap<i64, OwnedRange>,
    ending: HashSet<i64>,
}

#[derive(Debug)]
enum Turn {
    Awaiting { range: OwnedRange, doomed: bool },
    Refused(Refusal),
}

/// Why a create is refused in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not allowed.
    Denied,
    /// It is one too many.
    TooMany,
}

/// What to do with one answer of etcd's, and after it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the client gets it.
    pub pass: bool,
    /// A watch that lost its right while it was being made: to be ended now.
    pub end: Option<i64>,
    /// Refusals whose turn has come, in their order.
    pub refusals: Vec<Refusal>,
}

impl WatchLedger {
    /// An allowed create goes to etcd.
    pub fn forwarded(&mut self, range: OwnedRange) {
        self.beyond = self.beyond.saturating_add(beyond(&range));
        self.turns.push_back(Turn::Awaiting { range, doomed: false });
        self.awaiting = self.awaiting.saturating_add(1);
    }

    /// A create was refused. True: it is answered now; false: its turn comes with a later answer.
    #[must_use]
    pub fn refused(&mut self, refusal: Refusal) -> bool {
        if self.turns.is_empty() {
            return true;
        }
        self.turns.push_back(Turn::Refused(refusal));
        false
    }

    /// An answer of etcd's begins.
    pub fn answered(&mut self, head: &ResponseHead<'_>) -> Answer {
        if head.created {
            return self.created(head);
        }
        let pass = !self.ending.contains(&head.watch_id);
        if head.canceled {
            self.forget(head.watch_id);
            self.ending.remove(&head.watch_id);
        }
        Answer { pass, end: None, refusals: Vec::new() }
    }

    fn created(&mut self, head: &ResponseHead<'_>) -> Answer {
        let mut end = None;
        if let Some(Turn::Awaiting { range, doomed }) = self.turns.pop_front() {
            self.awaiting = self.awaiting.saturating_sub(1);
            match (head.canceled, doomed) {
                // etcd refused it itself.
                (true, _) => self.beyond = self.beyond.saturating_sub(beyond(&range)),
                (false, true) => {
                    self.beyond = self.beyond.saturating_sub(beyond(&range));
                    self.ending.insert(head.watch_id);
                    end = Some(head.watch_id);
                }
                (false, false) => {
                    self.forget(head.watch_id);
                    self.live.insert(head.watch_id, range);
                }
            }
        }
        let mut refusals = Vec::new();
        while let Some(&Turn::Refused(refusal)) = self.turns.front() {
            self.turns.pop_front();
            refusals.push(refusal);
        }
        Answer { pass: true, end, refusals }
    }

    /// The policy changed: watches that lost their right are ended. Returns the ids to tell the
    /// client of and to cancel at etcd.
    pub fn recheck(&mut self, mut allowed: impl FnMut(&OwnedRange) -> bool) -> Vec<i64> {
        for turn in &mut self.turns {
            if let Turn::Awaiting { range, doomed } = turn {
                *doomed = *doomed || !allowed(range);
            }
        }
        let mut lost: Vec<i64> =
            self.live.iter().filter(|(_, range)| !allowed(range)).map(|(&id, _)| id).collect();
        lost.sort_unstable();
        for id in &lost {
            self.forget(*id);
            self.ending.insert(*id);
        }
        lost
    }

    fn forget(&mut self, id: i64) {
        if let Some(range) = self.live.remove(&id) {
            self.beyond = self.beyond.saturating_sub(beyond(&range));
        }
    }

    /// Watches that are alive.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Places of the watches that etcd has, or will have when it has answered: see [`places`].
    #[must_use]
    pub fn held(&self) -> usize {
        self.awaiting
            .saturating_add(self.live.len())
            .saturating_add(self.ending.len())
            .saturating_add(self.beyond)
    }

    /// Creates that wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.turns.len()
    }
}

fn beyond(range: &OwnedRange) -> usize {
    range.as_range().length() / BYTES_OF_A_PLACE
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

    fn passed(refusals: &[Refusal]) -> Answer {
        Answer { pass: true, end: None, refusals: refusals.to_vec() }
    }

    #[test]
    fn a_refusal_waits_for_the_answers_to_earlier_creates() {
        let mut ledger = WatchLedger::default();
        ledger.forwarded(range("a"));
        assert!(!ledger.refused(Denied));
        ledger.forwarded(range("b"));
        assert!(!ledger.refused(TooMany));
        assert!(!ledger.refused(Denied));
        assert_eq!(ledger.held(), 2);
        assert_eq!(ledger.answered(&head(0, true, false)), passed(&[Denied]));
        assert_eq!(ledger.answered(&head(0, false, false)), passed(&[]));
        assert_eq!(ledger.answered(&head(1, true, false)), passed(&[TooMany, Denied]));
        assert!(ledger.refused(Denied));
        assert_eq!(ledger.held(), 2);
        assert_eq!(ledger.live(), 2);
    }

    #[test]
    fn a_watch_that_lost_its_right_is_swallowed_until_etcd_has_cancelled_it() {
        let mut ledger = WatchLedger::default();
        for (id, key) in [(7, "a"), (8, "b")] {
            ledger.forwarded(range(key));
            ledger.answered(&head(id, true, false));
        }
        assert_eq!(ledger.recheck(|held| *held == range("b")), [7]);
        assert_eq!(
            ledger.answered(&head(7, false, false)),
            Answer { pass: false, end: None, refusals: Vec::new() }
        );
        assert_eq!(ledger.answered(&head(8, false, false)), passed(&[]));
        assert_eq!(
            ledger.answered(&head(7, false, true)),
            Answer { pass: false, end: None, refusals: Vec::new() }
        );
        assert_eq!(ledger.held(), 1);
        // The id is free again, and may be chosen again.
        ledger.forwarded(range("b"));
        assert_eq!(ledger.answered(&head(7, true, false)), passed(&[]));
        assert_eq!(ledger.answered(&head(7, false, false)), passed(&[]));
        assert_eq!(ledger.live(), 2);
    }

    #[test]
    fn a_watch_that_loses_its_right_while_it_is_made_ends_as_soon_as_it_has_an_id() {
        let mut ledger = WatchLedger::default();
        ledger.forwarded(range("a"));
        assert!(ledger.recheck(|_| false).is_empty());
        assert_eq!(
            ledger.answered(&head(3, true, false)),
            Answer { pass: true, end: Some(3), refusals: Vec::new() }
        );
        assert!(!ledger.answered(&head(3, false, false)).pass);
        assert_eq!((ledger.live(), ledger.held()), (0, 1));
        ledger.answered(&head(3, false, true));
        assert_eq!(ledger.held(), 0);
    }

    #[test]
    fn a_long_range_takes_more_places_until_it_is_gone_whichever_way_it_goes() {
        let long = "k".repeat(3000);
        assert_eq!(places(KeyRange::key(long.as_bytes())), 3);
        let ledger_with = |id, canceled| {
            let mut ledger = WatchLedger::default();
            ledger.forwarded(range(&long));
            assert_eq!(ledger.held(), 3);
            ledger.answered(&head(id, true, canceled));
            ledger
        };
        assert_eq!(ledger_with(-1, true).held(), 0);
        let mut cancelled = ledger_with(0, false);
        assert_eq!(cancelled.held(), 3);
        cancelled.answered(&head(0, false, true));
        assert_eq!(cancelled.held(), 0);
        let mut ended = ledger_with(0, false);
        ended.recheck(|_| false);
        assert_eq!(ended.held(), 1);
        let mut doomed = WatchLedger::default();
        doomed.forwarded(range(&long));
        doomed.recheck(|_| false);
        doomed.answered(&head(0, true, false));
        assert_eq!(doomed.held(), 1);
    }

    #[test]
    fn a_create_that_etcd_refuses_itself_takes_its_turn_and_holds_nothing() {
        let mut ledger = WatchLedger::default();
        ledger.forwarded(range("a"));
        assert!(!ledger.refused(Denied));
        assert_eq!(ledger.answered(&head(-1, true, true)), passed(&[Denied]));
        assert_eq!((ledger.live(), ledger.held()), (0, 0));
    }
}
