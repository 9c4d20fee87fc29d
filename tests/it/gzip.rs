//! Compressed requests: every release of etcd accepts gzip, and so does the proxy, which judges the
//! unpacked message.

use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::watch_request::RequestUnion;
use h2::client::ResponseFuture;
use http::HeaderMap;
use prost::Message as _;

use crate::world::fake::Fake;
use crate::world::raw::{Answer, Raw, framed, grpc_headers, gzip, gzipped};
use crate::world::{World, soon};

const POLICY: &str = "
version: 1
mode: MODE
roles:
  all:
    allow:
      - keys: $P/a/*
        verbs: [rw]
    capabilities: [lease, member-list]
bindings:
  - {cn: alice, roles: [all]}
";

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const MEMBERS: &str = "/etcdserverpb.Cluster/MemberList";

fn policy(mode: &str) -> String {
    POLICY.replace("MODE", mode)
}

fn encoded_as(encoding: &'static str) -> HeaderMap {
    let mut headers = grpc_headers();
    headers.insert("grpc-encoding", encoding.parse().unwrap());
    headers
}

fn put(key: String, value: &[u8]) -> Vec<u8> {
    pb::PutRequest { key: key.into(), value: value.to_vec(), ..Default::default() }.encode_to_vec()
}

fn range(key: String) -> Vec<u8> {
    pb::RangeRequest { key: key.into(), ..Default::default() }.encode_to_vec()
}

/// The value of a key, read by an uncompressed request.
async fn value(raw: &mut Raw, key: String) -> Vec<u8> {
    let answer = raw.call(RANGE, &range(key)).await;
    let kvs = pb::RangeResponse::decode(answer.messages()[0]).unwrap().kvs;
    kvs.into_iter().next().map(|kv| kv.value).unwrap_or_default()
}

/// On each release: a compressed request gets the response of an uncompressed one, and a refused
/// request stays refused.
#[tokio::test]
async fn a_gzip_request_is_judged_by_what_is_inside() {
    for release in ["3.5", "3.6", "3.7"] {
        let world = World::with(&policy("enforce")).release(release).start().await;
        let mut raw = world.raw("alice").await;
        let headers = encoded_as("gzip");
        let answer = raw.send(PUT, &headers, &gzipped(&put(world.key("a/1"), &[b'x'; 200]))).await;
        assert_eq!(answer.grpc_status(), Some(0), "{release}: {answer:?}");
        assert_eq!(value(&mut raw, world.key("a/1")).await, [b'x'; 200], "{release}");
        // Not compressed, because the proxy reads responses too.
        let answer = raw.send(RANGE, &headers, &gzipped(&range(world.key("a/1")))).await;
        assert_eq!(
            (answer.grpc_status(), answer.messages().len()),
            (Some(0), 1),
            "{release}: {answer:?}"
        );
        assert!(!answer.headers.contains_key("grpc-encoding"), "{release}: {answer:?}");
        // An uncompressed message is valid with every encoding.
        let answer = raw.send(RANGE, &headers, &framed(&range(world.key("a/1")))).await;
        assert_eq!(
            (answer.grpc_status(), answer.messages().len()),
            (Some(0), 1),
            "{release}: {answer:?}"
        );
        for (path, message) in [(PUT, put(world.key("b"), b"x")), (RANGE, range(world.key("b")))] {
            let answer = raw.send(path, &headers, &gzipped(&message)).await;
            assert_eq!(
                (answer.grpc_status(), answer.grpc_message()),
                (Some(7), "etcdserver: permission denied"),
                "{release}"
            );
        }
    }
}

/// The message that arrives at etcd is the one that was judged: uncompressed, and without an
/// encoding header.
#[tokio::test]
async fn under_enforcement_the_message_is_forwarded_unpacked() {
    let fake = Fake::agreeable().await;
    let world = fake.world(&policy("enforce")).await;
    let message = put(world.key("a/1"), &[b'x'; 200]);
    let answer = world.raw("alice").await.send(PUT, &encoded_as("gzip"), &gzipped(&message)).await;
    assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    let arrival = fake.arrivals("Put").remove(0);
    assert_eq!(arrival.body, framed(&message));
    assert!(!arrival.headers.contains_key("grpc-encoding"));
}

#[tokio::test]
async fn in_shadow_mode_a_gzip_request_is_forwarded_as_received() {
    let fake = Fake::agreeable().await;
    let world = fake.world(&policy("shadow")).await;
    for (key, decision) in [("a/1", "allow"), ("b", "would_deny")] {
        let sent = gzipped(&put(world.key(key), &[b'x'; 200]));
        let answer = world.raw("alice").await.send(PUT, &encoded_as("gzip"), &sent).await;
        assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
        let arrival = fake.arrivals("Put").pop().unwrap();
        assert_eq!(
            (arrival.body, &arrival.headers["grpc-encoding"]),
            (sent, &"gzip".parse().unwrap())
        );
        let line = world.audited(|line| line["decision"] == decision).await;
        assert!(
            line.to_string().contains(&world.key(key)),
            "the key of the unpacked message: {line:#}"
        );
    }
}

struct Hostile {
    what: &'static str,
    headers: HeaderMap,
    body: Vec<u8>,
    code: u32,
    text: &'static str,
    reason: &'static str,
}

fn hostile(world: &World) -> Vec<Hostile> {
    let message = put(world.key("a/1"), &[b'x'; 200]);
    let packed = gzip(&message);
    let flagged = |bytes: &[u8]| [&[1], &framed(bytes)[1..]].concat();
    let case = |what, encoding, body, code, text, reason| Hostile {
        what,
        headers: encoded_as(encoding),
        body,
        code,
        text,
        reason,
    };
    let damaged = "etcd-warden: the compressed message is cut, damaged, or more than one";
    let no_way = "etcd-warden: the message is compressed, but there is no grpc-encoding";
    let unknown = "grpc: Decompressor is not installed for grpc-encoding \"snappy\"";
    let mut wrong_sum = packed.clone();
    let place = wrong_sum.len() - 8;
    wrong_sum[place] ^= 1;
    let bomb = gzip(&put(world.key("a/1"), &vec![0; 1 << 20]));
    let too_long =
        format!("grpc: received message after decompression larger than max {}", bomb.len() * 100);
    vec![
        case("cut", "gzip", flagged(&packed[..packed.len() - 1]), 3, damaged, "bad_framing"),
        case(
            "a byte behind it",
            "gzip",
            flagged(&[&packed[..], b"\0"].concat()),
            3,
            damaged,
            "bad_framing",
        ),
        case(
            "two members",
            "gzip",
            flagged(&[&packed[..], &gzip(b"")].concat()),
            3,
            damaged,
            "bad_framing",
        ),
        case("a wrong checksum", "gzip", flagged(&wrong_sum), 3, damaged, "bad_framing"),
        case("not gzip", "gzip", flagged(&message), 3, damaged, "bad_framing"),
        case("nothing", "gzip", flagged(b""), 3, damaged, "bad_framing"),
        case("a bomb", "gzip", flagged(&bomb), 8, too_long.leak(), "too_large"),
        case("no encoding", "identity", gzipped(&message), 3, no_way, "bad_framing"),
        case("another encoding", "snappy", flagged(&message), 12, unknown, "compressed"),
        case("another encoding, unused", "snappy", framed(&message), 12, unknown, "compressed"),
        Hostile {
            headers: grpc_headers(),
            ..case("no header", "identity", gzipped(&message), 3, no_way, "bad_framing")
        },
    ]
}

#[tokio::test]
async fn a_compressed_message_that_is_not_one_is_refused() {
    let fake = Fake::agreeable().await;
    let world = fake.world(&policy("enforce")).await;
    let mut raw = world.raw("alice").await;
    for Hostile { what, headers, body, code, text, reason } in hostile(&world) {
        let answer = raw.send(PUT, &headers, &body).await;
        assert_eq!(
            (answer.grpc_status(), answer.grpc_message()),
            (Some(code), text),
            "{what}: {answer:?}"
        );
        let line = world.audited(|line| line["decision"] == "deny").await;
        assert_eq!(line["reason"], reason, "{what}: {line:#}");
        std::fs::write(world.audit_file(), "").unwrap();
        assert!(fake.all_arrivals().is_empty(), "{what}");
    }
    // A client without a binding does not learn how its message was read.
    let mut stranger = world.raw("stranger").await;
    for Hostile { what, headers, body, .. } in hostile(&world) {
        let answer = stranger.send(PUT, &headers, &body).await;
        assert_eq!(
            (answer.grpc_status(), answer.grpc_message()),
            (Some(7), "etcdserver: permission denied"),
            "{what}"
        );
    }
}

fn create(key: String) -> Vec<u8> {
    let create = pb::WatchCreateRequest { key: key.into(), ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }.encode_to_vec()
}

/// The first messages of an endless response.
async fn first(response: ResponseFuture, count: usize) -> Vec<Vec<u8>> {
    let mut answer = Answer::default();
    let mut body = response.await.unwrap().into_body();
    while answer.messages().len() < count {
        let data = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        answer.body.extend_from_slice(&data);
    }
    answer.messages().into_iter().map(<[u8]>::to_vec).collect()
}

#[tokio::test]
async fn the_messages_of_a_gzip_stream_are_judged_one_by_one() {
    let world = World::start(&policy("enforce")).await;
    let mut raw = world.raw("alice").await;
    let mut stream = raw.open(WATCH, &encoded_as("gzip")).await.unwrap();
    let messages = [
        gzipped(&create(world.key("a/1"))),
        gzipped(&create(world.key("b"))),
        framed(&create(world.key("a/2"))),
    ];
    stream.request.send_data(messages.concat().into(), false).unwrap();
    let answers = first(stream.response, 3).await;
    let answers = answers.iter().map(|answer| pb::WatchResponse::decode(&answer[..]).unwrap());
    let said: Vec<(bool, bool, String)> =
        answers.map(|answer| (answer.created, answer.canceled, answer.cancel_reason)).collect();
    let denied = (
        true,
        true,
        "rpc error: code = PermissionDenied desc = etcdserver: permission denied".to_owned(),
    );
    assert_eq!(said, [(true, false, String::new()), denied, (true, false, String::new())]);

    // A message that cannot be unpacked ends its stream.
    let mut stream = raw.open(WATCH, &encoded_as("gzip")).await.unwrap();
    let mut broken = gzipped(&create(world.key("a/1")));
    broken.pop();
    broken[4] -= 1;
    stream.request.send_data(broken.into(), false).unwrap();
    let answer = Answer::read(stream.response).await;
    assert_eq!(answer.grpc_status(), Some(3), "{answer:?}");

    let mut stream = raw.open(KEEP_ALIVE, &encoded_as("gzip")).await.unwrap();
    let alive = pb::LeaseKeepAliveRequest { id: 77 }.encode_to_vec();
    stream.request.send_data(gzipped(&alive).into(), false).unwrap();
    let answer = first(stream.response, 1).await.remove(0);
    assert_eq!(pb::LeaseKeepAliveResponse::decode(&answer[..]).unwrap().id, 77);

    let answer = raw.send(WATCH, &encoded_as("snappy"), &framed(&create(world.key("a/1")))).await;
    assert_eq!(answer.grpc_status(), Some(12), "{answer:?}");
}

/// etcd compresses the response to a compressed request, and the list must be rewritten all the
/// same.
#[tokio::test]
async fn a_gzip_answer_that_is_changed_is_unpacked_first() {
    for mode in ["enforce", "shadow"] {
        let url = "https://proxy.example:2379";
        let world = World::with(&policy(mode))
            .config(|config| config.advertise.default = Some(url.to_owned()))
            .start()
            .await;
        // Long enough to be compressed also by an implementation that skips short messages.
        let answer = world
            .raw("alice")
            .await
            .send(MEMBERS, &encoded_as("gzip"), &gzipped(b"\x08\x01"))
            .await;
        assert_eq!(answer.grpc_status(), Some(0), "{mode}: {answer:?}");
        let members = pb::MemberListResponse::decode(answer.messages()[0]).unwrap().members;
        assert!(members.iter().all(|member| member.client_ur_ls == [url]), "{mode}: {members:?}");
    }
}

/// A compressed call that shadow mode has passed through is judged by its content when its client
/// is enforced.
#[tokio::test]
async fn an_open_gzip_call_is_judged_when_its_client_is_enforced() {
    let world = World::with(&policy("shadow")).own_etcd().start().await;
    let mut raw = world.raw("alice").await;
    let mut streams = Vec::new();
    for name in ["a/election", "b/election"] {
        let observe =
            etcd_warden_proto::v3electionpb::LeaderRequest { name: world.key(name).into() }
                .encode_to_vec();
        let mut stream =
            raw.open("/v3electionpb.Election/Observe", &encoded_as("gzip")).await.unwrap();
        stream.request.send_data(gzipped(&observe).into(), true).unwrap();
        streams.push(stream);
    }
    let open = async || world.metric("etcd_warden_requests_in_flight", &[]).await;
    soon("both calls to be open", || async { (open().await == 2.0).then_some(()) }).await;
    world.replace_policy(&policy("enforce"));
    let answer = Answer::read(streams.remove(1).response).await;
    assert_eq!(answer.grpc_status(), Some(7), "{answer:?}");
    soon("one call to be open", || async { (open().await == 1.0).then_some(()) }).await;
}
