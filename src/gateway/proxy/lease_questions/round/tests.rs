use etcd_warden_core::access::{Accesses, LeaseUse};
use etcd_warden_core::identity::Identity;
use etcd_warden_core::policy::{Policy, Principal};
use tokio::sync::oneshot;

use super::*;
use crate::config::Limits;
use crate::proxy::budget::Budget;
use crate::proxy::quota::Quotas;

const POLICY: &str = "
version: 1
mode: enforce
roles:
  a: {allow: [{keys: /a/*, verbs: [rw]}]}
  b: {allow: [{keys: /b/*, verbs: [rw]}]}
  all: {allow: [{keys: /*, verbs: [read]}]}
bindings:
  - {cn: alice, roles: [a]}
  - {cn: neighbour, roles: [a]}
  - {cn: other, roles: [b]}
  - {cn: reader, roles: [all]}
";

/// Bytes of the largest request, and of all that is held.
const REQUEST: usize = 100;
const HELD: usize = 1000;

type Answered = oneshot::Receiver<Result<LeaseClaim, NotKnown>>;

struct Lab {
    policy: Policy,
    quotas: Quotas,
    budget: Budget,
}

impl Lab {
    fn new() -> Self {
        let policy = Policy::parse("policy.yaml", POLICY.as_bytes(), 1, None).unwrap();
        Self { policy, quotas: Quotas::new(&Limits::default()), budget: Budget::new(HELD, REQUEST) }
    }

    fn quota(&self, who: &str) -> Arc<Quota> {
        self.quotas.of(&self.principal(who).name)
    }

    fn share(&self, who: &str) -> Share {
        self.budget.share(&self.principal(who).name)
    }

    fn principal(&self, who: &str) -> Principal {
        self.policy.principal(&Identity::named(who))
    }

    /// A request as from a connection of its own.
    fn waits(&self, who: &str, lease_use: LeaseUse) -> (Waiter, Answered) {
        let mut accesses = Accesses::default();
        accesses.add_lease(7, lease_use);
        let (answer, answered) = oneshot::channel();
        let keys = AttachedKeys::of(Arc::new(self.principal(who)), 7, &accesses);
        (Waiter { keys, quota: self.quota(who), share: self.share(who), answer }, answered)
    }

    fn round(&self, who: &[(&str, LeaseUse)]) -> (Option<Round>, Vec<Answered>) {
        let (waiters, answered) =
            who.iter().map(|(who, lease_use)| self.waits(who, *lease_use)).unzip();
        (Round::of(waiters), answered)
    }
}

fn told(answered: &mut [Answered]) -> Vec<Option<Result<LeaseClaim, NotKnown>>> {
    answered.iter_mut().map(|answered| answered.try_recv().ok()).collect()
}

#[test]
fn a_key_is_looked_at_once_for_all_requests_of_an_identity() {
    let lab = Lab::new();
    let (round, mut answered) = lab.round(&[("alice", LeaseUse::Revoke); 9000]);
    let mut round = round.unwrap();
    for key in 0..1000 {
        assert!(round.visit(format!("/a/{key}").as_bytes()));
    }
    assert_eq!(round.looks, 1000);
    round.end(Ok(()));
    assert!(told(&mut answered).into_iter().all(|told| told == Some(Ok(LeaseClaim::Covered))));
}

#[test]
fn each_identity_and_each_use_has_its_own_answer() {
    let lab = Lab::new();
    let who = [
        ("alice", LeaseUse::Revoke),
        ("other", LeaseUse::Revoke),
        ("alice", LeaseUse::Inspect),
        ("reader", LeaseUse::Inspect),
        ("reader", LeaseUse::Revoke),
        ("alice", LeaseUse::Attach),
    ];
    let (round, mut answered) = lab.round(&who);
    let mut round = round.unwrap();
    assert!(round.visit(b"/a/k"));
    // Those that have their answer are not asked again.
    assert_eq!(round.looks, 5);
    assert!(round.visit(b"/a/l"));
    assert_eq!(round.looks, 8);
    assert!(round.visit(b"/c"));
    round.end(Ok(()));
    let not = Some(Ok(LeaseClaim::NotCovered));
    let expected =
        [not.clone(), not.clone(), not.clone(), Some(Ok(LeaseClaim::Covered)), not.clone(), not];
    assert_eq!(told(&mut answered), expected);
}

#[test]
fn others_have_their_turn_after_a_bounded_number_of_looks() {
    let lab = Lab::new();
    let (round, _answered) =
        lab.round(&[("alice", LeaseUse::Revoke), ("neighbour", LeaseUse::Revoke)]);
    let mut round = round.unwrap();
    let rests = (0..LOOKS).filter(|_| round.visit(b"/a/k") && round.should_yield()).count();
    assert_eq!(rests, 2);
}

#[test]
fn nothing_is_read_for_callers_that_have_left() {
    let lab = Lab::new();
    let (round, mut answered) = lab.round(&[("alice", LeaseUse::Revoke); 3]);
    let mut round = round.unwrap();
    answered.truncate(1);
    assert!(round.visit(b"/a/k"));
    answered.clear();
    assert!(!round.visit(b"/a/k"));
}

#[test]
fn who_has_no_room_for_an_answer_takes_it_from_no_other() {
    let lab = Lab::new();
    let who = [
        ("alice", LeaseUse::Revoke),
        ("neighbour", LeaseUse::Revoke),
        ("alice", LeaseUse::Inspect),
    ];
    let (round, mut answered) = lab.round(&who);
    let mut round = round.unwrap();
    assert!(round.may_buffer(10));
    assert!(lab.share("alice").take(400));
    // Alice holds all that she may, and her requests alone fail.
    assert!(round.may_buffer(300));
    assert_eq!(
        told(&mut answered),
        [Some(Err(NotKnown::Unanswered)), None, Some(Err(NotKnown::Unanswered))]
    );
    assert!(round.visit(b"/a/k"));
    round.end(Ok(()));
    assert_eq!(answered[1].try_recv(), Ok(Ok(LeaseClaim::Covered)));
}

#[test]
fn where_none_has_room_the_question_ends() {
    let lab = Lab::new();
    let (round, mut answered) =
        lab.round(&[("alice", LeaseUse::Revoke), ("neighbour", LeaseUse::Revoke)]);
    let mut round = round.unwrap();
    assert!(!round.may_buffer(HELD));
    round.end(Err(LeaseQueryError::NoMemory));
    assert_eq!(
        told(&mut answered),
        [Some(Err(NotKnown::Unanswered)), Some(Err(NotKnown::Unanswered))]
    );
}

#[test]
fn the_next_to_be_charged_needs_a_place_too() {
    let lab = Lab::new();
    let (round, mut answered) =
        lab.round(&[("alice", LeaseUse::Revoke), ("neighbour", LeaseUse::Revoke)]);
    let mut round = round.unwrap();
    let quota = lab.quota("neighbour");
    let _all: Vec<Place> = std::iter::from_fn(|| quota.questions.place()).collect();
    assert!(!round.may_buffer(HELD));
    assert_eq!(told(&mut answered), [Some(Err(NotKnown::Unanswered)), Some(Err(NotKnown::Limit))]);
}
