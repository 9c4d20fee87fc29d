//! No client delays another one: a reader that never reads costs one window, and no client waits
//! behind it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use etcd_warden_core::wire::frame::{Frames, single};
use etcd_warden_proto::etcdserverpb::{
    RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
};
use prost::Message as _;

use crate::world::raw::{Raw, Stream, framed, grpc_headers, tls};
use crate::world::relay::Relay;
use crate::world::{SOON, World, authorities, soon};

const POLICY: &str = "
version: 1
mode: enforce
roles:
  all:
    allow:
      - keys: /*
        verbs: [rw]
bindings:
  - cn: neighbour
    roles: [all]
  - cn: \"reader-{number}\"
    roles: [all]
";

const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const MIB: usize = 1 << 20;

/// A Range of every key with this prefix.
fn range(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    RangeRequest {
        key: prefix.into(),
        range_end: end,
        serializable: true,
        ..RangeRequest::default()
    }
    .encode_to_vec()
}

fn create(key: &str) -> Vec<u8> {
    let create = WatchCreateRequest { key: key.into(), ..WatchCreateRequest::default() };
    WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) }
        .encode_to_vec()
}

async fn fill(world: &World, mebibytes: usize) {
    let mut client = world.direct().await;
    for place in 0..mebibytes {
        client.put(format!("/big/{place}"), vec![b'x'; MIB], None).await.unwrap();
    }
}

/// Calls whose responses have begun, on one connection. They are never read.
async fn unread(
    raw: &mut Raw,
    path: &str,
    message: &[u8],
    count: usize,
) -> Vec<(h2::SendStream<bytes::Bytes>, h2::RecvStream)> {
    let mut held = Vec::new();
    for _ in 0..count {
        let Stream { mut request, response } = raw.open(path, &grpc_headers()).await.unwrap();
        request.send_data(framed(message).into(), path != WATCH).unwrap();
        held.push((request, response.await.unwrap().into_body()));
    }
    held
}

#[tokio::test]
async fn two_hundred_clients_that_never_read_delay_no_other_client() {
    let world = World::with(POLICY).own_etcd().start().await;
    fill(&world, 2).await;
    let neighbour = world.neighbour().await;
    let mut held = Vec::new();
    for number in 0..8 {
        let mut raw = world.raw(&format!("reader-{number}")).await;
        held.extend(unread(&mut raw, RANGE, &range("/big/"), 20).await);
        held.extend(unread(&mut raw, WATCH, &create("/noise"), 5).await);
        neighbour.is_unharmed().await;
    }
    assert_eq!(held.len(), 200);
    // The unread watches have more events than fit into a window.
    let mut client = world.as_("neighbour").await;
    for _ in 0..4 {
        client.put("/noise", vec![b'x'; MIB], None).await.unwrap();
        neighbour.is_unharmed().await;
    }
    // Another client's watch, large read and small read all complete.
    let mut watch = client.watch("/small", None).await.unwrap();
    client.put("/small", "1", None).await.unwrap();
    let mut seen = watch.message().await.unwrap().unwrap();
    while seen.events().is_empty() {
        seen = watch.message().await.unwrap().unwrap();
    }
    assert_eq!(seen.events()[0].kv().unwrap().value(), b"1");
    assert_eq!(client.get("/big/0", None).await.unwrap().kvs()[0].value().len(), MIB);
    assert!(
        world.metric("etcd_warden_requests_in_flight", &[]).await >= 200.0,
        "all of them are still open"
    );
    neighbour.is_unharmed().await;
}

/// A reader that resumes takes everything that has waited at once. That spends tokio's cooperative
/// budget (`coop`) of its connection's task. `tokio::select!` then makes no progress, so the turn
/// must end, or its thread serves no other client.
#[tokio::test]
async fn a_client_that_resumes_reading_delays_no_other_client() {
    const WATCHERS: usize = 150;
    const EVENTS: usize = 40;
    const TIMES: usize = 3;
    const SIZE: usize = 4096;
    let world = World::with(POLICY).own_etcd().start().await;
    let neighbour = world.neighbour().await;
    let relay = Relay::to(world.address()).await;
    let issued = authorities().clients.client("reader-0").unwrap();
    let stream = tls(relay.address(), Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap();
    let mut windows = h2::client::Builder::new();
    windows.initial_window_size(1 << 24).initial_connection_window_size(1 << 30);
    let mut raw = Raw::over_as(&windows, stream).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..WATCHERS {
        let Stream { mut request, response } = raw.open(WATCH, &grpc_headers()).await.unwrap();
        request.send_data(framed(&create("/flood")).into(), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert!(message(&mut body).await.created);
        readers.spawn(async move {
            let (mut frames, mut seen) = (Frames::new(MIB), 0);
            while seen < TIMES * EVENTS {
                let chunk = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                frames.push(chunk);
                while let Some(framed) = frames.next().unwrap() {
                    let message = single(&framed, MIB).unwrap();
                    seen += WatchResponse::decode(message).unwrap().events.len();
                }
            }
            drop(request);
        });
    }
    let mut client = world.direct().await;
    for _ in 0..TIMES {
        relay.hold();
        for _ in 0..EVENTS {
            client.put("/flood", vec![b'x'; SIZE], None).await.unwrap();
        }
        neighbour.is_unharmed().await;
        relay.release();
        tokio::time::timeout(SOON, neighbour.is_unharmed()).await.expect("the worker still serves");
    }
    while let Some(read) =
        tokio::time::timeout(SOON, readers.join_next()).await.expect("every event arrives")
    {
        read.unwrap();
    }
}

/// A message that waits for a decision and is then refused has used no part of the window that all
/// streams to etcd share.
#[tokio::test]
async fn a_refused_message_leaves_other_streams_their_window() {
    let policy =
        POLICY.replace("bindings:", "  own:\n    allow: [{keys: /own/*, verbs: [rw]}]\nbindings:\n  - {cn: stranger, roles: [own]}");
    let world = World::with(&policy).config(|config| config.workers = 1).own_etcd().start().await;
    let open = async |raw: &mut Raw, key: &str| {
        let Stream { mut request, response } = raw.open(WATCH, &grpc_headers()).await.unwrap();
        request.send_data(framed(&create(key)).into(), false).unwrap();
        (request, response.await.unwrap().into_body())
    };
    let (mut neighbour, mut stranger) = (world.raw("neighbour").await, world.raw("stranger").await);
    let (mut request, mut body) = open(&mut neighbour, "/a").await;
    assert!(!message(&mut body).await.canceled);
    let (_held, mut refused) = open(&mut stranger, &format!("/{}", "x".repeat(1_500_000))).await;
    assert!(message(&mut refused).await.canceled);
    // On the stream that was already open, and on a new one.
    request.send_data(framed(&create("/b")).into(), false).unwrap();
    let again = tokio::time::timeout(SOON, message(&mut body))
        .await
        .expect("the neighbour's window is free");
    assert!(again.created && !again.canceled);
    let (_other, mut body) = tokio::time::timeout(SOON, open(&mut neighbour, "/c"))
        .await
        .expect("other streams have a window");
    assert!(message(&mut body).await.created);
}

/// etcd has sent a part of a response before it learns that the call was cancelled. That part still
/// arrives, for a stream that has ended. However large it is, other clients use the same
/// connection.
#[tokio::test]
async fn calls_cancelled_while_answered_end_no_connection_to_etcd() {
    let world = World::with(POLICY).own_etcd().start().await;
    fill(&world, 2).await;
    let neighbour = world.neighbour().await;
    for round in 0..40 {
        let mut raw = world.raw(&format!("reader-{}", round % 8)).await;
        let mut asked = Vec::new();
        for _ in 0..60 {
            let Stream { mut request, response } = raw.open(RANGE, &grpc_headers()).await.unwrap();
            request.send_data(framed(&range("/big/")).into(), true).unwrap();
            asked.push((request, response));
        }
        let (_, first) = asked.swap_remove(round % 60);
        first.await.unwrap();
    }
    neighbour.is_unharmed().await;
    assert_eq!(world.metric("etcd_warden_upstream_failures_total", &[]).await, 0.0);
}

#[tokio::test]
async fn opens_more_connections_when_etcd_limits_streams() {
    let world = World::with(POLICY).etcd_flag("--max-concurrent-streams=8").start().await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("reader-0").await;
    let mut watches = Vec::new();
    // All at once, so that none queues behind others that stay.
    for place in 0..100 {
        let Stream { mut request, response } = raw.open(WATCH, &grpc_headers()).await.unwrap();
        request.send_data(framed(&create(&format!("/watched/{place}"))).into(), false).unwrap();
        watches.push((request, response));
    }
    let mut client = world.as_("neighbour").await;
    let mut bodies = Vec::new();
    for (place, (request, response)) in watches.into_iter().enumerate() {
        let mut body = response.await.unwrap().into_body();
        let first = message(&mut body).await;
        assert!(first.created && !first.canceled, "{place}: {first:?}");
        bodies.push((request, body));
    }
    for (place, (_, body)) in bodies.iter_mut().enumerate() {
        client.put(format!("/watched/{place}"), "1", None).await.unwrap();
        let event = message(body).await;
        assert_eq!(
            event.events[0].kv.as_ref().unwrap().key,
            format!("/watched/{place}").as_bytes()
        );
    }
    assert!(world.metric("etcd_warden_upstream_connections", &[r#"class="long""#]).await >= 13.0);
    neighbour.is_unharmed().await;
}

/// Fewer connections collect more data into one write. A second one is opened only when the first
/// has sixty-four streams.
#[tokio::test]
async fn streams_share_a_connection_until_it_has_64() {
    let world = World::with(POLICY).start().await;
    let mut raw = world.raw("reader-0").await;
    let mut open = Vec::new();
    for (streams, connections) in [(63, 1.0), (100, 2.0)] {
        while open.len() < streams {
            let Stream { mut request, response } = raw.open(WATCH, &grpc_headers()).await.unwrap();
            request.send_data(framed(&create("/watched/")).into(), false).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert!(message(&mut body).await.created);
            open.push((request, body));
        }
        let open_now = || async {
            world.metric("etcd_warden_upstream_connections", &[r#"class="long""#]).await
        };
        soon(&format!("{streams} streams on {connections} connections"), || async {
            (open_now().await == connections).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn unfinished_requests_take_no_window_from_other_clients() {
    let configured = World::with(POLICY).config(|config| config.limits.max_held_bytes = 8 * MIB);
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    // One identity on several connections: each request without its last byte.
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut raw = world.raw("reader-0").await;
        for _ in 0..4 {
            let mut stream = raw.open("/etcdserverpb.KV/Put", &grpc_headers()).await.unwrap();
            let body = framed(&vec![0; MIB]);
            stream.request.send_data(body[..MIB].to_vec().into(), false).unwrap();
            held.push(stream);
        }
    }
    // It may hold half of the budget. More is refused with etcd's own message.
    let mut refused = 0;
    let answers = async {
        let mut waiting: futures_util::stream::FuturesUnordered<_> =
            held.iter_mut().map(|stream| &mut stream.response).collect();
        while refused < 12
            && let Some(answer) = futures_util::StreamExt::next(&mut waiting).await
        {
            let answer = answer.unwrap();
            assert_eq!(answer.headers()["grpc-status"], "8");
            assert_eq!(answer.headers()["grpc-message"], "etcdserver: too many requests");
            refused += 1;
        }
    };
    tokio::time::timeout(SOON, answers)
        .await
        .expect("one identity holds more than half of the budget");
    assert_eq!(refused, 12);
    assert!(world.metric("etcd_warden_limits_hit_total", &[r#"limit="held_bytes""#]).await >= 12.0);
    // Another client writes a large value.
    let mut other = world.as_("reader-1").await;
    other.put("/large", vec![b'x'; MIB], None).await.unwrap();
    neighbour.is_unharmed().await;
}

/// The next response, which etcd sends in its own piece.
async fn message(body: &mut h2::RecvStream) -> WatchResponse {
    let mut whole = Vec::new();
    loop {
        if let Some((header, message)) = whole.split_first_chunk::<5>()
            && let length =
                u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize
            && message.len() >= length
        {
            assert_eq!(message.len(), length);
            return WatchResponse::decode(message).unwrap();
        }
        let chunk = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        whole.extend_from_slice(&chunk);
    }
}

/// The built program as a separate process.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    /// Serves with the files of `world`, on a port that was free a moment ago.
    async fn start(world: &World) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = &world.config;
        let text = format!(
            "listen-addr: {free}\ncert-file: {}\nkey-file: {}\ntrusted-ca-file: {}\nendpoints: {}\ncert: {}\nkey: {}\ncacert: {}\n\
             policy: {}\nadmin-addr: none\nworkers: 1\nlog-filter: warn\n",
            config.downstream.cert_file.display(),
            config.downstream.key_file.display(),
            config.downstream.client_cas[0].file.display(),
            world.etcd().endpoints()[0],
            config.upstream.identity.as_ref().unwrap().0.display(),
            config.upstream.identity.as_ref().unwrap().1.display(),
            config.upstream.cacert.as_ref().unwrap().display(),
            config.policy.display(),
        );
        let file = world.folder().join("serve.yaml");
        std::fs::File::create(&file).unwrap().write_all(text.as_bytes()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
        let child =
            command.arg("serve").arg("--config").arg(file).stdin(Stdio::null()).spawn().unwrap();
        let program = Self { child, address: free };
        soon("the program's listener", || async { std::net::TcpStream::connect(free).ok() }).await;
        program
    }

    /// Resident memory in bytes.
    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    async fn raw(&self, common_name: &str) -> Raw {
        let issued = authorities().clients.client(common_name).unwrap();
        Raw::over(tls(self.address, Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap())
            .await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn an_unread_response_costs_a_window_and_not_a_buffer() {
    let world = World::with(POLICY).own_etcd().start().await;
    fill(&world, 50).await;
    let program = Program::start(&world).await;
    // One call first, so that everything that is created once exists.
    let small = RangeRequest { key: b"/none".to_vec(), ..RangeRequest::default() }.encode_to_vec();
    let mut other = program.raw("neighbour").await;
    assert_eq!(other.call(RANGE, &small).await.grpc_status(), Some(0));

    let before = program.memory();
    let mut raw = program.raw("reader-0").await;
    let one = unread(&mut raw, RANGE, &range("/big/"), 1).await;
    assert_eq!(other.call(RANGE, &small).await.grpc_status(), Some(0));
    let grown = program.memory().saturating_sub(before);
    assert!(grown < 8 * MIB, "one unread answer of 50 MiB took {grown} bytes");

    // Forty responses of eleven MiB each.
    let mut held = vec![(raw, one)];
    for number in 1..5 {
        let mut raw = program.raw(&format!("reader-{number}")).await;
        let unread = unread(&mut raw, RANGE, &range("/big/1"), 10).await;
        held.push((raw, unread));
        assert_eq!(other.call(RANGE, &small).await.grpc_status(), Some(0));
    }
    let grown = program.memory().saturating_sub(before);
    assert!(grown < 64 * MIB, "forty unread answers took {grown} bytes");
}
