//! One run: request after request to both sides, and what came of it.

use std::collections::BTreeMap;

use etcd_warden::etcd::Programs;
use etcd_warden::method::Method;
use etcd_warden::pb::etcdserverpb as pb;
use prost::Message as _;

use super::answers::Said;
use super::dice::Dice;
use super::differences::Difference;
use super::holes::Hole;
use super::requests::{self, Known, Lease, Request, others};
use super::rules::{Rules, USERS};
use super::sides::Sides;

/// So many requests are judged by one policy.
const PER_POLICY: usize = 250;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Tally {
    pub requests: usize,
    pub policies: usize,
    pub both_allow: usize,
    pub both_refuse: usize,
    /// Differences that are written down.
    pub listed: BTreeMap<&'static str, usize>,
    /// What the judge allowed though no etcd should.
    pub holes: BTreeMap<&'static str, usize>,
}

/// Two sides, and what is known of them.
pub struct Trial {
    pub sides: Sides,
    pub known: Known,
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
    pub async fn vulnerable(programs: fn() -> &'static Programs, seed: u64, requests: usize) -> Tally {
        Self::start(programs, true).await.run(seed, requests).await
    }

    async fn start(programs: fn() -> &'static Programs, vulnerable: bool) -> Self {
        Self { sides: Sides::start(programs).await, known: Known::default(), tally: Tally::default(), vulnerable }
    }

    async fn run(mut self, seed: u64, requests: usize) -> Tally {
        let mut dice = Dice::new(seed);
        for place in 0..requests {
            if place % PER_POLICY == 0 {
                self.sides.same_store(&self.known).await;
                self.sides.rule(&Rules::random(&mut dice)).await;
                self.tally.policies += 1;
            }
            let user = dice.of(&USERS);
            let request = requests::request(&mut dice, &self.known);
            let verdict = self.judge(user, &request).await;
            verdict.unwrap_or_else(|what| panic!("{what}\nrequest {place} of {}={seed}, by {user}: {request}", super::SEED));
            self.tally.requests += 1;
        }
        self.sides.same_store(&self.known).await;
        self.tally
    }

    /// Sends one request to both sides and makes up for what only one of them did.
    async fn judge(&mut self, user: &'static str, request: &Request) -> Result<(), String> {
        let known = &self.known;
        let (ours, theirs) = self.sides.both(user, request, known).await;
        let allowed = !matches!(ours, Said::Refused(_));
        let (ours, theirs) = match (ours, theirs) {
            (Said::Refused(_), Said::Refused(_)) => {
                self.tally.both_refuse += 1;
                return Ok(());
            }
            (Said::Refused(reason), theirs) => {
                match Difference::stricter(&mut self.sides, user, request, &reason, &theirs, known).await {
                    Some(difference) => *self.tally.listed.entry(difference.id()).or_default() += 1,
                    None => {
                        let hole = if self.vulnerable { Hole::of(&mut self.sides, user, request, known).await } else { None };
                        let hole = hole.ok_or_else(|| format!("only we refuse ({reason}): {theirs:?}"))?;
                        *self.tally.holes.entry(hole.id()).or_default() += 1;
                    }
                }
                (self.sides.make_up_here(request, &theirs, known).await, theirs)
            }
            (ours, Said::Refused(_)) => {
                let difference = Difference::finer(&mut self.sides, user, request, known).await;
                let difference = difference.ok_or_else(|| format!("WE ALLOW WHAT ETCD REFUSES: {ours:?}"))?;
                *self.tally.listed.entry(difference.id()).or_default() += 1;
                let theirs = self.sides.make_up_there(request, known).await;
                (ours, theirs)
            }
            both => {
                self.tally.both_allow += 1;
                both
            }
        };
        if !ours.is_like(&theirs, request.method) {
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
                let marked = allowed && pb::LeaseGrantRequest::decode(&request.message[..]).unwrap().id == 0;
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
