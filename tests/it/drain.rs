//! SIGTERM: unary calls finish, streams end so that clients reconnect elsewhere, and nothing takes
//! longer than the drain timeout.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_warden_core::method::Method;
use etcd_warden_gateway::app;
use etcd_warden_gateway::http_client as http;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::{v3electionpb, v3lockpb};
use prost::Message as _;
use tokio::net::TcpStream;

use crate::etcdctl_watch::EtcdctlWatch;
use crate::live::Live;
use crate::reload::create;
use crate::world::raw::grpc_headers;
use crate::world::{SOON, World, soon};

const POLICY: &str = "version: 1\nmode: enforce\nroles:\n  all: {allow: [{keys: $P/*, verbs: [rw]}], capabilities: [lease, snapshot]}\n\
    bindings:\n  - {cn: alice, roles: [all]}\n";

/// clientv3 resumes a watch elsewhere after this code. After most others it gives up.
const UNAVAILABLE: u32 = 14;

fn put(key: String) -> Vec<u8> {
    pb::PutRequest { key: key.into(), value: b"1".to_vec(), ..Default::default() }.encode_to_vec()
}

/// A world with more data than any stream window, so that a snapshot cannot be sent at once.
async fn with_much(world: crate::world::WorldBuilder) -> World {
    let world = world.own_etcd().start().await;
    let mut direct = world.direct().await;
    for n in 0..8 {
        direct.put(world.key(&format!("much/{n}")), vec![b'x'; 1_000_000], None).await.unwrap();
    }
    world
}

async fn is_refused(world: std::net::SocketAddr) -> Option<()> {
    TcpStream::connect(world).await.is_err().then_some(())
}

#[tokio::test]
async fn open_calls_finish_and_no_new_connection_is_accepted() {
    let mut world = World::with(POLICY).own_etcd().start().await;
    let address = world.address();
    let mut raw = world.raw("alice").await;
    assert_eq!(raw.call(Method::Put.path(), &put(world.key("warm"))).await.grpc_status(), Some(0));
    world.etcd().pause(0).unwrap();
    let mut call = Live::ask(&mut raw, Method::Put, &put(world.key("k"))).await;
    assert!(call.is_quiet().await);
    let running = world.take_running();
    let shutdown = tokio::spawn(running.shutdown(std::future::pending()));
    soon("a listener that is closed", || is_refused(address)).await;
    // GOAWAY: the connection takes no new call but still has to finish an open one.
    let refused = async {
        while raw.open(Method::Put.path(), &grpc_headers()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("GOAWAY");
    assert!(call.is_quiet().await && !shutdown.is_finished());
    world.etcd().resume(0).unwrap();
    assert!(call.next_bytes().await.is_ok());
    assert_eq!(call.next_bytes().await, Err((0, String::new())));
    raw.closed_in_order().await;
    shutdown.await.unwrap();
    assert_eq!(world.direct().await.get(world.key("k"), None).await.unwrap().count(), 1);
}

#[tokio::test]
async fn streams_end_so_that_clients_resume_and_a_snapshot_finishes() {
    let mut world = with_much(World::with(POLICY)).await;
    let mut raw = world.raw("alice").await;
    let mut watch = Live::open(&mut raw, Method::Watch).await;
    watch.send(&create(&world.key("k"), 0));
    watch.next_bytes().await.unwrap();
    let silent = Live::open(&mut raw, Method::Watch).await;
    let grant = raw
        .call(Method::LeaseGrant.path(), &pb::LeaseGrantRequest { ttl: 600, id: 0 }.encode_to_vec())
        .await;
    let lease = pb::LeaseGrantResponse::decode(grant.messages()[0]).unwrap().id;
    let mut keep_alive = Live::open(&mut raw, Method::LeaseKeepAlive).await;
    keep_alive.send(&pb::LeaseKeepAliveRequest { id: lease });
    keep_alive.next_bytes().await.unwrap();
    let mut direct = world.direct().await;
    direct.lock(world.key("lock"), None).await.unwrap();
    let others = direct.lease_grant(600, None).await.unwrap().id();
    direct.campaign(world.key("led"), "other", others).await.unwrap();
    let name = |name: &str| world.key(name).into();
    let lock = v3lockpb::LockRequest { name: name("lock"), lease }.encode_to_vec();
    let campaign = v3electionpb::CampaignRequest { name: name("led"), lease, value: b"v".to_vec() }
        .encode_to_vec();
    let lock = Live::ask(&mut raw, Method::Lock, &lock).await;
    let campaign = Live::ask(&mut raw, Method::Campaign, &campaign).await;
    let mut observe = Live::ask(
        &mut raw,
        Method::Observe,
        &v3electionpb::LeaderRequest { name: name("led") }.encode_to_vec(),
    )
    .await;
    observe.next_bytes().await.unwrap();
    let mut snapshot = Live::ask(&mut world.raw("alice").await, Method::Snapshot, b"").await;
    snapshot.next_bytes().await.unwrap();

    let admin = world.running().admin_addr.unwrap();
    let shutdown = tokio::spawn(world.take_running().shutdown(std::future::pending()));
    for (what, mut stream) in [
        ("Watch", watch),
        ("a Watch without a watch", silent),
        ("LeaseKeepAlive", keep_alive),
        ("Lock", lock),
        ("Campaign", campaign),
        ("Observe", observe),
    ] {
        let status = stream.next_bytes().await.unwrap_err();
        assert_eq!(status, (UNAVAILABLE, "etcd-warden: shutting down".to_owned()), "{what}");
    }
    // While the snapshot holds up the drain, the admin pages still respond and report not ready.
    let (status, page) = http::get(admin, "/readyz").await.unwrap();
    assert!(status == 503 && page.contains("[-]serving failed: draining"), "{page}");
    assert_eq!(http::get(admin, "/livez").await.unwrap().0, 200);
    let (_, metrics) = http::get(admin, "/metrics").await.unwrap();
    assert!(
        metrics.contains("etcd_warden_streams_terminated_total{reason=\"drain\"} 6\n"),
        "{metrics}"
    );
    let mut bytes = 0;
    let status = loop {
        match snapshot.next::<pb::SnapshotResponse>().await {
            Ok(part) => bytes += part.blob.len(),
            Err(status) => break status,
        }
    };
    assert_eq!(status, (0, String::new()));
    assert!(bytes > 7_000_000, "{bytes}");
    shutdown.await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_reads_delays_a_drain_to_its_timeout() {
    let mut world = with_much(
        World::with(POLICY).config(|config| config.drain_timeout = Duration::from_millis(300)),
    )
    .await;
    let mut snapshot = Live::ask(&mut world.raw("alice").await, Method::Snapshot, b"").await;
    snapshot.next_bytes().await.unwrap();
    tokio::time::timeout(SOON, world.shut_down()).await.expect("the drain ends");
}

#[tokio::test]
async fn a_second_stop_request_ends_the_drain_at_once() {
    let mut world = with_much(
        World::with(POLICY).config(|config| config.drain_timeout = Duration::from_secs(3600)),
    )
    .await;
    let mut snapshot = Live::ask(&mut world.raw("alice").await, Method::Snapshot, b"").await;
    snapshot.next_bytes().await.unwrap();
    let (say, said) = tokio::sync::oneshot::channel::<()>();
    let shutdown = tokio::spawn(world.take_running().shutdown(async move { drop(said.await) }));
    assert!(!shutdown.is_finished());
    say.send(()).unwrap();
    tokio::time::timeout(SOON, shutdown).await.expect("the drain ends").unwrap();
}

#[tokio::test]
async fn etcdctl_resumes_its_watch_through_another_proxy() {
    let mut world = World::with(POLICY).start().await;
    let second = app::start(world.config.clone()).await.unwrap();
    let prefix = world.key("k/");
    let mut direct = world.direct().await;
    let start = direct.get("x", None).await.unwrap().header().unwrap().revision() + 1;
    let endpoints = [world.endpoint(), format!("https://{}", second.listen_addr)];
    let mut etcdctl = EtcdctlWatch::start(&world, &endpoints, "alice", &prefix, start);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (prefix, stop) = (prefix.clone(), stop.clone());
        async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                direct.put(format!("{prefix}{n}"), n.to_string(), None).await.unwrap();
                n += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            n
        }
    });
    let mut seen = 0;
    let mut see = async |etcdctl: &mut EtcdctlWatch, upto: u32| {
        while seen < upto {
            assert_eq!(etcdctl.next().await, (format!("{prefix}{seen}"), seen.to_string()));
            seen += 1;
        }
        seen
    };
    see(&mut etcdctl, 50).await;
    // Stops whichever of the two proxies etcdctl is connected to.
    let first = world.take_running();
    let watches = async |admin| {
        http::get(admin, "/metrics").await.unwrap().1.contains("\netcd_warden_watches 1\n")
    };
    let talks_to_first = watches(first.admin_addr.unwrap()).await;
    let (going, staying) = if talks_to_first { (first, second) } else { (second, first) };
    let shutdown = tokio::spawn(going.shutdown(std::future::pending()));
    soon("the watch at the other proxy", || async {
        watches(staying.admin_addr.unwrap()).await.then_some(())
    })
    .await;
    shutdown.await.unwrap();
    let upto = see(&mut etcdctl, 51).await;
    see(&mut etcdctl, upto + 100).await;
    stop.store(true, Ordering::Relaxed);
    let count = writer.await.unwrap();
    assert_eq!(see(&mut etcdctl, count).await, count);
    assert!(etcdctl.runs());
    staying.shutdown(std::future::pending()).await;
}
