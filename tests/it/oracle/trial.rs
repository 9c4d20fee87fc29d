//! One run: request after request to both sides, and what came of it.

mod listed;

use std::collections::BTreeMap;

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::etcd::Programs;
use prost::Message as _;

use super::answers::Said;
use super::dice::Dice;
use super::differences::{Asked, Difference};
use super::holes::Hole;
use super::requests::{self, Known, Lease, Request, others};
use super::rules::{Rules, USERS};
use super::sides::Sides;
use super::watches::{self, Made, Watcher};

/// So many requests are judged by one policy.
const PER_POLICY: usize = 250;

/// Between two requests, once in so many, something is done about a watch.
const WATCH_EVERY: usize = 20;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Tally {
    pub requests: usize,
    pub policies: usize,
    pub both_allow: usize,
    pub both_refuse: usize,
    /// Watches that both sides made, and the events that they told of.
    pub watches: usize,
    pub events: usize,
    /// Differences that are written down.
    pub listed: BTreeMap<&'static str, usize>,
    /// What the judge allowed though no etcd should.
    pub holes: BTreeMap<&'static str, usize>,
}

/// Two sides, and what is known of them.
pub struct Trial {
    sides: Sides,
    known: Known,
    rules: Rules,
    watchers: BTreeMap<&'static str, Watcher>,
    tally: Tally,
    /// Whether the judge has holes that are to be found.
    vulnerable: bool,
}

impl Trial {
    /// A run with a judge that is right.
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
        let mut dice = Dice::new(seed);
        for place in 0..requests {
            let fails = |what: String| panic!("{what}\nrequest {place} of {}={seed}", super::SEED);
            if place % PER_POLICY == 0 {
                self.told_alike().await.unwrap_or_else(fails);
                self.next_policy(&mut dice).await;
            }
            let user = dice.of(&USERS);
            if dice.once_in(WATCH_EVERY) {
                self.watch(&mut dice, user).await.unwrap_or_else(fails);
            }
            let request = requests::request(&mut dice, &self.known);
            let verdict = self.judge(user, &request).await;
            verdict.unwrap_or_else(|what| {
                fails(format!("{what}\nby {user}: {request}\n{:?}", self.rules))
            });
            self.tally.requests += 1;
        }
        self.told_alike()
            .await
            .unwrap_or_else(|what| panic!("{what}\nat the end of {}={seed}", super::SEED));
        self.sides.same_store(&self.known).await;
        self.tally
    }

    /// Other rules, on both sides, with new streams: who lost a right is not the question here.
    async fn next_policy(&mut self, dice: &mut Dice) {
        self.sides.same_store(&self.known).await;
        self.rules = Rules::random(dice);
        self.sides.rule(&self.rules).await;
        for user in USERS {
            self.watchers.insert(user, Watcher::new(self.sides.streams(user, Method::Watch).await));
        }
        self.tally.policies += 1;
    }

    /// Asks for a watch on both sides, or ends one.
    async fn watch(&mut self, dice: &mut Dice, user: &'static str) -> Result<(), String> {
        if dice.once_in(5) {
            self.told_alike().await?;
            self.watchers.get_mut(user).unwrap().cancel(dice).await;
            return Ok(());
        }
        let create = watches::create(dice, &self.known);
        let (ours, theirs) = self.watchers.get_mut(user).unwrap().create(dice, &create).await;
        if ours == theirs {
            match ours {
                Made::Refused(_) => self.tally.both_refuse += 1,
                _ => self.tally.watches += 1,
            }
        } else {
            match Difference::of_watch(&create, &ours, &theirs) {
                Some(difference) => *self.tally.listed.entry(difference.id()).or_default() += 1,
                None => {
                    let sought = self.vulnerable && matches!(ours, Made::Refused(_));
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
        // What it tells of the past depends on what is compacted: only now is it the same for both.
        if create.start_revision != 0 { self.told_alike().await } else { Ok(()) }
    }

    /// Lets both sides tell every watch everything, and compares.
    async fn told_alike(&mut self) -> Result<(), String> {
        if !self.watchers.values().any(Watcher::is_watching) {
            return Ok(());
        }
        let furthest = self.watchers.values().map(Watcher::furthest).max().unwrap_or_default();
        // At least one, so that an earlier answer is not taken for one to the question that comes
        // now.
        loop {
            let put = pb::PutRequest { key: b"z".to_vec(), ..Default::default() };
            let said = self.sides.both_as_root(&Request::new(Method::Put, &put), &self.known).await;
            let Said::Answered { revision, .. } = said else { return Err(format!("{said:?}")) };
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

    /// Sends one request to both sides and makes up for what only one of them did.
    async fn judge(&mut self, user: &'static str, request: &Request) -> Result<(), String> {
        let known = &self.known;
        if request.is_deadly() {
            let ours = self.sides.ours_alone(user, request, known).await;
            *self.tally.listed.entry(Difference::Deadly.id()).or_default() += 1;
            return if matches!(ours, Said::Refused(_)) {
                Ok(())
            } else {
                Err(format!("this ends etcd, and we let it pass: {ours:?}"))
            };
        }
        self.sides.clear_the_way(request, known).await;
        let asked = Asked { user, request, rules: &self.rules, known };
        let (ours, theirs) = self.sides.both(user, request, known).await;
        let allowed = !matches!(ours, Said::Refused(_));
        let (ours, theirs) = match (ours, theirs) {
            (Said::Refused(_), Said::Refused(_)) => {
                self.tally.both_refuse += 1;
                self.sides.level(request, known).await;
                return Ok(());
            }
            (Said::Refused(reason), theirs) => {
                match Difference::stricter(asked, &mut self.sides, &reason, &theirs).await {
                    Some(difference) => *self.tally.listed.entry(difference.id()).or_default() += 1,
                    None => {
                        let hole = if self.vulnerable {
                            Hole::of(&mut self.sides, user, request, known).await
                        } else {
                            None
                        };
                        let hole =
                            hole.ok_or_else(|| format!("only we refuse ({reason}): {theirs:?}"))?;
                        *self.tally.holes.entry(hole.id()).or_default() += 1;
                    }
                }
                (self.sides.make_up_here(request, &theirs, known).await, theirs)
            }
            (ours, Said::Refused(_)) => {
                let difference = Difference::finer(asked, &mut self.sides).await;
                let difference =
                    difference.ok_or_else(|| format!("WE ALLOW WHAT ETCD REFUSES: {ours:?}"))?;
                *self.tally.listed.entry(difference.id()).or_default() += 1;
                let theirs = self.sides.make_up_there(request, known).await;
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
            return Err(format!("the answers differ:\n ours   {ours:?}\n theirs {theirs:?}"));
        }
        self.note(user, request, allowed, &theirs).await;
        Ok(())
    }

    /// Keeps in mind what the request did to the store, which we `allowed` or not.
    async fn note(&mut self, user: &'static str, request: &Request, allowed: bool, said: &Said) {
        let Said::Answered { status: 0, revision, .. } = said else { return };
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
