//! One run: request after request to both sides, and the results.

mod listed;

use std::collections::BTreeMap;

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::etcd::Programs;
use prost::Message as _;

use super::answers::Reply;
use super::differences::{Asked, Difference};
use super::holes::Hole;
use super::requests::{self, Known, Lease, Request, others};
use super::rng::Rng;
use super::rules::{Rules, USERS};
use super::sides::Sides;
use super::watches::{self, Creation, Watcher};

/// The number of requests under one policy.
const PER_POLICY: usize = 250;

/// Between two requests a watch is created or cancelled with probability 1 / this.
const WATCH_EVERY: usize = 20;

/// The results of a run.
#[derive(Debug, Default)]
pub struct Tally {
    pub requests: usize,
    pub policies: usize,
    pub both_allow: usize,
    pub both_refuse: usize,
    /// Watches on both sides, and the events that they received.
    pub watches: usize,
    pub events: usize,
    /// Known differences, by id.
    pub listed: BTreeMap<&'static str, usize>,
    /// Requests that the judge allowed because of a hole.
    pub holes: BTreeMap<&'static str, usize>,
}

/// The two sides and the known state.
pub struct Trial {
    sides: Sides,
    known: Known,
    rules: Rules,
    watchers: BTreeMap<&'static str, Watcher>,
    tally: Tally,
    /// True if the judge has holes that the run must find.
    vulnerable: bool,
}

impl Trial {
    /// A run with a judge without holes.
    pub async fn fixed(programs: fn() -> &'static Programs, seed: u64, requests: usize) -> Tally {
        Self::start(programs, false).await.run(seed, requests).await
    }

    /// A run with a judge that has holes.
    pub async fn vulnerable(
        programs: fn() -> &'static Programs,
        seed: u64,
        requests: usize,
    ) -> Tally {
        Self::start(programs, true).await.run(seed, requests).await
    }

    async fn start(programs: fn() -> &'static Programs, vulnerable: bool) -> Self {
        let (sides, known, rules) =
            (Sides::start(programs).await, Known::default(), Rules::default());
        Self { sides, known, rules, watchers: BTreeMap::new(), tally: Tally::default(), vulnerable }
    }

    async fn run(mut self, seed: u64, requests: usize) -> Tally {
        let mut rng = Rng::new(seed);
        for place in 0..requests {
            let fails = |what: String| panic!("{what}\nrequest {place} of {}={seed}", super::SEED);
            if place % PER_POLICY == 0 {
                self.compare_events().await.unwrap_or_else(fails);
                self.next_policy(&mut rng).await;
            }
            let user = rng.of(&USERS);
            if rng.once_in(WATCH_EVERY) {
                self.watch(&mut rng, user).await.unwrap_or_else(fails);
            }
            let request = requests::request(&mut rng, &self.known);
            let verdict = self.judge(user, &request).await;
            verdict.unwrap_or_else(|what| {
                fails(format!("{what}\nby {user}: {request}\n{:?}", self.rules));
            });
            self.tally.requests += 1;
        }
        self.compare_events()
            .await
            .unwrap_or_else(|what| panic!("{what}\nrepeat with {}={seed}", super::SEED));
        self.sides.same_store(&self.known).await;
        self.tally
    }

    /// Sets new rules on both sides and opens new streams: lost rights on open streams are not
    /// tested here.
    async fn next_policy(&mut self, rng: &mut Rng) {
        self.sides.same_store(&self.known).await;
        self.rules = Rules::random(rng);
        self.sides.rule(&self.rules).await;
        for user in USERS {
            self.watchers.insert(user, Watcher::new(self.sides.streams(user, Method::Watch).await));
        }
        self.tally.policies += 1;
    }

    /// Creates a watch on both sides, or cancels one.
    async fn watch(&mut self, rng: &mut Rng, user: &'static str) -> Result<(), String> {
        if rng.once_in(5) {
            self.compare_events().await?;
            self.watchers.get_mut(user).unwrap().cancel(rng).await;
            return Ok(());
        }
        let create = watches::create(rng, &self.known);
        let (ours, theirs) = self.watchers.get_mut(user).unwrap().create(rng, &create).await;
        if ours == theirs {
            match ours {
                Creation::Refused(_) => self.tally.both_refuse += 1,
                _ => self.tally.watches += 1,
            }
        } else {
            match Difference::of_watch(&create, &ours, &theirs) {
                Some(difference) => *self.tally.listed.entry(difference.id()).or_default() += 1,
                None => {
                    let sought = self.vulnerable && matches!(ours, Creation::Refused(_));
                    let hole = if sought {
                        Hole::of_watch(&mut self.sides, user, &create, &self.known).await
                    } else {
                        None
                    };
                    let unlisted = || {
                        format!(
                            "a watch of {user}: ours {ours:?}, theirs {theirs:?}: {create:?}\n{:?}",
                            self.rules
                        )
                    };
                    *self.tally.holes.entry(hole.ok_or_else(unlisted)?.id()).or_default() += 1;
                }
            }
        }
        // Its past events depend on compaction: only now are they the same on both sides.
        if create.start_revision != 0 { self.compare_events().await } else { Ok(()) }
    }

    /// Waits until both sides have sent all events of every watch, and compares them.
    async fn compare_events(&mut self) -> Result<(), String> {
        if !self.watchers.values().any(Watcher::is_watching) {
            return Ok(());
        }
        let furthest = self.watchers.values().map(Watcher::furthest).max().unwrap_or_default();
        // At least once, so that an earlier progress response is not taken for the one to this
        // request.
        loop {
            let put = pb::PutRequest { key: b"z".to_vec(), ..Default::default() };
            let said = self.sides.both_as_root(&Request::new(Method::Put, &put), &self.known).await;
            let Reply::Answered { revision, .. } = said else { return Err(format!("{said:?}")) };
            self.known.revision = revision;
            if revision >= furthest {
                break;
            }
        }
        for watcher in self.watchers.values_mut() {
            self.tally.events += watcher.compare(self.known.revision).await?;
        }
        Ok(())
    }

    /// Sends one request to both sides, and repeats on one side what only the other executed.
    async fn judge(&mut self, user: &'static str, request: &Request) -> Result<(), String> {
        let known = &self.known;
        if request.is_deadly() {
            let ours = self.sides.ours_alone(user, request, known).await;
            *self.tally.listed.entry(Difference::Deadly.id()).or_default() += 1;
            return if matches!(ours, Reply::Refused(_)) {
                Ok(())
            } else {
                Err(format!("this crashes etcd, and the proxy let it pass: {ours:?}"))
            };
        }
        self.sides.clear_the_way(request, known).await;
        let asked = Asked { user, request, rules: &self.rules, known };
        let (ours, theirs) = self.sides.both(user, request, known).await;
        let allowed = !matches!(ours, Reply::Refused(_));
        let (ours, theirs) = match (ours, theirs) {
            (Reply::Refused(_), Reply::Refused(_)) => {
                self.tally.both_refuse += 1;
                self.sides.repeat_partial(request, known).await;
                return Ok(());
            }
            (Reply::Refused(reason), theirs) => {
                match Difference::stricter(asked, &mut self.sides, &reason, &theirs).await {
                    Some(difference) => *self.tally.listed.entry(difference.id()).or_default() += 1,
                    None => {
                        let hole = if self.vulnerable {
                            Hole::of(&mut self.sides, user, request, known).await
                        } else {
                            None
                        };
                        let hole = hole.ok_or_else(|| {
                            format!("only the proxy refuses ({reason}): {theirs:?}")
                        })?;
                        *self.tally.holes.entry(hole.id()).or_default() += 1;
                    }
                }
                (self.sides.repeat_here(request, &theirs, known).await, theirs)
            }
            (ours, Reply::Refused(_)) => {
                let difference = Difference::finer(asked, &mut self.sides).await;
                let difference =
                    difference.ok_or_else(|| format!("WE ALLOW WHAT ETCD REFUSES: {ours:?}"))?;
                *self.tally.listed.entry(difference.id()).or_default() += 1;
                let theirs = self.sides.repeat_at_judge(request, known).await;
                (ours, theirs)
            }
            both => {
                self.tally.both_allow += 1;
                both
            }
        };
        let own = if allowed {
            known.owned(user)
        } else {
            known.leases.iter().map(|lease| lease.id).collect()
        };
        if !ours.is_like(&theirs, request.method, &own) {
            return Err(format!("the responses differ:\n ours   {ours:?}\n theirs {theirs:?}"));
        }
        self.note(user, request, allowed, &theirs).await;
        Ok(())
    }

    /// Records the effect of the request on the store.
    async fn note(&mut self, user: &'static str, request: &Request, allowed: bool, said: &Reply) {
        let Reply::Answered { status: 0, revision, .. } = said else { return };
        self.known.revision = self.known.revision.max(*revision);
        match request.method {
            Method::LeaseGrant => {
                let marked =
                    allowed && pb::LeaseGrantRequest::decode(&request.message[..]).unwrap().id == 0;
                self.known.leases.push(Lease { id: said.granted().unwrap(), owner: user, marked });
                if self.known.leases.len() > others::LEASES {
                    let oldest = self.known.leases.remove(0).id;
                    self.sides.revoke(oldest, &self.known).await;
                }
            }
            Method::LeaseRevoke => {
                let id = request.leases()[0];
                self.known.leases.retain(|lease| lease.id != id);
            }
            _ => {}
        }
    }
}
