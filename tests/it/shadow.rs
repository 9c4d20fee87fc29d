//! Shadow mode is never in the way, and records what enforcement would do.

mod requests;
pub mod twins;

use etcd_warden::authorize::Reason;
use etcd_warden::config::{Config, OnFull};
use etcd_warden::method::Method;
use etcd_warden::pki::Leaf;
use serde_json::Value;

use crate::world::World;
use requests::ROLE;
use twins::{Case, Expected, Twins};

fn policy(mode: &str, bindings: &str) -> String {
    format!("version: 1\nmode: {mode}\n{ROLE}\nbindings:\n{bindings}")
}

const ALICE: &str = "  - {cn: alice, roles: [own]}\n";

#[tokio::test]
async fn what_a_client_sees_through_a_shadowing_proxy_is_what_it_sees_directly() {
    let twins = Twins::start(&policy("shadow", ALICE), |_| ()).await;
    let cases: Vec<Case> = [
        requests::well_made(),
        requests::malformed(),
        requests::heads(),
        requests::never_half_closed(),
        requests::conversations(),
        requests::unlike(),
    ]
    .concat();
    assert!(cases.len() > 300, "a few hundred, not {}", cases.len());
    let differences = twins.differences(&Leaf::client("alice"), &cases).await;
    assert!(differences.is_empty(), "{} of {} differ\n{}", differences.len(), cases.len(), differences.join("\n"));
    recorded(twins.world, &cases).await;
}

/// The audit has, request by request, the verdict of enforcement.
async fn recorded(mut world: World, cases: &[Case]) {
    // The audit is whole when the proxy has ended.
    world.shut_down().await;
    let mut expected: Vec<_> =
        cases.iter().flat_map(|case| case.expected.iter().map(|line| (case.path.clone(), *line, &*case.name))).collect();
    let mut found: Vec<_> = world.audit().into_iter().map(|line| (path(&line), verdict(&line), line)).collect();
    // Whose a lease is, is asked of etcd while the stream goes on: a verdict may come after that of the next request.
    let late = |path: &str| path == Method::LeaseKeepAlive.path();
    expected.sort_by_key(|(path, line, _)| late(path).then(|| format!("{line:?}")));
    found.sort_by_key(|(path, line, _)| late(path).then(|| format!("{line:?}")));
    let mut wrong = Vec::new();
    for ((path, verdict, line), (expected_path, expected_verdict, name)) in found.iter().zip(&expected) {
        if (path, verdict) != (expected_path, expected_verdict) {
            wrong.push(format!("{name}: expected {expected_verdict:?}, found {line}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(found.len(), expected.len());
}

fn path(line: &Value) -> String {
    line["method"].as_str().or(line["path"].as_str()).unwrap().to_owned()
}

fn verdict(line: &Value) -> Expected {
    assert_eq!(line["mode"], "shadow");
    match line["decision"].as_str().unwrap() {
        "allow" => Expected::Allow,
        "would_deny" => Expected::WouldDeny(*Reason::ALL.iter().find(|reason| line["reason"] == reason.code()).unwrap()),
        other => panic!("shadow mode decides `{other}`: {line}"),
    }
}

/// Requests that enforcement would refuse for who sends them, each recorded with this reason.
fn refused_for(reason: Reason) -> Vec<Case> {
    let all = [requests::well_made(), requests::heads(), requests::conversations()].concat();
    let judged = all.into_iter().map(|mut case| {
        case.expected.iter_mut().for_each(|expected| *expected = Expected::WouldDeny(reason));
        case
    });
    judged.collect()
}

#[tokio::test]
async fn an_identity_that_no_binding_names_passes_and_is_recorded() {
    let twins = Twins::start(&policy("shadow", ALICE), |_| ()).await;
    let cases = refused_for(Reason::NoBinding);
    let differences = twins.differences(&Leaf::client("nobody"), &cases).await;
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    recorded(twins.world, &cases).await;
}

#[tokio::test]
async fn a_certificate_without_a_usable_name_passes_and_is_recorded() {
    let world = World::start(&policy("shadow", ALICE)).await;
    for (leaf, refusal) in [
        (Leaf::client("alice").second_common_name("bob"), "cn-several"),
        (Leaf::client("").without_common_name(), "cn-missing"),
        (Leaf::client("al\0ice"), "cn-nul"),
    ] {
        let mut client = world.with_certificate(&leaf).await;
        client.put(world.key("x"), refusal, None).await.unwrap();
        assert_eq!(world.direct().await.get(world.key("x"), None).await.unwrap().kvs()[0].value(), refusal.as_bytes());
        let line = world.audited(|line| line["identity"]["cn_refusal"] == refusal).await;
        assert_eq!((&line["decision"], &line["reason"]), (&"would_deny".into(), &"no-identity".into()));
    }
}

#[tokio::test]
async fn the_limits_of_enforcement_cut_nothing_off_in_shadow_mode() {
    let nothing_held = |config: &mut Config| {
        config.limits.max_held_bytes = 1;
        config.limits.authenticate_per_second = 0;
    };
    let small_messages = |config: &mut Config| config.limits.max_request_bytes = 4;
    for (limits, reason) in [(nothing_held as fn(&mut Config), "limit"), (small_messages, "too-large")] {
        let twins = Twins::start(&policy("shadow", ALICE), limits).await;
        let cases: Vec<Case> = [requests::well_made(), requests::never_half_closed(), requests::conversations()].concat();
        let differences = twins.differences(&Leaf::client("alice"), &cases).await;
        assert!(differences.is_empty(), "{}", differences.join("\n"));
        twins.world.audited(|line| line["decision"] == "would_deny" && line["reason"] == reason).await;
    }
}

#[tokio::test]
async fn an_audit_that_can_write_nothing_refuses_nobody_in_shadow_mode() {
    let full = |config: &mut Config| {
        config.audit.queue = 1;
        config.audit.on_full = OnFull::Deny;
    };
    let world = World::with(&policy("shadow", ALICE)).config(full).start().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let (mut client, key) = (world.as_("nobody").await, world.key("x"));
        clients.push(tokio::spawn(async move {
            for _ in 0..50 {
                client.put(key.clone(), "x", None).await.unwrap();
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
}
