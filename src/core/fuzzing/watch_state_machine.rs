//! A Watch stream between a client that pairs responses with creates in order, an etcd that answers
//! in any way, and a policy that changes. The client gets exactly one response to each create, in
//! order, and no event of a watch that lost its right.

use std::collections::{BTreeMap, VecDeque};

use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;

use super::choices::Choices;
use crate::keyspace::{KeyRange, OwnedRange};
use crate::watch_ledger::{Refusal, WatchLedger};
use crate::wire::watch::{NO_WATCH, response_head};

/// The watched keys. A policy is a subset of them.
const KEYS: &[&[u8]] = &[b"a", b"b", b"c", b"d"];

/// Input: a sequence of steps: a create, a response of etcd, an event, a cancel, a new policy.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let mut simulation = Simulation { allowed: choices.byte(), ..Simulation::default() };
    while !choices.is_empty() {
        match choices.below(6) {
            0 | 1 => simulation.create(choices.below(KEYS.len())),
            2 => simulation.answer(choices.below(8) == 7, &mut choices),
            3 => simulation.event(choices.byte(), &mut choices),
            4 => simulation.cancel(choices.byte(), &mut choices),
            _ => simulation.policy(choices.byte()),
        }
        simulation.check();
    }
    while !simulation.at_etcd.is_empty() {
        simulation.answer(false, &mut choices);
    }
    assert!(
        simulation.unanswered.is_empty(),
        "creates without a response: {:?}",
        simulation.unanswered
    );
    simulation.check();
}

/// A create that etcd has not answered.
#[derive(Debug)]
struct Create {
    key: usize,
    /// The right was lost before etcd answered.
    lost: bool,
}

/// A watch in etcd.
#[derive(Debug)]
struct Watch {
    key: usize,
    /// The client got the end of the watch.
    ended: bool,
}

#[derive(Default)]
struct Simulation {
    ledger: WatchLedger,
    /// One bit for each key.
    allowed: u8,
    at_etcd: VecDeque<Create>,
    watches: BTreeMap<i64, Watch>,
    next: i64,
    /// The creates without a response at the client: `Some` if the gateway refused it.
    unanswered: VecDeque<Option<Refusal>>,
}

impl Simulation {
    fn allows(&self, key: usize) -> bool {
        self.allowed >> key & 1 == 1
    }

    fn create(&mut self, key: usize) {
        // Even keys get one reason, odd keys the other, to test that the ledger keeps it.
        let refusal = (!self.allows(key)).then_some(if key.is_multiple_of(2) {
            Refusal::Denied
        } else {
            Refusal::TooMany
        });
        self.unanswered.push_back(refusal);
        match refusal {
            None => {
                self.ledger.create_forwarded(range(key));
                self.at_etcd.push_back(Create { key, lost: false });
            }
            Some(reason) if self.ledger.create_refused(reason) => self.client_sees(refusal),
            Some(_) => {}
        }
    }

    /// The client gets the response to a create. It must be the oldest create.
    fn client_sees(&mut self, refusal: Option<Refusal>) {
        assert_eq!(self.unanswered.pop_front(), Some(refusal), "a response in the wrong order");
    }

    /// etcd answers the oldest create.
    fn answer(&mut self, refuses: bool, choices: &mut Choices<'_>) {
        let Some(create) = self.at_etcd.pop_front() else { return };
        // etcd never uses an id for two watches at once (mvcc/watchable_store.go).
        while self.watches.contains_key(&self.next) {
            self.next += 1;
        }
        let watch_id = if refuses { NO_WATCH } else { self.next };
        let action = self.respond(&response(watch_id, true, refuses), choices);
        assert!(
            action.forward,
            "a dropped response to a create would make the client pair the next one wrongly"
        );
        self.client_sees(None);
        for refusal in action.refusals {
            self.client_sees(Some(refusal));
        }
        assert_eq!(action.cancel, (create.lost && !refuses).then_some(watch_id));
        if !refuses {
            self.next += 1;
            self.watches.insert(watch_id, Watch { key: create.key, ended: create.lost });
        }
    }

    /// An event, progress response or fragment of an existing watch.
    fn event(&mut self, which: u8, choices: &mut Choices<'_>) {
        let Some((id, ended)) = self.pick(which).map(|(id, watch)| (id, watch.ended)) else {
            return;
        };
        let action = self.respond(&response(id, false, false), choices);
        assert_eq!(
            (action.forward, action.cancel, action.refusals),
            (!ended, None, Vec::new()),
            "watch {id}"
        );
    }

    /// etcd ends a watch, on request or by itself.
    fn cancel(&mut self, which: u8, choices: &mut Choices<'_>) {
        let Some((id, ended)) = self.pick(which).map(|(id, watch)| (id, watch.ended)) else {
            return;
        };
        let action = self.respond(&response(id, false, true), choices);
        assert_eq!(
            (action.forward, action.cancel, action.refusals),
            (!ended, None, Vec::new()),
            "watch {id}"
        );
        self.watches.remove(&id);
        // The client may reuse the id.
        if which & 0x80 != 0 {
            self.next = id;
        }
    }

    fn policy(&mut self, allowed: u8) {
        self.allowed = allowed;
        let lost = self.ledger.recheck(&self.ledger.live_ids(), |held| {
            KEYS.iter().enumerate().any(|(key, _)| allowed >> key & 1 == 1 && *held == range(key))
        });
        let expected: Vec<i64> = self
            .watches
            .iter()
            .filter(|(_, watch)| !watch.ended && allowed >> watch.key & 1 == 0)
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(lost, expected);
        for id in lost {
            self.watches.get_mut(&id).unwrap().ended = true;
        }
        for create in &mut self.at_etcd {
            create.lost |= allowed >> create.key & 1 == 0;
        }
    }

    fn check(&self) {
        assert_eq!(self.ledger.live(), self.watches.values().filter(|watch| !watch.ended).count());
        // A refusal without an earlier pending create is sent at once.
        assert!(
            self.at_etcd.is_empty() == self.unanswered.is_empty(),
            "{:?} {:?}",
            self.at_etcd,
            self.unanswered
        );
        assert_eq!(self.ledger.pending(), self.unanswered.len());
    }

    fn pick(&self, which: u8) -> Option<(i64, &Watch)> {
        let index = usize::from(which & 0x7f) % self.watches.len().max(1);
        self.watches.iter().nth(index).map(|(id, watch)| (*id, watch))
    }

    /// Passes a response to the ledger. Also checks that the head read from a prefix equals what
    /// prost decodes from the whole message.
    fn respond(
        &mut self,
        message: &[u8],
        choices: &mut Choices<'_>,
    ) -> crate::watch_ledger::Action {
        let cut = choices.below(message.len() + 1);
        let whole =
            response_head(message, message.len()).unwrap().expect("the message is complete");
        if let Some(early) = response_head(&message[..cut], message.len()).unwrap() {
            assert_eq!(early, whole);
        }
        let decoded = pb::WatchResponse::decode(message).unwrap();
        assert_eq!(
            (whole.watch_id, whole.created, whole.canceled),
            (decoded.watch_id, decoded.created, decoded.canceled)
        );
        self.ledger.on_response(&whole)
    }
}

fn range(key: usize) -> OwnedRange {
    KeyRange::key(KEYS[key]).into()
}

fn response(watch_id: i64, created: bool, canceled: bool) -> Vec<u8> {
    let header =
        Some(pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 3, raft_term: 4 });
    let events = if created || canceled {
        Vec::new()
    } else {
        vec![etcd_warden_proto::mvccpb::Event::default()]
    };
    pb::WatchResponse {
        header,
        watch_id,
        created,
        canceled,
        events,
        ..pb::WatchResponse::default()
    }
    .encode_to_vec()
}
