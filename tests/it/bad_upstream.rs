//! An etcd that is down, hangs, dies or is not etcd: calls get a clear error, no write is sent
//! twice, and other members take over where they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::Client;
use etcd_warden_gateway::config::{Config, Endpoint};
use etcd_warden_proto::etcdserverpb::{
    MoveLeaderRequest, PutRequest, RangeRequest, ResponseHeader, StatusRequest, StatusResponse,
    TxnRequest, WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
};
use etcd_warden_testbed::pki::Authority;
use futures_util::FutureExt as _;
use h2::Reason;
use http::Response;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::world::etcdctl::Etcdctl;
use crate::world::fake::{Fake, Visit, certificate, http2, trailers};
use crate::world::raw::wire::{DATA, SETTINGS, frame};
use crate::world::raw::{Answer, Raw, framed, grpc_headers};
use crate::world::{SOON, TWO_CLIENTS, World, authorities, soon};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

const UNAVAILABLE: Option<u32> = Some(14);
const NOT_SENT: &str = "there is no connection available";
const LOST: &str =
    "etcd-warden: the connection to etcd was lost; the request may have been carried out";

fn put() -> Vec<u8> {
    PutRequest { key: b"/a".to_vec(), value: b"1".to_vec(), ..PutRequest::default() }
        .encode_to_vec()
}

fn range() -> Vec<u8> {
    RangeRequest { key: b"/a".to_vec(), ..RangeRequest::default() }.encode_to_vec()
}

/// A Txn without operations, which is still a write.
fn txn() -> Vec<u8> {
    TxnRequest::default().encode_to_vec()
}

fn said(answer: &Answer) -> (Option<u32>, &str) {
    (answer.grpc_status(), answer.grpc_message())
}

/// Waits until the proxy reports this number of healthy members.
async fn well(world: &World, members: f64) {
    soon("the health of the members", || async {
        (world.metric("etcd_warden_upstream_healthy", &[]).await == members).then_some(())
    })
    .await;
}

/// Waits until the proxy reports every member but this one as healthy. The sum alone would not show
/// which one is missing.
async fn all_well_but(world: &World, member: usize) {
    let addresses = world.etcd().addresses();
    let healthy = async |address: &std::net::SocketAddr| {
        world.metric("etcd_warden_upstream_healthy", &[&format!("member=\"{address}\"")]).await
            == 1.0
    };
    soon("the health of the members", || async {
        for (index, address) in addresses.iter().enumerate() {
            if healthy(address).await == (index == member) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

fn quick_checks(config: &mut Config) {
    config.upstream.health_interval = Duration::from_millis(100);
}

// --- etcd itself: down, killed, paused ---

#[tokio::test]
async fn starts_without_etcd_reports_it_and_recovers() {
    let mut world = World::with(TWO_CLIENTS).own_etcd().config(quick_checks).start().await;
    // The same proxy, restarted in front of an etcd that does not run.
    world.shut_down().await;
    world.etcd_mut().kill(0);
    world.start_again().await;
    let (status, body) = world.admin("/readyz").await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("upstream") && body.contains("no etcd member is reachable"), "{body}");
    assert_eq!(world.admin("/livez").await.0, 200);

    let mut raw = world.raw("alice").await;
    for (path, message) in [(PUT, put()), (RANGE, range())] {
        assert_eq!(said(&raw.call(path, &message).await), (UNAVAILABLE, NOT_SENT));
    }
    let watch = raw.send(WATCH, &grpc_headers(), &framed(&create("/a"))).await;
    assert_eq!(said(&watch), (UNAVAILABLE, NOT_SENT));

    world.etcd_mut().restart(0).await.unwrap();
    soon("readiness", || async { (world.admin("/readyz").await.0 == 200).then_some(()) }).await;
    assert_eq!(raw.call(PUT, &put()).await.grpc_status(), Some(0), "the same connection");
}

#[tokio::test]
async fn clients_resume_after_etcd_was_killed_and_came_back() {
    let mut world = World::with(TWO_CLIENTS).own_etcd().config(quick_checks).start().await;
    let mut raw = world.raw("alice").await;
    let mut client = world.as_("alice").await;
    let before = client.put("/a", "before", None).await.unwrap().header().unwrap().revision();
    let mut stream = raw.open(WATCH, &grpc_headers()).await.unwrap();
    stream.request.send_data(framed(&create("/a")).into(), false).unwrap();
    soon("the watch", || async {
        (world.metric("etcd_warden_watches", &[]).await == 1.0).then_some(())
    })
    .await;
    // A call that etcd has received and will not answer.
    world.etcd().pause(0).unwrap();
    let mut waiting = world.raw("alice").await;
    let waiting = tokio::spawn(async move { waiting.call(PUT, &put()).await });
    soon("the open call", || async {
        (world.metric("etcd_warden_requests_in_flight", &[]).await == 2.0).then_some(())
    })
    .await;

    world.etcd_mut().kill(0);
    let watch = Answer::read(stream.response).await;
    assert_eq!(said(&watch), (UNAVAILABLE, LOST), "a code that clientv3 resumes a watch after");
    let call = waiting.await.unwrap();
    assert!(
        said(&call) == (UNAVAILABLE, LOST) || said(&call) == (UNAVAILABLE, NOT_SENT),
        "{call:?}"
    );
    assert_eq!(said(&raw.call(PUT, &put()).await), (UNAVAILABLE, NOT_SENT));
    well(&world, 0.0).await;

    world.etcd_mut().restart(0).await.unwrap();
    well(&world, 1.0).await;
    let after = client.put("/a", "after", None).await.unwrap().header().unwrap().revision();
    assert!(after > before);
    let options = etcd_client::WatchOptions::new().with_start_revision(before);
    let mut watch = client.watch("/a", Some(options)).await.unwrap();
    let mut values = Vec::new();
    while values.last().is_none_or(|value| value != b"after") {
        let answer = watch.message().await.unwrap().unwrap();
        values.extend(answer.events().iter().map(|event| event.kv().unwrap().value().to_vec()));
    }
    assert_eq!(values[0], b"before", "an event was lost");
}

#[tokio::test]
async fn leaves_a_member_that_hangs_and_waits_for_the_only_one() {
    let world = World::with(TWO_CLIENTS).own_etcd().config(quick_checks).start().await;
    let mut raw = world.raw("alice").await;
    assert_eq!(raw.call(PUT, &put()).await.grpc_status(), Some(0));
    world.etcd().pause(0).unwrap();
    let mut late = world.raw("alice").await;
    let late = tokio::spawn(async move { late.call(PUT, &put()).await });
    well(&world, 0.0).await;
    assert_eq!(world.admin("/readyz").await.0, 503);
    world.etcd().resume(0).unwrap();
    // The open call is answered: neither lost nor sent again.
    assert_eq!(late.await.unwrap().grpc_status(), Some(0));
    well(&world, 1.0).await;
    let version = world.direct().await.get("/a", None).await.unwrap().kvs()[0].version();
    assert_eq!(version, 2);
    assert_eq!(world.admin("/readyz").await.0, 200);
}

// --- several members ---

/// The member that responds on this connection.
async fn member_of(raw: &mut Raw) -> u64 {
    let answer = raw.call(STATUS, &StatusRequest::default().encode_to_vec()).await;
    assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    StatusResponse::decode(answer.messages()[0]).unwrap().header.unwrap().member_id
}

/// The ids of all members, in the order of the endpoints.
async fn ids(world: &World) -> Vec<u64> {
    let mut ids = Vec::new();
    for endpoint in world.etcd().endpoints() {
        let authorities = crate::world::authorities();
        let mut client =
            crate::world::connect(&[endpoint], &authorities.upstream, crate::world::root()).await;
        ids.push(client.status().await.unwrap().header().unwrap().member_id());
    }
    ids
}

#[tokio::test]
async fn a_connection_stays_with_its_member_until_that_dies_or_hangs() {
    let mut world = World::with(TWO_CLIENTS).members(3).config(quick_checks).start().await;
    well(&world, 3.0).await;
    let ids = ids(&world).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(world.raw("alice").await);
    }
    let mut homes = Vec::new();
    for raw in &mut clients {
        let home = member_of(raw).await;
        for _ in 0..5 {
            assert_eq!(member_of(raw).await, home);
        }
        homes.push(home);
    }
    let different: std::collections::HashSet<_> = homes.iter().collect();
    assert_eq!(different.len(), 3, "the connections are spread over the members");

    // Killed: the next call goes to another member, and later ones stay there.
    let dead = ids.iter().position(|id| *id == homes[0]).unwrap();
    world.etcd_mut().kill(dead);
    all_well_but(&world, dead).await;
    let moved = member_of(&mut clients[0]).await;
    assert_ne!(moved, homes[0]);
    assert_eq!(member_of(&mut clients[0]).await, moved);
    for place in [1, 2] {
        assert_eq!(member_of(&mut clients[place]).await, homes[place], "other connections stay");
    }

    // The member is back, but no connection moves back for that.
    world.etcd_mut().restart(dead).await.unwrap();
    well(&world, 3.0).await;
    assert_eq!(member_of(&mut clients[0]).await, moved);

    // Paused.
    let paused = ids.iter().position(|id| *id == homes[1]).unwrap();
    world.etcd().pause(paused).unwrap();
    all_well_but(&world, paused).await;
    assert_ne!(member_of(&mut clients[1]).await, homes[1]);
    world.etcd().resume(paused).unwrap();
    well(&world, 3.0).await;
}

#[tokio::test]
async fn pin_keeps_every_call_at_the_first_endpoint() {
    let mut world = World::with(TWO_CLIENTS).members(3).config(quick_checks).start().await;
    well(&world, 3.0).await;
    let ids = ids(&world).await;
    // Only the leader can do MoveLeader: through the proxy it works from any connection.
    for _ in 0..3 {
        let mut raw = world.raw("alice").await;
        let answer = raw.call(STATUS, &StatusRequest::default().encode_to_vec()).await;
        let leader = StatusResponse::decode(answer.messages()[0]).unwrap().leader;
        let target = *ids.iter().find(|id| **id != leader).unwrap();
        let message = MoveLeaderRequest { target_id: target }.encode_to_vec();
        let moved = soon("the new leader to be known", || async {
            let mut raw = world.raw("alice").await;
            let answer = raw.call("/etcdserverpb.Maintenance/MoveLeader", &message).await;
            (answer.grpc_message() != "etcdserver: not leader").then_some(answer)
        })
        .await;
        assert_eq!(moved.grpc_status(), Some(0), "{moved:?}");
        soon("the leader", || async {
            let mut raw = world.raw("alice").await;
            let answer = raw.call(STATUS, &StatusRequest::default().encode_to_vec()).await;
            (StatusResponse::decode(answer.messages()[0]).unwrap().leader == target).then_some(())
        })
        .await;
    }

    let pinned = |config: &mut Config| config.upstream.pin = true;
    world.start_again_with(pinned).await;
    for _ in 0..4 {
        assert_eq!(member_of(&mut world.raw("alice").await).await, ids[0]);
    }
    // And when that member is gone, no call goes to another one.
    world.etcd_mut().kill(0);
    soon("the refusal", || async {
        let mut raw = world.raw("alice").await;
        let answer = raw.call(RANGE, &range()).await;
        assert!(answer.grpc_status() == UNAVAILABLE, "{answer:?}");
        (answer.grpc_message() == NOT_SENT).then_some(())
    })
    .await;
    assert_eq!(world.admin("/readyz").await.0, 503);
}

// --- a server that is not etcd ---

/// A proxy in front of these servers.
async fn before(fakes: &[&Fake]) -> World {
    let endpoints: Vec<Endpoint> = fakes.iter().map(|fake| fake.endpoint()).collect();
    World::with(TWO_CLIENTS)
        .config(move |config| config.upstream.endpoints = endpoints)
        .start()
        .await
}

/// Asserts that calls get this status, on one connection that stays open.
async fn calls_get(what: &str, world: &World, status: Option<u32>, text: &str) {
    let mut raw = world.raw("alice").await;
    for (path, message) in [(PUT, put()), (RANGE, range()), (TXN, txn())] {
        let answer = raw.call(path, &message).await;
        assert_eq!(said(&answer), (status, text), "{what}: {path}: {answer:?}");
    }
    let watch = raw.send(WATCH, &grpc_headers(), &framed(&create("/a"))).await;
    assert_eq!(said(&watch), (status, text), "{what}: {watch:?}");
}

#[tokio::test]
async fn what_does_not_speak_http2_counts_as_down() {
    let cases: [(&str, &'static [u8]); 4] = [
        ("rubbish", &[0x55; 4096]),
        ("HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
        ("a frame that lies about its length", &[0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0]),
        ("nothing but an end", b""),
    ];
    for (what, bytes) in cases {
        let fake = Fake::talking(&certificate(), move |mut stream, _| async move {
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        })
        .await;
        let world = before(&[&fake]).await;
        calls_get(what, &world, UNAVAILABLE, NOT_SENT).await;
        assert_eq!(world.admin("/readyz").await.0, 503, "{what}");
        assert!(
            world.metric("etcd_warden_upstream_failures_total", &[r#"reason="protocol""#]).await
                >= 1.0,
            "{what}"
        );
    }
}

/// A member that repeats these frames once a call waits, and counts how often its connection then
/// ends.
async fn saying_amid_a_call(frames: Vec<u8>, ended: Arc<AtomicUsize>) -> Fake {
    Fake::talking(&certificate(), move |stream, arrivals| {
        let (frames, ended) = (frames.clone(), ended.clone());
        async move {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let asked = Arc::new(Notify::new());
            let told = asked.clone();
            let behave = move |visit: Visit| {
                told.notify_one();
                async move {
                    let _held = visit;
                    std::future::pending::<()>().await;
                }
            };
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(http2(theirs, arrivals, Arc::new(behave)));
            let ((mut from_proxy, mut to_proxy), (mut from_server, mut to_server)) =
                (tokio::io::split(stream), tokio::io::split(ours));
            tasks
                .spawn(async move { drop(tokio::io::copy(&mut from_proxy, &mut to_server).await) });
            tokio::select! {
                _ = tokio::io::copy(&mut from_server, &mut to_proxy) => return,
                () = asked.notified() => {}
            }
            while to_proxy.write_all(&frames).await.is_ok() {}
            ended.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await
}

#[tokio::test]
async fn a_member_that_floods_frames_loses_its_connection() {
    let ended = Arc::new(AtomicUsize::new(0));
    // A call waits, and each of these changes its window.
    let windows = [70_000_u32, 65_535]
        .map(|window| frame(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat()))
        .concat();
    let fake = saying_amid_a_call(windows.repeat(500), ended.clone()).await;
    let world = before(&[&fake]).await;
    let mut raw = world.raw("alice").await;
    let answer = raw.call(PUT, &put()).await;
    assert_eq!(answer.grpc_status(), UNAVAILABLE, "{answer:?}");
    soon("the end of the connection", || async {
        (ended.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn counts_a_connection_that_the_proxys_own_http2_ends() {
    // DATA on stream 0.
    let fake = saying_amid_a_call(frame(DATA, 0, 0, b"x"), Arc::default()).await;
    let world = before(&[&fake]).await;
    let mut raw = world.raw("alice").await;
    let answer = raw.call(PUT, &put()).await;
    assert_eq!(answer.grpc_status(), UNAVAILABLE, "{answer:?}");
    let counted = || async {
        world.metric("etcd_warden_upstream_failures_total", &["reason=\"protocol\""]).await
    };
    soon("the count", || async { (counted().await >= 1.0).then_some(()) }).await;
}

#[tokio::test]
async fn a_server_that_is_not_etcd_gets_no_request() {
    let strangers = [
        ("another CA", Authority::new("another CA").unwrap().server(&["127.0.0.1"]).unwrap()),
        (
            "another name",
            crate::world::authorities().upstream.server(&["127.0.0.2", "etcd.example"]).unwrap(),
        ),
        (
            "a client's certificate",
            crate::world::authorities().upstream.client("127.0.0.1").unwrap(),
        ),
    ];
    for (what, certificate) in strangers {
        let heard = Arc::new(AtomicUsize::new(0));
        let counted = heard.clone();
        let fake = Fake::talking(&certificate, move |mut stream, _| {
            let counted = counted.clone();
            async move {
                let mut bytes = Vec::new();
                let _ = stream.read_to_end(&mut bytes).await;
                counted.fetch_add(bytes.len(), Ordering::SeqCst);
            }
        })
        .await;
        let world = before(&[&fake]).await;
        calls_get(what, &world, UNAVAILABLE, NOT_SENT).await;
        assert!(fake.connections() > 0);
        assert_eq!(heard.load(Ordering::SeqCst), 0, "{what}: expected no data");
    }
}

#[tokio::test]
async fn an_http_error_response_is_forwarded_unchanged() {
    let fake = Fake::serving(|mut visit| async move {
        let response =
            Response::builder().status(503).header("content-type", "text/plain").body(()).unwrap();
        let mut out = visit.respond.send_response(response, false).unwrap();
        out.send_data("busy".into(), true).unwrap();
    })
    .await;
    let world = before(&[&fake]).await;
    let mut raw = world.raw("alice").await;
    for (path, message) in [(PUT, put()), (RANGE, range()), (WATCH, create("/a"))] {
        let answer = raw.call(path, &message).await;
        assert_eq!((answer.status, answer.grpc_status()), (503, None), "{path}: {answer:?}");
    }
    assert_eq!(
        (fake.arrivals("Put").len(), fake.arrivals("Range").len()),
        (1, 1),
        "the response of HTTP is forwarded"
    );
}

#[tokio::test]
async fn a_reset_reaches_the_client_with_its_reason_and_no_retry() {
    for reason in [
        Reason::NO_ERROR,
        Reason::PROTOCOL_ERROR,
        Reason::INTERNAL_ERROR,
        Reason::FLOW_CONTROL_ERROR,
        Reason::STREAM_CLOSED,
        Reason::CANCEL,
        Reason::CONNECT_ERROR,
        Reason::ENHANCE_YOUR_CALM,
        Reason::INADEQUATE_SECURITY,
        Reason::HTTP_1_1_REQUIRED,
        Reason::from(0xdead),
    ] {
        let fake = Fake::serving(move |mut visit| async move {
            visit.body().await;
            visit.respond.send_reset(reason);
        })
        .await;
        let world = before(&[&fake]).await;
        let mut raw = world.raw("alice").await;
        for (path, message) in [(PUT, put()), (RANGE, range())] {
            let answer = raw.call(path, &message).await;
            assert_eq!(
                answer.error.as_ref().and_then(h2::Error::reason),
                Some(reason),
                "{path}: {answer:?}"
            );
        }
        assert_eq!(
            (fake.arrivals("Put").len(), fake.arrivals("Range").len()),
            (1, 1),
            "{reason:?}"
        );
    }
}

#[tokio::test]
async fn what_is_refused_unprocessed_is_sent_to_another_member() {
    let refusing =
        Fake::serving(|mut visit| async move { visit.respond.send_reset(Reason::REFUSED_STREAM) })
            .await;
    let good = Fake::agreeable().await;
    let world = before(&[&refusing, &good]).await;
    // Whichever member it starts with.
    for _ in 0..2 {
        let mut raw = world.raw("alice").await;
        for (path, message) in [(PUT, put()), (RANGE, range()), (TXN, txn())] {
            let answer = raw.call(path, &message).await;
            assert_eq!(answer.grpc_status(), Some(0), "{path}: {answer:?}");
        }
    }
    assert_eq!(good.arrivals("Put").len(), 2);
    assert!(!refusing.all_arrivals().is_empty(), "no connection used the refusing member");

    // The only member is asked a second time. After that the refusal is final: nothing was done, and
    // the client may retry.
    let world = before(&[&refusing]).await;
    let answer = world.raw("alice").await.call(PUT, &put()).await;
    assert_eq!(said(&answer), (UNAVAILABLE, NOT_SENT), "{answer:?}");
}

/// Takes the whole request and drops the connection.
async fn swallow(mut visit: Visit) {
    visit.body().await;
    visit.connection.drop_it().await;
}

#[tokio::test]
async fn a_request_that_may_have_reached_etcd_is_sent_once() {
    let swallowing = Fake::serving(swallow).await;
    let good = Fake::agreeable().await;
    let world = before(&[&swallowing, &good]).await;
    // Two connections, so that one of them uses the member that drops everything.
    let mut lost = 0;
    for round in 0..2 {
        let mut raw = world.raw("alice").await;
        for (path, message) in [(PUT, put()), (TXN, txn()), (RANGE, range())] {
            let before = (swallowing.all_arrivals().len(), good.all_arrivals().len());
            let answer = raw.call(path, &message).await;
            let arrived =
                (swallowing.all_arrivals().len() - before.0, good.all_arrivals().len() - before.1);
            match said(&answer) {
                (Some(0), _) => assert_eq!(arrived, (0, 1), "{round} {path}"),
                (code, text) => {
                    assert_eq!((code, text), (UNAVAILABLE, LOST));
                    assert_eq!(
                        arrived,
                        (1, 0),
                        "{round} {path}: expected one request, and no other"
                    );
                    lost += 1;
                }
            }
        }
    }
    assert!(lost > 0, "no connection used the bad member");
}

#[tokio::test]
async fn a_request_is_not_sent_again_after_goaway_either() {
    let fake = Fake::serving(|mut visit| async move {
        visit.body().await;
        visit.connection.go_away(Reason::NO_ERROR);
    })
    .await;
    let world = before(&[&fake]).await;
    let mut raw = world.raw("alice").await;
    for (path, message, rpc) in
        [(PUT, put(), "Put"), (TXN, txn(), "Txn"), (RANGE, range(), "Range")]
    {
        let answer = raw.call(path, &message).await;
        assert_eq!(answer.grpc_status(), UNAVAILABLE, "{answer:?}");
        assert_eq!(fake.arrivals(rpc).len(), 1);
    }
}

#[tokio::test]
async fn a_closing_connection_takes_no_new_call_and_keeps_its_streams() {
    // The first stream of each connection stays open; all others get a response. After GOAWAY the
    // old stream must continue.
    let fake = Fake::serving(|mut visit: Visit| async move {
        if visit.path.ends_with("/Watch") {
            let mut out = visit.begin(&created().encode_to_vec());
            visit.connection.go_away_gracefully();
            // Until the client has seen that calls still work.
            visit.body().await;
            return out.send_trailers(trailers(0, "")).unwrap();
        }
        visit.body().await;
        visit.answer(b"");
    })
    .await;
    let world = before(&[&fake]).await;
    let mut raw = world.raw("alice").await;
    let mut streams = Vec::new();
    for round in 0..6 {
        let mut stream = raw.open(WATCH, &grpc_headers()).await.unwrap();
        stream.request.send_data(framed(&create("/a")).into(), false).unwrap();
        streams.push(stream);
        soon("the watch", || async {
            let watches = world.metric("etcd_warden_watches", &[]).await;
            (watches == f64::from(round + 1)).then_some(())
        })
        .await;
    }
    for mut stream in streams {
        stream.request.send_data(bytes::Bytes::new(), true).unwrap();
        assert_eq!(Answer::read(stream.response).await.grpc_status(), Some(0));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_lost_connection() {
    let fake = Fake::serving(|mut visit| async move {
        visit.body().await;
        let mut out = visit.head();
        out.send_data(framed(&[0; 100])[..50].to_vec().into(), false).unwrap();
        // The request must be on its way before the connection ends.
        tokio::time::sleep(Duration::from_millis(50)).await;
        visit.connection.drop_it().await;
    })
    .await;
    let world = before(&[&fake]).await;
    let mut raw = world.raw("alice").await;
    for (path, message, rpc) in [(PUT, put(), "Put"), (RANGE, range(), "Range")] {
        let answer = raw.call(path, &message).await;
        assert_eq!(said(&answer), (UNAVAILABLE, LOST), "{answer:?}");
        assert!(answer.messages().is_empty(), "half a message counts as lost");
        assert_eq!(fake.arrivals(rpc).len(), 1, "an interrupted response is not retried");
    }
}

// --- a response in several pieces ---

/// While other calls are open, a short response waits for its trailers and leaves in one write.
/// Without other calls it is forwarded as it arrives.
#[tokio::test]
async fn a_short_response_waits_for_trailers_only_beside_others() {
    let ends = Arc::new(Semaphore::new(0));
    let waits = ends.clone();
    let fake = Fake::serving(move |mut visit| {
        let ends = waits.clone();
        async move {
            visit.body().await;
            match &*visit.path {
                RANGE => {
                    let mut out = visit.begin(b"whole");
                    ends.acquire().await.unwrap().forget();
                    out.send_trailers(trailers(0, "")).unwrap();
                }
                TXN => visit.answer(b""),
                _ => visit.reset().await,
            }
        }
    })
    .await;
    let world = before(&[&fake]).await;
    let mut raw = world.raw("alice").await;
    let asked = async |raw: &mut Raw, path, message: Vec<u8>| {
        let mut stream = raw.open(path, &grpc_headers()).await.unwrap();
        stream.request.send_data(framed(&message).into(), true).unwrap();
        stream
    };
    let alone = asked(&mut raw, RANGE, range()).await;
    let mut body = timeout(SOON, alone.response)
        .await
        .expect("headers before the trailers")
        .unwrap()
        .into_body();
    let message =
        timeout(SOON, body.data()).await.expect("a message before the trailers").unwrap().unwrap();
    assert_eq!(message, framed(b"whole"));
    ends.add_permits(1);
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");

    let _open = asked(&mut raw, PUT, put()).await;
    let mut beside = asked(&mut raw, RANGE, range()).await;
    soon("the request at etcd", || async { (fake.arrivals("Range").len() == 2).then_some(()) })
        .await;
    // Later data of the same connection to etcd has been forwarded, so earlier data has been
    // handled.
    assert_eq!(raw.call(TXN, &txn()).await.grpc_status(), Some(0));
    assert!((&mut beside.response).now_or_never().is_none(), "nothing before the trailers");
    ends.add_permits(1);
    let answer = Answer::read(beside.response).await;
    assert_eq!((answer.grpc_status(), answer.messages()), (Some(0), vec![&b"whole"[..]]));
}

// --- invalid watch responses ---

fn create(key: &str) -> Vec<u8> {
    let create = WatchCreateRequest { key: key.into(), ..WatchCreateRequest::default() };
    WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) }
        .encode_to_vec()
}

fn created() -> WatchResponse {
    let header = Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, raft_term: 1 });
    WatchResponse { header, created: true, ..WatchResponse::default() }
}

/// The client's view of a watch whose server sends a valid response to the create, then these
/// bytes, and then `rest`.
async fn watch_answered(bytes: Vec<u8>, ends: bool) -> Answer {
    let fake = Fake::serving(move |mut visit: Visit| {
        let bytes = bytes.clone();
        async move {
            let mut out = visit.begin(&created().encode_to_vec());
            out.send_data(bytes.into(), false).unwrap();
            if ends {
                return out.send_trailers(trailers(0, "")).unwrap();
            }
            visit.reset_amid(&mut out).await;
        }
    })
    .await;
    let world = before(&[&fake]).await;
    let mut raw = world.raw("alice").await;
    let mut stream = raw.open(WATCH, &grpc_headers()).await.unwrap();
    stream.request.send_data(framed(&create("/a")).into(), false).unwrap();
    let answer = Answer::read(stream.response).await;
    // Whatever the response was, the next call of the same client is served.
    let fresh = Fake::agreeable().await;
    let world = before(&[&fresh]).await;
    assert_eq!(world.raw("alice").await.call(RANGE, &range()).await.grpc_status(), Some(0));
    answer
}

#[tokio::test]
async fn an_unreadable_watch_response_ends_the_stream() {
    let mut flagged = framed(&created().encode_to_vec());
    flagged[0] = 1;
    let cases = [
        ("not protobuf", framed(&[0xff; 32])),
        ("a compressed message", flagged),
        ("fields out of order", framed(&[0x18, 1, 0x10, 1])),
        ("a header that is longer than its message", framed(&[0x0a, 0x7f, 1])),
        // The header would grow without end: a message of four gigabytes that is all header.
        (
            "a header without an end",
            [&[0, 0xff, 0xff, 0xff, 0xff, 0x0a, 0xf0, 0xff, 0xff, 0xff, 0x0f][..], &[0; 60_000]]
                .concat(),
        ),
    ];
    for (what, bytes) in cases {
        let answer = watch_answered(bytes, false).await;
        assert_eq!(said(&answer), (UNAVAILABLE, LOST), "{what}: {answer:?}");
        assert_eq!(answer.messages().len(), 1, "{what}: earlier responses are not lost");
    }
}

#[tokio::test]
async fn a_watch_answer_that_is_cut_ends_as_it_came() {
    let whole = framed(&created().encode_to_vec());
    for cut in [3, 7, whole.len() - 1] {
        let answer = watch_answered(whole[..cut].to_vec(), true).await;
        assert_eq!(answer.messages().len(), 1, "the complete one");
        assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    }
}

#[tokio::test]
async fn endless_data_stops_when_the_client_stops_reading() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let fake = Fake::serving(move |mut visit: Visit| {
        let counted = counted.clone();
        async move {
            let body = visit.body().await;
            if body.windows(9).any(|part| part == b"neighbour") {
                return visit.answer(b"");
            }
            let mut out = visit.head();
            // One message of four gigabytes.
            out.send_data(vec![0, 0xff, 0xff, 0xff, 0xff].into(), false).unwrap();
            loop {
                out.reserve_capacity(16 * 1024);
                let Some(Ok(room)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else {
                    return;
                };
                if out.send_data(vec![0; room].into(), false).is_err() {
                    return;
                }
                counted.fetch_add(room, Ordering::SeqCst);
            }
        }
    })
    .await;
    let world = before(&[&fake]).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let mut stream = raw.open(RANGE, &grpc_headers()).await.unwrap();
    stream.request.send_data(framed(&range()).into(), true).unwrap();
    let response = stream.response.await.unwrap();
    // The header was read, and nothing after it: the rest stops at the flow control windows.
    let mut before = usize::MAX;
    while sent.load(Ordering::SeqCst) != before {
        before = sent.load(Ordering::SeqCst);
        neighbour.is_unharmed().await;
    }
    assert!(before < 2 << 20, "{before} bytes were read from etcd for a client that reads nothing");
    drop(response);
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn a_client_of_etcd_notices_nothing_of_a_member_that_is_gone() {
    let mut world = World::with(TWO_CLIENTS).members(3).config(quick_checks).start().await;
    well(&world, 3.0).await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..3 {
        clients.push(world.as_("alice").await);
    }
    for client in &mut clients {
        client.put("/a", "1", None).await.unwrap();
    }
    world.etcd_mut().kill(0);
    all_well_but(&world, 0).await;
    soon("a leader among the remaining members", || async {
        world.as_("alice").await.put("/a", "2", None).await.is_ok().then_some(())
    })
    .await;
    for client in &mut clients {
        client.put("/a", "3", None).await.unwrap();
        assert_eq!(client.get("/a", None).await.unwrap().kvs()[0].value(), b"3");
    }
}

/// The proxy does not retry a lost read. clientv3 (etcdctl) does so itself and sees no error. A
/// client that does not retry sees UNAVAILABLE for calls that were open at the member, and nothing
/// else.
#[tokio::test]
async fn a_rolling_restart_costs_calls_under_way_only() {
    let mut world = World::with(TWO_CLIENTS).members(3).config(quick_checks).start().await;
    well(&world, 3.0).await;
    world.direct().await.put("/a", "value", None).await.unwrap();
    let issued = authorities().clients.client("alice").unwrap();
    let repeats =
        Etcdctl::new(world.etcd(), &world.endpoint(), &authorities().clients.pem(), &issued);
    let mut does_not_repeat = world.raw("alice").await;
    let stop = CancellationToken::new();
    let (stopped, stopped_too) = (stop.clone(), stop.clone());
    // Linearizable reads fail while there is no leader, with or without a proxy. Serializable ones
    // show what becomes of the connection.
    let serializable =
        RangeRequest { serializable: true, ..RangeRequest::decode(&range()[..]).unwrap() }
            .encode_to_vec();
    let repeating = tokio::spawn(async move {
        let mut reads = 0;
        while !stopped.is_cancelled() {
            assert_eq!(
                repeats.run(&["get", "/a", "--consistency=s", "--print-value-only"], "").await.ok(),
                "value\n"
            );
            reads += 1;
        }
        reads
    });
    let not_repeating = tokio::spawn(async move {
        let (mut answered, mut lost) = (0, 0);
        while !stopped_too.is_cancelled() {
            match said(&does_not_repeat.call(RANGE, &serializable).await) {
                (Some(0), _) => answered += 1,
                (UNAVAILABLE, LOST) => lost += 1,
                other => panic!("{other:?}"),
            }
            tokio::task::yield_now().await;
        }
        (answered, lost)
    });
    for member in 0..3 {
        world.etcd_mut().kill(member);
        all_well_but(&world, member).await;
        world.etcd_mut().restart(member).await.unwrap();
        well(&world, 3.0).await;
    }
    stop.cancel();
    let reads = repeating.await.unwrap();
    let (answered, lost) = not_repeating.await.unwrap();
    assert!(
        reads > 0 && answered > 0 && lost <= 3,
        "etcdctl read {reads} times; {answered} answered, {lost} lost"
    );
}
