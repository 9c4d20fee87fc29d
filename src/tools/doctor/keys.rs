//! The keys that are there, and whether the policy speaks of them at all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::policy::Policy;
use etcd_warden_gateway::upstream::control::Control;
use etcd_warden_gateway::upstream::members::MemberIndex;

use super::report::{Part, Report};

/// Keys of one question.
const PAGE: i64 = 5_000;
/// Keys that are looked at.
const MOST: usize = 1_000_000;
/// For all pages together.
const PATIENCE: Duration = Duration::from_secs(60);
/// Groups that are told one by one.
const TOLD: usize = 20;

/// Reads the names of all keys (no value), and tells those that no binding's roles allow anything
/// on.
pub async fn look(policy: &Policy, control: &Control, member: MemberIndex, report: &mut Report) {
    let bindings: Vec<usize> = policy.bindings().map(|binding| binding.place).collect();
    let mut nobodys: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let (mut from, mut seen) = (vec![0], 0);
    let began = Instant::now();
    let end = loop {
        let (keys, more) = match control.keys(member, &from, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                report.warning(
                    Part::Keys,
                    "keys",
                    format!("not read: {error}"),
                    "the proxy's certificate must be able to read all of them",
                );
                return;
            }
        };
        seen += keys.len();
        for key in &keys {
            if !bindings.iter().any(|binding| !policy.captures_for(*binding, key).is_empty()) {
                *nobodys.entry(group(key)).or_default() += 1;
            }
        }
        match keys.last() {
            _ if !more => break "",
            Some(last) if *last >= from && seen < MOST && began.elapsed() < PATIENCE => {
                from = [last, [0].as_slice()].concat()
            }
            // The rest would take too long, or the pages lead in a circle.
            _ => break ", and there are more",
        }
    };
    for (group, number) in nobodys.iter().take(TOLD) {
        let said = format!("{number} keys of which no binding's roles speak");
        report.warning(
            Part::Keys,
            Escaped(group).to_string(),
            said,
            "whoever uses them needs a role, or is refused: `policy explain --key` tells who may",
        );
    }
    if nobodys.len() > TOLD {
        report.warning(
            Part::Keys,
            "more",
            format!("{} other prefixes are nobody's", nobodys.len() - TOLD),
            "",
        );
    }
    let rest: usize = nobodys.values().sum();
    report.ok(
        Part::Keys,
        "all keys",
        format!("{seen} looked at{end}, {} of them are somebody's", seen - rest),
    );
}

/// The first three segments of a path; of other keys, the key up to the first `/`.
fn group(key: &[u8]) -> Vec<u8> {
    let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
    let end = slashes.take(4).last().unwrap_or(key.len());
    key.get(..end).unwrap_or(key).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_by_the_beginning_of_their_path() {
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
