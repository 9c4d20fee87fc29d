//! Nobody harms a neighbour: readers that never read cost one window each, and nobody waits behind
//! them.

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

/// Everything that begins so.
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

/// Calls whose answers have begun, on one connection; nothing of them is ever read.
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
async fn two_hundred_readers_that_never_read_stop_nobody() {
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
    // The watches that nobody reads have more to say than any window holds.
    let mut client = world.as_("neighbour").await;
    for _ in 0..4 {
        client.put("/noise", vec![b'x'; MIB], None).await.unwrap();
        neighbour.is_unharmed().await;
    }
    // A watch, a large read and a small one of somebody else come to their end.
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
        "they are all still there"
    );
    neighbour.is_unharmed().await;
}

/// A reader that stood still and goes on takes all that waits for it at once, which spends the
/// budget that tokio gives a connection's task for one turn (`coop`). `tokio::select!` stands still
/// then, and with it what waits in the task: the turn must end, or its thread serves nobody any
/// more.
#[tokio::test]
async fn a_reader_that_goes_on_takes_what_has_waited_and_holds_up_nobody() {
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
        tokio::time::timeout(SOON, neighbour.is_unharmed()).await.expect("the worker goes on");
    }
    while let Some(read) =
        tokio::time::timeout(SOON, readers.join_next()).await.expect("every event goes out")
    {
        read.unwrap();
    }
}

/// A message that waits for its verdict, and is then refused, has taken nothing of the window that
/// all streams to etcd share.
#[tokio::test]
async fn a_refused_message_leaves_its_neighbours_their_window() {
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
    // On the stream that was open before, and on another one.
    request.send_data(framed(&create("/b")).into(), false).unwrap();
    let again = tokio::time::timeout(SOON, message(&mut body))
        .await
        .expect("the neighbour's window is there");
    assert!(again.created && !again.canceled);
    let (_other, mut body) =
        tokio::time::timeout(SOON, open(&mut neighbour, "/c")).await.expect("and for others");
    assert!(message(&mut body).await.created);
}

/// What etcd has sent of an answer by the time that it hears that nobody wants it any more comes
/// all the same, for a stream that is over. However much of that there is, the connection is also
/// that of others.
#[tokio::test]
async fn calls_that_are_given_up_while_their_answers_come_end_no_connection_to_etcd() {
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
async fn the_stream_limit_of_etcd_is_met_with_more_connections() {
    let world = World::with(POLICY).etcd_flag("--max-concurrent-streams=8").start().await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("reader-0").await;
    let mut watches = Vec::new();
    // All at once: none may queue behind others that stay.
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

/// Few connections gather more of what goes over them into one write: only with sixty-four streams
/// on the first is a second one opened for those that come.
#[tokio::test]
async fn streams_share_one_connection_while_it_is_comfortable() {
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
async fn who_begins_requests_and_never_ends_them_takes_no_room_from_others() {
    let configured = World::with(POLICY).config(|config| config.limits.max_held_bytes = 8 * MIB);
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    // One identity on several connections: each request but for its last byte.
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
    // Half of the room, and no more: what goes beyond is refused, by etcd's own words for it.
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
        .expect("one identity holds more than half of the room");
    assert_eq!(refused, 12);
    assert!(world.metric("etcd_warden_limits_hit_total", &[r#"limit="held-bytes""#]).await >= 12.0);
    // Somebody else writes what is large.
    let mut other = world.as_("reader-1").await;
    other.put("/large", vec![b'x'; MIB], None).await.unwrap();
    neighbour.is_unharmed().await;
}

/// The next answer, which etcd sends in a piece of its own.
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

/// The built program, as a process of its own.
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
        soon("the program to listen", || async { std::net::TcpStream::connect(free).ok() }).await;
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
async fn an_answer_that_is_not_read_costs_a_window_and_not_a_buffer() {
    let world = World::with(POLICY).own_etcd().start().await;
    fill(&world, 50).await;
    let program = Program::start(&world).await;
    // Everything that is made once is there: a call has been through.
    let small = RangeRequest { key: b"/none".to_vec(), ..RangeRequest::default() }.encode_to_vec();
    let mut other = program.raw("neighbour").await;
    assert_eq!(other.call(RANGE, &small).await.grpc_status(), Some(0));

    let before = program.memory();
    let mut raw = program.raw("reader-0").await;
    let one = unread(&mut raw, RANGE, &range("/big/"), 1).await;
    assert_eq!(other.call(RANGE, &small).await.grpc_status(), Some(0));
    let grown = program.memory().saturating_sub(before);
    assert!(grown < 8 * MIB, "one unread answer of 50 MiB took {grown} bytes");

    // Forty answers of eleven MiB each.
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
