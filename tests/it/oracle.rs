//! The oracle: etcd's own auth judges the proxy.
//!
//! Both sides have the same random policy: as a policy file of a proxy in front of an etcd without
//! auth ("ours"), and as users and roles of an etcd with auth on ("theirs", the judge). The same
//! user sends the same random request to both. The judge must allow what ours allows, and then both
//! responses must be equal. Any other outcome must be on the list in
//! `docs/compared-with-etcd-auth.md` ([`differences`]), and is counted.
//!
//! # Equal stores
//!
//! Both sides get one request at a time, so both apply the same writes in the same order. A request
//! that only one side allows is repeated on the other as root, with the same bytes. A request that
//! both refuse is applied on neither. So revisions are always equal, and responses are compared
//! including them.
//!
//! # Repeating a run
//!
//! A failure names its seed. `ETCD_WARDEN_TEST_ORACLE_SEED` takes it,
//! `ETCD_WARDEN_TEST_ORACLE_REQUESTS` the number of requests.

mod answers;
pub mod rng;
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
async fn an_etcd_without_the_holes_allows_what_the_proxy_allows() {
    let seed = number(SEED).unwrap_or(1);
    let requests = number(REQUESTS).unwrap_or(5_000) as usize;
    let tally = Trial::fixed(programs, seed, requests).await;
    println!("seed {seed}: {tally:#?}");
    // A run with only one kind of decision shows nothing.
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
