//! Shadow mode never blocks a call, and records what enforcement would do.

mod frames;
mod requests;
pub mod twins;

use etcd_warden_core::authorize::Reason;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::Mode;
use etcd_warden_gateway::config::{Config, Endpoint, OnFull};
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::etcd::{Etcd, Options};
use etcd_warden_testbed::pki::Leaf;
use prost::Message as _;
use serde_json::Value;

use crate::world::etcdctl::{Etcdctl, Turn};
use crate::world::raw::{Answer, framed, grpc_headers};
use crate::world::{
    SOON, World, authorities, connect, is_permission_denied, root, soon, start_etcd,
};
use requests::ROLE;
use twins::{Case, Expected, Twins};

fn policy(mode: &str, bindings: &str) -> String {
    format!("version: 1\nmode: {mode}\n{ROLE}\nbindings:\n{bindings}")
}

const ALICE: &str = "  - {cn: alice, roles: [own]}\n";

#[tokio::test]
async fn a_shadowing_proxy_shows_clients_what_etcd_shows() {
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
    assert!(cases.len() > 300, "expected a few hundred cases, not {}", cases.len());
    let differences = twins.differences(&Leaf::client("alice"), &cases).await;
    assert!(
        differences.is_empty(),
        "{} of {} differ\n{}",
        differences.len(),
        cases.len(),
        differences.join("\n")
    );
    recorded(twins.world, &cases).await;
}

/// Asserts that the audit log has enforcement's decision for each request.
async fn recorded(mut world: World, cases: &[Case]) {
    // The audit log is complete when the proxy has ended.
    world.shut_down().await;
    let mut expected: Vec<_> = cases
        .iter()
        .flat_map(|case| case.expected.iter().map(|line| (case.path.clone(), *line, &*case.name)))
        .collect();
    // A request that HTTP/2 refused was not judged.
    let judged = world.audit().into_iter().filter(|line| line["reason"] != Reason::Http2.code());
    let mut found: Vec<_> = judged.map(|line| (path(&line), verdict(&line), line)).collect();
    // The proxy asks etcd for a lease's keys while the stream continues, so a decision may follow
    // that of the next request.
    let late = |path: &str| path == Method::LeaseKeepAlive.path();
    expected.sort_by_key(|(path, line, _)| late(path).then(|| format!("{line:?}")));
    found.sort_by_key(|(path, line, _)| late(path).then(|| format!("{line:?}")));
    let mut wrong = Vec::new();
    for ((path, verdict, line), (expected_path, expected_verdict, name)) in
        found.iter().zip(&expected)
    {
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
        "would_deny" => Expected::WouldDeny(
            *Reason::ALL.iter().find(|reason| line["reason"] == reason.code()).unwrap(),
        ),
        other => panic!("shadow mode must not decide `{other}`: {line}"),
    }
}

/// Requests that enforcement would refuse because of the client, each recorded with this reason.
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
    let differences = twins.differences(&Leaf::client("unbound"), &cases).await;
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    recorded(twins.world, &cases).await;
}

#[tokio::test]
async fn a_certificate_without_a_usable_name_passes_and_is_recorded() {
    let world = World::start(&policy("shadow", ALICE)).await;
    for (leaf, refusal) in [
        (Leaf::client("alice").second_common_name("bob"), "cn_several"),
        (Leaf::client("").without_common_name(), "cn_missing"),
        (Leaf::client("al\0ice"), "cn_nul"),
    ] {
        let mut client = world.with_certificate(&leaf).await;
        client.put(world.key("x"), refusal, None).await.unwrap();
        assert_eq!(
            world.direct().await.get(world.key("x"), None).await.unwrap().kvs()[0].value(),
            refusal.as_bytes()
        );
        let line = world.audited(|line| line["identity"]["cn_refusal"] == refusal).await;
        assert_eq!(
            (&line["decision"], &line["reason"]),
            (&"would_deny".into(), &"no_identity".into())
        );
    }
}

#[tokio::test]
async fn the_limits_of_enforcement_cut_nothing_off_in_shadow_mode() {
    let nothing_held = |config: &mut Config| {
        config.limits.max_held_bytes = 1;
        config.limits.authenticate_per_second = 0;
    };
    let small_messages = |config: &mut Config| config.limits.max_request_bytes = 4;
    for (limits, reason) in
        [(nothing_held as fn(&mut Config), "limit"), (small_messages, "too_large")]
    {
        let twins = Twins::start(&policy("shadow", ALICE), limits).await;
        let cases: Vec<Case> =
            [requests::well_made(), requests::never_half_closed(), requests::conversations()]
                .concat();
        let differences = twins.differences(&Leaf::client("alice"), &cases).await;
        assert!(differences.is_empty(), "{}", differences.join("\n"));
        twins
            .world
            .audited(|line| line["decision"] == "would_deny" && line["reason"] == reason)
            .await;
    }
}

#[tokio::test]
async fn a_failing_audit_log_refuses_nothing_in_shadow_mode() {
    let full = |config: &mut Config| {
        config.audit.queue = 1;
        config.audit.on_full = OnFull::Deny;
    };
    let world = World::with(&policy("shadow", ALICE)).config(full).start().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let (mut client, key) = (world.as_("unbound").await, world.key("x"));
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

#[tokio::test]
async fn modes_are_the_bindings_own_and_enforce_wins() {
    let bindings = "  - {cn: watched, roles: [own], mode: shadow}\n  - {cn: both, roles: [own], mode: shadow}\n  - {dns: both.test, roles: [own], mode: enforce}\n";
    let world = World::start(&policy("enforce", bindings)).await;
    let key = world.key("x");
    world.as_("watched").await.put(key.clone(), "1", None).await.unwrap();
    world.with_certificate(&Leaf::client("both")).await.put(key.clone(), "2", None).await.unwrap();
    for leaf in [Leaf::client("both").dns("both.test"), Leaf::client("unbound")] {
        assert!(is_permission_denied(
            &world.with_certificate(&leaf).await.put(key.clone(), "3", None).await
        ));
    }
    assert_eq!(world.direct().await.get(key, None).await.unwrap().kvs()[0].value(), b"2");
}

/// An etcdctl watch (clientv3) while its identity switches from shadow to enforce.
#[tokio::test]
async fn a_watch_switched_to_enforce_is_resumed_and_judged() {
    let world = World::start(&policy("shadow", ALICE)).await;
    let issued = authorities().clients.client("alice").unwrap();
    let etcdctl =
        || Etcdctl::new(world.etcd(), &world.endpoint(), &authorities().clients.pem(), &issued);
    let (own, foreign) = (format!("/a{}", world.prefix), format!("/b{}", world.prefix));
    let (keeps, loses) = (etcdctl(), etcdctl());
    let (watch_own, watch_foreign) = (["watch", own.as_str()], ["watch", foreign.as_str()]);
    let kept = keeps.talk(&watch_own, &[Turn::Lines(6)]);
    let lost = loses.run(&watch_foreign, "");
    let switch = async {
        let mut direct = world.direct().await;
        let judged = |mode: &'static str, decision: &'static str| {
            world.audited(move |line| {
                line["method"] == Method::Watch.path()
                    && line["mode"] == mode
                    && line["decision"] == decision
            })
        };
        judged("shadow", "allow").await;
        judged("shadow", "would_deny").await;
        direct.put(own.clone(), "before", None).await.unwrap();
        world.replace_policy(&policy("enforce", ALICE));
        judged("enforce", "allow").await;
        judged("enforce", "deny").await;
        direct.put(own.clone(), "after", None).await.unwrap();
    };
    let (kept, lost, ()) = tokio::join!(kept, lost, switch);
    // The resumed watch continues: no event is lost or duplicated.
    assert_eq!(kept, ["PUT", &own, "before", "PUT", &own, "after"]);
    assert!(lost.failed().contains("permission denied"));
}

#[tokio::test]
async fn a_shadow_stream_ends_with_unavailable_when_enforced() {
    let world = World::start(&policy("shadow", ALICE)).await;
    let mut raw = world.raw("alice").await;
    let message = requests::watch_of("/b/", "/b0");
    let mut stream = raw.open(Method::Watch.path(), &grpc_headers()).await.unwrap();
    stream.request.send_data(framed(&message).into(), false).unwrap();
    world.audited(|line| line["method"] == Method::Watch.path()).await;
    world.replace_policy(&policy("enforce", ALICE));
    let answer = Answer::read(stream.response).await;
    assert_eq!(answer.grpc_status(), Some(14), "{answer:?}");
    assert!(
        world.metric("etcd_warden_streams_terminated_total", &["reason=\"mode\""]).await >= 1.0
    );
}

/// An etcd whose own auth is on, and the configuration of a proxy that will be started in front of
/// it.
async fn with_auth_on(upstream: &'static str, allowed: bool) -> (Etcd, anyhow::Result<World>) {
    let etcd = start_etcd(Options::default()).await;
    switch_auth_on(&etcd).await;
    let world = in_front_of(&etcd, move |config| {
        config.allow_shadow_with_etcd_auth = allowed;
        let folder = config.policy.parent().unwrap();
        let files =
            authorities().upstream.client(upstream).unwrap().write(folder, "upstream").unwrap();
        config.upstream.identity = Some((files.cert, files.key));
    });
    let world = world.await;
    (etcd, world)
}

async fn in_front_of(
    etcd: &Etcd,
    configure: impl FnOnce(&mut Config) + Send + 'static,
) -> anyhow::Result<World> {
    let address = etcd.addresses()[0];
    let builder = World::with(&policy("shadow", ALICE)).config(move |config| {
        config.upstream.endpoints = vec![Endpoint {
            tls: true,
            host: address.ip().to_string().into(),
            port: address.port(),
        }];
        configure(config);
    });
    builder.try_start().await
}

async fn switch_auth_on(etcd: &Etcd) {
    let mut root = connect(&etcd.endpoints(), &authorities().upstream, root()).await;
    root.user_add("root", "pw", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();
}

#[tokio::test]
async fn shadow_mode_does_not_start_when_etcd_auth_is_on() {
    // To a certificate that names no user, etcd does not report whether auth is on. That refusal is
    // sufficient.
    for upstream in ["root", "no-user"] {
        let (_etcd, refused) = with_auth_on(upstream, false).await;
        let error = format!("{:#}", refused.err().expect("the proxy must not start"));
        assert!(
            error.starts_with("etcd's own auth is on, and the policy has shadow mode"),
            "{error}"
        );
        assert!(error.contains("allow-shadow-with-etcd-auth"), "{error}");
    }
    let (_etcd, allowed) = with_auth_on("root", true).await;
    allowed.unwrap().as_("unbound").await.put("x", "1", None).await.unwrap();
}

#[tokio::test]
async fn shadow_mode_is_suspended_when_auth_is_switched_on_later() {
    let world = World::with(&policy("shadow", ALICE)).own_etcd().start().await;
    let mut unbound = world.as_("unbound").await;
    unbound.put("x", "1", None).await.unwrap();
    switch_auth_on(world.etcd()).await;
    let refused = || async {
        is_permission_denied(&world.as_("unbound").await.put("x", "2", None).await).then_some(())
    };
    soon("the end of shadow mode", refused).await;
    let (_, page) = world.admin("/policy").await;
    assert!(page.contains("auth is on") && page.contains("enforce"), "{page}");
    // A reload does not bring it back.
    world.replace_policy(&policy("shadow", ALICE));
    assert!(is_permission_denied(&unbound.put("x", "3", None).await));
    // The policy is still in effect.
    world.as_("alice").await.put("/a/x", "1", None).await.unwrap();
    world.direct().await.auth_disable().await.unwrap();
    soon("shadow mode again", || async {
        world.as_("unbound").await.put("x", "4", None).await.ok()
    })
    .await;
}

/// The proxy does not ask etcd while no binding is in shadow mode, so the result of the start may
/// be outdated.
#[tokio::test]
async fn a_reload_to_shadow_mode_waits_until_etcd_auth_is_off() {
    let world = World::with(&policy("enforce", ALICE)).own_etcd().start().await;
    let mut unbound = world.as_("unbound").await;
    switch_auth_on(world.etcd()).await;
    world.replace_policy(&policy("shadow", ALICE));
    assert_eq!(
        world.running().shared().policy.current().mode(),
        Mode::Enforce,
        "the next policy is enforced at once"
    );
    assert!(is_permission_denied(&unbound.put("x", "1", None).await));
    soon("the reason", || async {
        world.admin("/policy").await.1.contains("auth is on").then_some(())
    })
    .await;
    world.direct().await.auth_disable().await.unwrap();
    soon("shadow mode", || async { world.as_("unbound").await.put("x", "2", None).await.ok() })
        .await;
}

#[tokio::test]
async fn shadow_mode_waits_until_etcd_reports_its_auth_status() {
    let etcd = start_etcd(Options::default()).await;
    etcd.pause(0).unwrap();
    let world = in_front_of(&etcd, |_| ()).await.unwrap();
    assert!(world.admin("/policy").await.1.contains("enforce"));
    let mut raw = world.raw("unbound").await;
    let put = pb::PutRequest { key: b"x".into(), ..Default::default() }.encode_to_vec();
    // clientv3 retries even a write that is refused with this message.
    let waits = (Some(14), "there is no connection available");
    let answer = raw.call(Method::Put.path(), &put).await;
    assert_eq!((answer.grpc_status(), answer.grpc_message()), waits);
    etcd.resume(0).unwrap();
    let passes = async {
        loop {
            let answer = raw.call(Method::Put.path(), &put).await;
            if answer.grpc_status() == Some(0) {
                break;
            }
            assert_eq!(
                (answer.grpc_status(), answer.grpc_message()),
                waits,
                "no call is refused meanwhile"
            );
        }
    };
    tokio::time::timeout(SOON, passes).await.expect("shadow mode");
}

/// The permitted differences, by heading in `docs/shadow.md`, with requests that show them. The
/// first test shows that there are no others.
fn exceptions() -> [(&'static str, Vec<Case>); 7] {
    [
        ("Time", Vec::new()),
        ("What HTTP/2 does not carry", Vec::new()),
        // No request shows it, because etcd's own auth is off.
        ("Metadata that never passes", Vec::new()),
        // `it::identity_ends` shows it.
        ("Certificates", Vec::new()),
        ("The process' own limits", vec![requests::large_head()]),
        ("Members", vec![requests::members()]),
        ("The switch to enforce", Vec::new()),
    ]
}

#[tokio::test]
async fn the_page_lists_every_exception_and_each_is_one() {
    let page = include_str!("../../docs/shadow.md");
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(headings, exceptions().map(|(heading, _)| heading));
    let advertise =
        |config: &mut Config| config.advertise.default = Some("https://proxy.test:2379".to_owned());
    let twins = Twins::start(&policy("shadow", ALICE), advertise).await;
    for (heading, cases) in exceptions() {
        for case in cases {
            let differences =
                twins.differences(&Leaf::client("alice"), std::slice::from_ref(&case)).await;
            assert_eq!(differences.len(), 1, "{heading}: {} no longer differs", case.name);
        }
    }
}
