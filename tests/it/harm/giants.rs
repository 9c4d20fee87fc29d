//! Single objects of maximum size: streams, transactions, policies, certificates.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::request_op::Request;
use etcd_warden_proto::etcdserverpb::watch_request::RequestUnion;
use etcd_warden_testbed::pki::Leaf;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;

use super::POLICY;
use crate::live::Live;
use crate::world::raw::{Answer, Raw, tls};
use crate::world::{World, authorities, soon};

/// One watch on one key, the cheapest create for etcd.
fn create(key: String) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: key.into_bytes(), ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

#[tokio::test]
async fn one_stream_carries_many_watches_each_with_its_own_right() {
    let world = World::with(POLICY)
        .config(|config| config.audit.allowed = etcd_warden_gateway::config::AuditAllowed::None)
        .start()
        .await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let mut stream = Live::open(&mut raw, Method::Watch).await;
    let count = super::scale("ETCD_WARDEN_TEST_WATCHES", 20_000);
    // Every hundredth is not allowed.
    let allowed = |n: usize| n % 100 != 99;
    let mut asked = 0;
    for answered in 0..count {
        while asked < count.min(answered + 200) {
            let key = if allowed(asked) {
                world.key(&format!("w/{asked}"))
            } else {
                format!("/elsewhere/{asked}")
            };
            stream.send(&create(key));
            asked += 1;
        }
        let answer = stream.next::<pb::WatchResponse>().await.unwrap();
        assert_eq!(
            (answer.created, answer.canceled),
            (true, !allowed(answered)),
            "{answered}: {answer:?}"
        );
    }
    neighbour.was_served(&format!("{count} watches on one stream")).await;
    assert_eq!(world.metric("etcd_warden_watches", &[]).await, (count - count / 100) as f64);
    // The last of them works.
    let last = (0..count).rev().find(|n| allowed(*n)).unwrap();
    world.direct().await.put(world.key(&format!("w/{last}")), "1", None).await.unwrap();
    let event = stream.next::<pb::WatchResponse>().await.unwrap();
    assert_eq!(
        event.events[0].kv.as_ref().unwrap().key,
        world.key(&format!("w/{last}")).into_bytes()
    );
    // All of them lose their right at once, and each is cancelled.
    world.replace_policy(&POLICY.replace("{cn: alice, roles: [all]}", "{cn: other, roles: [all]}"));
    let mut told = std::collections::HashSet::new();
    while told.len() < count - count / 100 {
        let answer = stream.next::<pb::WatchResponse>().await.unwrap();
        assert!(answer.canceled, "{answer:?}");
        told.insert(answer.watch_id);
    }
    neighbour.was_served("their end").await;
    drop(stream);
}

fn put(key: String) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.into_bytes(), value: b"x".to_vec(), ..Default::default() };
    pb::RequestOp { request: Some(Request::RequestPut(put)) }
}

async fn txn(raw: &mut Raw, success: Vec<pb::RequestOp>) -> Answer {
    raw.call(Method::Txn.path(), &pb::TxnRequest { success, ..Default::default() }.encode_to_vec())
        .await
}

#[tokio::test]
async fn transactions_of_any_size_are_judged_whole() {
    let world = World::with(POLICY).etcd_flag("--max-txn-ops=10000").start().await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    for size in [128, 10_000] {
        let ops = |n: usize| {
            (0..n).map(|place| put(world.key(&format!("t/{place}")))).collect::<Vec<_>>()
        };
        let answer = txn(&mut raw, ops(size)).await;
        assert_eq!(answer.grpc_status(), Some(0), "{size}: {}", answer.grpc_message());
        // One of them is not allowed, even if it is the last.
        let mut with_one = ops(size - 1);
        with_one.push(put("/elsewhere".to_owned()));
        let answer = txn(&mut raw, with_one).await;
        assert_eq!(
            (answer.grpc_status(), answer.grpc_message()),
            (Some(7), "etcdserver: permission denied"),
            "{size}"
        );
        neighbour.was_served(&format!("transactions of {size} operations")).await;
    }
    // One operation more than the scan accepts: etcd is not asked.
    let more = (0..10_001).map(|place| put(world.key(&format!("t/{place}")))).collect();
    let answer = txn(&mut raw, more).await;
    assert_eq!(
        (answer.grpc_status(), answer.grpc_message()),
        (Some(3), "etcd-warden: TxnRequest at offset 0: too many operations")
    );
}

/// `depth` nested transactions; the innermost runs this operation.
fn nested(depth: usize, innermost: pb::RequestOp) -> pb::RequestOp {
    (1..depth).fold(innermost, |inner, _| {
        let txn = pb::TxnRequest { success: vec![inner], ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
    })
}

/// The bytes of a chain of empty transactions: no encoder nests that deep.
fn deep(depth: usize) -> Vec<u8> {
    let mut heads: Vec<Vec<u8>> = Vec::new();
    let mut inner = 0;
    for _ in 1..depth {
        // `RequestOp.request_txn` in `TxnRequest.success`, from the inside out.
        for tag in [0x22_u8, 0x12] {
            let mut head = vec![tag];
            prost::encoding::encode_varint(inner as u64, &mut head);
            inner += head.len();
            heads.push(head);
        }
    }
    heads.into_iter().rev().flatten().collect()
}

#[tokio::test]
async fn nesting_costs_what_is_inside_and_needs_its_right() {
    let world = World::start(POLICY).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    for depth in [1, 10, 100] {
        let answer = txn(&mut raw, vec![nested(depth, put(world.key("n")))]).await;
        assert_eq!(answer.grpc_status(), Some(0), "{depth}: {}", answer.grpc_message());
        let status =
            txn(&mut raw, vec![nested(depth, put("/elsewhere".to_owned()))]).await.grpc_status();
        assert_eq!(status, Some(7), "{depth}");
    }
    // At the maximum depth: etcd's own error. And deeper than any stack, as large as a message may
    // be.
    for (depth, expected) in [
        (447, "etcdserver: too many operations in txn request"),
        (448, "etcd-warden: TxnRequest at offset"),
        (200_000, "etcd-warden: TxnRequest at offset"),
    ] {
        let answer = raw.call(Method::Txn.path(), &deep(depth)).await;
        assert_eq!(answer.grpc_status(), Some(3), "{depth}");
        assert!(answer.grpc_message().starts_with(expected), "{depth}: {}", answer.grpc_message());
    }
    neighbour.was_served("nested transactions").await;
}

#[tokio::test]
async fn a_policy_of_a_hundred_thousand_rules_decides_as_one_of_three() {
    use std::fmt::Write as _;
    const ROLES: usize = 1000;
    const RULES: usize = 100;
    let mut policy = String::from(
        "version: 1\nmode: enforce\nroles:\n  all: {allow: [{keys: $P/*, verbs: [rw]}]}\n",
    );
    for role in 0..ROLES {
        writeln!(policy, "  role-{role}:\n    allow:").unwrap();
        for rule in 0..RULES {
            writeln!(policy, "      - {{keys: $P/{role}/{rule}/*, verbs: [rw]}}").unwrap();
        }
    }
    policy.push_str("bindings:\n  - {cn: neighbour, roles: [all]}\n  - {cn: one, roles: [role-7]}\n  - cn: every\n    roles: [");
    policy.push_str(&(0..ROLES).map(|role| format!("role-{role}")).collect::<Vec<_>>().join(", "));
    policy.push_str("]\n");
    let world = World::start(&policy).await;
    let neighbour = world.neighbour().await;
    let (mut one, mut every) = (world.raw("one").await, world.raw("every").await);
    let put = |key: &str| {
        pb::PutRequest { key: world.key(key).into(), ..Default::default() }.encode_to_vec()
    };
    for (key, ones, everys) in
        [("7/99/x", 0, 0), ("7/99", 7, 7), ("8/0/x", 7, 0), ("999/99/x", 7, 0), ("1000/0/x", 7, 7)]
    {
        assert_eq!(
            one.call(Method::Put.path(), &put(key)).await.grpc_status(),
            Some(ones),
            "{key}"
        );
        assert_eq!(
            every.call(Method::Put.path(), &put(key)).await.grpc_status(),
            Some(everys),
            "{key}"
        );
    }
    neighbour.was_served("a policy of 100,000 rules").await;
    world.replace_policy(
        &policy.replace("{cn: one, roles: [role-7]}", "{cn: one, roles: [role-8]}"),
    );
    assert_eq!(one.call(Method::Put.path(), &put("8/0/x")).await.grpc_status(), Some(0));
    neighbour.was_served("its reload").await;
}

#[tokio::test]
async fn reads_certificates_with_the_most_names_that_tls_accepts() {
    let world = World::start(POLICY).await;
    let neighbour = world.neighbour().await;
    let range =
        pb::RangeRequest { key: world.key("a").into(), ..Default::default() }.encode_to_vec();
    let with = |names: usize| {
        let leaf = (0..names)
            .fold(Leaf::client("alice"), |leaf, n| leaf.dns(&format!("name-{n:05}.example.com")));
        authorities().clients.issue(&leaf).unwrap()
    };
    // rustls accepts handshake messages of 64 KiB. A chain is one message, and it may hold anything
    // beyond the leaf.
    let mut most = Raw::over(
        tls(world.address(), Some(&with(2200)), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap(),
    )
    .await;
    assert_eq!(most.call(Method::Range.path(), &range).await.grpc_status(), Some(0));
    let line = world.audited(|line| line["identity"]["cn"] == "alice").await;
    let shown = line["identity"]["dns_sans"].as_array().unwrap().len();
    assert_eq!(line["omitted"]["dns_sans"].as_u64().unwrap() as usize + shown, 2200);
    assert!(line.to_string().len() < 64 * 1024);
    let mut twice = with(2200);
    twice.certificate = twice.certificate.repeat(2);
    let more = tls(world.address(), Some(&twice), &[b"h2"], rustls::ALL_VERSIONS).await;
    if let Ok(mut stream) = more {
        // With TLS 1.3 a client is connected before it learns that it was refused. An accepted
        // client is sent SETTINGS.
        assert!(
            !matches!(stream.read(&mut [0; 1]).await, Ok(1)),
            "a chain of 128 KiB was accepted"
        );
    }
    soon("a failed handshake", || async {
        (world.metric("etcd_warden_handshake_failures_total", &[]).await >= 1.0).then_some(())
    })
    .await;
    neighbour.was_served("certificates of 64 KiB").await;
}

/// Unknown extensions are ignored unless they are critical (RFC 5280, 4.2).
#[tokio::test]
async fn many_extensions_are_read_and_an_unknown_critical_one_refused() {
    let world = World::start(POLICY).await;
    let neighbour = world.neighbour().await;
    let range =
        pb::RangeRequest { key: world.key("a").into(), ..Default::default() }.encode_to_vec();
    let many =
        (0..1_500).fold(Leaf::client("alice"), |leaf, n| leaf.extension(n, vec![4, 1, 7], false));
    let large = Leaf::client("alice").extension(1, vec![0xff; 60_000], false);
    let twice =
        Leaf::client("alice").extension(1, vec![5, 0], false).extension(1, vec![5, 0], false);
    for leaf in [many, large, twice] {
        let issued = authorities().clients.issue(&leaf).unwrap();
        let mut raw = Raw::over(
            tls(world.address(), Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap(),
        )
        .await;
        assert_eq!(raw.call(Method::Range.path(), &range).await.grpc_status(), Some(0));
    }
    let before = world.metric("etcd_warden_handshake_failures_total", &[]).await;
    let critical =
        authorities().clients.issue(&Leaf::client("alice").extension(1, vec![5, 0], true)).unwrap();
    if let Ok(mut stream) =
        tls(world.address(), Some(&critical), &[b"h2"], rustls::ALL_VERSIONS).await
    {
        assert!(
            !matches!(stream.read(&mut [0; 1]).await, Ok(1)),
            "an unknown critical extension was ignored"
        );
    }
    assert!(world.metric("etcd_warden_handshake_failures_total", &[]).await >= before + 1.0);
    neighbour.was_served("certificates full of extensions").await;
}
