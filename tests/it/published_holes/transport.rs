//! Attacks before any request is read: handshakes, revocation lists, and HTTP/2.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb::{PutRequest, RangeRequest};
use etcd_warden_testbed::pki::{Issued, Leaf, write_private};
use h2::Reason;
use prost::Message as _;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::fixture::Fixture;
use super::https;
use crate::process::ServerFiles;
use crate::world::fake::Fake;
use crate::world::raw::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, block,
    frame,
};
use crate::world::raw::{Raw, framed, tls, tls_over};
use crate::world::{SOON, World, authorities, soon, vulnerable};

const POLICY: &str = "
version: 1
mode: enforce
roles: {all: {allow: [{keys: $P/*, verbs: [rw]}]}}
bindings: [{cn: attacker, roles: [all]}, {cn: neighbour, roles: [all]}]
";

const REVOKED: u64 = 4711;

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// With a second listener for HTTP, only that listener used the revocation list.
#[tokio::test]
async fn ghsa_3wh4_j44w_pg92_revoked_certificate_second_listener() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("clients.crl");
    let pem = authorities().upstream.crl(&[REVOKED]).unwrap();
    std::fs::write(&list, CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    let http = free_port();
    let flags = [
        format!("--client-crl-file={}", list.display()),
        format!("--listen-client-http-urls=https://{http}"),
    ];
    let clients = authorities().clients.crl(&[REVOKED]).unwrap();
    let fixture = Fixture::configured(vulnerable::v3_6, &[&flags[0], &flags[1]], move |config| {
        let folder = config.policy.parent().unwrap();
        config.downstream.crl_files = vec![write_private(folder, "clients.crl", &clients).unwrap()];
    })
    .await;
    fixture.holds().await;
    let revoked = Leaf::client("attacker").serial(REVOKED);
    let range = RangeRequest { key: fixture.world.key("own/k").into(), ..RangeRequest::default() }
        .encode_to_vec();

    let issued = authorities().upstream.issue(&revoked).unwrap();
    let healthy = async |issued: &Issued| {
        let answer = https::request(http, &authorities().upstream, issued, "GET /health", "").await;
        answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    };
    assert!(healthy(&authorities().upstream.client("attacker").unwrap()).await);
    assert!(!healthy(&issued).await, "the HTTP listener knows the revocation");
    let address = fixture.world.etcd().addresses()[0];
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = tls_over(
        stream,
        &authorities().upstream,
        address,
        Some(&issued),
        &[b"h2"],
        rustls::ALL_VERSIONS,
    )
    .await
    .unwrap();
    let answer = Raw::over(stream).await.call(Method::Range.path(), &range).await;
    assert_eq!(answer.grpc_status(), Some(0), "the gRPC listener does not: {answer:?}");

    // The proxy also has an admin listener. In TLS 1.3 a client learns of the refusal with its
    // first read.
    let issued = authorities().clients.issue(&revoked).unwrap();
    assert_eq!(fixture.world.admin("/readyz").await.0, 200);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        if let Ok(mut stream) =
            tls(fixture.world.address(), Some(&issued), &[b"h2"], &[version]).await
        {
            let _ = stream.write_all(PREFACE).await;
            assert!(
                stream.read(&mut [0]).await.is_err(),
                "{version:?}: expected an alert, not a response"
            );
        }
    }
    // The client learns of it before it is counted.
    let counted = || async {
        (fixture
            .world
            .metric("etcd_warden_handshake_failures_total", &["reason=\"revoked\""])
            .await
            == 2.0)
            .then_some(())
    };
    soon("two refusals", counted).await;
}

/// etcd waited without a limit for a client that never began its handshake.
#[tokio::test]
async fn ghsa_6vch_q96h_7gc3_handshakes_that_never_end() {
    const CONNECTIONS: usize = 50;
    let fixture = Fixture::configured(vulnerable::v3_6, &[], |config| {
        config.limits.handshake_timeout = Duration::from_millis(500);
    })
    .await;
    let silent = async |address: SocketAddr| {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            streams.push(TcpStream::connect(address).await.unwrap());
        }
        streams
    };
    let at_etcd = silent(fixture.world.etcd().addresses()[0]).await;
    let at_proxy = silent(fixture.world.address()).await;
    for mut stream in at_proxy {
        let end =
            tokio::time::timeout(SOON, stream.read(&mut [0])).await.expect("the proxy ends it");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    assert_eq!(
        fixture.world.metric("etcd_warden_handshake_failures_total", &["reason=\"timeout\""]).await,
        CONNECTIONS as f64
    );
    // All earlier connections are still open.
    for stream in &at_etcd {
        let waiting = stream.try_read(&mut [0]).unwrap_err();
        assert_eq!(waiting.kind(), std::io::ErrorKind::WouldBlock);
    }
    fixture.holds().await;
}

/// The frames of a call up to its body.
fn head(stream: u32, path: &[u8], flags: u8) -> Vec<u8> {
    let fields: &[(&[u8], &[u8])] = &[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"127.0.0.1"),
        (b":path", path),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ];
    frame(HEADERS, flags, stream, &block(fields))
}

const RANGE: &[u8] = b"/etcdserverpb.KV/Range";

/// A connection on which HTTP/2 has begun.
async fn begun(mut stream: TlsStream<TcpStream>) -> TlsStream<TcpStream> {
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
    stream
}

/// Sends these bytes repeatedly until the peer closes the connection. Returns the number of
/// successful writes.
async fn flood(
    stream: &mut TlsStream<TcpStream>,
    most: usize,
    mut next: impl FnMut(usize) -> Vec<u8>,
) -> usize {
    let sending = async {
        for sent in 0..most {
            if stream.write_all(&next(sent)).await.is_err() || stream.flush().await.is_err() {
                return sent;
            }
        }
        most
    };
    tokio::time::timeout(SOON, sending).await.expect("neither accepted nor refused")
}

/// Each call is cancelled as soon as it is made: it costs the server a call, and the client
/// nothing.
#[tokio::test]
async fn cve_2023_44487_rapid_reset() {
    let fake = Fake::agreeable().await;
    let world = fake.world(POLICY).await;
    let neighbour = world.neighbour().await;
    let body = framed(
        &RangeRequest { key: world.key("a").into(), ..RangeRequest::default() }.encode_to_vec(),
    );
    let cancel = u32::from(Reason::CANCEL).to_be_bytes();
    let mut stream = begun(world.tls(&Leaf::client("attacker")).await).await;
    let taken = flood(&mut stream, 600, |round| {
        let pair = |id| {
            [
                head(id, RANGE, END_HEADERS),
                frame(DATA, END_STREAM, id, &body),
                frame(RST_STREAM, 0, id, &cancel),
            ]
            .concat()
        };
        (0..100)
            .flat_map(|place| pair(200 * u32::try_from(round).unwrap() + 2 * place + 1))
            .collect()
    })
    .await;
    assert!(taken < 600, "still connected after {} resets", 100 * taken);
    neighbour.is_unharmed().await;
}

/// grpc-go's protection could be bypassed: each call was answered or refused, and reset anyway.
#[tokio::test]
async fn ghsa_hrxh_6v49_42gf_reset_of_what_is_under_way() {
    let fake = Fake::serving(|mut visit| async move {
        if visit.body().await.windows(9).any(|part| part == b"neighbour") {
            return visit.answer(b"");
        }
        visit.reset().await;
    })
    .await;
    let world = fake.world(POLICY).await;
    let neighbour = world.neighbour().await;
    let message =
        RangeRequest { key: world.key("a").into(), ..RangeRequest::default() }.encode_to_vec();
    let mut raw = world.raw("attacker").await;
    let mut given_up = 0;
    while given_up < 60_000 && !raw.connection.is_finished() {
        let Ok(mut call) = raw.open(Method::Range.path(), &crate::world::raw::grpc_headers()).await
        else {
            break;
        };
        call.request.send_data(framed(&message).into(), true).unwrap();
        // Headers and body have been sent before the reset is.
        tokio::task::yield_now().await;
        drop(call);
        given_up += 1;
    }
    assert!(given_up < 60_000, "still connected after {given_up} cancelled calls");
    soon("the end of the connection", || async { raw.connection.is_finished().then_some(()) })
        .await;
    assert!(fake.arrivals("Range").len() < 5_000, "every cancelled call reached etcd");
    neighbour.is_unharmed().await;
}

/// An endless header list in CONTINUATION frames.
#[tokio::test]
async fn cve_2023_45288_endless_continuation() {
    let fake = Fake::agreeable().await;
    let world = fake.world(POLICY).await;
    let neighbour = world.neighbour().await;
    let mut stream = begun(world.tls(&Leaf::client("attacker")).await).await;
    stream.write_all(&head(1, RANGE, END_STREAM)).await.unwrap();
    // Full frames, and empty ones.
    let fields = block(&[(b"x-more", &[b'x'; 1000])]);
    let taken = flood(&mut stream, 64 << 10, |_| frame(CONTINUATION, 0, 1, &fields)).await;
    assert!(taken < 64 << 10, "{taken} KB of one header list were read");
    let mut stream = begun(world.tls(&Leaf::client("attacker")).await).await;
    stream.write_all(&head(1, RANGE, END_STREAM)).await.unwrap();
    let taken = flood(&mut stream, 4 << 10, |_| frame(CONTINUATION, 0, 1, b"").repeat(1000)).await;
    assert!(taken < 4 << 10, "{taken} thousand empty frames were read");
    neighbour.is_unharmed().await;
}

/// DATA frames without data cost a client nine bytes and no flow control window.
#[tokio::test]
async fn rustsec_2026_0258_empty_data_frames() {
    let fake = Fake::agreeable().await;
    let world = fake.world(POLICY).await;
    let neighbour = world.neighbour().await;
    let mut stream = begun(world.tls(&Leaf::client("attacker")).await).await;
    stream.write_all(&head(1, RANGE, END_HEADERS)).await.unwrap();
    let taken = flood(&mut stream, 4 << 10, |_| frame(DATA, 0, 1, b"").repeat(1000)).await;
    assert!(taken < 4 << 10, "{taken} thousand empty frames were read");
    neighbour.is_unharmed().await;
}

/// A message in frames of one byte each: only the message may be kept, and not the frames (grpc-go
/// kept a buffer for each).
#[tokio::test]
async fn cve_2026_84304_message_in_the_smallest_frames() {
    const SIZE: usize = 1 << 20;
    const MOST: usize = 32 << 20;
    // A separate process, so that only its memory is measured.
    let world = World::start(POLICY).await;
    let proxy = ServerFiles::new(&world, &POLICY.replace("$P", &world.prefix), "").start(&[]).await;
    let attacker = authorities().clients.client("attacker").unwrap();
    let connected = async || {
        tls(proxy.files.listen, Some(&attacker), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap()
    };
    let range =
        RangeRequest { key: world.key("a").into(), ..RangeRequest::default() }.encode_to_vec();
    assert_eq!(
        Raw::over(connected().await).await.call(Method::Range.path(), &range).await.grpc_status(),
        Some(0)
    );
    let before = resident(proxy.child.id().unwrap());

    let put =
        PutRequest { key: world.key("a").into(), value: vec![b'v'; SIZE], ..PutRequest::default() }
            .encode_to_vec();
    let body = framed(&put);
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = begun(connected().await).await;
        stream.write_all(&head(1, b"/etcdserverpb.KV/Put", END_HEADERS)).await.unwrap();
        let mut pieces = body.chunks(1000).map(|piece| {
            piece.iter().flat_map(|byte| frame(DATA, 0, 1, &[*byte])).collect::<Vec<u8>>()
        });
        // Up to the last byte but one, so that everything must be kept; or less, if the proxy ends
        // the connection.
        flood(&mut stream, body.len() / 1000, |_| pieces.next().unwrap()).await;
        held.push(stream);
    }
    assert_eq!(
        Raw::over(connected().await).await.call(Method::Range.path(), &range).await.grpc_status(),
        Some(0)
    );
    let grown = resident(proxy.child.id().unwrap()).saturating_sub(before);
    assert!(grown < MOST, "{grown} bytes are held for {} of messages", 4 * SIZE);
}

/// The resident memory of a process, in bytes.
fn resident(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() << 10
}

/// A path without its slash was routed like one with it, but judged as another. And a request may
/// lack the authority that grpc-go relied on (CVE-2026-84445).
#[tokio::test]
async fn cve_2026_33186_path_without_slash() {
    let fake = Fake::agreeable().await;
    let world = fake.world(POLICY).await;
    let neighbour = world.neighbour().await;
    let put =
        framed(&PutRequest { key: world.key("a").into(), ..PutRequest::default() }.encode_to_vec());
    for name in ["attacker", "unbound"] {
        for path in [
            "etcdserverpb.KV/Put",
            "//etcdserverpb.KV/Put",
            "/etcdserverpb.KV/Put/",
            "/etcdserverpb.KV//Put",
            "/ETCDSERVERPB.KV/Put",
        ] {
            let answer =
                world.request_as_written(name, &written(path, Some("127.0.0.1")), &put).await;
            assert_ne!(answer.grpc_status(), Some(0), "{path} as {name}: {answer:?}");
        }
    }
    assert!(
        fake.all_arrivals()
            .iter()
            .all(|arrival| arrival.path.starts_with("/etcdserverpb.")
                && !arrival.path.ends_with('/'))
    );
    assert!(
        fake.arrivals("Put").iter().all(|put| put.body.windows(9).any(|part| part == b"neighbour")),
        "no call reached etcd"
    );
    neighbour.is_unharmed().await;
}

/// grpc-go relied on an authority.
#[tokio::test]
async fn cve_2026_84445_request_without_authority() {
    let fake = Fake::agreeable().await;
    let world = fake.world(POLICY).await;
    let neighbour = world.neighbour().await;
    let put =
        framed(&PutRequest { key: world.key("a").into(), ..PutRequest::default() }.encode_to_vec());
    let answer =
        world.request_as_written("unbound", &written("/etcdserverpb.KV/Put", None), &put).await;
    assert_eq!(answer.grpc_status(), Some(7), "{answer:?}");
    let answer =
        world.request_as_written("attacker", &written("/etcdserverpb.KV/Put", None), &put).await;
    assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    neighbour.is_unharmed().await;
}

fn written<'a>(path: &'a str, authority: Option<&'a str>) -> Vec<(&'a [u8], &'a [u8])> {
    let mut fields: Vec<(&[u8], &[u8])> =
        vec![(b":method", b"POST"), (b":scheme", b"https"), (b":path", path.as_bytes())];
    fields.extend(authority.map(|authority| (&b":authority"[..], authority.as_bytes())));
    fields.extend([(&b"content-type"[..], &b"application/grpc"[..]), (b"te", b"trailers")]);
    fields
}
