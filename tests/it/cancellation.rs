//! A client that cancels a call cancels it at etcd too, and deadlines are forwarded with the call.

use std::time::Duration;

use etcd_warden_proto::etcdserverpb::{
    PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, watch_request,
};
use h2::Reason;
use prost::Message as _;

use crate::world::fake::Fake;
use crate::world::raw::{Raw, Stream, framed, grpc_headers};
use crate::world::{TWO_CLIENTS, World, soon};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

fn range() -> Vec<u8> {
    RangeRequest { key: b"/a".to_vec(), ..RangeRequest::default() }.encode_to_vec()
}

fn create() -> Vec<u8> {
    let create = WatchCreateRequest { key: b"/a".to_vec(), ..WatchCreateRequest::default() };
    WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) }
        .encode_to_vec()
}

/// Sends a complete request without reading the response.
async fn begun(raw: &mut Raw, path: &str, message: &[u8]) -> Stream {
    let mut stream = raw.open(path, &grpc_headers()).await.unwrap();
    let ends = path != WATCH;
    stream.request.send_data(framed(message).into(), ends).unwrap();
    stream
}

/// A fake etcd that takes every call and responds only to the neighbour's.
async fn patient() -> Fake {
    Fake::serving(|mut visit| async move {
        if visit.path == WATCH {
            return visit.reset().await;
        }
        if visit.body().await.windows(9).any(|part| part == b"neighbour") {
            return visit.answer(b"");
        }
        visit.reset().await;
    })
    .await
}

/// Waits until alice's call has arrived and returns how its stream was reset.
async fn arrived(fake: &Fake, path: &str) {
    soon("the call at etcd", || async { alices(fake, path).map(drop) }).await;
}

async fn reset(fake: &Fake, path: &str) -> Reason {
    soon("the end of the call at etcd", || async { alices(fake, path)?.reset }).await
}

fn alices(fake: &Fake, path: &str) -> Option<crate::world::fake::Arrival> {
    let neighbours = |body: &[u8]| body.windows(9).any(|part| part == b"neighbour");
    fake.all_arrivals().into_iter().rfind(|call| {
        call.path == path && !neighbours(&call.body) && (path == WATCH || !call.body.is_empty())
    })
}

#[tokio::test]
async fn a_call_that_is_given_up_is_reset_at_etcd() {
    let put = PutRequest { key: b"/a".to_vec(), ..PutRequest::default() }.encode_to_vec();
    for (path, message) in [
        (RANGE, range()),
        (PUT, put),
        (WATCH, create()),
        ("/etcdserverpb.Maintenance/Snapshot", Vec::new()),
    ] {
        let fake = patient().await;
        let world = fake.world(TWO_CLIENTS).await;
        let neighbour = world.neighbour().await;
        let mut raw = world.raw("alice").await;
        let stream = begun(&mut raw, path, &message).await;
        arrived(&fake, path).await;
        drop(stream);
        assert_eq!(reset(&fake, path).await, Reason::CANCEL, "{path}");
        neighbour.is_unharmed().await;
        assert!(!raw.connection.is_finished(), "{path}: the connection still works");
    }
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_no_call_at_etcd() {
    for (path, message) in [(RANGE, range()), (WATCH, create())] {
        let fake = patient().await;
        let world = fake.world(TWO_CLIENTS).await;
        let neighbour = world.neighbour().await;
        let mut raw = world.raw("alice").await;
        let _stream = begun(&mut raw, path, &message).await;
        arrived(&fake, path).await;
        // Closes the socket, as the end of the process would.
        raw.connection.abort();
        assert_eq!(reset(&fake, path).await, Reason::CANCEL, "{path}");
        neighbour.is_unharmed().await;
    }
}

#[tokio::test]
async fn a_response_to_a_cancelled_call_is_not_read_to_its_end() {
    let fake = Fake::serving(|mut visit| async move {
        visit.body().await;
        let mut out = visit.head();
        out.send_data(vec![0, 0xff, 0xff, 0xff, 0xff].into(), false).unwrap();
        visit.reset_amid(&mut out).await;
    })
    .await;
    let world = fake.world(TWO_CLIENTS).await;
    let mut raw = world.raw("alice").await;
    let stream = begun(&mut raw, RANGE, &range()).await;
    let response = stream.response.await.unwrap();
    drop(response);
    drop(stream.request);
    assert_eq!(reset(&fake, RANGE).await, Reason::CANCEL);
}

#[tokio::test]
async fn a_deadline_reaches_etcd_as_the_client_wrote_it() {
    let fake = patient().await;
    let world = fake.world(TWO_CLIENTS).await;
    for timeout in ["1234567u", "1H", "99999999n", "15S"] {
        let mut raw = world.raw("alice").await;
        let mut headers = grpc_headers();
        headers.insert("grpc-timeout", timeout.parse().unwrap());
        let mut stream = raw.open(RANGE, &headers).await.unwrap();
        stream.request.send_data(framed(&range()).into(), true).unwrap();
        let told = || {
            fake.arrivals("Range")
                .into_iter()
                .any(|call| call.headers.get("grpc-timeout").is_some_and(|told| told == timeout))
        };
        soon("the call with its deadline at etcd", || async { told().then_some(()) }).await;
    }
}

/// The number of calls of a method that etcd has started and not finished.
async fn under_way(world: &World, rpc: &str) -> f64 {
    let text = world.etcd().metrics(0).await.unwrap();
    let sum = |name: &str| -> f64 {
        let samples = text.lines().filter(|line| {
            line.starts_with(name) && line.contains(&format!("grpc_method=\"{rpc}\""))
        });
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    sum("grpc_server_started_total{") - sum("grpc_server_handled_total{")
}

async fn watchers(world: &World) -> f64 {
    let text = world.etcd().metrics(0).await.unwrap();
    let line =
        text.lines().find(|line| line.starts_with("etcd_debugging_mvcc_watcher_total ")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_cancelled_watch_is_gone_from_etcd() {
    let world = World::with(TWO_CLIENTS).own_etcd().start().await;
    let before = watchers(&world).await;
    for how in ["the stream is reset", "the connection is closed"] {
        let mut raw = world.raw("alice").await;
        let mut streams = Vec::new();
        for _ in 0..20 {
            streams.push(begun(&mut raw, WATCH, &create()).await);
        }
        soon("the watches at etcd", || async {
            (watchers(&world).await == before + 20.0).then_some(())
        })
        .await;
        if how == "the stream is reset" {
            drop(streams);
        } else {
            raw.connection.abort();
        }
        soon(how, || async { (watchers(&world).await == before).then_some(()) }).await;
        soon(how, || async { (under_way(&world, "Watch").await == 0.0).then_some(()) }).await;
        soon(how, || async {
            (world.metric("etcd_warden_watches", &[]).await == 0.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn calls_cancelled_while_etcd_hung_are_gone_when_it_resumes() {
    let world = World::with(TWO_CLIENTS).own_etcd().start().await;
    let mut raw = world.raw("alice").await;
    assert_eq!(raw.call(RANGE, &range()).await.grpc_status(), Some(0));
    world.etcd().pause(0).unwrap();
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(begun(&mut raw, RANGE, &range()).await);
    }
    soon("the calls", || async {
        (world.metric("etcd_warden_requests_in_flight", &[]).await == 20.0).then_some(())
    })
    .await;
    drop(streams);
    // The proxy ends them at once, whatever etcd does.
    soon("their ends at the client", || async {
        (world.metric("etcd_warden_requests_in_flight", &[]).await == 0.0).then_some(())
    })
    .await;
    world.etcd().resume(0).unwrap();
    soon("their ends at etcd", || async {
        (under_way(&world, "Range").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(raw.call(RANGE, &range()).await.grpc_status(), Some(0));
}

#[tokio::test]
async fn a_call_whose_deadline_passes_ends_at_both_sides() {
    let world = World::with(TWO_CLIENTS).own_etcd().start().await;
    let mut raw = world.raw("alice").await;
    let mut headers = grpc_headers();
    headers.insert("grpc-timeout", "300m".parse().unwrap());
    let mut stream = raw.open(WATCH, &headers).await.unwrap();
    stream.request.send_data(framed(&create()).into(), false).unwrap();
    let answer = tokio::time::timeout(
        Duration::from_secs(20),
        crate::world::raw::Answer::read(stream.response),
    )
    .await
    .unwrap();
    let cancelled = answer.error.as_ref().and_then(h2::Error::reason) == Some(Reason::CANCEL);
    assert!(
        answer.grpc_status() == Some(4) || cancelled,
        "expected DEADLINE_EXCEEDED as from etcd: {answer:?}"
    );
    soon("the end at etcd", || async { (under_way(&world, "Watch").await == 0.0).then_some(()) })
        .await;
    soon("the end at the proxy", || async {
        (world.metric("etcd_warden_requests_in_flight", &[]).await == 0.0).then_some(())
    })
    .await;
}
