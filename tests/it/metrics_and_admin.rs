//! Metrics, probes and admin pages: all of the documented ones, with correct values.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use etcd_warden_core::method::Method;
use etcd_warden_gateway::metrics::contract::{CONTRACT, Kind};
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::v3electionpb;
use prost::Message as _;
use serde_json::{Value, json};

use crate::live::Live;
use crate::reload::create;
use crate::world::{World, is_permission_denied, soon};

const POLICY: &str = "version: 1\nmode: enforce\nroles:\n  own: {allow: [{keys: $P/a/*, verbs: [rw]}], capabilities: [lease]}\n  \
    unused: {capabilities: [status]}\n\
    bindings:\n  - {cn: alice, roles: [own]}\n  - {cn: shade, roles: [unused], mode: shadow}\n";

#[tokio::test]
async fn every_metric_exists_and_counts_what_was_sent() {
    let world = World::start(POLICY).await;
    let mut alice = world.as_("alice").await;
    for n in 0..5 {
        alice.put(world.key("a/k"), n.to_string(), None).await.unwrap();
    }
    for _ in 0..3 {
        assert!(is_permission_denied(&alice.put(world.key("b"), "1", None).await));
    }
    let guarded = Txn::new()
        .when([Compare::version(world.key("a/k"), CompareOp::Greater, 0)])
        .and_then([TxnOp::get(world.key("a/k"), None)]);
    alice.txn(guarded).await.unwrap();
    let mut shade = world.as_("shade").await;
    for _ in 0..2 {
        shade.get(world.key("b"), None).await.unwrap();
    }
    let mut raw = world.raw("alice").await;
    assert_eq!(raw.call("/etcdserverpb.KV/Rangee", b"").await.grpc_status(), Some(12));
    let mut stream = Live::open(&mut raw, Method::Watch).await;
    for (prefix, granted) in [("a/", true), ("b/", false), ("a/deep/", true)] {
        stream.send(&create(&world.key(prefix), 0));
        assert_eq!(stream.next::<pb::WatchResponse>().await.unwrap().canceled, !granted);
    }

    let metrics = world.admin("/metrics").await.1;
    for metric in CONTRACT {
        for line in [
            format!("# TYPE {} {}", metric.name, metric.kind.name()),
            format!("# HELP {} {}", metric.name, metric.help),
        ] {
            assert!(metrics.lines().any(|shown| shown == line), "{line}");
        }
        let name = if metric.kind == Kind::Histogram {
            format!("{}_count", metric.name)
        } else {
            metric.name.to_owned()
        };
        let sample = metrics
            .lines()
            .find(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let sample = sample.unwrap_or_else(|| panic!("{name} has no sample"));
        for label in metric.labels {
            assert!(
                sample.contains(&format!("{}=\"", label.name)),
                "{sample} has no {}",
                label.name
            );
        }
    }
    // The audit line and the counters of a call follow shortly after its response.
    let requests = "etcd_warden_requests_total";
    for (method, decision, role, count) in [
        ("KV/Put", "allow", "own", 5.0),
        ("KV/Put", "deny", "none", 3.0),
        ("KV/Txn", "allow", "own", 1.0),
        ("KV/Range", "would_deny", "none", 2.0),
        ("unknown", "deny", "none", 1.0),
        ("Watch/Watch", "allow", "own", 2.0),
        ("Watch/Watch", "deny", "none", 1.0),
    ] {
        let labels = [
            format!("method=\"{method}\""),
            format!("decision=\"{decision}\""),
            format!("role=\"{role}\""),
        ];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        soon(method, || async { (world.metric(requests, &labels).await == count).then_some(()) })
            .await;
    }
    assert_eq!(world.metric(requests, &[]).await, 15.0);
    assert_eq!(world.metric(requests, &["mode=\"shadow\""]).await, 2.0);
    assert_eq!(
        world.metric("etcd_warden_request_duration_seconds_count", &["method=\"KV/Put\""]).await,
        8.0
    );
    assert_eq!(world.metric("etcd_warden_decision_duration_seconds_count", &[]).await, 15.0);
    assert_eq!(world.metric("etcd_warden_policy_roles", &[]).await, 2.0);
    assert_eq!(world.metric("etcd_warden_policy_bindings", &[]).await, 2.0);
    assert_eq!(world.metric("etcd_warden_upstream_healthy", &[]).await, 1.0);
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(
        world
            .metric("etcd_warden_certificate_expiry_timestamp_seconds", &["certificate=\"server\""])
            .await
            > now
    );
    soon("the audit", || async {
        (world.metric("etcd_warden_audit_lines_written_total", &[]).await == 15.0).then_some(())
    })
    .await;
    let (_, text) = world.admin("/metrics").await;
    assert!(
        !text.contains("alice") && !text.contains(&world.prefix),
        "a label contains an identity or a key"
    );
}

#[tokio::test]
async fn what_is_open_is_counted_and_gone_when_it_is_closed() {
    let world = World::start(POLICY).await;
    let gauges = async || {
        let mut values = Vec::new();
        for name in ["connections", "requests_in_flight", "watches"] {
            values.push(world.metric(&format!("etcd_warden_{name}"), &[]).await);
        }
        let (status, streams) = world.admin("/debug/streams").await;
        assert_eq!(status, 200);
        (values, serde_json::from_str::<Vec<Value>>(&streams).unwrap())
    };
    let mut raw = world.raw("alice").await;
    let mut watch = Live::open(&mut raw, Method::Watch).await;
    for prefix in ["a/", "a/deep/", "b/"] {
        watch.send(&create(&world.key(prefix), 0));
        watch.next_bytes().await.unwrap();
    }
    let mut keep_alive = Live::open(&mut raw, Method::LeaseKeepAlive).await;
    keep_alive.send(&pb::LeaseKeepAliveRequest { id: 1 });
    keep_alive.next_bytes().await.unwrap();
    let no_leader =
        v3electionpb::LeaderRequest { name: world.key("a/no-leader").into() }.encode_to_vec();
    let observe = Live::ask(&mut raw, Method::Observe, &no_leader).await;
    soon("three streams", || async {
        (world.metric("etcd_warden_requests_in_flight", &[]).await == 3.0).then_some(())
    })
    .await;
    let (values, streams) = gauges().await;
    assert_eq!(values, [1.0, 3.0, 2.0]);
    let shown: Vec<_> = streams
        .iter()
        .map(|stream| (&stream["method"], &stream["watches"], &stream["identity"]))
        .collect();
    let identity = json!("default/cn:alice");
    let paths =
        [Method::Watch, Method::LeaseKeepAlive, Method::Observe].map(|method| json!(method.path()));
    assert_eq!(
        shown,
        [
            (&paths[0], &json!(2), &identity),
            (&paths[1], &json!(0), &identity),
            (&paths[2], &json!(0), &identity)
        ]
    );

    // One by a reset, the others with their connection.
    drop(observe);
    soon("a reset", || async {
        (world.metric("etcd_warden_http2_resets_total", &[]).await == 1.0).then_some(())
    })
    .await;
    raw.connection.abort();
    drop((watch, keep_alive, raw.connection));
    soon("the end", || async { (gauges().await.0 == [0.0; 3]).then_some(()) }).await;
    assert!(gauges().await.1.is_empty());
    assert_eq!(
        world.metric("etcd_warden_http2_resets_total", &[]).await,
        1.0,
        "the end of a connection is no reset"
    );
}

#[tokio::test]
async fn a_proxy_without_etcd_lives_and_is_not_ready() {
    let mut world = World::with(POLICY)
        .own_etcd()
        .config(|config| config.upstream.health_interval = Duration::from_millis(100))
        .start()
        .await;
    let (status, page) = world.admin("/readyz").await;
    assert_eq!(
        (status, page.as_str()),
        (
            200,
            "[+]upstream ok\n[+]policy ok\n[+]certificate ok\n[+]serving ok\nreadyz check passed\n"
        )
    );
    world.etcd_mut().kill(0);
    soon("not ready", || async {
        let (status, page) = world.admin("/readyz").await;
        (status == 503 && page.contains("[-]upstream failed: no etcd member is reachable"))
            .then_some(())
    })
    .await;
    assert_eq!(world.metric("etcd_warden_upstream_healthy", &[]).await, 0.0);
    assert_eq!(world.admin("/livez").await, (200, "ok\n".to_owned()));
    world.etcd_mut().restart(0).await.unwrap();
    soon("ready again", || async { (world.admin("/readyz").await.0 == 200).then_some(()) }).await;
}

#[tokio::test]
async fn the_policy_page_shows_the_current_policy_and_the_last_error() {
    let world = World::start(POLICY).await;
    let page = async || serde_json::from_str::<Value>(&world.admin("/policy").await.1).unwrap();
    let first = page().await;
    assert_eq!(
        (&first["generation"], &first["mode"], &first["bindings"]),
        (&json!(1), &json!("enforce"), &json!(2))
    );
    assert_eq!((&first["roles"], &first["last_error"]), (&json!(["own", "unused"]), &Value::Null));
    assert_eq!(first["hash"].as_str().unwrap().len(), 64);
    world.write_policy(&POLICY.replace("verbs: [rw]", "verbs: [fly]"));
    assert!(world.try_reload().is_err());
    let failed = page().await;
    let why = failed["last_error"].as_str().unwrap();
    assert!(why.contains("policy.yaml:4:") && why.contains("fly"), "{why}");
    assert_eq!((&failed["generation"], &failed["hash"]), (&first["generation"], &first["hash"]));
    assert_eq!(
        world.metric("etcd_warden_reloads_total", &["what=\"policy\"", "result=\"failed\""]).await,
        1.0
    );
    world.replace_policy(&POLICY.replace("$P/a/*", "$P/*"));
    let second = page().await;
    assert_eq!((&second["generation"], &second["last_error"]), (&json!(2), &Value::Null));
    assert_ne!(second["hash"], first["hash"]);
    assert_eq!(world.metric("etcd_warden_policy_generation", &[]).await, 2.0);
}

#[tokio::test]
async fn identities_are_shown_only_when_asked_for() {
    let world = World::with(POLICY).config(|config| config.admin_debug = false).start().await;
    let (status, page) = world.admin("/debug/streams").await;
    assert!(status == 404 && page.contains("names identities"), "{page}");
}

#[tokio::test]
async fn a_call_is_audited_when_its_client_leaves_before_the_end() {
    let world = World::with(POLICY).own_etcd().start().await;
    let mut raw = world.raw("shade").await;
    let get = |name: &str| {
        pb::RangeRequest { key: world.key(name).into(), ..Default::default() }.encode_to_vec()
    };
    assert_eq!(raw.call(Method::Range.path(), &get("first")).await.grpc_status(), Some(0));
    world.etcd().pause(0).unwrap();
    let call = Live::ask(&mut raw, Method::Range, &get("second")).await;
    soon("an open call", || async {
        (world.metric("etcd_warden_requests_in_flight", &[]).await == 1.0).then_some(())
    })
    .await;
    raw.connection.abort();
    drop((call, raw.connection));
    let key = json!(world.key("second"));
    let line = world.audited(|line| line["accesses"][0]["key"] == key).await;
    assert_eq!(
        (&line["decision"], line.get("grpc_status")),
        (&json!("would_deny"), None),
        "{line}"
    );
    world.etcd().resume(0).unwrap();
    soon("the end of the call", || async {
        (world.metric("etcd_warden_requests_in_flight", &[]).await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_is_counted_once() {
    let world = World::start(POLICY).await;
    let mut raw = world.raw("alice").await;
    for _ in 0..20_000 {
        let Ok(stream) = raw.open(Method::Watch.path(), &crate::world::raw::grpc_headers()).await
        else {
            break;
        };
        drop(stream);
        tokio::task::yield_now().await;
    }
    assert!(
        tokio::time::timeout(crate::world::SOON, raw.connection)
            .await
            .expect("the connection ends")
            .unwrap()
            .is_err()
    );
    let counted = || async {
        (world.metric("etcd_warden_limits_hit_total", &["limit=\"resets\""]).await >= 1.0)
            .then_some(())
    };
    soon("the flood in the metrics", counted).await;
    soon("the end of its calls", || async {
        (world.metric("etcd_warden_connections", &[]).await == 0.0).then_some(())
    })
    .await;
    assert_eq!(world.metric("etcd_warden_limits_hit_total", &["limit=\"resets\""]).await, 1.0);
}
