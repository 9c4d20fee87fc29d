//! A Watch stream between a client that pairs answers with its creates in order, an etcd that
//! answers as it likes, and a policy that changes: the client learns of each create exactly once
//! and in order, and sees no event of a watch that has lost its right.

use std::collections::{BTreeMap, VecDeque};

use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;

use super::choices::Choices;
use crate::keyspace::{KeyRange, OwnedRange};
use crate::watch_ledger::{Refusal, WatchLedger};
use crate::wire::watch::{NO_WATCH, response_head};

/// Keys that are watched; the policy is a set of them.
const KEYS: &[&[u8]] = &[b"a", b"b", b"c", b"d"];

/// A step for each choice: a create, an answer of etcd, an event, a cancel, a new policy.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let mut world = World { allowed: choices.byte(), ..World::default() };
    while !choices.is_empty() {
        match choices.below(6) {
            0 | 1 => world.create(choices.below(KEYS.len())),
            2 => world.answer(choices.below(8) == 7, &mut choices),
            3 => world.event(choices.byte(), &mut choices),
            4 => world.cancel(choices.byte(), &mut choices),
            _ => world.policy(choices.byte()),
        }
        world.holds();
    }
    while !world.at_etcd.is_empty() {
        world.answer(false, &mut choices);
    }
    assert!(world.owed.is_empty(), "creates that nobody answered: {:?}", world.owed);
    world.holds();
}

/// A create that goes to etcd, in order.
#[derive(Debug)]
struct Create {
    key: usize,
    /// The right was lost before etcd answered.
    lost: bool,
}

/// A watch that etcd has.
#[derive(Debug)]
struct Watch {
    key: usize,
    /// The client was told that it has ended.
    ended: bool,
}

#[derive(Default)]
struct World {
    ledger: WatchLedger,
    /// One bit for each key.
    allowed: u8,
    at_etcd: VecDeque<Create>,
    watches: BTreeMap<i64, Watch>,
    next: i64,
    /// The creates that the client waits for: which of them the proxy refused, and why.
    owed: VecDeque<Option<Refusal>>,
}

impl World {
    fn allows(&self, key: usize) -> bool {
        self.allowed >> key & 1 == 1
    }

    fn create(&mut self, key: usize) {
        // The ledger keeps the reason, whatever it is: one for the even keys, one for the odd.
        let refusal = (!self.allows(key)).then_some(if key.is_multiple_of(2) {
            Refusal::Denied
        } else {
            Refusal::TooMany
        });
        self.owed.push_back(refusal);
        match refusal {
            None => {
                self.ledger.forwarded(range(key));
                self.at_etcd.push_back(Create { key, lost: false });
            }
            Some(reason) if self.ledger.refused(reason) => self.client_sees(refusal),
            Some(_) => {}
        }
    }

    /// The client gets the answer to a create: it must be the one whose turn it is.
    fn client_sees(&mut self, refusal: Option<Refusal>) {
        assert_eq!(self.owed.pop_front(), Some(refusal), "an answer out of turn");
    }

    /// etcd answers the oldest create.
    fn answer(&mut self, refuses: bool, choices: &mut Choices<'_>) {
        let Some(create) = self.at_etcd.pop_front() else { return };
        // etcd gives no id twice at a time (mvcc/watchable_store.go).
        while self.watches.contains_key(&self.next) {
            self.next += 1;
        }
        let watch_id = if refuses { NO_WATCH } else { self.next };
        let answer = self.passes(&response(watch_id, true, refuses), choices);
        assert!(
            answer.pass,
            "each answer to a create goes on, or the client would pair the next one wrongly"
        );
        self.client_sees(None);
        for refusal in answer.refusals {
            self.client_sees(Some(refusal));
        }
        assert_eq!(answer.end, (create.lost && !refuses).then_some(watch_id));
        if !refuses {
            self.next += 1;
            self.watches.insert(watch_id, Watch { key: create.key, ended: create.lost });
        }
    }

    /// An event, progress or a fragment of a watch that is there.
    fn event(&mut self, which: u8, choices: &mut Choices<'_>) {
        let Some((id, ended)) = self.pick(which).map(|(id, watch)| (id, watch.ended)) else {
            return;
        };
        let answer = self.passes(&response(id, false, false), choices);
        assert_eq!(
            (answer.pass, answer.end, answer.refusals),
            (!ended, None, Vec::new()),
            "watch {id}"
        );
    }

    /// etcd ends a watch: because it was asked to, or by itself.
    fn cancel(&mut self, which: u8, choices: &mut Choices<'_>) {
        let Some((id, ended)) = self.pick(which).map(|(id, watch)| (id, watch.ended)) else {
            return;
        };
        let answer = self.passes(&response(id, false, true), choices);
        assert_eq!(
            (answer.pass, answer.end, answer.refusals),
            (!ended, None, Vec::new()),
            "watch {id}"
        );
        self.watches.remove(&id);
        // The client may choose the id again.
        if which & 0x80 != 0 {
            self.next = id;
        }
    }

    fn policy(&mut self, allowed: u8) {
        self.allowed = allowed;
        let lost = self.ledger.recheck(|held| {
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

    fn holds(&self) {
        assert_eq!(self.ledger.live(), self.watches.values().filter(|watch| !watch.ended).count());
        // A refusal that nothing is in front of is answered at once.
        assert!(
            self.at_etcd.is_empty() == self.owed.is_empty(),
            "{:?} {:?}",
            self.at_etcd,
            self.owed
        );
        assert_eq!(self.ledger.waiting(), self.owed.len());
    }

    fn pick(&self, which: u8) -> Option<(i64, &Watch)> {
        let place = usize::from(which & 0x7f) % self.watches.len().max(1);
        self.watches.iter().nth(place).map(|(id, watch)| (*id, watch))
    }

    /// The head of an answer, read from as few bytes as show it, is what prost reads from all of
    /// it.
    fn passes(&mut self, message: &[u8], choices: &mut Choices<'_>) -> crate::watch_ledger::Answer {
        let cut = choices.below(message.len() + 1);
        let whole = response_head(message, message.len()).unwrap().expect("all of it has come");
        if let Some(early) = response_head(&message[..cut], message.len()).unwrap() {
            assert_eq!(early, whole);
        }
        let decoded = pb::WatchResponse::decode(message).unwrap();
        assert_eq!(
            (whole.watch_id, whole.created, whole.canceled),
            (decoded.watch_id, decoded.created, decoded.canceled)
        );
        self.ledger.answered(&whole)
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
