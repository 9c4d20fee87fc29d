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

/// The largest request and the whole budget, in bytes.
const REQUEST: usize = 100;
const HELD: usize = 1000;

type Receiver = oneshot::Receiver<Result<LeaseClaim, LookupError>>;

struct Fixture {
    policy: Policy,
    quotas: Quotas,
    budget: Budget,
}

impl Fixture {
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

    /// A request of a connection of its own.
    fn waits(&self, who: &str, lease_use: LeaseUse) -> (Waiter, Receiver) {
        let mut accesses = Accesses::default();
        accesses.add_lease(7, lease_use);
        let (result, received) = oneshot::channel();
        let keys = AttachedKeys::of(Arc::new(self.principal(who)), 7, &accesses);
        (Waiter { keys, quota: self.quota(who), share: self.share(who), result }, received)
    }

    fn batch(&self, who: &[(&str, LeaseUse)]) -> (Option<Batch>, Vec<Receiver>) {
        let (waiters, received) =
            who.iter().map(|(who, lease_use)| self.waits(who, *lease_use)).unzip();
        (Batch::of(waiters), received)
    }
}

fn results(received: &mut [Receiver]) -> Vec<Option<Result<LeaseClaim, LookupError>>> {
    received.iter_mut().map(|received| received.try_recv().ok()).collect()
}

#[test]
fn checks_a_key_once_for_all_requests_of_an_identity() {
    let fixture = Fixture::new();
    let (batch, mut received) = fixture.batch(&[("alice", LeaseUse::Revoke); 9000]);
    let mut batch = batch.unwrap();
    for key in 0..1000 {
        assert!(batch.visit(format!("/a/{key}").as_bytes()));
    }
    assert_eq!(batch.checks, 1000);
    batch.end(Ok(()));
    assert!(
        results(&mut received).into_iter().all(|result| result == Some(Ok(LeaseClaim::Covered)))
    );
}

#[test]
fn each_identity_and_each_use_gets_its_own_result() {
    let fixture = Fixture::new();
    let who = [
        ("alice", LeaseUse::Revoke),
        ("other", LeaseUse::Revoke),
        ("alice", LeaseUse::Inspect),
        ("reader", LeaseUse::Inspect),
        ("reader", LeaseUse::Revoke),
        ("alice", LeaseUse::Attach),
    ];
    let (batch, mut received) = fixture.batch(&who);
    let mut batch = batch.unwrap();
    assert!(batch.visit(b"/a/k"));
    // Requests that are decided are not checked again.
    assert_eq!(batch.checks, 5);
    assert!(batch.visit(b"/a/l"));
    assert_eq!(batch.checks, 8);
    assert!(batch.visit(b"/c"));
    batch.end(Ok(()));
    let not = Some(Ok(LeaseClaim::NotCovered));
    let expected =
        [not.clone(), not.clone(), not.clone(), Some(Ok(LeaseClaim::Covered)), not.clone(), not];
    assert_eq!(results(&mut received), expected);
}

#[test]
fn yields_after_a_bounded_number_of_checks() {
    let fixture = Fixture::new();
    let (batch, _received) =
        fixture.batch(&[("alice", LeaseUse::Revoke), ("neighbour", LeaseUse::Revoke)]);
    let mut batch = batch.unwrap();
    let yields =
        (0..CHECKS_PER_TURN).filter(|_| batch.visit(b"/a/k") && batch.should_yield()).count();
    assert_eq!(yields, 2);
}

#[test]
fn reads_nothing_for_cancelled_requests() {
    let fixture = Fixture::new();
    let (batch, mut received) = fixture.batch(&[("alice", LeaseUse::Revoke); 3]);
    let mut batch = batch.unwrap();
    received.truncate(1);
    assert!(batch.visit(b"/a/k"));
    received.clear();
    assert!(!batch.visit(b"/a/k"));
}

#[test]
fn an_exhausted_share_fails_only_its_own_requests() {
    let fixture = Fixture::new();
    let who = [
        ("alice", LeaseUse::Revoke),
        ("neighbour", LeaseUse::Revoke),
        ("alice", LeaseUse::Inspect),
    ];
    let (batch, mut received) = fixture.batch(&who);
    let mut batch = batch.unwrap();
    assert!(batch.may_buffer(10));
    assert!(fixture.share("alice").take(400));
    // Alice's share is exhausted, and only her requests fail.
    assert!(batch.may_buffer(300));
    assert_eq!(
        results(&mut received),
        [Some(Err(LookupError::NoResponse)), None, Some(Err(LookupError::NoResponse))]
    );
    assert!(batch.visit(b"/a/k"));
    batch.end(Ok(()));
    assert_eq!(received[1].try_recv(), Ok(Ok(LeaseClaim::Covered)));
}

#[test]
fn a_lookup_that_no_share_can_hold_ends() {
    let fixture = Fixture::new();
    let (batch, mut received) =
        fixture.batch(&[("alice", LeaseUse::Revoke), ("neighbour", LeaseUse::Revoke)]);
    let mut batch = batch.unwrap();
    assert!(!batch.may_buffer(HELD));
    batch.end(Err(LeaseQueryError::NoMemory));
    assert_eq!(
        results(&mut received),
        [Some(Err(LookupError::NoResponse)), Some(Err(LookupError::NoResponse))]
    );
}

#[test]
fn the_next_identity_needs_a_slot_too() {
    let fixture = Fixture::new();
    let (batch, mut received) =
        fixture.batch(&[("alice", LeaseUse::Revoke), ("neighbour", LeaseUse::Revoke)]);
    let mut batch = batch.unwrap();
    let quota = fixture.quota("neighbour");
    let _all: Vec<Slot> = std::iter::from_fn(|| quota.questions.try_acquire()).collect();
    assert!(!batch.may_buffer(HELD));
    assert_eq!(
        results(&mut received),
        [Some(Err(LookupError::NoResponse)), Some(Err(LookupError::Limit))]
    );
}
