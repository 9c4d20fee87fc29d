//! A new policy takes effect at once for open calls: a client that lost a right loses the streams
//! that needed it, and no other client notices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::watch_request::RequestUnion;
use etcd_warden_proto::{v3electionpb, v3lockpb};
use etcd_warden_testbed::pki::{Leaf, Validity};
use prost::Message as _;

use crate::live::Live;
use crate::world::raw::Raw;
use crate::world::{World, programs, soon};

const DENIED: &str = "etcdserver: permission denied";

/// A policy in which `alice` has these roles and `bob` has `b`.
fn policy(roles: &str) -> String {
    format!(
        "version: 1\nmode: enforce\nroles:\n  \
         a: {{allow: [{{keys: $P/a/*, verbs: [rw]}}]}}\n  \
         b: {{allow: [{{keys: $P/b/*, verbs: [rw]}}]}}\n  \
         lease: {{capabilities: [lease]}}\n  \
         snapshot: {{capabilities: [snapshot]}}\n\
         bindings:\n  - {{cn: alice, roles: [{roles}]}}\n  - {{cn: bob, roles: [b, lease]}}\n"
    )
}

/// A create request for all keys under `prefix`.
pub fn create(prefix: &str, watch_id: i64) -> pb::WatchRequest {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    let create = pb::WatchCreateRequest {
        key: prefix.into(),
        range_end: end,
        watch_id,
        ..Default::default()
    };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

async fn next(stream: &mut Live) -> pb::WatchResponse {
    stream.next().await.unwrap()
}

/// clientv3 never reopens a Watch stream that ended with PERMISSION_DENIED, so a client without a
/// binding must not get that code.
#[tokio::test]
async fn an_unbound_client_keeps_its_watch_stream_until_bound() {
    let world = World::start(&policy("a")).await;
    let mut raw = world.raw("carol").await;
    let mut stream = Live::open(&mut raw, Method::Watch).await;
    for _ in 0..2 {
        stream.send(&create(&world.key("a/"), 0));
        let refused = next(&mut stream).await;
        assert!(refused.created && refused.canceled && refused.watch_id == -1, "{refused:?}");
        assert_eq!(
            refused.cancel_reason,
            format!("rpc error: code = PermissionDenied desc = {DENIED}")
        );
    }
    world.audited(|line| line["reason"] == "no_binding" && line["identity"]["cn"] == "carol").await;

    world.replace_policy(&policy("a").replace("cn: bob", "cn: carol"));
    stream.send(&create(&world.key("b/"), 0));
    let (code, _) = stream.next::<pb::WatchResponse>().await.unwrap_err();
    assert_eq!(code, 14, "clientv3 does not resume after this status");
    let mut again = Live::open(&mut raw, Method::Watch).await;
    again.send(&create(&world.key("b/"), 0));
    assert!(!next(&mut again).await.canceled);
}

#[tokio::test]
async fn a_watch_without_its_right_ends_and_others_miss_nothing() {
    let world = Arc::new(World::start(&policy("a, b")).await);
    let mut stream = Live::open(&mut world.raw("alice").await, Method::Watch).await;
    let mut other = Live::open(&mut world.raw("bob").await, Method::Watch).await;
    for (id, name) in [(1, "a/"), (2, "b/"), (3, "a/deep/"), (4, "b/deep/")] {
        stream.send(&create(&world.key(name), id));
        assert!(next(&mut stream).await.created);
    }
    other.send(&create(&world.key("b/"), 9));
    assert!(next(&mut other).await.created);

    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (world, stop, written) = (world.clone(), stop.clone(), written.clone());
        async move {
            let mut direct = world.direct().await;
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                for name in ["a/k", "b/k", "a/deep/k", "b/deep/k"] {
                    direct.put(world.key(name), n.to_string(), None).await.unwrap();
                }
                n += 1;
                written.store(n, Ordering::Relaxed);
            }
            n
        }
    });
    let at_least = |n| {
        let written = written.clone();
        soon("writes", move || {
            let enough = written.load(Ordering::Relaxed) >= n;
            async move { enough.then_some(()) }
        })
    };
    at_least(20).await;
    world.replace_policy(&policy("b"));
    at_least(written.load(Ordering::Relaxed) + 20).await;
    stop.store(true, Ordering::Relaxed);
    let count = writer.await.unwrap();

    // Every watch sees `0..count` in order. The watches of `a/` see a first part of it and nothing
    // after that.
    let mut values: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    let mut ended = Vec::new();
    let mut revision = BTreeMap::new();
    while values.get(&4).and_then(|values| values.last()) != Some(&(count - 1))
        || values.get(&2).map(Vec::len) != Some(2 * count as usize)
    {
        let response = next(&mut stream).await;
        assert!(!ended.contains(&response.watch_id), "{response:?}");
        if response.canceled {
            assert_eq!(
                response.cancel_reason,
                format!("rpc error: code = PermissionDenied desc = {DENIED}")
            );
            assert!(
                response
                    .header
                    .as_ref()
                    .is_some_and(|header| header.cluster_id != 0 && header.revision > 0),
                "{response:?}"
            );
            assert!(response.events.is_empty() && !response.created);
            ended.push(response.watch_id);
        }
        for event in response.events {
            let kv = event.kv.unwrap();
            let last = revision.insert(response.watch_id, kv.mod_revision).unwrap_or_default();
            assert!(
                last < kv.mod_revision,
                "watch {}: {last} before {}",
                response.watch_id,
                kv.mod_revision
            );
            values
                .entry(response.watch_id)
                .or_default()
                .push(String::from_utf8(kv.value).unwrap().parse().unwrap());
        }
    }
    assert_eq!(ended, [1, 3]);
    let in_pairs = |upto: u64| (0..upto).flat_map(|n| [n, n]).collect::<Vec<_>>();
    assert_eq!(values[&2], in_pairs(count));
    assert_eq!(values[&4], (0..count).collect::<Vec<_>>());
    for id in [1, 3] {
        assert!(values[&id].len() >= 20 && values[&id].len() < 2 * count as usize);
        assert!(values[&id].windows(2).all(|pair| pair[0] <= pair[1]));
    }
    let mut seen = 0;
    while seen < 2 * count as usize {
        seen += next(&mut other).await.events.len();
    }
    assert_eq!(
        world.metric("etcd_warden_streams_terminated_total", &["reason=\"policy\""]).await,
        2.0
    );
    // The stream still takes creates, granted ones and refused ones, in order.
    stream.send(&create(&world.key("a/"), 0));
    let refused = next(&mut stream).await;
    assert!(refused.created && refused.canceled && refused.watch_id == -1, "{refused:?}");
    stream.send(&create(&world.key("b/"), 1));
    assert!(matches!(
        next(&mut stream).await,
        pb::WatchResponse { created: true, canceled: false, watch_id: 1, .. }
    ));
}

#[tokio::test]
async fn a_new_right_admits_new_watches_and_ends_none() {
    let world = World::start(&policy("b")).await;
    let mut stream = Live::open(&mut world.raw("alice").await, Method::Watch).await;
    stream.send(&create(&world.key("a/"), 0));
    assert!(next(&mut stream).await.canceled);
    stream.send(&create(&world.key("b/"), 0));
    assert_eq!(next(&mut stream).await.watch_id, 0);
    world.replace_policy(&policy("a, b"));
    stream.send(&create(&world.key("a/"), 0));
    assert_eq!(next(&mut stream).await.watch_id, 1);
    let mut direct = world.direct().await;
    for (name, id) in [("a/x", 1), ("b/x", 0)] {
        direct.put(world.key(name), "1", None).await.unwrap();
        let response = next(&mut stream).await;
        assert_eq!((response.watch_id, response.events.len()), (id, 1));
    }
}

#[tokio::test]
async fn a_policy_with_an_error_ends_nothing() {
    let world = World::start(&policy("a")).await;
    let mut stream = Live::open(&mut world.raw("alice").await, Method::Watch).await;
    stream.send(&create(&world.key("a/"), 0));
    assert!(next(&mut stream).await.created);
    let before = world.generation().await;
    world.write_policy("version: 1\nmode: enforce\nroles: {}\n");
    assert!(world.try_reload().is_err());
    world.direct().await.put(world.key("a/x"), "1", None).await.unwrap();
    assert_eq!(next(&mut stream).await.events.len(), 1);
    assert_eq!(world.generation().await, before);
}

/// A lease that alice created.
async fn lease(raw: &mut Raw) -> i64 {
    let answer = raw
        .call(Method::LeaseGrant.path(), &pb::LeaseGrantRequest { ttl: 600, id: 0 }.encode_to_vec())
        .await;
    assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    pb::LeaseGrantResponse::decode(answer.messages()[0]).unwrap().id
}

#[tokio::test]
async fn waiting_locks_and_campaigns_end_with_their_right() {
    let world = World::start(&policy("a, b, lease")).await;
    let mut raw = world.raw("alice").await;
    let lock = |name: &str, lease| {
        v3lockpb::LockRequest { name: world.key(name).into(), lease }.encode_to_vec()
    };
    let campaign = |name: &str, lease| {
        v3electionpb::CampaignRequest { name: world.key(name).into(), lease, value: b"v".to_vec() }
            .encode_to_vec()
    };
    let observe =
        |name: &str| v3electionpb::LeaderRequest { name: world.key(name).into() }.encode_to_vec();
    let holder = lease(&mut raw).await;
    let waiter = lease(&mut raw).await;
    for name in ["a/lock", "b/lock"] {
        assert_eq!(raw.call(Method::Lock.path(), &lock(name, holder)).await.grpc_status(), Some(0));
    }
    for name in ["a/led", "b/led"] {
        assert_eq!(
            raw.call(Method::Campaign.path(), &campaign(name, holder)).await.grpc_status(),
            Some(0)
        );
    }
    let mut lost = Vec::new();
    let mut kept = Vec::new();
    for (folder, calls) in [("a", &mut lost), ("b", &mut kept)] {
        calls.push((
            Method::Lock,
            Live::ask(&mut raw, Method::Lock, &lock(&format!("{folder}/lock"), waiter)).await,
        ));
        calls.push((
            Method::Campaign,
            Live::ask(&mut raw, Method::Campaign, &campaign(&format!("{folder}/led"), waiter))
                .await,
        ));
        let mut seen =
            Live::ask(&mut raw, Method::Observe, &observe(&format!("{folder}/led"))).await;
        seen.next_bytes().await.unwrap();
        calls.push((Method::Observe, seen));
        // An election without a leader has not even sent headers.
        calls.push((
            Method::Observe,
            Live::ask(&mut raw, Method::Observe, &observe(&format!("{folder}/no-leader"))).await,
        ));
    }
    let mut direct = world.direct().await;
    let mut waiting = async |name: &str| {
        let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
        direct.get(world.key(name), Some(options)).await.unwrap().count()
    };
    for name in ["a/lock", "b/lock", "a/led", "b/led"] {
        while waiting(name).await < 2 {
            tokio::task::yield_now().await;
        }
    }
    world.replace_policy(&policy("b, lease"));
    for (method, call) in &mut lost {
        assert_eq!(call.next_bytes().await, Err((7, DENIED.to_owned())), "{method:?}");
    }
    // Their positions in the queue are given up at etcd too.
    for name in ["a/lock", "a/led"] {
        while waiting(name).await > 1 {
            tokio::task::yield_now().await;
        }
    }
    for (method, call) in &mut kept {
        assert!(call.is_quiet().await, "{method:?}");
    }
    let unlock =
        v3lockpb::UnlockRequest { key: format!("{}/{holder:x}", world.key("b/lock")).into() };
    assert_eq!(
        raw.call(Method::Unlock.path(), &unlock.encode_to_vec()).await.grpc_status(),
        Some(0)
    );
    assert!(kept[0].1.next_bytes().await.is_ok(), "a client that kept its right gets its lock");
}

#[tokio::test]
async fn a_transfer_under_way_stops_when_its_right_goes() {
    let world = World::with(&policy("a, snapshot")).own_etcd().start().await;
    let mut direct = world.direct().await;
    for n in 0..12 {
        direct.put(world.key(&format!("a/{n:02}")), vec![b'x'; 1_000_000], None).await.unwrap();
    }
    // Each on its own connection: a transfer that is not read uses up the connection's window.
    let mut transfers = vec![Live::ask(&mut world.raw("alice").await, Method::Snapshot, b"").await];
    let version = programs().version;
    if (version.major, version.minor) >= (3, 7) {
        let range = pb::RangeRequest {
            key: world.key("a/").into(),
            range_end: world.key("a0").into(),
            ..Default::default()
        };
        transfers.push(
            Live::ask(&mut world.raw("alice").await, Method::RangeStream, &range.encode_to_vec())
                .await,
        );
    }
    for transfer in &mut transfers {
        transfer.next_bytes().await.unwrap();
    }
    world.replace_policy(&policy("b"));
    for mut transfer in transfers {
        let status = loop {
            if let Err(status) = transfer.next_bytes().await {
                break status;
            }
        };
        assert_eq!(status, (7, DENIED.to_owned()));
    }
}

#[tokio::test]
async fn keepalive_needs_the_right_and_works_when_it_is_back() {
    const NO_RIGHTS: &str = "version: 1\nmode: enforce\nroles: {r: {capabilities: [status]}}\nbindings: [{cn: carol, roles: [r]}]";
    let world = World::start(&policy("a, lease")).await;
    let mut raw = world.raw("alice").await;
    let own = lease(&mut raw).await;
    // Another client's lease. alice may use it because she may write the keys attached to it.
    let mut direct = world.direct().await;
    let others = direct.lease_grant(600, None).await.unwrap().id();
    direct
        .put(world.key("a/k"), "1", Some(etcd_client::PutOptions::new().with_lease(others)))
        .await
        .unwrap();
    let mut stream = Live::open(&mut raw, Method::LeaseKeepAlive).await;
    // Without the capability no lease is renewed, not even her own.
    let allowed = [
        policy("a, lease"),
        policy("b, lease"),
        NO_RIGHTS.to_owned(),
        policy("a"),
        policy("a, lease"),
    ];
    for (policy, [own_ttl, others_ttl]) in
        allowed.iter().zip([[600, 600], [600, 0], [0, 0], [0, 0], [600, 600]])
    {
        world.replace_policy(policy);
        for (id, ttl) in [(own, own_ttl), (others, others_ttl)] {
            stream.send(&pb::LeaseKeepAliveRequest { id });
            let answer: pb::LeaseKeepAliveResponse = stream.next().await.unwrap();
            assert_eq!((answer.id, answer.ttl), (id, ttl), "{policy}");
        }
    }
}

#[tokio::test]
async fn fifty_reloads_under_load_fail_no_call() {
    let world = Arc::new(World::start(&policy("a, b")).await);
    let stop = Arc::new(AtomicBool::new(false));
    let callers = (0..4).map(|n| {
        let (world, stop) = (world.clone(), stop.clone());
        tokio::spawn(async move {
            let mut client = world.as_("alice").await;
            let key = world.key(&format!("a/{n}"));
            let mut calls = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                client.put(key.clone(), calls.to_string(), None).await.unwrap();
                let got = client.get(key.clone(), None).await.unwrap();
                assert_eq!(got.kvs()[0].value_str().unwrap(), calls.to_string());
                calls += 1;
            }
            calls
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut stream = Live::open(&mut world.raw("alice").await, Method::Watch).await;
    stream.send(&create(&world.key("a/"), 5));
    assert!(next(&mut stream).await.created);
    for n in 0..50 {
        world.replace_policy(&policy(if n % 2 == 0 { "a" } else { "b, a, lease" }));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    assert!(calls > 50, "only {calls} calls: no load");
    assert_eq!(world.generation().await, 51);
    assert_eq!(
        world.metric("etcd_warden_reloads_total", &["what=\"policy\"", "result=\"ok\""]).await,
        50.0
    );
    assert!(!next(&mut stream).await.canceled);
}

/// Starts a call and sends the first part of its only message.
pub async fn half(
    raw: &mut Raw,
    method: Method,
    message: &[u8],
) -> (crate::world::raw::Stream, bytes::Bytes) {
    let mut request =
        http::Request::post(format!("https://proxy{}", method.path())).body(()).unwrap();
    *request.headers_mut() = crate::world::raw::grpc_headers();
    let mut stream = raw.begin(request, false).await.unwrap();
    let mut framed = bytes::Bytes::from(crate::world::raw::framed(message));
    stream.request.send_data(framed.split_to(framed.len() / 2), false).unwrap();
    (stream, framed)
}

/// The gRPC status of a call after the rest of it is sent.
pub async fn status_of_the_rest(
    (mut stream, rest): (crate::world::raw::Stream, bytes::Bytes),
) -> String {
    // The response may have arrived already; then the rest cannot be sent.
    let _ = stream.request.send_data(rest, true);
    let response = stream.response.await.unwrap();
    let in_head = response.headers().get("grpc-status").cloned();
    let mut body = response.into_body();
    while let Some(chunk) = body.data().await {
        chunk.unwrap();
    }
    let trailers = body.trailers().await.unwrap();
    in_head
        .or_else(|| trailers.unwrap().get("grpc-status").cloned())
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// Otherwise a client could open a stream while it has a right and use it after the right is gone.
#[tokio::test]
async fn a_request_is_judged_by_the_policy_it_ends_under() {
    let world = World::start(&policy("a")).await;
    let mut raw = world.raw("alice").await;
    let put = |name: &str| {
        pb::PutRequest { key: world.key(name).into(), value: b"1".into(), ..Default::default() }
            .encode_to_vec()
    };
    let begun = [
        half(&mut raw, Method::Put, &put("a/x")).await,
        half(&mut raw, Method::Put, &put("b/x")).await,
    ];
    world.replace_policy(&policy("b"));
    let mut statuses = Vec::new();
    for begun in begun {
        statuses.push(status_of_the_rest(begun).await);
    }
    assert_eq!(statuses, ["7", "0"]);
    assert_eq!(world.direct().await.get(world.key("a/x"), None).await.unwrap().count(), 0);
}

#[tokio::test]
async fn a_request_begun_in_shadow_mode_is_judged_when_enforced() {
    let world = World::start(&policy("a").replace("mode: enforce", "mode: shadow")).await;
    let mut raw = world.raw("alice").await;
    let put =
        pb::PutRequest { key: world.key("b/x").into(), value: b"1".into(), ..Default::default() }
            .encode_to_vec();
    let begun = half(&mut raw, Method::Put, &put).await;
    // Shadow mode waits briefly for a complete message before it opens the call at etcd. The test
    // covers both sides of that moment.
    let late = half(&mut raw, Method::Put, &put).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let early = half(&mut raw, Method::Put, &put).await;
    world.replace_policy(&policy("a"));
    for begun in [begun, late, early] {
        let status = status_of_the_rest(begun).await;
        assert!(["7", "14"].contains(&&*status), "{status}");
    }
    assert_eq!(world.direct().await.get(world.key("b/x"), None).await.unwrap().count(), 0);
}

/// A connection lasts no longer than its certificate: open calls end so that clientv3 reconnects,
/// incomplete requests are not sent, and no new call is accepted.
#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let world = World::start(&policy("a")).await;
    let short = Leaf::client("alice").validity(Validity::For(std::time::Duration::from_secs(4)));
    let mut raw = Raw::over(world.tls(&short).await).await;
    let mut stream = Live::open(&mut raw, Method::Watch).await;
    stream.send(&create(&world.key("a/"), 1));
    assert!(next(&mut stream).await.created);
    let put =
        pb::PutRequest { key: world.key("a/x").into(), value: b"1".into(), ..Default::default() }
            .encode_to_vec();
    let begun = half(&mut raw, Method::Put, &put).await;

    let (code, text) = stream.next::<pb::WatchResponse>().await.unwrap_err();
    assert_eq!((code, text.contains("certificate")), (14, true), "{text}");
    assert_eq!(status_of_the_rest(begun).await, "14");
    assert_eq!(world.direct().await.get(world.key("a/x"), None).await.unwrap().count(), 0);
    let again = raw.call(Method::Put.path(), &put).await;
    assert!(again.grpc_status().is_none() && again.error.is_some(), "{again:?}");
    assert_eq!(
        world.metric("etcd_warden_streams_terminated_total", &["reason=\"identity\""]).await,
        1.0
    );
}
