//! Clients with invalid certificates or bad behaviour: each loses at most its own connection and is
//! counted by its reason, and the neighbour is not affected.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use etcd_warden_gateway::config::{Config, Network};
use etcd_warden_proto::etcdserverpb::RangeRequest;
use etcd_warden_testbed::pki::{Authority, Issued, Leaf, Usage, Validity, write_private};
use h2::Reason;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::fake::Fake;
use crate::world::raw::wire::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, block, frame,
};
use crate::world::raw::{Raw, framed, grpc_headers, tls, tls_over};
use crate::world::{SOON, TWO_CLIENTS, World, authorities, soon};

const RANGE: &str = "/etcdserverpb.KV/Range";

/// A Range request for a key of this test.
fn range(world: &World) -> Vec<u8> {
    RangeRequest { key: world.key("a").into(), ..RangeRequest::default() }.encode_to_vec()
}

/// Waits until exactly this number of handshakes has failed for this reason, and none for another.
async fn failures(world: &World, reason: &str, count: f64) {
    let label = format!("reason=\"{reason}\"");
    let name = "etcd_warden_handshake_failures_total";
    let counted = tokio::time::timeout(SOON, async {
        while world.metric(name, &[&label]).await < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let (_, metrics) = match counted.await {
        Ok(()) => (0, String::new()),
        Err(_) => world.admin("/metrics").await,
    };
    let failed: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with(name) && !line.ends_with(" 0")).collect();
    assert!(metrics.is_empty(), "expected failed handshakes for {reason} only: {failed:?}");
    assert_eq!(world.metric(name, &[&label]).await, count);
}

/// Asserts that the proxy ends this connection. Returns the data received until then.
async fn ends(what: &str, stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset also ends the connection.
    let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "{what}: the connection is still open");
    said
}

/// Asserts that a handshake with this certificate fails. In TLS 1.3 the client learns it with its
/// first read.
async fn is_refused(world: &World, issued: Option<&Issued>) {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        if let Ok(mut stream) = tls(world.address(), issued, &[b"h2"], &[version]).await {
            let _ = stream.write_all(PREFACE).await;
            let mut answer = [0; 1];
            assert!(
                stream.read(&mut answer).await.is_err(),
                "{version:?}: expected an alert, not a response"
            );
        }
    }
}

#[tokio::test]
async fn an_invalid_certificate_fails_the_handshake_by_its_reason() {
    let clients = &authorities().clients;
    let other = Authority::new("clients CA").unwrap();
    let with = |leaf: Leaf| Some(clients.issue(&leaf).unwrap());
    let cases = [
        ("no_certificate", None),
        ("unknown_ca", Some(Authority::new("another CA").unwrap().client("alice").unwrap())),
        ("expired", with(Leaf::client("alice").validity(Validity::Expired))),
        ("not_yet_valid", with(Leaf::client("alice").validity(Validity::NotYet))),
        ("wrong_key_usage", with(Leaf::client("alice").usage(Usage::Server))),
        ("wrong_key_usage", with(Leaf::client("alice").usage(Usage::Neither))),
        ("unknown_ca", Some(authorities().upstream.client("alice").unwrap())),
        // Another CA with the same name.
        ("bad_certificate", Some(other.client("alice").unwrap())),
    ];
    let world = World::start(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let mut counts = std::collections::HashMap::new();
    for (reason, issued) in cases {
        is_refused(&world, issued.as_ref()).await;
        let count = counts.entry(reason).or_insert(0.0);
        *count += 2.0;
        failures(&world, reason, *count).await;
    }
    assert!(world.audit().iter().all(|line| line["identity"]["cn"] == "neighbour"));
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn a_revoked_certificate_fails_the_handshake() {
    let configured = World::with(TWO_CLIENTS).config(|config: &mut Config| {
        let folder = config.policy.parent().unwrap();
        let list = authorities().clients.crl(&[4711]).unwrap();
        config.downstream.crl_files = vec![write_private(folder, "clients.crl", &list).unwrap()];
    });
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    is_refused(
        &world,
        Some(&authorities().clients.issue(&Leaf::client("alice").serial(4711)).unwrap()),
    )
    .await;
    failures(&world, "revoked", 2.0).await;
    let another = world
        .with_certificate(&Leaf::client("alice").serial(4712))
        .await
        .get(world.key("a"), None)
        .await;
    assert!(another.is_ok(), "{another:?}");
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn closes_an_unfinished_handshake_at_its_deadline() {
    let configured = World::with(TWO_CLIENTS)
        .config(|config| config.limits.handshake_timeout = Duration::from_millis(300));
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    // Nothing at all, and half a TLS record.
    let mut silent = TcpStream::connect(world.address()).await.unwrap();
    let mut half = TcpStream::connect(world.address()).await.unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).await.unwrap();
    ends("silent", &mut silent).await;
    ends("half a record", &mut half).await;
    failures(&world, "timeout", 2.0).await;
    // TLS without HTTP/2, and half of HTTP/2's preface.
    let mut mute = world.tls(&Leaf::client("alice")).await;
    let mut cut = world.tls(&Leaf::client("alice")).await;
    cut.write_all(&PREFACE[..10]).await.unwrap();
    ends("no preface", &mut mute).await;
    ends("half a preface", &mut cut).await;
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn garbage_in_place_of_tls_is_refused_at_once() {
    let world = World::start(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let cases: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nhost: etcd\r\n\r\n",
        PREFACE,
        b"SSH-2.0-OpenSSH_9.9\r\n",
        &[0; 64],
        // A peer that is not listed and sends a PROXY header: for the proxy it is a client that
        // does not speak TLS.
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x10\0\x0f\xa0",
    ];
    for (place, garbage) in cases.into_iter().enumerate() {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        ends("garbage", &mut stream).await;
        failures(&world, "not_tls", place as f64 + 1.0).await;
    }
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn counts_a_connection_closed_during_the_handshake() {
    let world = World::start(TWO_CLIENTS).await;
    drop(TcpStream::connect(world.address()).await.unwrap());
    failures(&world, "closed", 1.0).await;
}

#[tokio::test]
async fn closes_an_idle_connection_but_not_one_with_a_watch() {
    let configured = World::with(TWO_CLIENTS).config(|config| {
        config.limits.idle_timeout = Duration::from_millis(300);
        config.limits.keepalive = Duration::from_millis(200);
    });
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    let mut watcher = world.as_("alice").await;
    let mut watch = watcher.watch(world.key("a"), None).await.unwrap();
    let mut idle = world.raw("alice").await;
    assert_eq!(idle.call(RANGE, &range(&world)).await.grpc_status(), Some(0));
    soon("the end of an idle connection", || async { idle.connection.is_finished().then_some(()) })
        .await;
    assert!(world.metric("etcd_warden_limits_hit_total", &[r#"limit="idle""#]).await >= 1.0);
    watcher.put(world.key("a"), "still here", None).await.unwrap();
    let mut answer = watch.message().await.unwrap().unwrap();
    while answer.events().is_empty() {
        answer = watch.message().await.unwrap().unwrap();
    }
    assert_eq!(answer.events()[0].kv().unwrap().value(), b"still here");
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn closes_a_client_without_pings_and_cancels_its_calls() {
    let fake = patient().await;
    let in_place = fake.replace_etcd();
    let configured = World::with(TWO_CLIENTS).config(|config| {
        in_place(config);
        config.limits.keepalive = Duration::from_millis(300);
    });
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    // A call, and then silence: even the proxy's pings get no response.
    let mut stream = world.tls(&Leaf::client("alice")).await;
    stream.write_all(&opened(&framed(&range(&world)))).await.unwrap();
    soon("the call at etcd", || async {
        (fake.arrivals("Range").iter().any(is_alices)).then_some(())
    })
    .await;
    ends("silence", &mut stream).await;
    soon("the call's end at etcd", || async {
        fake.arrivals("Range")
            .iter()
            .find(|call| is_alices(call))
            .and_then(|call| call.reset)
            .map(|reason| assert_eq!(reason, Reason::CANCEL))
    })
    .await;
    assert_eq!(world.metric("etcd_warden_limits_hit_total", &[r#"limit="keepalive""#]).await, 1.0);
    neighbour.is_unharmed().await;
}

fn is_alices(arrival: &crate::world::fake::Arrival) -> bool {
    !arrival.body.is_empty() && !arrival.body.windows(9).any(|part| part == b"neighbour")
}

/// The bytes of a connection whose first stream is a Range with this body.
fn opened(body: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, b""), &call(1, body)].concat()
}

/// The frames of one Range.
fn call(stream: u32, body: &[u8]) -> Vec<u8> {
    let head: &[(&[u8], &[u8])] = &[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"127.0.0.1"),
        (b":path", RANGE.as_bytes()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ];
    [frame(HEADERS, END_HEADERS, stream, &block(head)), frame(DATA, END_STREAM, stream, body)]
        .concat()
}

/// A fake etcd that responds only to the neighbour.
async fn patient() -> Fake {
    Fake::serving(|mut visit| async move {
        if visit.body().await.windows(9).any(|part| part == b"neighbour") {
            return visit.answer(b"");
        }
        visit.reset().await;
    })
    .await
}

#[tokio::test]
async fn rapid_reset_ends_its_own_connection() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let body = framed(&range(&world));
    let cancel = u32::from(Reason::CANCEL).to_be_bytes();
    let mut stream = world.tls(&Leaf::client("alice")).await;
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
    let mut sent = 0;
    // CVE-2023-44487. A proxy that lets 60,000 pass would be vulnerable.
    while sent < 60_000 {
        let pair = |id| [call(id, &body), frame(RST_STREAM, 0, id, &cancel)].concat();
        let many: Vec<u8> = (sent..sent + 100).flat_map(|place| pair(2 * place + 1)).collect();
        if stream.write_all(&many).await.is_err() || stream.flush().await.is_err() {
            break;
        }
        sent += 100;
    }
    assert!(sent < 60_000, "still connected after {sent} resets");
    ends("a flood of resets", &mut stream).await;
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn disconnects_a_client_that_only_opens_and_cancels_calls() {
    let fake = patient().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let mut given_up = 0;
    'flood: while given_up < 60_000 {
        let under_way = fake.count("Range", is_alices);
        let mut calls = Vec::new();
        for _ in 0..100 {
            let Ok(mut stream) = raw.open(RANGE, &grpc_headers()).await else { break 'flood };
            stream.request.send_data(framed(&range(&world)).into(), true).unwrap();
            calls.push(stream);
        }
        // Each call has reached etcd before it is cancelled.
        soon("the calls at etcd, or the end of the connection", || async {
            let arrived = fake.count("Range", is_alices);
            (arrived == under_way + calls.len() || raw.connection.is_finished()).then_some(())
        })
        .await;
        given_up += calls.len();
    }
    assert!(given_up < 60_000, "still connected after {given_up} cancelled calls");
    let ended = raw.connection.await.unwrap().unwrap_err();
    assert_eq!(ended.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{ended:?}");
    assert!(world.metric("etcd_warden_http2_resets_total", &[]).await >= 1000.0);
    assert_eq!(world.metric("etcd_warden_limits_hit_total", &[r#"limit="resets""#]).await, 1.0);
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn calls_that_time_out_together_end_no_connection() {
    let fake = patient().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let mut calls = Vec::new();
    for _ in 0..500 {
        let mut stream = raw.open(RANGE, &grpc_headers()).await.unwrap();
        stream.request.send_data(framed(&range(&world)).into(), true).unwrap();
        calls.push(stream);
    }
    let arrived = || fake.arrivals("Range").into_iter().filter(is_alices);
    soon("the calls at etcd", || async { (arrived().count() == 500).then_some(()) }).await;
    drop(calls);
    soon("their ends at etcd", || async {
        arrived().all(|call| call.reset == Some(Reason::CANCEL)).then_some(())
    })
    .await;
    assert_eq!(world.metric("etcd_warden_http2_resets_total", &[]).await, 500.0);
    assert!(!raw.connection.is_finished());
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn endless_pings_and_settings_cost_only_their_sender() {
    let world = World::start(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    for kind in [PING, SETTINGS] {
        let stream = world.tls(&Leaf::client("alice")).await;
        let (mut read, mut write) = tokio::io::split(stream);
        let reader = tokio::spawn(async move { ends("a flood", &mut read).await.len() });
        write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
        let payload: &[u8] = if kind == PING { b"12345678" } else { &[0, 4, 0, 1, 0, 0] };
        let many = frame(kind, 0, 0, payload).repeat(1000);
        for _ in 0..20 {
            if write.write_all(&many).await.is_err() {
                break;
            }
        }
        neighbour.is_unharmed().await;
        let _ = write.shutdown().await;
        // The client got a response or was disconnected. Either way its task has ended.
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_floods_and_never_reads_is_not_read() {
    let configured =
        World::with(TWO_CLIENTS).config(|config| config.limits.keepalive = Duration::from_secs(2));
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    let mut stream = world.tls(&Leaf::client("alice")).await;
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
    let many = frame(PING, 0, 0, b"12345678").repeat(1000);
    let mut written = 0_usize;
    // The proxy queues pongs until the sockets between the two are full, then stops reading, and
    // finally closes the connection.
    let flood = async {
        while written < 1 << 30 && stream.write_all(&many).await.is_ok() {
            written += many.len();
        }
    };
    assert!(
        tokio::time::timeout(SOON, flood).await.is_ok(),
        "the client is neither read from nor disconnected"
    );
    assert!(written < 1 << 30, "the proxy has read {written} bytes of pings");
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn half_a_frame_and_silence_harms_no_other_client() {
    let configured = World::with(TWO_CLIENTS)
        .config(|config| config.limits.keepalive = Duration::from_millis(300));
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    let whole = opened(&framed(&range(&world)));
    for cut in [PREFACE.len() + 3, PREFACE.len() + 9 + 20, whole.len() - 1] {
        let mut stream = world.tls(&Leaf::client("alice")).await;
        stream.write_all(&whole[..cut]).await.unwrap();
        ends("half a frame", &mut stream).await;
    }
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn frames_that_http2_forbids_end_their_connection() {
    let world = World::start(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let cases = [
        ("a frame above the limit", frame(DATA, 0, 1, &[0; 20_000])),
        ("data on no stream", frame(DATA, 0, 0, b"x")),
        ("an even stream", frame(HEADERS, END_HEADERS, 2, &block(&[(b":method", b"POST")]))),
        ("a header block that cannot be decoded", frame(HEADERS, END_HEADERS, 1, &[0xff; 40])),
        ("a window update of 0", frame(8, 0, 0, &[0; 4])),
        ("a window above the limit", frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("invalid settings", frame(SETTINGS, 0, 0, &[0; 5])),
    ];
    for (what, bytes) in cases {
        let mut stream = world.tls(&Leaf::client("alice")).await;
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &bytes].concat()).await.unwrap();
        let said = ends(what, &mut stream).await;
        // GOAWAY with an error code.
        let goaway =
            said.windows(13).any(|part| part[..4] == [0, 0, part[2], 7] && part[5..9] == [0; 4]);
        assert!(goaway, "{what}: {said:?}");
    }
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn connections_above_the_cap_are_closed_and_others_stay() {
    let configured = World::with(TWO_CLIENTS).config(|config| config.limits.max_connections = 3);
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    // One connection of each name: no identity may have more than remain free for others.
    let mut second = world.raw("stranger").await;
    let third = world.raw("alice").await;
    // With TLS 1.3 a client finishes its handshake before the server does.
    soon("three connections", || async {
        (world.metric("etcd_warden_connections", &[]).await == 3.0).then_some(())
    })
    .await;
    for _ in 0..5 {
        let mut above = TcpStream::connect(world.address()).await.unwrap();
        assert!(ends("a connection above the cap", &mut above).await.is_empty());
    }
    assert_eq!(
        world.metric("etcd_warden_limits_hit_total", &[r#"limit="connections""#]).await,
        5.0
    );
    assert_eq!(second.call(RANGE, &range(&world)).await.grpc_status(), Some(7));
    neighbour.is_unharmed().await;
    // A slot that becomes free is used.
    third.connection.abort();
    drop(third);
    let issued = authorities().clients.client("alice").unwrap();
    let stream = soon("a free slot", || async {
        tls(world.address(), Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await.ok()
    })
    .await;
    assert_eq!(Raw::over(stream).await.call(RANGE, &range(&world)).await.grpc_status(), Some(0));
}

#[tokio::test]
async fn a_certificate_without_usable_name_connects_but_has_no_right() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let cases = [
        ("cn_missing", Leaf::client("x").without_common_name()),
        ("cn_several", Leaf::client("alice").second_common_name("root")),
        ("cn_several", Leaf::client("stranger").second_common_name("alice")),
        ("cn_empty", Leaf::client("")),
        ("cn_nul", Leaf::client("alice\0root")),
        ("cn_control_character", Leaf::client("alice\n")),
        ("cn_not_utf8", Leaf::client("x").teletex_common_name("alice").unwrap()),
    ];
    for (refusal, leaf) in cases {
        let stream = world.tls(&leaf.dns("alice").uri("spiffe://cluster/alice")).await;
        let answer = Raw::over(stream).await.call(RANGE, &range(&world)).await;
        assert_eq!(
            (answer.grpc_status(), answer.grpc_message()),
            (Some(7), "etcdserver: permission denied"),
            "{refusal}"
        );
        let line = world.audited(|line| line["decision"] == "deny").await;
        assert_eq!(line["identity"]["cn_refusal"], refusal, "{line:#}");
        assert_eq!(line["reason"], "no_identity", "{line:#}");
        assert!(line["identity"].get("cn").is_none(), "{line:#}");
        std::fs::write(world.audit_file(), "").unwrap();
    }
    assert!(!fake.arrivals("Range").iter().any(is_alices));
    neighbour.is_unharmed().await;
}

/// A header of PROXY protocol v2 for a client at 10.0.0.1, port 4096.
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x10\0\x0f\xa0";
/// A header for a connection of the balancer itself (LOCAL).
const PROXY_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const PROXY_V1: &[u8] = b"PROXY TCP4 10.0.0.1 10.0.0.2 4096 4000\r\n";

/// A proxy that treats 127.0.0.1 as a balancer; its neighbour connects from another address.
async fn behind_a_balancer() -> World {
    let listed = |config: &mut Config| {
        config.proxy_protocol_from =
            vec![Network { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)), prefix: 32 }];
    };
    World::with(TWO_CLIENTS).config(listed).start().await
}

/// A connection from this address that begins with these bytes.
async fn begun_with(world: &World, bytes: &[u8], from: Ipv4Addr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let mut stream = socket.connect(world.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

async fn call_over(world: &World, stream: TcpStream) -> Option<u32> {
    let issued = authorities().clients.client("alice").unwrap();
    let stream = tls_over(
        stream,
        &crate::world::authorities().clients,
        world.address(),
        Some(&issued),
        &[b"h2"],
        rustls::ALL_VERSIONS,
    )
    .await
    .unwrap();
    Raw::over(stream).await.call(RANGE, &range(world)).await.grpc_status()
}

#[tokio::test]
async fn a_listed_balancer_names_the_client_in_the_audit() {
    let world = behind_a_balancer().await;
    assert_eq!(
        call_over(&world, begun_with(&world, PROXY_V2, Ipv4Addr::LOCALHOST).await).await,
        Some(0)
    );
    assert_eq!(world.audited(|_| true).await["peer"], "10.0.0.1:4096");

    std::fs::write(world.audit_file(), "").unwrap();
    let own = begun_with(&world, PROXY_LOCAL, Ipv4Addr::LOCALHOST).await;
    let address = own.local_addr().unwrap().to_string();
    assert_eq!(call_over(&world, own).await, Some(0));
    assert_eq!(world.audited(|_| true).await["peer"], address);

    // Other peers connect without a header, under their own address.
    std::fs::write(world.audit_file(), "").unwrap();
    let unlisted = begun_with(&world, b"", Ipv4Addr::new(127, 0, 0, 2)).await;
    let address = unlisted.local_addr().unwrap().to_string();
    assert_eq!(call_over(&world, unlisted).await, Some(0));
    assert_eq!(world.audited(|_| true).await["peer"], address);
}

#[tokio::test]
async fn only_listed_balancers_send_proxy_headers_in_version_2() {
    let world = behind_a_balancer().await;
    let listed: [&[u8]; 6] = [
        PROXY_V1,
        // TLS without a header.
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 1, 2, 3, 4, 5],
        // Another version; an unknown command; no space for the addresses; longer than any header.
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ];
    for (place, bytes) in listed.into_iter().enumerate() {
        let mut stream = begun_with(&world, bytes, Ipv4Addr::LOCALHOST).await;
        assert!(ends("a bad PROXY header", &mut stream).await.is_empty());
        failures(&world, "proxy_protocol", place as f64 + 1.0).await;
    }
    // Two headers: the second is not TLS. Nor is the first one of a peer that is not listed.
    let mut twice = begun_with(&world, &[PROXY_V2, PROXY_V2].concat(), Ipv4Addr::LOCALHOST).await;
    ends("two headers", &mut twice).await;
    failures(&world, "not_tls", 1.0).await;
    for (place, bytes) in [PROXY_V2, PROXY_V1].into_iter().enumerate() {
        let mut stream = begun_with(&world, bytes, Ipv4Addr::new(127, 0, 0, 2)).await;
        ends("a peer that is not listed", &mut stream).await;
        failures(&world, "not_tls", place as f64 + 2.0).await;
    }
    assert!(world.audit().is_empty());
}
