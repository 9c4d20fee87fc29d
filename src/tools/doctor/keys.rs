//! Checks whether the policy covers the keys that exist.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::policy::Policy;
use etcd_warden_gateway::upstream::control::Control;
use etcd_warden_gateway::upstream::members::MemberIndex;

use super::report::{Part, Report};

/// Keys per request.
const PAGE: i64 = 5_000;
/// Limit of keys that are checked.
const MAX_KEYS: usize = 1_000_000;
/// For all requests together.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Number of groups that are listed.
const MAX_LISTED: usize = 20;

/// Reads the names of all keys, without values, and reports those on which no binding has any
/// right.
pub async fn check(policy: &Policy, control: &Control, member: MemberIndex, report: &mut Report) {
    let bindings: Vec<usize> = policy.bindings().map(|binding| binding.index).collect();
    let mut uncovered: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let (mut from, mut seen) = (vec![0], 0);
    let began = Instant::now();
    let end = loop {
        let (keys, more) = match control.keys(member, &from, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                report.warning(
                    Part::Keys,
                    "keys",
                    format!("cannot be listed: {error}"),
                    "the gateway's certificate must permit reading all keys",
                );
                return;
            }
        };
        seen += keys.len();
        for key in &keys {
            if !bindings.iter().any(|binding| !policy.captures_for(*binding, key).is_empty()) {
                *uncovered.entry(group(key)).or_default() += 1;
            }
        }
        match keys.last() {
            _ if !more => break "",
            Some(last) if *last >= from && seen < MAX_KEYS && began.elapsed() < TIMEOUT => {
                from = [last, [0].as_slice()].concat();
            }
            // The rest would take too long, or the server repeats pages.
            _ => break ", and there are more",
        }
    };
    for (group, number) in uncovered.iter().take(MAX_LISTED) {
        let seen = format!("{number} keys on which no binding has a right");
        report.warning(
            Part::Keys,
            Escaped(group).to_string(),
            seen,
            "clients that use them need a role; `policy explain --key` lists the bindings of a key",
        );
    }
    if uncovered.len() > MAX_LISTED {
        report.warning(
            Part::Keys,
            "more",
            format!("{} further prefixes without a binding", uncovered.len() - MAX_LISTED),
            "",
        );
    }
    let rest: usize = uncovered.values().sum();
    report.ok(
        Part::Keys,
        "all keys",
        format!("{seen} checked{end}; {} have a binding", seen - rest),
    );
}

/// The first three segments of a path; for other keys, the key up to the first `/`.
fn group(key: &[u8]) -> Vec<u8> {
    let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
    let end = slashes.take(4).last().unwrap_or(key.len());
    key.get(..end).unwrap_or(key).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_grouped_by_the_beginning_of_their_path() {
        for (key, expected) in [
            ("/calico/resources/v3/projectcalico.org/nodes/a", "/calico/resources/v3/"),
            ("/registry/pods/default/web", "/registry/pods/default/"),
            ("/a", "/"),
            ("compact_rev_key", "compact_rev_key"),
            ("", ""),
        ] {
            assert_eq!(group(key.as_bytes()), expected.as_bytes());
        }
    }
}
