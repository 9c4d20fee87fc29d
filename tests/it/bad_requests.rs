//! Requests that no normal client sends: each gets its response and its audit line, nothing of it
//! reaches etcd, and the neighbour is not affected. A [`Fake`] replaces etcd, because it sees
//! everything that arrives, whereas etcd's counters only show what etcd understands.

use bytes::Bytes;
use etcd_warden_proto::etcdserverpb::{PutRequest, RangeRequest};
use http::HeaderMap;
use prost::Message as _;
use serde_json::Value;

use crate::world::fake::Fake;
use crate::world::neighbour::NEIGHBOUR;
use crate::world::raw::wire::{CONTINUATION, END_STREAM, HEADERS, PREFACE, SETTINGS, block, frame};
use crate::world::raw::{Answer, framed, grpc_headers, tls};
use crate::world::{TWO_CLIENTS, World};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

/// The expected form of a refusal.
struct Refusal {
    code: u32,
    text: String,
    reason: &'static str,
}

fn refusal(code: u32, text: &str, reason: &'static str) -> Refusal {
    Refusal { code, text: text.to_owned(), reason }
}

impl Refusal {
    /// Asserts the response and the audit line, and that only the neighbour has reached etcd.
    async fn is(&self, what: &str, answer: &Answer, world: &World, fake: &Fake) {
        assert_eq!(
            (answer.status, answer.grpc_status(), answer.grpc_message()),
            (200, Some(self.code), &*self.text),
            "{what}: {answer:?}"
        );
        assert_eq!(answer.headers["content-type"], "application/grpc", "{what}");
        assert!(answer.body.is_empty(), "{what}");
        is_audited(what, world, self.reason, Some(self.code)).await;
        only_the_neighbour_arrived(what, fake);
    }
}

async fn is_audited(what: &str, world: &World, reason: &str, code: Option<u32>) -> Value {
    let denied = |line: &Value| line["decision"] == "deny" && line["identity"]["cn"] == "alice";
    let line = world.audited(denied).await;
    assert_eq!(line["reason"], reason, "{what}: {line:#}");
    assert_eq!(line["grpc_status"].as_u64(), code.map(u64::from), "{what}: {line:#}");
    assert!(line.get("member").is_none(), "{what}: {line:#}");
    // Each case begins with an empty audit log.
    std::fs::write(world.audit_file(), "").unwrap();
    line
}

fn only_the_neighbour_arrived(what: &str, fake: &Fake) {
    for arrival in fake.all_arrivals() {
        let key = arrival.body.windows(NEIGHBOUR.len()).any(|part| part == NEIGHBOUR.as_bytes());
        // A refused request must not reach etcd even with its headers. alice's requests carry a
        // mark.
        assert!(
            (key || arrival.body.is_empty()) && !arrival.headers.contains_key("hasleader"),
            "{what}: {arrival:?}"
        );
    }
}

/// The headers of a call of `alice`, with a mark that etcd would see.
fn marked() -> HeaderMap {
    let mut headers = grpc_headers();
    headers.insert("hasleader", "true".parse().unwrap());
    headers
}

fn put(world: &World, value: &[u8]) -> Vec<u8> {
    PutRequest { key: world.key("a").into(), value: value.to_vec(), ..PutRequest::default() }
        .encode_to_vec()
}

fn compressed(message: &[u8]) -> Vec<u8> {
    let mut body = framed(message);
    body[0] = 1;
    body
}

#[tokio::test]
async fn a_body_that_is_not_one_whole_message_is_refused() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let good = framed(&put(&world, b"1"));
    let mut odd_flag = good.clone();
    odd_flag[0] = 2;
    let cases = [
        (
            "a compressed message",
            compressed(&put(&world, b"1")),
            refusal(
                3,
                "etcd-warden: the message is compressed, but there is no grpc-encoding",
                "bad_framing",
            ),
        ),
        (
            "an odd flag",
            odd_flag,
            refusal(3, "etcd-warden: the message's flag byte is neither 0 nor 1", "bad_framing"),
        ),
        (
            "half a message",
            good[..good.len() - 1].to_vec(),
            refusal(3, "etcd-warden: the message is cut short", "bad_framing"),
        ),
        (
            "half a frame header",
            good[..3].to_vec(),
            refusal(3, "etcd-warden: the message is cut short", "bad_framing"),
        ),
        (
            "two messages",
            [&good[..], &good].concat(),
            refusal(3, "etcd-warden: more than one message in a unary call", "bad_framing"),
        ),
        (
            "a message and a byte",
            [&good[..], b"\0"].concat(),
            refusal(3, "etcd-warden: more than one message in a unary call", "bad_framing"),
        ),
        (
            "an empty body",
            Vec::new(),
            refusal(3, "etcd-warden: a unary call without a message", "bad_framing"),
        ),
        (
            "an unknown field",
            framed(&[&put(&world, b"1")[..], &[0x58, 1]].concat()),
            refusal(
                3,
                &format!("etcd-warden: PutRequest at offset {}: unknown field", good.len() - 5),
                "malformed_message",
            ),
        ),
    ];
    let mut raw = world.raw("alice").await;
    for (what, body, expected) in cases {
        let answer = raw.send(PUT, &marked(), &body).await;
        expected.is(what, &answer, &world, &fake).await;
    }
    neighbour.is_unharmed().await;
    let answer = raw.send(PUT, &grpc_headers(), &good).await;
    assert_eq!(answer.grpc_status(), Some(0), "the same connection still works: {answer:?}");
}

#[tokio::test]
async fn a_stream_without_data_is_a_call_without_a_message() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let answer = world.request_as_written("alice", &as_written(PUT), b"").await;
    refusal(3, "etcd-warden: a unary call without a message", "bad_framing")
        .is("no data", &answer, &world, &fake)
        .await;
}

#[tokio::test]
async fn trailers_behind_a_request_are_refused() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let mut stream = raw.open(PUT, &marked()).await.unwrap();
    stream.request.send_data(framed(&put(&world, b"1")).into(), false).unwrap();
    stream.request.send_trailers(marked()).unwrap();
    let answer = Answer::read(stream.response).await;
    refusal(3, "etcd-warden: requests have no trailers", "bad_framing")
        .is("trailers", &answer, &world, &fake)
        .await;
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_by_its_header_alone() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    // The default: etcd's own 1.5 MiB plus the 512 KiB that it adds for overhead.
    for length in [2 * 1024 * 1024 + 1, u32::MAX] {
        let mut stream = raw.open(PUT, &marked()).await.unwrap();
        stream.request.send_data([&[0], &length.to_be_bytes()[..]].concat().into(), false).unwrap();
        // The client's request is still open: the response does not wait for its end.
        let answer = Answer::read(stream.response).await;
        // etcd's own message.
        let text = format!("grpc: received message larger than max ({length} vs. 2097152)");
        refusal(8, &text, "too_large").is("too large", &answer, &world, &fake).await;
    }
    // Tag and length of the value take four bytes.
    let largest = put(&world, &vec![0; 2 * 1024 * 1024 - put(&world, b"").len() - 4]);
    assert_eq!(largest.len(), 2 * 1024 * 1024);
    let answer = raw.call(PUT, &largest).await;
    assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    assert!(fake.arrivals("Put").iter().any(|arrival| arrival.body.len() == largest.len() + 5));
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn the_limit_of_a_message_can_be_set() {
    let fake = Fake::agreeable().await;
    let in_place = fake.replace_etcd();
    let configured = World::with(TWO_CLIENTS).config(|config| {
        in_place(config);
        config.limits.max_request_bytes = 1024;
    });
    let world = configured.start().await;
    let mut raw = world.raw("alice").await;
    let message = put(&world, &[0; 1024]);
    let answer = raw.send(PUT, &marked(), &framed(&message)).await;
    let text = format!("grpc: received message larger than max ({} vs. 1024)", message.len());
    refusal(8, &text, "too_large").is("too large", &answer, &world, &fake).await;
    // A body that is longer than its message is no bypass.
    let mut stream = raw.open(PUT, &marked()).await.unwrap();
    stream.request.send_data(framed(&put(&world, b"1")).into(), false).unwrap();
    stream.request.send_data(vec![0; 4096].into(), false).unwrap();
    let answer = Answer::read(stream.response).await;
    refusal(3, "etcd-warden: more than one message in a unary call", "bad_framing")
        .is("too long", &answer, &world, &fake)
        .await;
    assert_eq!(raw.call(PUT, &put(&world, &[0; 900])).await.grpc_status(), Some(0));
}

/// Valid headers except for the path.
fn as_written(path: &str) -> Vec<(&[u8], &[u8])> {
    vec![
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"127.0.0.1"),
        (b":path", path.as_bytes()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"hasleader", b"true"),
    ]
}

#[tokio::test]
async fn a_path_in_any_other_form_names_no_method() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let body = framed(&put(&world, b"1"));
    for path in [
        "//etcdserverpb.KV/Put",
        "/etcdserverpb.KV//Put",
        "/etcdserverpb.KV/Put/",
        "/etcdserverpb.KV/Put?x=1",
        "/etcdserverpb.KV/Put?",
        "/etcdserverpb.KV/%50ut",
        "/etcdserverpb.KV%2fPut",
        "/etcdserverpb.kv/Put",
        "/ETCDSERVERPB.KV/PUT",
        "/etcdserverpb.KV/./Put",
        "/x/../etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Steal",
        "/etcdserverpb.KV",
        "/",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        // Bytes that no URI may contain are shown as `_`.
        "/etcdserverpb.KV/Put#",
        "/etcdserverpb.KV/Put#x",
        "/etcdserverpb.KV/Put#/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Put?#",
        "/etcdserverpb.KV/ Put",
        "/etcdserverpb.KV/P\u{fc}t",
    ] {
        let answer = world.request_as_written("alice", &as_written(path), &body).await;
        assert_eq!((answer.status, answer.grpc_status()), (200, Some(12)), "{path}: {answer:?}");
        assert_eq!(answer.grpc_message(), "etcd-warden: etcd has no such method", "{path}");
        let line = is_audited(path, &world, "unknown_method", Some(12)).await;
        let shown: Vec<u8> = path
            .bytes()
            .map(|byte| if b"# ".contains(&byte) || !byte.is_ascii() { b'_' } else { byte })
            .collect();
        assert_eq!(line["path"].as_str().unwrap().as_bytes(), shown, "{line:#}");
        only_the_neighbour_arrived(path, &fake);
    }
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn an_invalid_path_never_passes_http2() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let body = framed(&put(&world, b"1"));
    for path in ["etcdserverpb.KV/Put", "", "*", "/etcdserverpb.KV /Put", "/\0", "/\u{fc}"] {
        let answer = world.request_as_written("alice", &as_written(path), &body).await;
        let reset =
            answer.error.as_ref().and_then(h2::Error::reason) == Some(h2::Reason::PROTOCOL_ERROR);
        assert!(
            reset || matches!(answer.grpc_status(), Some(12)) || answer.status == 400,
            "{path:?}: {answer:?}"
        );
        only_the_neighbour_arrived(path, &fake);
    }
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn headers_that_http2_forbids_end_only_their_stream() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let body = framed(&put(&world, b"1"));
    let good = as_written(PUT);
    let with = |field: (&'static [u8], &'static [u8])| {
        let mut head = good.clone();
        head.push(field);
        head
    };
    let cases: [(&str, Vec<(&[u8], &[u8])>); 6] = [
        ("a second path", with((b":path", b"/etcdserverpb.KV/Range"))),
        ("a header of HTTP/1.1", with((b"connection", b"close"))),
        ("a name in capitals", with((b"Token", b"x"))),
        ("an unknown pseudo-header", with((b":cn", b"root"))),
        ("no method", good[1..].to_vec()),
        ("no path", good.iter().filter(|(name, _)| *name != b":path").copied().collect()),
    ];
    for (what, head) in cases {
        let answer = world.request_as_written("alice", &head, &body).await;
        let reason = answer.error.as_ref().and_then(h2::Error::reason);
        assert!(
            reason == Some(h2::Reason::PROTOCOL_ERROR) || answer.status == 400,
            "{what}: {answer:?}"
        );
        only_the_neighbour_arrived(what, &fake);
    }
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn a_request_that_is_not_grpc_gets_a_plain_http_status() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let of_type = |value: &'static str| {
        let mut headers = marked();
        headers.insert("content-type", value.parse().unwrap());
        headers
    };
    let mut without = marked();
    without.remove("content-type");
    let mut raw = world.raw("alice").await;
    for headers in [
        of_type("application/json"),
        of_type("application/grpc-web"),
        of_type("application/grpcx"),
        of_type("APPLICATION/GRPC"),
        without,
    ] {
        let answer = raw.send(PUT, &headers, &framed(&put(&world, b"1"))).await;
        assert_eq!(answer.status, 415, "{headers:?}: {answer:?}");
        assert_eq!(
            answer.body, b"etcd-warden: the content-type is not application/grpc\n",
            "{headers:?}"
        );
        is_audited("content-type", &world, "not_grpc", None).await;
        only_the_neighbour_arrived("content-type", &fake);
    }
    for verb in ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"] {
        let head = [&[(&b":method"[..], verb.as_bytes())], &as_written(PUT)[1..]].concat();
        let answer = world.request_as_written("alice", &head, b"").await;
        assert_eq!(answer.status, 415, "{verb}: {answer:?}");
        is_audited(verb, &world, "not_grpc", None).await;
        only_the_neighbour_arrived(verb, &fake);
    }
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn an_endless_header_list_is_cut_off_with_nothing_kept() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    // A header list over the limit of 16 KiB, where each field counts 32 bytes more (RFC 9113,
    // 6.5.2): HTTP's own status.
    let mut head = as_written(PUT);
    head.resize(600, (b"a", b""));
    let answer = world.request_as_written("alice", &head, b"").await;
    assert_eq!(answer.status, 431, "{answer:?}");

    // Endless CONTINUATION (CVE-2024-27316 and similar): the connection ends while the client still
    // writes.
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = world.tls(&etcd_warden_testbed::pki::Leaf::client("alice")).await;
    let mut begin = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    begin.extend(frame(HEADERS, END_STREAM, 1, &block(&as_written(PUT))));
    stream.write_all(&begin).await.unwrap();
    let more = frame(CONTINUATION, 0, 1, &block(&[(b"x-more", &[b'x'; 1000])]));
    let mut written = 0_usize;
    // A server that reads 64 MiB would read without a limit.
    while written < 64 << 20
        && stream.write_all(&more).await.is_ok()
        && stream.flush().await.is_ok()
    {
        written += more.len();
    }
    assert!(written < 64 << 20, "the proxy has read {written} bytes of one header list");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    only_the_neighbour_arrived("endless headers", &fake);
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn http1_is_refused_in_the_handshake_and_counted() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let issued = crate::world::authorities().clients.client("alice").unwrap();
    let counted =
        || world.metric("etcd_warden_handshake_failures_total", &[r#"reason="no_common_alpn""#]);

    let refused = tls(world.address(), Some(&issued), &[b"http/1.1"], rustls::ALL_VERSIONS).await;
    assert!(refused.unwrap_err().to_string().contains("NoApplicationProtocol"));
    crate::world::soon("the count of the refusal", || async {
        (counted().await == 1.0).then_some(())
    })
    .await;

    // TLS accepts a client that offers no protocol; the connection ends right after the handshake.
    let mut stream = tls(world.address(), Some(&issued), &[], rustls::ALL_VERSIONS).await.unwrap();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let _ = stream.write_all(b"GET /version HTTP/1.1\r\nhost: etcd\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{answer:?}");
    crate::world::soon("the count of the refusal", || async {
        (counted().await == 2.0).then_some(())
    })
    .await;
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn an_unbound_client_learns_nothing_about_its_message() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let mut raw = world.raw("stranger").await;
    for (path, body) in [
        (PUT, compressed(b"x")),
        (PUT, Vec::new()),
        (PUT, framed(&[0xff])),
        ("/etcdserverpb.KV/Steal", framed(b"")),
    ] {
        let answer = raw.send(path, &marked(), &body).await;
        assert_eq!(
            (answer.grpc_status(), answer.grpc_message()),
            (Some(7), "etcdserver: permission denied"),
            "{answer:?}"
        );
    }
    let lines = || world.audit().iter().filter(|line| line["reason"] == "no_binding").count();
    crate::world::soon("four lines of the audit", || async { (lines() == 4).then_some(()) }).await;
    assert!(fake.all_arrivals().is_empty(), "{:?}", fake.all_arrivals());
}

#[tokio::test]
async fn a_half_sent_request_never_reaches_etcd() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let body = framed(&put(&world, b"1"));
    for cut in [0, 3, body.len()] {
        let mut stream = raw.open(PUT, &marked()).await.unwrap();
        stream.request.send_data(Bytes::copy_from_slice(&body[..cut]), false).unwrap();
        stream.request.send_reset(h2::Reason::CANCEL);
    }
    // On the same connection, after them and in order.
    let message =
        RangeRequest { key: world.key("a").into(), ..RangeRequest::default() }.encode_to_vec();
    assert_eq!(raw.call(RANGE, &message).await.grpc_status(), Some(0));
    only_the_neighbour_arrived_but_for("given up", &fake, RANGE);
    neighbour.is_unharmed().await;
}

fn only_the_neighbour_arrived_but_for(what: &str, fake: &Fake, path: &str) {
    let puts = fake
        .all_arrivals()
        .into_iter()
        .filter(|arrival| arrival.path != path && arrival.headers.contains_key("hasleader"));
    assert_eq!(puts.count(), 0, "{what}");
}

#[tokio::test]
async fn requests_with_a_body_of_many_small_pieces_are_whole_ones() {
    let fake = Fake::agreeable().await;
    let world = fake.world(TWO_CLIENTS).await;
    let mut raw = world.raw("alice").await;
    let body = framed(&put(&world, b"in pieces"));
    let mut stream = raw.open(PUT, &grpc_headers()).await.unwrap();
    for byte in &body {
        stream.request.send_data(Bytes::copy_from_slice(&[*byte]), false).unwrap();
        stream.request.send_data(Bytes::new(), false).unwrap();
    }
    stream.request.send_data(Bytes::new(), true).unwrap();
    assert_eq!(Answer::read(stream.response).await.grpc_status(), Some(0));
    assert_eq!(fake.arrivals("Put")[0].body, body);
}
