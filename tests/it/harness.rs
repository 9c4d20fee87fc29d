//! Tests of the harness.

use etcd_client::GetOptions;
use etcd_warden_core::authorize::Reason;
use etcd_warden_testbed::pki::Leaf;
use http::HeaderMap;

use crate::world::raw::wire::FirstBlock;
use crate::world::raw::{Answer, Raw, framed, grpc_headers};
use crate::world::{World, is_permission_denied, soon};

const ALICE: &str = "
version: 1
mode: enforce
roles:
  own:
    allow:
      - keys: $P/own/*
        verbs: [rw]
bindings:
  - cn: alice
    roles: [own]
";

#[tokio::test]
async fn a_world_has_an_etcd_a_proxy_and_clients() {
    let world = World::start(ALICE).await;
    let (mut alice, mut direct) = (world.as_("alice").await, world.direct().await);
    alice.put(world.key("own/a"), "1", None).await.unwrap();
    assert_eq!(direct.get(world.key("own/a"), None).await.unwrap().kvs()[0].value(), b"1");
    assert!(is_permission_denied(&alice.put(world.key("other"), "1", None).await));
    assert!(is_permission_denied(&world.as_("bob").await.get(world.key("own/a"), None).await));
    assert_eq!(
        direct.get(world.key(""), Some(GetOptions::new().with_prefix())).await.unwrap().count(),
        1
    );
}

#[tokio::test]
async fn two_worlds_do_not_see_each_other() {
    let (one, two) = (World::start(ALICE).await, World::start(ALICE).await);
    assert_ne!(one.prefix, two.prefix);
    one.as_("alice").await.put(one.key("own/a"), "1", None).await.unwrap();
    assert!(is_permission_denied(&two.as_("alice").await.get(one.key("own/a"), None).await));
}

#[tokio::test]
async fn a_world_shows_audit_lines_metrics_and_admin_pages() {
    let world = World::start(ALICE).await;
    let refused = world.as_("alice").await.get("/elsewhere", None).await;
    assert!(is_permission_denied(&refused));
    let line = world.audited(|line| line["decision"] == "deny").await;
    assert_eq!(
        (&line["identity"]["cn"], &line["missing"]["key"]),
        (&"alice".into(), &"/elsewhere".into())
    );
    assert_eq!(line["reason"], Reason::KeyNotGranted.code());
    assert!(world.metric("etcd_warden_requests_total", &["decision=\"deny\""]).await >= 1.0);
    assert_eq!(world.metric("etcd_warden_requests_total", &["decision=\"would_deny\""]).await, 0.0);
    assert_eq!(world.admin("/livez").await.0, 200);
    assert_eq!(world.admin("/nothing").await.0, 404);
}

#[tokio::test]
async fn a_replaced_policy_is_in_effect_at_once() {
    let world = World::start(ALICE).await;
    let mut alice = world.as_("alice").await;
    alice.put(world.key("own/a"), "1", None).await.unwrap();
    let before = world.generation().await;
    world.replace_policy(&ALICE.replace("[rw]", "[read]"));
    assert_eq!(world.generation().await, before + 1);
    assert!(is_permission_denied(&alice.put(world.key("own/a"), "2", None).await));
    alice.get(world.key("own/a"), None).await.unwrap();
}

#[tokio::test]
async fn etcdctl_runs_through_the_proxy_and_directly() {
    let world = World::start(ALICE).await;
    let (own, other) = (world.key("own/a"), world.key("other"));
    assert_eq!(world.etcdctl("alice", &["put", &own, "1"]).await.ok(), "OK\n");
    assert_eq!(world.etcdctl_with_input("alice", &["put", &own], "2").await.ok(), "OK\n");
    assert_eq!(world.etcdctl_direct(&["get", &own, "--print-value-only"], "").await.ok(), "2\n");
    let said = world.etcdctl("alice", &["get", &other]).await.failed();
    assert!(said.contains("etcdserver: permission denied"), "{said}");
}

#[tokio::test]
async fn a_private_etcd_can_be_killed_and_has_n_members() {
    let mut world = World::with(ALICE).members(3).start().await;
    assert_eq!(world.etcd().endpoints().len(), 3);
    assert_eq!(world.config.upstream.endpoints.len(), 3);
    world.etcd_mut().kill(1);
    // If that member was the leader, writes fail until a new one is elected.
    let alice = world.as_("alice").await;
    soon("a cluster of two that takes a write", || {
        let (mut alice, key) = (alice.clone(), world.key("own/a"));
        async move { alice.put(key, "1", None).await.ok() }
    })
    .await;
}

#[tokio::test]
async fn options_change_the_configuration_before_the_start() {
    let world = World::with(ALICE).config(|config| config.reason_trailer = true).start().await;
    assert!(world.config.reason_trailer);
    let error = World::with(ALICE)
        .config(|config| config.policy = "/nowhere".into())
        .try_start()
        .await
        .err()
        .unwrap();
    assert!(format!("{error:#}").contains("/nowhere"), "{error:#}");
}

/// `RangeRequest { key }`
fn range_request(key: &str) -> Vec<u8> {
    [&[0x0a, u8::try_from(key.len()).unwrap()], key.as_bytes()].concat()
}

#[tokio::test]
async fn raw_requests_reach_the_proxy_as_they_were_written() {
    let world = World::start(ALICE).await;
    let mut raw = world.raw("alice").await;
    let message = range_request(&world.key("own/a"));
    let answer = raw.call("/etcdserverpb.KV/Range", &message).await;
    assert_eq!(
        (answer.status, answer.grpc_status(), answer.messages().len()),
        (200, Some(0), 1),
        "{answer:?}"
    );
    let answer = raw.call("/etcdserverpb.KV/Range", &range_request("/elsewhere")).await;
    assert_eq!(
        (answer.grpc_status(), answer.grpc_message()),
        (Some(7), "etcdserver: permission denied"),
        "{answer:?}"
    );

    let path = |path: &'static [u8]| -> [(&'static [u8], &'static [u8]); 6] {
        [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", b"127.0.0.1"),
            (b":path", path),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ]
    };
    let answer = world
        .request_as_written("alice", &path(b"/etcdserverpb.KV/Range"), &framed(&message))
        .await;
    assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    let answer = world
        .request_as_written("alice", &path(b"/etcdserverpb.KV//Range"), &framed(&message))
        .await;
    assert!(answer.grpc_status().is_some_and(|status| status != 0), "{answer:?}");
    world.audited(|line| line["path"] == "/etcdserverpb.KV//Range").await;
}

#[tokio::test]
async fn a_certificate_can_be_anything() {
    let world = World::start(ALICE).await;
    let mut client = world.with_certificate(&Leaf::client("alice").second_common_name("bob")).await;
    assert!(is_permission_denied(&client.get(world.key("own/a"), None).await));
    let line = world.audited(|line| line["decision"] == "deny").await;
    assert_eq!(line["identity"]["cn_refusal"], "cn_several");
}

#[tokio::test]
async fn a_world_can_be_shut_down() {
    let mut world = World::start(ALICE).await;
    let address = world.address();
    world.shut_down().await;
    assert!(std::net::TcpStream::connect(address).is_err());
}

/// A server for one request that echoes its headers and body.
async fn echo(stream: tokio::io::DuplexStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let mut seen = request.headers().clone();
            seen.insert("path", request.uri().path().parse().unwrap());
            let mut response = http::Response::new(());
            *response.headers_mut() = seen;
            let mut body = request.into_body();
            let mut send = respond.send_response(response, false).unwrap();
            while let Some(data) = body.data().await {
                send.send_data(data.unwrap(), false).unwrap();
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "7".parse().unwrap());
            trailers.insert("grpc-message", "no".parse().unwrap());
            send.send_trailers(trailers).unwrap();
        });
    }
}

#[tokio::test]
async fn a_well_made_call_is_sent_and_its_answer_read() {
    let (near, far) = tokio::io::duplex(65_536);
    tokio::spawn(echo(far));
    let answer = Raw::over(near).await.call("/a/B", b"message").await;
    assert_eq!((answer.status, answer.grpc_status(), answer.grpc_message()), (200, Some(7), "no"));
    assert_eq!(answer.headers["path"], "/a/B");
    assert_eq!(answer.headers["te"], "trailers");
    assert_eq!(answer.messages(), [b"message"]);
    assert!(answer.error.is_none());
}

#[tokio::test]
async fn the_first_header_block_is_sent_as_it_was_written() {
    let (near, far) = tokio::io::duplex(65_536);
    tokio::spawn(echo(far));
    let long = vec![b'x'; 700];
    let head: &[(&[u8], &[u8])] = &[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", b"/%2e//odd"),
        (b"long", &long),
        (b"twice", b"1"),
        (b"twice", b"2"),
    ];
    let mut raw = Raw::over(FirstBlock::replaced(near, head)).await;
    let stream = raw.open("/replaced", &grpc_headers()).await.unwrap();
    let mut request = stream.request;
    request.send_data(framed(b"x").into(), true).unwrap();
    let answer = Answer::read(stream.response).await;
    assert_eq!(answer.headers["path"], "/%2e//odd");
    assert_eq!(answer.headers["long"].as_bytes(), long);
    assert_eq!(answer.headers.get_all("twice").iter().count(), 2);
    assert!(!answer.headers.contains_key("te"));
}
