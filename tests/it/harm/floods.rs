//! Floods of frames that HTTP/2 allows one by one. A flood ends its sender's connection or has no
//! effect on other clients.

use std::time::Duration;

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::pki::Leaf;
use h2::Reason;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::POLICY;
use crate::world::raw::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    block, frame,
};
use crate::world::raw::{Raw, framed, grpc_headers};
use crate::world::{World, soon};

const PRIORITY: u8 = 2;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// More frames than any real client sends.
const ENOUGH: usize = 200_000;

pub fn head() -> Vec<u8> {
    block(&[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"127.0.0.1"),
        (b":path", Method::Range.path().as_bytes()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ])
}

pub fn range(world: &World) -> Vec<u8> {
    pb::RangeRequest { key: world.key("a").into(), ..Default::default() }.encode_to_vec()
}

/// Sends `begin` and then numbered frames until the connection ends or enough were sent, and reads
/// everything that comes back. Returns the number of frames sent and the reason of the GOAWAY that
/// ended the connection.
async fn flood(
    world: &World,
    begin: &[u8],
    mut next: impl FnMut(u32) -> Vec<u8>,
) -> (usize, Option<Reason>) {
    let stream = world.tls(&Leaf::client("alice")).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let reader = tokio::spawn(async move {
        let mut said = Vec::new();
        let _ = read.read_to_end(&mut said).await;
        said
    });
    let mut sent = 0_usize;
    let mut many = [PREFACE, &frame(SETTINGS, 0, 0, b""), begin].concat();
    while sent < ENOUGH {
        for _ in 0..500 {
            many.extend(next(u32::try_from(sent).unwrap()));
            sent += 1;
        }
        if write.write_all(&many).await.is_err() {
            break;
        }
        many.clear();
    }
    let _ = write.shutdown().await;
    let said = tokio::time::timeout(crate::world::SOON, reader)
        .await
        .expect("the connection ends")
        .unwrap();
    (sent, goaway(&said))
}

/// The reason of the first GOAWAY with an error code.
pub fn goaway(said: &[u8]) -> Option<Reason> {
    let mut rest = said;
    while let [a, b, c, kind, _, _, _, _, _, tail @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let (payload, tail) = tail.split_at_checked(length)?;
        if *kind == GOAWAY && payload[4..8] != [0; 4] {
            return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()).into());
        }
        rest = tail;
    }
    None
}

#[tokio::test]
async fn a_header_block_without_an_end_ends_its_connection() {
    let world = World::start(POLICY).await;
    let neighbour = world.neighbour().await;
    for piece in [&[0_u8, 1, b'x', 1, b'y'][..], b""] {
        let (sent, told) =
            flood(&world, &frame(HEADERS, 0, 1, &head()), |_| frame(CONTINUATION, 0, 1, piece))
                .await;
        assert!(sent < ENOUGH, "still connected after {sent} CONTINUATION frames");
        assert!(told.is_some());
        neighbour.was_served("CONTINUATION").await;
    }
}

#[tokio::test]
async fn empty_data_ends_its_connection() {
    let world = World::start(POLICY).await;
    let neighbour = world.neighbour().await;
    let (_, told) =
        flood(&world, &frame(HEADERS, END_HEADERS, 1, &head()), |_| frame(DATA, 0, 1, b"")).await;
    assert_eq!(told, Some(Reason::ENHANCE_YOUR_CALM));
    neighbour.was_served("empty DATA").await;
}

#[tokio::test]
async fn resets_of_streams_that_were_just_opened_end_their_connection() {
    let world = World::start(POLICY).await;
    let neighbour = world.neighbour().await;
    let cancel = u32::from(Reason::CANCEL).to_be_bytes();
    let pair = |n: u32| {
        [frame(HEADERS, END_HEADERS, 2 * n + 1, &head()), frame(RST_STREAM, 0, 2 * n + 1, &cancel)]
            .concat()
    };
    let (_, told) = flood(&world, b"", pair).await;
    assert_eq!(told, Some(Reason::ENHANCE_YOUR_CALM));
    neighbour.was_served("rapid reset").await;
}

#[tokio::test]
async fn frames_without_effect_harm_no_other_client() {
    let world = World::start(POLICY).await;
    let neighbour = world.neighbour().await;
    let cases: [(&str, Vec<u8>); 6] = [
        ("PING", frame(PING, 0, 0, b"12345678")),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("SETTINGS that change the table's size", frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
        ("an unknown frame type", frame(0xfa, 0, 0, b"?")),
    ];
    for (what, bytes) in cases {
        let (sent, told) = flood(&world, b"", |_| bytes.clone()).await;
        eprintln!("{what}: {sent} frames, then {told:?}");
        neighbour.was_served(what).await;
    }
}

#[tokio::test]
async fn window_updates_of_an_open_stream_harm_no_other_client() {
    let world = World::start(POLICY).await;
    let neighbour = world.neighbour().await;
    let (sent, told) = flood(&world, &frame(HEADERS, END_HEADERS, 1, &head()), |_| {
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])
    })
    .await;
    eprintln!("WINDOW_UPDATE of a stream: {sent} frames, then {told:?}");
    neighbour.was_served("WINDOW_UPDATE of a stream").await;
}

#[tokio::test]
async fn abandoned_streams_count_only_for_their_identity() {
    let world =
        World::with(POLICY).config(|config| config.limits.max_requests = 2000).start().await;
    let neighbour = world.neighbour().await;
    let stream = world.tls(&Leaf::client("alice")).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let reader =
        tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
    let heads: Vec<u8> =
        (0..5000_u32).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &head())).collect();
    write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &heads].concat()).await.unwrap();
    let refused =
        || world.metric("etcd_warden_limits_hit_total", &[r#"limit="requests_in_flight""#]);
    soon("everything above its share refused", || async {
        (refused().await >= 4000.0).then_some(())
    })
    .await;
    assert!(
        world.metric("etcd_warden_requests_in_flight", &[]).await >= 1000.0,
        "its share is still open"
    );
    neighbour.was_served("streams opened and left").await;
    reader.abort();
}

#[tokio::test]
async fn header_lists_end_at_the_limit_however_they_are_packed() {
    let world = World::start(POLICY).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let with = |bytes: usize| {
        let mut headers = grpc_headers();
        headers.insert("x-much", "y".repeat(bytes).parse().unwrap());
        headers
    };
    let body = framed(&range(&world));
    for _ in 0..200 {
        assert_eq!(
            raw.send(Method::Range.path(), &with(15_000), &body).await.grpc_status(),
            Some(0)
        );
    }
    let above = raw.send(Method::Range.path(), &with(17_000), &body).await;
    assert!(above.status == 431 || above.error.is_some(), "{above:?}");
    neighbour.was_served("header lists at the limit").await;

    // One entry of 4,000 bytes in the table, then one byte for each reference to it: 8 MB in 2 kB
    // (RFC 7541, 7.3).
    let mut bomb = head();
    bomb.push(0x40);
    for text in [&b"x"[..], &[b'y'; 4000]] {
        bomb.extend(length(text.len()));
        bomb.extend(text);
    }
    let put = frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb);
    let refer = [head(), vec![0x80 | 62; 2000]].concat();
    let (sent, told) =
        flood(&world, &put, |n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 3, &refer)).await;
    eprintln!("header bombs: {sent}, then {told:?}");
    neighbour.was_served("header bombs").await;
}

/// An integer with a prefix of seven bits (RFC 7541, 5.1).
fn length(of: usize) -> Vec<u8> {
    if of < 127 {
        return vec![u8::try_from(of).unwrap()];
    }
    let rest = of - 127;
    assert!(rest < 1 << 14);
    vec![127, (rest % 128) as u8 | 128, (rest / 128) as u8]
}

#[tokio::test]
async fn bodies_sent_byte_by_byte_are_served_and_harm_no_client() {
    let world = World::start(POLICY).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let put =
        pb::PutRequest { key: world.key("a").into(), value: vec![b'x'; 100], ..Default::default() };
    let body = framed(&put.encode_to_vec());
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(raw.open(Method::Put.path(), &grpc_headers()).await.unwrap());
    }
    for (place, byte) in body.iter().enumerate() {
        for stream in &mut open {
            stream.request.send_data(vec![*byte].into(), place + 1 == body.len()).unwrap();
        }
        // Slow bytes: each in its own frame.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    neighbour.was_served("bodies byte by byte").await;
    for stream in open {
        assert_eq!(crate::world::raw::Answer::read(stream.response).await.grpc_status(), Some(0));
    }
    let mut other: Raw = world.raw("alice").await;
    assert_eq!(other.call(Method::Range.path(), &range(&world)).await.grpc_status(), Some(0));
}
