//! The oracle: etcd's own auth, as a judge over the proxy.
//!
//! A random policy stands on both sides: as a policy file at a proxy in front of an etcd without
//! auth ("ours"), and as users and roles of an etcd with auth on ("theirs", the judge). The same
//! user sends the same random request to both. What ours allows, the judge must allow, and both
//! must then answer the same; whatever else happens must stand on the list of
//! `docs/compared-with-etcd-auth.md` ([`differences`]), and is counted.
//!
//! # Two stores that stay equal
//!
//! One request at a time goes to both, so that both apply the same writes in the same order. What
//! only one side allows is made up for on the other, as root and with the same bytes: then both
//! have done it. What both refuse is done by neither. So revisions are equal at all times, and each
//! answer is compared down to them.
//!
//! # To run it again
//!
//! A failure names its seed. `ETCD_WARDEN_TEST_ORACLE_SEED` takes it,
//! `ETCD_WARDEN_TEST_ORACLE_REQUESTS` the number of requests.

mod answers;
pub mod dice;
mod differences;
mod holes;
mod keys;
mod probe;
mod requests;
mod rules;
mod sides;
mod trial;
mod watches;

use std::collections::BTreeSet;

use differences::Difference;
use holes::Hole;
use trial::Trial;

use crate::world::{programs, vulnerable};

const SEED: &str = "ETCD_WARDEN_TEST_ORACLE_SEED";
const REQUESTS: &str = "ETCD_WARDEN_TEST_ORACLE_REQUESTS";

#[tokio::test]
async fn what_we_allow_a_fixed_etcd_allows() {
    let seed = number(SEED).unwrap_or(1);
    let requests = number(REQUESTS).unwrap_or(5_000) as usize;
    let tally = Trial::fixed(programs, seed, requests).await;
    println!("seed {seed}: {tally:#?}");
    // A run that sees only one verdict has shown nothing.
    assert!(tally.both_allow > requests / 20 && tally.both_refuse > requests / 20, "{tally:?}");
}

#[tokio::test]
async fn it_finds_the_holes_of_an_etcd_that_has_them() {
    let tally = Trial::vulnerable(vulnerable::v3_6, number(SEED).unwrap_or(1), 2_000).await;
    println!("{tally:#?}");
    for hole in [Hole::NestedTxn, Hole::PutInTxn, Hole::Unchecked, Hole::WatchToTheEnd] {
        assert!(tally.holes.contains_key(hole.id()), "{} was not found: {tally:?}", hole.id());
    }
}

#[tokio::test]
async fn each_listed_difference_is_shown_by_one_request() {
    Trial::shows_each_listed_difference(programs).await;
}

#[test]
fn every_difference_is_written_down() {
    let page = include_str!("../../docs/compared-with-etcd-auth.md");
    let ids = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
    let written: BTreeSet<&str> =
        ids.filter(|id| id.starts_with("F-") || id.starts_with("S-")).collect();
    assert_eq!(written, Difference::ALL.into_iter().map(Difference::id).collect());
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, and not `{text}`")))
}
