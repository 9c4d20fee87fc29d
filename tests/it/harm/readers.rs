//! Clients that do not read their responses: each uses its own share, and no other client waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::Config;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::watch_request::RequestUnion;
use h2::SendStream;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use super::{POLICY, scale};
use crate::live::Live;
use crate::world::fake::Fake;
use crate::world::raw::wire::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, block, frame,
};
use crate::world::raw::{Raw, framed, tls_over};
use crate::world::{World, authorities, soon};

const MIB: usize = 1 << 20;

/// The size of the response to each reader.
pub const ANSWER: usize = 100 * MIB;

const TOO_MANY: &str = "etcdserver: too many requests";

const WINDOW_UPDATE: u8 = 8;
const NEVER_FULL: u32 = (1 << 31) - 1;

/// A fake etcd that responds to the neighbour at once, and to all others with more than 100 MiB, as
/// fast as it is read.
pub async fn generous() -> (Fake, Arc<AtomicUsize>) {
    let taken = Arc::<AtomicUsize>::default();
    let counted = taken.clone();
    let fake = Fake::serving(move |mut visit| {
        let taken = counted.clone();
        async move {
            if visit.path == Method::Watch.path() {
                let mut out = visit.begin(
                    &pb::WatchResponse { created: true, ..Default::default() }.encode_to_vec(),
                );
                let kv = etcd_warden_proto::mvccpb::KeyValue {
                    value: vec![b'x'; MIB],
                    ..Default::default()
                };
                let event = etcd_warden_proto::mvccpb::Event { kv: Some(kv), ..Default::default() };
                let events = pb::WatchResponse { events: vec![event], ..Default::default() };
                return pour(&mut out, &framed(&events.encode_to_vec()).into(), ANSWER, &taken)
                    .await;
            }
            if visit.path == Method::LeaseTimeToLive.path() {
                // Keys of one MiB one after the other; each field has four bytes before it.
                let key = [&[0x2a, 0xfc, 0xff, 0x3f][..], b"/t/", &vec![b'k'; MIB - 7]].concat();
                let mut out = visit.head();
                out.send_data(
                    [&[0][..], &u32::try_from(ANSWER).unwrap().to_be_bytes()].concat().into(),
                    false,
                )
                .unwrap();
                return pour(&mut out, &key.into(), ANSWER, &taken).await;
            }
            if visit.body().await.windows(9).any(|part| part == b"neighbour") {
                return visit.answer(b"");
            }
            let mut out = visit.head();
            out.send_data(
                [&[0][..], &u32::try_from(ANSWER).unwrap().to_be_bytes()].concat().into(),
                false,
            )
            .unwrap();
            pour(&mut out, &vec![0; MIB].into(), ANSWER, &taken).await;
        }
    });
    (fake.await, taken)
}

/// Sends the piece repeatedly, as the window allows.
async fn pour(out: &mut SendStream<Bytes>, piece: &Bytes, bytes: usize, taken: &AtomicUsize) {
    for _ in 0..bytes / MIB {
        let mut piece = piece.clone();
        while !piece.is_empty() {
            out.reserve_capacity(piece.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else {
                return;
            };
            let part = piece.split_to(room.min(piece.len()));
            taken.fetch_add(part.len(), Ordering::Relaxed);
            if out.send_data(part, false).is_err() {
                return;
            }
        }
    }
    std::future::pending::<()>().await;
}

pub fn range(key: String) -> Vec<u8> {
    pb::RangeRequest { key: key.into(), ..Default::default() }.encode_to_vec()
}

fn create(key: String) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: key.into(), ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// A connection of a client that reads nothing: all windows are open and its socket is never read.
/// It sends this number of requests.
pub async fn deaf(
    address: SocketAddr,
    common_name: &str,
    request: &[u8],
    times: u32,
) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let issued = authorities().clients.client(common_name).unwrap();
    let connected = socket.connect(address).await.unwrap();
    let mut stream = tls_over(
        connected,
        &authorities().clients,
        address,
        Some(&issued),
        &[b"h2"],
        rustls::ALL_VERSIONS,
    )
    .await
    .unwrap();
    let settings = [&[0, 4][..], &NEVER_FULL.to_be_bytes()].concat();
    let mut said = [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat();
    said.extend(frame(WINDOW_UPDATE, 0, 0, &(NEVER_FULL - 65_535).to_be_bytes()));
    for n in 0..times {
        said.extend(call(2 * n + 1, request));
    }
    stream.write_all(&said).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

fn call(stream: u32, request: &[u8]) -> Vec<u8> {
    let head = block(&[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"127.0.0.1"),
        (b":path", Method::Range.path().as_bytes()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]);
    [frame(HEADERS, END_HEADERS, stream, &head), frame(DATA, END_STREAM, stream, &framed(request))]
        .concat()
}

async fn hits(world: &World, limit: &str) -> f64 {
    world.metric("etcd_warden_limits_hit_total", &[&format!("limit=\"{limit}\"")]).await
}

/// Watch streams of alice's that are never read, each on its own connection, more than her share
/// allows to within one window.
async fn unread_watches(world: &World) -> Vec<(Live, Raw)> {
    let before = hits(world, "unread_bytes").await;
    let mut watches = Vec::new();
    for _ in 0..12 {
        let mut raw = world.raw("alice").await;
        let mut stream = Live::open(&mut raw, Method::Watch).await;
        stream.send(&create(world.key("w")));
        watches.push((stream, raw));
    }
    soon("ended watches", || async {
        (hits(world, "unread_bytes").await >= before + 6.0).then_some(())
    })
    .await;
    watches
}

#[tokio::test]
async fn three_hundred_clients_that_never_read_delay_no_other() {
    let (fake, taken) = generous().await;
    let readers = scale("ETCD_WARDEN_TEST_READERS", 300);
    // The default allows 300 of them.
    let room = move |config: &mut Config| {
        config.limits.max_unread_bytes =
            config.limits.max_unread_bytes.max(readers / 300 * 256 * MIB);
    };
    let world = World::with(POLICY).config(fake.replace_etcd()).config(room).start().await;
    let neighbour = world.neighbour().await;
    let mut held = Vec::new();
    let mut deaf_ones = Vec::new();
    for number in 0..readers {
        let name = format!("reader-{number}");
        if number % 2 == 0 {
            let mut raw = world.raw(&name).await;
            held.push((Live::ask(&mut raw, Method::Range, &range(world.key("big"))).await, raw));
        } else {
            deaf_ones.push(deaf(world.address(), &name, &range(world.key("big")), 1).await);
        }
        if number == 0 {
            neighbour.was_served("one client that never reads").await;
        }
    }
    soon("all of them at etcd", || async {
        let asked =
            fake.arrivals("Range").iter().filter(|asked| asked.body.ends_with(b"big")).count();
        (asked == readers).then_some(())
    })
    .await;
    neighbour.was_served(&format!("{readers} clients that never read")).await;
    assert!(
        world.metric("etcd_warden_requests_in_flight", &[]).await >= readers as f64,
        "all of them are still open"
    );
    assert_eq!(hits(&world, "unread_bytes").await, 0.0);
    // Of each 100 MiB, only the sockets' buffers and one window were read from etcd.
    let each = taken.load(Ordering::Relaxed) / readers;
    assert!(each < 8 * MIB, "{each} bytes were read from etcd for each");
    eprintln!(
        "{readers} clients: {} KiB of {} MiB were read from etcd for each",
        each / 1024,
        ANSWER / MIB
    );
}

#[tokio::test]
async fn unread_responses_above_the_share_end() {
    let (fake, _) = generous().await;
    let world = World::with(POLICY)
        .config(fake.replace_etcd())
        .config(|config| config.limits.max_unread_bytes = 8 * MIB)
        .start()
        .await;
    let neighbour = world.neighbour().await;
    const ASKED: usize = 100;
    let mut raw = world.raw("alice").await;
    let mut held = Vec::new();
    for _ in 0..ASKED {
        held.push(Live::ask(&mut raw, Method::Range, &range(world.key("big"))).await);
    }
    // Each remaining stream holds a window of 256 KiB, and alice has half of 8 MiB.
    soon("the end of everything above her share", || async {
        (hits(&world, "unread_bytes").await >= (ASKED - 16) as f64).then_some(())
    })
    .await;
    neighbour.was_served("unread responses of one identity").await;
    assert!(
        world.metric("etcd_warden_requests_in_flight", &[]).await >= 8.0,
        "her share is still open"
    );
    assert_eq!(held.pop().unwrap().next_bytes().await, Err((8, TOO_MANY.to_owned())));
    // Others have their own share. A client that reads is served, however slowly.
    let mut bobs = world.raw("bob").await;
    let mut slow = Live::ask(&mut bobs, Method::Range, &range(world.key("big"))).await;
    slow.skip(4 * MIB).await;
    // A Watch stream ends with the status that makes clientv3 reconnect.
    let mut watches = unread_watches(&world).await;
    let (mut last, _raw) = watches.pop().unwrap();
    assert_eq!(last.end().await, (14, TOO_MANY.to_owned()));
    // Resources of cancelled calls are given back.
    drop((held, raw, watches));
    let small = range(world.key("neighbour/of/alice"));
    soon("her share", || async {
        let mut raw = world.raw("alice").await;
        let mut again = Live::ask(&mut raw, Method::Range, &range(world.key("big"))).await;
        again.skip(MIB).await;
        drop(again);
        (raw.call(Method::Range.path(), &small).await.grpc_status() == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed_at_its_share() {
    let (fake, _) = generous().await;
    let world = World::with(POLICY)
        .config(fake.replace_etcd())
        .config(|config| config.limits.max_unread_bytes = 4 * MIB)
        .start()
        .await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(Live::ask(&mut raw, Method::Range, &range(world.key("big"))).await);
    }
    soon("her share used up", || async {
        (hits(&world, "unread_bytes").await >= 1.0).then_some(())
    })
    .await;
    let watches = unread_watches(&world).await;
    // Responses that arrive at once are sent at once and fill the sockets. After that nothing more
    // can be held.
    let mut stream = deaf(world.address(), "alice", &[], 0).await;
    let at_etcd =
        || fake.arrivals("Range").iter().filter(|asked| asked.body.ends_with(b"big")).count();
    // The neighbour's connection, alice's first one, one for each watch, and this one.
    let all = 3.0 + watches.len() as f64;
    let is_there = async || world.metric("etcd_warden_connections", &[]).await >= all;
    soon("the connection", || async { is_there().await.then_some(()) }).await;
    let mut asked = 0;
    while is_there().await {
        let before = at_etcd();
        if stream.write_all(&call(2 * asked + 1, &range(world.key("big")))).await.is_err() {
            break;
        }
        soon("the call at etcd, or the end", || async {
            (at_etcd() > before || !is_there().await).then_some(())
        })
        .await;
        asked += 1;
        assert!(asked < 500, "data in the sockets ended the connection too late");
    }
    neighbour.was_served("a connection that is never read").await;
    let mut bob = world.raw("bob").await;
    assert_eq!(
        bob.call(Method::Range.path(), &range(world.key("neighbour/of/bob"))).await.grpc_status(),
        Some(0)
    );
    drop((held, watches));
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_not_read_and_can_resume() {
    let (fake, _) = generous().await;
    let world = fake.world(POLICY).await;
    let neighbour = world.neighbour().await;
    let mut stream = deaf(world.address(), "alice", &range(world.key("big")), 1).await;
    // As many pings as the sockets hold: the proxy does not read from a client that does not read.
    let ping = frame(crate::world::raw::wire::PING, 0, 0, &[0; 8]).repeat(1000);
    let mut sent = 0;
    let stuck = loop {
        match tokio::time::timeout(std::time::Duration::from_millis(500), stream.write_all(&ping))
            .await
        {
            Ok(written) => written.unwrap(),
            Err(_) => break true,
        }
        sent += ping.len();
        if sent > 64 * MIB {
            break false;
        }
    };
    assert!(stuck, "64 MiB of pings were read from a client that reads nothing");
    neighbour.was_served("a client that reads nothing").await;
    // The client starts reading: the rest of the response arrives, and so do the responses to its
    // pings.
    let mut read = 0;
    let mut buffer = vec![0; MIB];
    while read < ANSWER + 1000 * 17 {
        read += stream.read(&mut buffer).await.unwrap();
    }
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn incomplete_stream_messages_are_held_within_the_share() {
    let (fake, _) = generous().await;
    let world = World::with(POLICY)
        .config(fake.replace_etcd())
        .config(|config| config.limits.max_held_bytes = 8 * MIB)
        .start()
        .await;
    let neighbour = world.neighbour().await;
    let mut raw: Raw = world.raw("alice").await;
    let mut streams = Vec::new();
    let cut = framed(&vec![0; MIB + 1])[..MIB].to_vec();
    for _ in 0..32 {
        let mut stream = Live::open(&mut raw, Method::Watch).await;
        stream.send_as_they_are(&cut);
        streams.push(stream);
    }
    soon("everything above her share refused", || async {
        (hits(&world, "held_bytes").await >= 27.0).then_some(())
    })
    .await;
    neighbour.was_served("incomplete watch requests").await;
    let mut ends: futures_util::stream::FuturesUnordered<_> =
        streams.iter_mut().map(Live::end).collect();
    assert_eq!(futures_util::StreamExt::next(&mut ends).await, Some((14, TOO_MANY.to_owned())));
}
