//! Unread responses in small pieces: they use their client's share by their size and end no stream
//! of another client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::watch_request::RequestUnion;
use etcd_warden_proto::mvccpb;
use prost::Message as _;
use tokio::sync::Notify;

use super::POLICY;
use super::memory::{peak, raw};
use crate::live::Live;
use crate::process::{ServerFiles, text};
use crate::world::fake::{Fake, Visit};
use crate::world::raw::framed;
use crate::world::{World, soon};

/// More than a connection to etcd takes before another one is opened, so that each of them has
/// enough.
const STREAMS: usize = 240;

/// The unread data that one stream may hold.
const WINDOW: usize = 64 * 1024;

/// The longest event.
const EVENT: usize = 64;

fn create() -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: b"/t/a".into(), ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// An event whose number is its revision: about 30 bytes.
fn event(revision: i64) -> pb::WatchResponse {
    let header = Some(pb::ResponseHeader { revision, ..Default::default() });
    let kv = Some(mvccpb::KeyValue {
        key: b"/t/a".into(),
        mod_revision: revision,
        ..Default::default()
    });
    pb::WatchResponse {
        header,
        events: vec![mvccpb::Event { kv, ..Default::default() }],
        ..Default::default()
    }
}

/// The first watch gets an event when `quiet` is notified. The others get events without end, as
/// fast as they are read.
async fn etcd(poured: Arc<AtomicUsize>, quiet: Arc<Notify>) -> Fake {
    let watches = Arc::<AtomicUsize>::default();
    Fake::serving(move |mut visit: Visit| {
        let (poured, quiet, place) = (poured.clone(), quiet.clone(), watches.clone());
        async move {
            if visit.path != Method::Watch.path() {
                visit.body().await;
                return visit.answer(b"");
            }
            let is_first = place.fetch_add(1, Ordering::SeqCst) == 0;
            let mut out = visit
                .begin(&pb::WatchResponse { created: true, ..Default::default() }.encode_to_vec());
            if is_first {
                quiet.notified().await;
                out.send_data(framed(&event(1).encode_to_vec()).into(), false).unwrap();
                return std::future::pending().await;
            }
            for revision in 1.. {
                let event = framed(&event(revision).encode_to_vec());
                out.reserve_capacity(event.len());
                while out.capacity() < event.len() {
                    let Some(Ok(_)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else {
                        return;
                    };
                }
                poured.fetch_add(event.len(), Ordering::SeqCst);
                if out.send_data(event.into(), false).is_err() {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn small_unread_answers_end_no_stream_of_a_neighbour() {
    let (poured, quiet) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
    let fake = etcd(poured.clone(), quiet.clone()).await;
    let world = World::start(POLICY).await;
    let endpoint = format!("https://{}", fake.address);
    let serving = ServerFiles::new(&world, &POLICY.replace("$P", "/t"), "")
        .start(&["--endpoints", &endpoint])
        .await;
    let mut bobs = raw(&serving, "bob").await;
    let mut watch = Live::open(&mut bobs, Method::Watch).await;
    watch.send(&create());
    assert!(watch.next::<pb::WatchResponse>().await.unwrap().created);

    let before = peak(&serving);
    let mut connections = [raw(&serving, "alice").await, raw(&serving, "alice").await];
    let mut unread = Vec::new();
    for number in 0..STREAMS {
        let mut stream = Live::open(&mut connections[number % 2], Method::Watch).await;
        stream.send(&create());
        unread.push(stream);
    }
    soon("all windows full", || async {
        (poured.load(Ordering::SeqCst) >= STREAMS * (WINDOW - EVENT)).then_some(())
    })
    .await;
    // The neighbour shares a connection to etcd with each of these streams, and that connection has
    // far more pieces than h2 would keep.
    quiet.notify_one();
    assert_eq!(watch.next::<pb::WatchResponse>().await.unwrap().events.len(), 1);
    let each = peak(&serving).saturating_sub(before) / STREAMS as u64;
    eprintln!("an unread stream of small events costs {} KiB", each / 1024);
    // The rows of docs/limits.md: the waiting data, twice; both streams and their state; the
    // headers.
    let rows = 2 * (WINDOW + 16 * 1024) + 16 * 1024 + 16 * 1024;
    assert!(each < rows as u64, "{each} bytes each are more than {rows}");

    // A client that finally reads gets every event in order.
    let mut last = unread.pop().unwrap();
    drop(unread);
    assert!(last.next::<pb::WatchResponse>().await.unwrap().created);
    for revision in 1..5000 {
        let seen = last.next::<pb::WatchResponse>().await.unwrap();
        assert_eq!(seen.header.unwrap().revision, revision);
    }
    drop((last, watch, connections, bobs));
    let page = serving.page("/metrics").await;
    for reason in ["protocol", "lost", "reset"] {
        let zero = format!("etcd_warden_upstream_failures_total{{reason=\"{reason}\"}} 0");
        assert!(page.contains(&zero), "{page}");
    }
    serving.signal("TERM");
    let (output, _) = serving.end().await;
    let log = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(!log.contains("closing connection to etcd"), "{log}");
}
