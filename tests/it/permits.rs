//! Every way to write to etcd, in every phase of a call, against every event that withdraws a
//! permit: one table. After the event the client sends the rest of its request, and etcd must
//! receive no message that the new state does not allow.
//!
//! `every_write_to_etcd_has_a_phase_here` finds the code that writes to etcd. New code that does
//! needs a phase in [`Phase`].

use std::fs;
use std::path::Path;
use std::time::Duration;

use etcd_warden_core::method::{CallKind, Method};
use etcd_warden_gateway::config::Config;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::{v3electionpb, v3lockpb};
use etcd_warden_testbed::pki::{Authority, Issued, Leaf};
use prost::Message as _;

use crate::reload::create;
use crate::world::files::replace;
use crate::world::raw::{Answer, Raw, Stream, framed, grpc_headers, tls};
use crate::world::relay::Relay;
use crate::world::{SOON, World, authorities, soon};

/// Larger messages are not held for the decision: shadow mode passes them through.
const LARGE: usize = 4096;
const ALICE: u64 = 0xa11ce5;
/// The lease that keepalives name. It belongs to another client.
const LEASE: i64 = 31_337;

fn policy(mode: &str, keys: &str) -> String {
    format!(
        "version: 1\nmode: {mode}\nroles:\n  r: {{allow: [{{keys: {keys}, verbs: [rw]}}], capabilities: [lease, lease-admin, snapshot]}}\n  \
         n: {{allow: [{{keys: $P/none, verbs: [read]}}]}}\nbindings: [{{cn: alice, roles: [{}]}}]\n",
        if keys.ends_with('-') { "n" } else { "r" }
    )
}

/// The grants: everything, or nothing that the calls in this file need.
const ALL: &str = "$P/*";
const NOTHING: &str = "$P/-";

/// How far a call has come when the event occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The request has arrived and waits for a connection to etcd.
    Connecting,
    /// The headers and half of the message have arrived.
    Half,
    /// The same, with a message that is too large to be held.
    HalfOfLarge,
    /// The headers have arrived, but no message.
    Silent,
    /// etcd has the whole request and has not responded yet.
    Waiting,
    /// The first response message has arrived.
    Answered,
}

/// Events that withdraw permits. A certificate that expires takes the same path as its revocation
/// (`Client::end_identity`); `identity_ends` shows that an expired one gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// From shadow mode to enforcement, without the right.
    Mode,
    /// A new policy takes the right away.
    Policy,
    Revoked,
    Ca,
    Drain,
}

/// How a call ends after the event and the rest of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ok = 0,
    Denied = 7,
    /// The client sends it again, and it is judged again.
    Unavailable = 14,
    /// The stream stays open; each later message on it is refused in place.
    Open = 99,
}
use End::{Denied, Ok as Fine, Open, Unavailable};

type Row = (Phase, Method, [End; 3]);

/// In shadow mode, by event: enforcement; revocation or loss of the CA; drain.
const SHADOW: &[Row] = &[
    (Phase::Connecting, Method::Put, [Denied, Unavailable, Fine]),
    (Phase::Connecting, Method::Range, [Denied, Unavailable, Fine]),
    (Phase::Connecting, Method::Observe, [Denied, Unavailable, Unavailable]),
    (Phase::Connecting, Method::Watch, [Unavailable, Unavailable, Unavailable]),
    (Phase::Connecting, Method::LeaseKeepAlive, [Unavailable, Unavailable, Unavailable]),
    (Phase::Half, Method::Put, [Unavailable, Unavailable, Unavailable]),
    (Phase::Half, Method::Txn, [Unavailable, Unavailable, Unavailable]),
    (Phase::HalfOfLarge, Method::Put, [Unavailable, Unavailable, Fine]),
    (Phase::Silent, Method::Watch, [Unavailable, Unavailable, Unavailable]),
    (Phase::Silent, Method::LeaseKeepAlive, [Unavailable, Unavailable, Unavailable]),
    (Phase::Waiting, Method::Lock, [Denied, Unavailable, Unavailable]),
    (Phase::Waiting, Method::Observe, [Denied, Unavailable, Unavailable]),
    (Phase::Answered, Method::Watch, [Unavailable, Unavailable, Unavailable]),
    (Phase::Answered, Method::LeaseKeepAlive, [Unavailable, Unavailable, Unavailable]),
];

/// Under enforcement, by event: loss of the right; revocation or loss of the CA; drain.
const ENFORCED: &[Row] = &[
    (Phase::Connecting, Method::Put, [Denied, Unavailable, Fine]),
    (Phase::Connecting, Method::Range, [Denied, Unavailable, Fine]),
    (Phase::Connecting, Method::LeaseGrant, [Denied, Unavailable, Fine]),
    (Phase::Connecting, Method::Observe, [Denied, Unavailable, Unavailable]),
    (Phase::Connecting, Method::Watch, [Open, Unavailable, Unavailable]),
    (Phase::Half, Method::Put, [Denied, Unavailable, Unavailable]),
    (Phase::Half, Method::Txn, [Denied, Unavailable, Unavailable]),
    (Phase::Silent, Method::Watch, [Open, Unavailable, Unavailable]),
    (Phase::Silent, Method::LeaseKeepAlive, [Open, Unavailable, Unavailable]),
    (Phase::Waiting, Method::Lock, [Denied, Unavailable, Unavailable]),
    (Phase::Waiting, Method::Observe, [Denied, Unavailable, Unavailable]),
    (Phase::Answered, Method::Watch, [Open, Unavailable, Unavailable]),
    (Phase::Answered, Method::LeaseKeepAlive, [Open, Unavailable, Unavailable]),
];

/// A call whose client has not sent everything yet.
struct OpenCall {
    stream: Stream,
    rest: Vec<u8>,
    /// The client ends its side with the rest.
    ends: bool,
    _raw: Raw,
}

fn message(world: &World, method: Method, large: bool) -> Vec<u8> {
    let key = world.key(&format!("{method:?}-{large}")).into_bytes();
    let value = vec![b'x'; if large { 2 * LARGE } else { 64 }];
    let put = pb::PutRequest { key: key.clone(), value, ..Default::default() };
    match method {
        Method::Put => put.encode_to_vec(),
        Method::Range => pb::RangeRequest { key, ..Default::default() }.encode_to_vec(),
        Method::Txn => {
            let operation =
                pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
            pb::TxnRequest { success: vec![operation], ..Default::default() }.encode_to_vec()
        }
        Method::LeaseGrant => pb::LeaseGrantRequest { ttl: 600, id: 0 }.encode_to_vec(),
        Method::LeaseKeepAlive => pb::LeaseKeepAliveRequest { id: LEASE }.encode_to_vec(),
        Method::Watch => create(&world.key("w"), 1).encode_to_vec(),
        Method::Lock => {
            v3lockpb::LockRequest { name: world.key("lock").into(), lease: LEASE }.encode_to_vec()
        }
        Method::Observe => {
            v3electionpb::LeaderRequest { name: world.key("led").into() }.encode_to_vec()
        }
        other => panic!("this file has no message of {other:?}"),
    }
}

async fn begin(world: &World, issued: &Issued, phase: Phase, method: Method) -> OpenCall {
    let mut raw = Raw::over(
        tls(world.address(), Some(issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap(),
    )
    .await;
    let mut stream = raw.open(method.path(), &grpc_headers()).await.unwrap();
    let whole = framed(&message(world, method, phase == Phase::HalfOfLarge));
    let conversation = matches!(method, Method::Watch | Method::LeaseKeepAlive);
    let now = match phase {
        Phase::Silent => 0,
        Phase::Half | Phase::HalfOfLarge => whole.len() / 2,
        Phase::Connecting | Phase::Waiting | Phase::Answered => whole.len(),
    };
    let ends = !conversation && now == whole.len();
    if now > 0 {
        stream.request.send_data(whole[..now].to_vec().into(), ends).unwrap();
    }
    let rest = if now == whole.len() {
        if conversation { whole } else { Vec::new() }
    } else {
        whole[now..].to_vec()
    };
    OpenCall { stream, rest, ends: !conversation && !ends, _raw: raw }
}

/// Effects at etcd of the calls in this file. Watch is missing because the proxy itself cancels
/// watches there.
const COUNTED: &[&str] = &["Put", "Range", "Txn", "LeaseGrant", RENEWED, "Lock", "Observe"];
/// etcd counts the end of a LeaseKeepAlive stream as a message, so the test counts renewals
/// instead.
const RENEWED: &str = "etcd_debugging_lease_renewed_total";

/// The number of messages that etcd has received for each of these RPCs.
async fn received(world: &World, rpcs: &[&'static str]) -> Vec<(&'static str, f64)> {
    let text = world.etcd().metrics(0).await.unwrap();
    let of = |rpc: &str| {
        let label = format!("grpc_method=\"{rpc}\"");
        let is_message = |line: &str| {
            line.starts_with("grpc_server_msg_received_total{") && line.contains(&label)
        };
        let samples = text
            .lines()
            .filter(|line| is_message(line) || (rpc == RENEWED && line.starts_with(RENEWED)));
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    rpcs.iter().map(|rpc| (*rpc, of(rpc))).collect()
}

async fn happens(world: &mut World, event: Event) {
    match event {
        Event::Mode | Event::Policy => world.replace_policy(&policy("enforce", NOTHING)),
        Event::Revoked => {
            replace(
                &world.config.downstream.crl_files[0],
                &authorities().clients.crl(&[ALICE]).unwrap(),
            );
            world.reload().await.unwrap();
        }
        Event::Ca => {
            let another = Authority::new("another CA").unwrap();
            replace(&world.config.downstream.crl_files[0], &another.crl(&[]).unwrap());
            world.write_client_cas(&[&another]);
            world.reload().await.unwrap();
        }
        Event::Drain => world.running().drain(),
    }
}

/// How the call ends when its client sends the rest.
async fn end(mut open: OpenCall) -> End {
    let stream = &mut open.stream;
    if !open.rest.is_empty() {
        // The stream may already have ended.
        let _ = stream.request.send_data(open.rest.into(), open.ends);
    }
    let answer = tokio::time::timeout(SOON / 2, Answer::read(open.stream.response)).await;
    let Ok(answer) = answer else { return Open };
    match answer.grpc_status() {
        Some(0) => Fine,
        Some(7) => Denied,
        Some(14) => Unavailable,
        // The connection ended while the rest was being sent on it.
        None if answer.error.is_some() => Unavailable,
        other => panic!("{other:?}: {answer:?}"),
    }
}

async fn table(mode: &str, rows: &[Row], events: [&[Event]; 3]) {
    let mut world = World::with(&policy(mode, ALL))
        .config(|config| {
            config.limits.max_request_bytes = LARGE;
            config.upstream.health_interval = Duration::from_secs(3600);
            config.downstream.crl_files = vec![config.policy.with_file_name("clients.crl")];
            fs::write(&config.downstream.crl_files[0], authorities().clients.crl(&[]).unwrap())
                .unwrap();
        })
        .own_etcd()
        .start()
        .await;
    let mut direct = world.direct().await;
    direct
        .lease_grant(600, Some(etcd_client::LeaseGrantOptions::new().with_id(LEASE)))
        .await
        .unwrap();
    // Another client holds the lock, so the calls in this file wait.
    let holder = direct.lease_grant(600, None).await.unwrap().id();
    let hold = etcd_client::PutOptions::new().with_lease(holder);
    direct.put(world.key(&format!("lock/{holder:x}")), "", Some(hold)).await.unwrap();
    for (column, event) in events
        .iter()
        .enumerate()
        .flat_map(|(column, events)| events.iter().map(move |event| (column, *event)))
    {
        for connecting in [false, true] {
            let rows: Vec<_> =
                rows.iter().filter(|row| (row.0 == Phase::Connecting) == connecting).collect();
            let found = column_of(&mut world, mode, &rows, event).await;
            let expected: Vec<_> =
                rows.iter().map(|(phase, method, ends)| (*phase, *method, ends[column])).collect();
            assert_eq!(found, expected, "{mode}, {event:?}");
        }
    }
}

/// Restarts the proxy, restores the state before the event, and returns how each call ends.
async fn column_of(
    world: &mut World,
    mode: &str,
    rows: &[&Row],
    event: Event,
) -> Vec<(Phase, Method, End)> {
    let relay = Relay::to(world.etcd().addresses()[0]).await;
    world.write_policy(&policy(mode, ALL));
    world.write_client_cas(&[&authorities().clients]);
    replace(&world.config.downstream.crl_files[0], &authorities().clients.crl(&[]).unwrap());
    world.start_again_with(relay.before_etcd()).await;
    let issued = authorities().clients.issue(&Leaf::client("alice").serial(ALICE)).unwrap();
    let connecting = rows.iter().all(|row| row.0 == Phase::Connecting);
    if connecting {
        relay.cut();
    }
    let at_etcd = received(world, &[RENEWED, "Observe"]).await;
    let mut calls = Vec::new();
    for (phase, method, _) in rows {
        calls.push((*phase, *method, begin(world, &issued, *phase, *method).await));
    }
    soon("all calls are open", || async {
        (streams_of(world).await == rows.len() as f64).then_some(())
    })
    .await;
    if !connecting {
        waiting_calls_are_at_etcd(world, at_etcd).await;
    }
    let before = received(world, COUNTED).await;
    happens(world, event).await;
    if !matches!(event, Event::Mode | Event::Policy) {
        // A call that must end does so before its client sends anything more. Only a complete
        // request waits for its connection.
        let left = rows
            .iter()
            .filter(|row| row.0 == Phase::Connecting && row.1.call_kind() == CallKind::Unary)
            .count() as f64;
        let left = left
            + rows.iter().filter(|row| row.0 == Phase::HalfOfLarge && event == Event::Drain).count()
                as f64;
        soon("the end of the calls", || async { (streams_of(world).await == left).then_some(()) })
            .await;
    }
    relay.release();
    let found = futures_util::future::join_all(
        calls.into_iter().map(async |(phase, method, open)| (phase, method, end(open).await)),
    )
    .await;
    // Calls that ended well were allowed to reach etcd. Nothing else did.
    let mut allowed = before;
    for (rpc, count) in &mut allowed {
        *count +=
            found.iter().filter(|(_, method, end)| *end == Fine && method.rpc() == *rpc).count()
                as f64;
    }
    assert_eq!(received(world, COUNTED).await, allowed, "{mode}, {event:?}: {found:?}");
    found
}

/// The number of open calls at the proxy.
async fn streams_of(world: &World) -> f64 {
    world.metric("etcd_warden_requests_in_flight", &[]).await
}

/// One keepalive and one Observe are at etcd, and the Lock waits there: its key is behind that of
/// the holder.
async fn waiting_calls_are_at_etcd(world: &World, before: Vec<(&'static str, f64)>) {
    let mut direct = world.direct().await;
    let options = || Some(etcd_client::GetOptions::new().with_prefix().with_count_only());
    while direct.get(world.key("lock/"), options()).await.unwrap().count() < 2 {
        tokio::task::yield_now().await;
    }
    for (rpc, before) in before {
        soon(rpc, || async { (received(world, &[rpc]).await[0].1 > before).then_some(()) }).await;
    }
}

#[tokio::test]
async fn shadow_permits_end_in_every_phase() {
    table("shadow", SHADOW, [&[Event::Mode], &[Event::Revoked, Event::Ca], &[Event::Drain]]).await;
}

#[tokio::test]
async fn enforced_permits_end_in_every_phase() {
    table("enforce", ENFORCED, [&[Event::Policy], &[Event::Revoked, Event::Ca], &[Event::Drain]])
        .await;
}

/// How etcd's window is filled before the late request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    /// Large requests that wait.
    Waiting,
    /// The same, then cancelled by their client.
    GivenUp,
    /// The socket: headers of cancelled requests. Flow control does not apply to them.
    Socket,
}

/// Number of requests with a long header list per batch.
const BATCH: usize = 64;

/// Length of such a header list in bytes.
const HEAD: usize = 14_000;

/// Upper bound of the kernel's socket buffers of one connection, for a sender and for a receiver
/// that does not read.
fn most_of_a_socket() -> usize {
    ["wmem", "rmem"]
        .iter()
        .map(|of| fs::read_to_string(format!("/proc/sys/net/ipv4/tcp_{of}")).unwrap())
        .fold(0, |all, sizes| {
            all + sizes.split_whitespace().last().unwrap().parse::<usize>().unwrap()
        })
}

/// A request that waits for etcd's window or for the socket is not sent once its right is gone: h2
/// holds nothing that still needs a permit check.
async fn late_request(mode: &str, filled: Filled) {
    let both = |mode: &str, name: &str| {
        format!(
            "version: 1\nmode: {mode}\nroles: {{r: {{allow: [{{keys: $P/*, verbs: [rw]}}]}}}}\nbindings: [{{cn: {name}, roles: [r]}}, {{cn: bob, roles: [r]}}]\n"
        )
    };
    let one_worker = |config: &mut Config| config.workers = 1;
    let world = World::with(&both(mode, "alice")).config(one_worker).own_etcd().start().await;
    let (mut alice, mut bob) = (world.raw("alice").await, world.raw("bob").await);
    let put = |key: &str, length: usize| {
        framed(
            &pb::PutRequest {
                key: world.key(key).into(),
                value: vec![b'x'; length],
                ..Default::default()
            }
            .encode_to_vec(),
        )
    };
    let begin = async |raw: &mut Raw, key: &str, length: usize| {
        let mut stream = raw.open(Method::Put.path(), &grpc_headers()).await.unwrap();
        stream.request.send_data(put(key, length).into(), true).unwrap();
        stream
    };
    let open = async |count: usize| {
        soon("calls", || async { (streams_of(&world).await == count as f64).then_some(()) }).await;
    };
    // The connection to etcd exists.
    assert_eq!(
        Answer::read(begin(&mut bob, "first", 1).await.response).await.grpc_status(),
        Some(0)
    );
    world.etcd().pause(0).unwrap();
    let mut waiting = Vec::new();
    let mut long = grpc_headers();
    long.insert("traceparent", "X".repeat(HEAD).parse().unwrap());
    let (batches, larges) = if filled == Filled::Socket {
        (most_of_a_socket() / (BATCH * HEAD) + 2, 0)
    } else {
        (0, 6)
    };
    for _ in 0..batches {
        for _ in 0..BATCH {
            let mut stream = bob.open(Method::Range.path(), &long).await.unwrap();
            stream
                .request
                .send_data(framed(&message(&world, Method::Range, false)).into(), true)
                .unwrap();
            waiting.push(stream);
        }
        open(BATCH).await;
        waiting.clear();
        open(0).await;
    }
    for count in 1..=larges {
        waiting.push(begin(&mut bob, "large", 1_200_000).await);
        open(count).await;
    }
    let to_the_window = || tokio::time::sleep(Duration::from_millis(300));
    to_the_window().await;
    if filled == Filled::GivenUp {
        waiting.clear();
        open(0).await;
    }
    let late = begin(&mut alice, "late", 10).await;
    open(waiting.len() + 1).await;
    to_the_window().await;
    world.replace_policy(&both("enforce", "carol"));
    world.etcd().resume(0).unwrap();
    let late = Answer::read(late.response).await;
    // On a machine that stalls for long enough, the connection to etcd is given up first.
    assert!(matches!(late.grpc_status(), Some(7 | 14)), "{mode}, {filled:?}: {late:?}");
    for large in waiting {
        assert!(
            matches!(Answer::read(large.response).await.grpc_status(), Some(0 | 14)),
            "{mode}, {filled:?}"
        );
    }
    assert_eq!(
        world.direct().await.get(world.key("late"), None).await.unwrap().count(),
        0,
        "{mode}, {filled:?}"
    );
}

#[tokio::test]
async fn a_request_that_waits_for_a_window_is_judged_again() {
    for mode in ["enforce", "shadow"] {
        late_request(mode, Filled::Waiting).await;
    }
}

#[tokio::test]
async fn requests_given_up_leave_the_window_taken() {
    for mode in ["enforce", "shadow"] {
        late_request(mode, Filled::GivenUp).await;
    }
}

#[tokio::test]
async fn a_request_that_waits_for_the_socket_is_judged_again() {
    for mode in ["enforce", "shadow"] {
        late_request(mode, Filled::Socket).await;
    }
}

/// The files that write to etcd and their number of writes. Each write is the phase of a row above.
#[test]
fn every_write_to_etcd_has_a_phase_here() {
    let writes = [
        // A complete request: `Phase::Connecting`, `Phase::Waiting`. The second one grants a lease
        // with an id that the proxy chooses.
        ("call/permitted.rs", ".exchange(", 3),
        // Opens a stream: `Phase::Connecting`, `Phase::Silent`.
        ("passthrough.rs", ".send(permit,", 1),
        ("stream/bidi.rs", ".send(&permit,", 1),
        // A message that arrived late: `Phase::Half`.
        ("passthrough.rs", ".write(&permit,", 1),
        // Passthrough: `Phase::HalfOfLarge`, `Phase::Silent`, `Phase::Answered`.
        ("passthrough.rs", ".copy(", 3),
        ("upload.rs", ".write(permit,", 2),
        // A message of a stream under enforcement: `Phase::Silent`, `Phase::Answered`.
        ("stream/bidi/client_to_etcd.rs", ".write(&permit,", 1),
        // The headers and the first bytes, in `Forwarder::send`.
        ("forward.rs", ".send_request(", 1),
        ("forward.rs", ".write(permit,", 1),
        ("forward.rs", ".send(permit,", 1),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway/proxy");
    let calls = [
        ".exchange(",
        ".send(permit,",
        ".send(&permit,",
        ".finish(permit,",
        ".finish(&permit,",
        ".write(permit,",
        ".write(&permit,",
        ".copy(",
        ".send_request(",
    ];
    let mut found = Vec::new();
    for file in files(&folder) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let name = file.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
        for call in calls {
            let count = code.matches(call).count();
            if count > 0 {
                found.push((name.clone(), call, count));
            }
        }
    }
    let mut expected: Vec<_> =
        writes.iter().map(|(file, call, count)| ((*file).to_owned(), *call, *count)).collect();
    expected.sort();
    found.sort();
    assert_eq!(
        found, expected,
        "a place that writes to etcd was added or removed: correct the phases and rows of this file"
    );
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
