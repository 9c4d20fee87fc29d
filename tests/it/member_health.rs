//! Calls go to a member that can serve them, and health checks harm no etcd.

use std::time::Duration;

use etcd_warden_gateway::config::Config;
use etcd_warden_gateway::member_health::Health;
use etcd_warden_proto::etcdserverpb::{
    PutRequest, ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
};
use h2::Reason;
use prost::Message as _;

use crate::world::fake::{Fake, FakeHealth, Visit};
use crate::world::raw::{Raw, framed, grpc_headers};
use crate::world::{World, authorities, connect, root, soon};

const POLICY: &str = "
version: 1
mode: enforce
roles:
  all: {allow: [{keys: /*, verbs: [rw]}], capabilities: [status, member-list, lease]}
bindings:
  - {cn: alice, roles: [all]}
";

const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// A proxy in front of these servers with frequent health checks.
async fn before(fakes: &[&Fake]) -> World {
    let endpoints: Vec<_> = fakes.iter().map(|fake| fake.endpoint()).collect();
    let configure = move |config: &mut Config| {
        config.upstream.endpoints = endpoints;
        config.upstream.health_interval = Duration::from_millis(20);
    };
    World::with(POLICY).config(configure).start().await
}

async fn put(raw: &mut Raw) -> Option<u32> {
    let put = PutRequest { key: b"/a".to_vec(), value: b"1".to_vec(), ..PutRequest::default() };
    raw.call(PUT, &put.encode_to_vec()).await.grpc_status()
}

/// Opens `count` connections, one after the other in the rotation of the members.
async fn connections(world: &World, count: usize) -> Vec<Raw> {
    let mut raws = Vec::new();
    for _ in 0..count {
        raws.push(world.raw("alice").await);
    }
    raws
}

/// Waits until the metric shows this number of members in this state.
async fn state(world: &World, state: &str, members: f64) {
    let label = format!("state=\"{state}\"");
    soon("the state of the members", || async {
        (world.metric("etcd_warden_upstream_member_state", &[&label]).await == members)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn leaves_a_member_that_cannot_serve_for_one_that_can() {
    let (bad, good) = (Fake::agreeable().await, Fake::agreeable().await);
    let world = before(&[&bad, &good]).await;
    let mut raws = connections(&world, 4).await;
    for (health, code) in [
        (FakeHealth::Leaderless, "leaderless"),
        (FakeHealth::Learner, "learner"),
        (FakeHealth::Removed, "removed"),
    ] {
        // Each client uses a member that serves it, also after the last round.
        bad.set_health(FakeHealth::Well);
        state(&world, "well", 2.0).await;
        raws.extend(connections(&world, 4).await);
        for raw in &mut raws {
            assert_eq!(put(raw).await, Some(0));
        }
        let before = bad.arrivals("Put").len();
        assert!(before > 0, "no connection uses the bad member");
        bad.set_health(health);
        state(&world, code, 1.0).await;
        assert_eq!(
            world.metric("etcd_warden_upstream_healthy", &[]).await,
            1.0,
            "the alert uses this metric"
        );
        let before = bad.arrivals("Put").len();
        raws.extend(connections(&world, 4).await);
        for raw in &mut raws {
            assert_eq!(put(raw).await, Some(0));
        }
        assert_eq!(bad.arrivals("Put").len(), before, "{health:?}: a call reached it");
    }
}

#[tokio::test]
async fn without_a_better_member_calls_stay_where_they_are() {
    let (one, other) = (Fake::agreeable().await, Fake::agreeable().await);
    let world = before(&[&one, &other]).await;
    let mut raws = connections(&world, 4).await;
    for health in [FakeHealth::Leaderless, FakeHealth::Learner] {
        one.set_health(health);
        other.set_health(health);
        state(&world, if health == FakeHealth::Learner { "learner" } else { "leaderless" }, 2.0)
            .await;
        let before = (one.arrivals("Put").len(), other.arrivals("Put").len());
        for raw in &mut raws {
            assert_eq!(put(raw).await, Some(0), "expected etcd's own error");
        }
        let after = (one.arrivals("Put").len(), other.arrivals("Put").len());
        assert!(after.0 > before.0 && after.1 > before.1, "{health:?}: {before:?} {after:?}");
        // A learner refuses nearly every call: other proxies may have better members.
        assert_eq!(
            world.admin("/readyz").await.0,
            if health == FakeHealth::Learner { 503 } else { 200 }
        );
    }
}

#[tokio::test]
async fn an_open_watch_stays_with_a_member_without_a_leader() {
    let serve = |mut visit: Visit| async move {
        if visit.path.ends_with("/Watch") {
            let header =
                Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, raft_term: 1 });
            let mut out = visit.begin(
                &WatchResponse { header, created: true, ..WatchResponse::default() }
                    .encode_to_vec(),
            );
            return visit.reset_amid(&mut out).await;
        }
        visit.body().await;
        visit.answer(b"");
    };
    let (bad, good) = (Fake::serving(serve).await, Fake::serving(serve).await);
    let world = before(&[&bad, &good]).await;
    let mut raws = connections(&world, 2).await;
    let create = WatchCreateRequest { key: b"/a".to_vec(), ..WatchCreateRequest::default() };
    let create =
        WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) }
            .encode_to_vec();
    let mut streams = Vec::new();
    for raw in &mut raws {
        let mut stream = raw.open(WATCH, &grpc_headers()).await.unwrap();
        stream.request.send_data(framed(&create).into(), false).unwrap();
        streams.push(stream);
    }
    soon("the watches", || async {
        (world.metric("etcd_warden_watches", &[]).await == 2.0).then_some(())
    })
    .await;
    bad.set_health(FakeHealth::Leaderless);
    state(&world, "leaderless", 1.0).await;
    for raw in &mut raws {
        assert_eq!(put(raw).await, Some(0));
    }
    assert_eq!(bad.arrivals("Put").len(), 0, "calls have moved");
    assert_eq!(world.metric("etcd_warden_watches", &[]).await, 2.0);
    assert!(
        bad.arrivals("Watch")
            .iter()
            .chain(&good.arrivals("Watch"))
            .all(|watch| watch.reset.is_none()),
        "streams have not moved"
    );
}

#[tokio::test]
async fn status_is_asked_once_in_a_term_and_never_of_a_removed_member() {
    let fake = Fake::agreeable().await;
    let world = before(&[&fake]).await;
    let checks = |more: usize| {
        let from = fake.questions("MemberList");
        let fake = &fake;
        async move {
            soon("health checks", || async {
                (fake.questions("MemberList") >= from + more).then_some(())
            })
            .await;
        }
    };
    checks(5).await;
    assert_eq!(fake.questions("Status"), 1);
    fake.set_health(FakeHealth::Removed);
    state(&world, "removed", 1.0).await;
    checks(5).await;
    assert_eq!(fake.questions("Status"), 1);
    // It comes back, and may be another etcd.
    fake.set_health(FakeHealth::Well);
    state(&world, "well", 1.0).await;
    checks(5).await;
    assert_eq!(fake.questions("Status"), 2);
}

#[tokio::test]
async fn a_leader_that_is_removed_does_not_panic() {
    let quick = |config: &mut Config| config.upstream.health_interval = Duration::from_millis(5);
    let world = World::with(POLICY).members(3).config(quick).start().await;
    let mut clients = Vec::new();
    for endpoint in world.etcd().endpoints() {
        clients.push(connect(&[endpoint], &authorities().upstream, root()).await);
    }
    let status = clients[0].status().await.unwrap();
    let (id, mut leader) = (status.leader(), 0);
    for (place, client) in clients.iter_mut().enumerate() {
        if client.status().await.unwrap().header().unwrap().member_id() == id {
            leader = place;
        }
    }
    // Members that have been connected for less than five seconds remove none.
    let removed = || {
        let mut client = clients[(leader + 1) % 3].clone();
        async move { client.member_remove(id).await.ok() }
    };
    soon("the removal", removed).await;
    let log = soon("the end of the removed member", || async {
        let log = world.etcd().log(leader);
        (log.contains("must be removed") || log.contains("panic")).then_some(log)
    })
    .await;
    assert!(!log.contains("panic"), "{log}");
    let moved = || async { (put(&mut world.raw("alice").await).await == Some(0)).then_some(()) };
    soon("a write at the remaining members", moved).await;
}

#[tokio::test]
async fn too_many_pings_are_counted_and_slow_the_pings_down() {
    let fake = Fake::serving(|mut visit| async move {
        visit.body().await;
        visit.connection.go_away(Reason::ENHANCE_YOUR_CALM);
    })
    .await;
    let world = before(&[&fake]).await;
    let (_, member) = world.running().shared().members.iter().next().unwrap();
    let at_first = member.ping_interval.get();
    assert_eq!(put(&mut world.raw("alice").await).await, Some(14));
    let failures = || async {
        (world.metric("etcd_warden_upstream_failures_total", &["reason=\"too_many_pings\""]).await
            >= 1.0)
            .then_some(())
    };
    soon("the failure", failures).await;
    assert!(member.ping_interval.get() >= at_first * 2);
    assert_ne!(member.health(), Health::Down, "the member answers");
}

/// Connections to etcd by class: of unary calls, of streams, of transfers.
async fn by_class(world: &World) -> [f64; 3] {
    let of = |class: &str| format!("class=\"{class}\"");
    let mut counts = [0.0; 3];
    for (count, class) in counts.iter_mut().zip(["unary", "long", "bulk"]) {
        *count = world.metric("etcd_warden_upstream_connections", &[&of(class)]).await;
    }
    counts
}

#[tokio::test]
async fn a_worker_has_a_connection_of_each_class_before_a_call() {
    let (one, other) = (Fake::agreeable().await, Fake::agreeable().await);
    let world = before(&[&one, &other]).await;
    let warm = || async { (by_class(&world).await == [2.0; 3]).then_some(()) };
    soon("open connections of every class", warm).await;
    // The first Watch and the first Put find an open connection.
    let before = (one.connections(), other.connections());
    for raw in &mut connections(&world, 2).await {
        assert_eq!(put(raw).await, Some(0));
        raw.send(WATCH, &grpc_headers(), &framed(b"\x0a\x03\x0a\x01a")).await;
    }
    assert_eq!((one.connections(), other.connections()), before);
}

#[tokio::test]
async fn a_connection_that_ends_is_opened_again_without_a_call() {
    let fake = Fake::serving(|mut visit| async move {
        visit.body().await;
        visit.connection.drop_it().await;
    })
    .await;
    let world = before(&[&fake]).await;
    let warm = || async { (by_class(&world).await == [1.0; 3]).then_some(()) };
    soon("open connections of every class", warm).await;
    let before = fake.connections();
    assert_eq!(put(&mut world.raw("alice").await).await, Some(14));
    soon("a new connection", || async { (fake.connections() > before).then_some(()) }).await;
    soon("open connections of every class", warm).await;
}

#[tokio::test]
async fn keeps_no_connection_to_a_member_that_cannot_serve() {
    let (good, bad) = (Fake::agreeable().await, Fake::agreeable().await);
    bad.set_health(FakeHealth::Learner);
    let world = before(&[&good, &bad]).await;
    soon("open connections of every class", || async {
        (by_class(&world).await == [1.0; 3]).then_some(())
    })
    .await;
    // When the member can serve again, the connections are opened.
    bad.set_health(FakeHealth::Well);
    soon("open connections of every class", || async {
        (by_class(&world).await == [2.0; 3]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_without_answers_is_left_for_a_new_one() {
    // The first one is that of the health check, which would otherwise use it for as long as TCP
    // keeps it.
    let fake = Fake::silent_at_first(1).await;
    let world = before(&[&fake]).await;
    state(&world, "well", 1.0).await;
    assert_eq!(put(&mut world.raw("alice").await).await, Some(0));
}
