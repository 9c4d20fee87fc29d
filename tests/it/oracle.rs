//! The oracle: etcd's own auth, as a judge over the proxy.
//!
//! A random policy stands on both sides: as a policy file at a proxy in front of an etcd without auth ("ours"), and as users and roles
//! of an etcd with auth on ("theirs", the judge). The same user sends the same random request to both. What ours allows, the judge must
//! allow, and both must then answer the same; whatever else happens must stand on the list of `docs/compared-with-etcd-auth.md`
//! ([`differences`]), and is counted.
//!
//! # Two stores that stay equal
//!
//! One request at a time goes to both, so that both apply the same writes in the same order. What only one side allows is made up for on the other, as root and with
//! the same bytes: then both have done it. What both refuse is done by neither. So revisions are equal at all times, and each answer is
//! compared down to them.
//!
//! # To run it again
//!
//! A failure names its seed. `ETCD_WARDEN_ORACLE_SEED` takes it, `ETCD_WARDEN_ORACLE_REQUESTS` the number of requests.

mod differences;
mod dice;
mod keys;
mod probe;
mod requests;
mod rules;
mod sides;

use std::collections::{BTreeMap, BTreeSet};

use dice::Dice;
use differences::Difference;
use requests::{Known, Request};
use rules::{Rules, USERS};
use sides::{Said, Sides};

const SEED: &str = "ETCD_WARDEN_ORACLE_SEED";
const REQUESTS: &str = "ETCD_WARDEN_ORACLE_REQUESTS";
/// So many requests are judged by one policy.
const PER_POLICY: usize = 250;

/// What a run came to.
#[derive(Debug, Default)]
struct Tally {
    both_allow: usize,
    both_refuse: usize,
    listed: BTreeMap<&'static str, usize>,
}

#[tokio::test]
async fn what_we_allow_a_fixed_etcd_allows() {
    let seed = number(SEED).unwrap_or(1);
    let requests = number(REQUESTS).unwrap_or(5_000) as usize;
    let tally = run(seed, requests).await;
    println!("seed {seed}, {requests} requests: {tally:#?}");
    // A run that sees only one verdict has shown nothing.
    assert!(tally.both_allow > requests / 20 && tally.both_refuse > requests / 20, "{tally:?}");
}

#[test]
fn every_difference_is_written_down() {
    let page = include_str!("../../docs/compared-with-etcd-auth.md");
    let written: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()).collect();
    let ours: BTreeSet<&str> = Difference::ALL.into_iter().map(Difference::id).collect();
    let written: BTreeSet<&str> = written.into_iter().filter(|id| id.starts_with("F-") || id.starts_with("S-")).collect();
    assert_eq!(written, ours);
}

async fn run(seed: u64, requests: usize) -> Tally {
    let mut dice = Dice::new(seed);
    let mut sides = Sides::start().await;
    let mut known = Known::default();
    let mut tally = Tally::default();
    for place in 0..requests {
        if place % PER_POLICY == 0 {
            sides.rule(&Rules::random(&mut dice)).await;
        }
        let user = dice.of(&USERS);
        let request = requests::request(&mut dice, &known);
        let verdict = judge(&mut sides, &mut tally, &mut known, user, &request).await;
        verdict.unwrap_or_else(|what| panic!("{what}\nrequest {place} of {SEED}={seed}, by {user}: {request}"));
    }
    tally
}

/// Sends one request to both sides and makes up for what only one of them did.
async fn judge(sides: &mut Sides, tally: &mut Tally, known: &mut Known, user: &str, request: &Request) -> Result<(), String> {
    let (ours, theirs) = sides.both(user, request).await;
    let (ours, theirs) = match (ours, theirs) {
        (Said::Refused(_), Said::Refused(_)) => {
            tally.both_refuse += 1;
            return Ok(());
        }
        (Said::Refused(reason), theirs) => {
            let difference =
                Difference::stricter(request, &reason, &theirs).ok_or_else(|| format!("only we refuse ({reason}): {theirs:?}"))?;
            *tally.listed.entry(difference.id()).or_default() += 1;
            (sides.make_up_here(request).await, theirs)
        }
        (ours, Said::Refused(_)) => {
            let difference =
                Difference::finer(sides, user, request).await.ok_or_else(|| format!("WE ALLOW WHAT ETCD REFUSES: {ours:?}"))?;
            *tally.listed.entry(difference.id()).or_default() += 1;
            let theirs = sides.make_up_there(request).await;
            (ours, theirs)
        }
        both => {
            tally.both_allow += 1;
            both
        }
    };
    if let Said::Answered { revision, .. } = theirs {
        known.revision = known.revision.max(revision);
    }
    if ours == theirs { Ok(()) } else { Err(format!("the answers differ:\n ours   {ours:?}\n theirs {theirs:?}")) }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, and not `{text}`")))
}
