//! The messages of `docs/upstream-findings.md`: the proxy refuses each, whatever is granted, and
//! each crashes the releases that are named.

use etcd_warden_core::method::Method;

use super::everything_is_granted;
use super::tables::{bytes, number};
use crate::world::raw::Raw;
use crate::world::{SOON, World, soon};

/// A message that crashes etcd.
pub struct Deadly {
    pub name: &'static str,
    pub method: Method,
    /// Creates the message, given the id of a member.
    pub message: fn(u64) -> Vec<u8>,
    /// The releases that crash. The others respond.
    pub ends: &'static [&'static str],
    /// The last log lines must contain one of these.
    pub words: &'static [&'static str],
    /// True if the member crashes again at each start, because the message is in the raft log.
    pub for_good: bool,
    /// The number of members that it takes.
    pub members: usize,
}

fn key(number: u32) -> Vec<u8> {
    bytes(number, b"a")
}

/// A Range of one key with an unknown `sort_target`.
fn sorted(_: u64) -> Vec<u8> {
    [key(1), number(6, 5)].concat()
}

pub const ALL: [Deadly; 8] = [
    Deadly {
        name: "alarm-action",
        method: Method::Alarm,
        message: |_| number(1, 3),
        ends: &["3.5", "3.6", "3.7"],
        words: &["nil pointer dereference"],
        for_good: false,
        members: 1,
    },
    Deadly {
        name: "delete-and-keep",
        method: Method::Txn,
        message: |_| {
            let delete = [key(1), bytes(2, &[0])].concat();
            [bytes(2, &bytes(3, &delete)), bytes(2, &bytes(2, &[key(1), number(5, 1)].concat()))]
                .concat()
        },
        ends: &["3.5", "3.6", "3.7"],
        words: &["unexpected error during txn", "index out of range"],
        for_good: true,
        members: 1,
    },
    Deadly {
        name: "sort-target",
        method: Method::Range,
        message: sorted,
        ends: &["3.5"],
        words: &["nil pointer dereference"],
        for_good: false,
        members: 1,
    },
    Deadly {
        name: "sort-target-in-txn",
        method: Method::Txn,
        message: |id| {
            bytes(
                2,
                &bytes(
                    4,
                    &[bytes(2, &bytes(2, &key(1))), bytes(2, &bytes(1, &sorted(id)))].concat(),
                ),
            )
        },
        ends: &["3.5"],
        words: &["nil pointer dereference"],
        for_good: true,
        members: 1,
    },
    Deadly {
        name: "alarm-type",
        method: Method::Alarm,
        message: |_| [number(1, 1), number(2, 5), number(3, 99)].concat(),
        ends: &["3.5"],
        words: &["unimplemented alarm activation"],
        for_good: true,
        members: 1,
    },
    Deadly {
        name: "user-name",
        method: Method::UserAdd,
        message: |_| [bytes(1, &vec![b'u'; 32_769]), bytes(2, b"p")].concat(),
        ends: &["3.5", "3.6", "3.7"],
        words: &["key too large"],
        for_good: true,
        members: 1,
    },
    Deadly {
        name: "role-name",
        method: Method::RoleAdd,
        message: |_| bytes(1, &vec![b'r'; 32_769]),
        ends: &["3.5", "3.6", "3.7"],
        words: &["key too large"],
        for_good: true,
        members: 1,
    },
    Deadly {
        name: "member-update-urls",
        method: Method::MemberUpdate,
        message: |id| number(1, id.cast_signed()),
        ends: &["3.5", "3.6", "3.7"],
        words: &["failed NewURLs"],
        for_good: true,
        members: 3,
    },
];

/// Asserts that the proxy refuses the message and that etcd keeps running.
async fn is_refused(world: &World, deadly: &Deadly, message: &[u8]) {
    let answer = world.raw("all").await.call(deadly.method.path(), message).await;
    assert_eq!(answer.grpc_status(), Some(3), "{}: {answer:?}", deadly.name);
    assert!(answer.grpc_message().starts_with("etcd-warden: "), "{}: {answer:?}", deadly.name);
    world.direct().await.put("a", "1", None).await.unwrap();
}

/// Sends the message directly to etcd. Returns true if the member crashes. A member that survives
/// responds. With several members it may respond first and crash then.
async fn ends(world: &World, deadly: &Deadly, message: &[u8]) -> bool {
    let mut direct = Raw::direct(world.etcd().addresses()[0]).await;
    let answer = tokio::time::timeout(SOON, direct.call(deadly.method.path(), message))
        .await
        .expect("a response or a crash");
    if deadly.members == 1 && answer.error.is_none() {
        return false;
    }
    soon("etcd crashes", || async { world.etcd().metrics(0).await.is_err().then_some(()) }).await;
    true
}

/// True if it crashes again at its next start. The message may not be in the log yet, because a
/// single member applies and writes in parallel, so it is sent more than once.
async fn ends_for_good(world: &mut World, deadly: &Deadly, message: &[u8]) -> bool {
    for _ in 0..8 {
        if world.etcd_mut().restart(0).await.is_err() {
            return true;
        }
        if !deadly.for_good {
            return false;
        }
        ends(world, deadly, message).await;
    }
    false
}

async fn refused_here_and_deadly_there(minor: &'static str) {
    for deadly in &ALL {
        let mut world = everything_is_granted(minor, deadly.members, "enforce").await;
        let members = world.direct().await.member_list().await.unwrap();
        // With several members, one that is not asked: a member ignores changes of itself.
        let changed = members
            .members()
            .iter()
            .find(|member| deadly.members == 1 || member.name() != "m0")
            .unwrap()
            .id();
        let message = (deadly.message)(changed);
        is_refused(&world, deadly, &message).await;
        let ended = ends(&world, deadly, &message).await;
        assert_eq!(ended, deadly.ends.contains(&minor), "{} on {minor}", deadly.name);
        if !ended {
            continue;
        }
        let log = world.etcd().log(0);
        let last = || log.lines().rev().take(20).collect::<Vec<_>>().join("\n");
        assert!(
            deadly.words.iter().any(|words| log.contains(words)),
            "{} on {minor}: {}",
            deadly.name,
            last()
        );
        assert_eq!(
            ends_for_good(&mut world, deadly, &message).await,
            deadly.for_good,
            "{} on {minor}",
            deadly.name
        );
    }
}

#[tokio::test]
async fn what_ends_etcd_3_5_is_refused() {
    refused_here_and_deadly_there("3.5").await;
}

#[tokio::test]
async fn what_ends_etcd_3_6_is_refused() {
    refused_here_and_deadly_there("3.6").await;
}

#[tokio::test]
async fn what_ends_etcd_3_7_is_refused() {
    refused_here_and_deadly_there("3.7").await;
}

#[test]
fn each_message_that_ends_etcd_is_documented() {
    let page = include_str!("../../../docs/upstream-findings.md");
    for deadly in &ALL {
        assert!(
            page.contains(&format!("`{}`", deadly.name)),
            "docs/upstream-findings.md has no `{}`",
            deadly.name
        );
    }
}
