//! Every method of etcd's client port. With exactly the right that it needs, the call reaches etcd.
//! Without that right, whatever other rights the client has, the call is refused with etcd's
//! message and does not reach etcd.

mod rows;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use etcd_warden_core::access::{Capability, Verb};
use etcd_warden_core::method::{CallKind, Method};
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;
use serde_json::{Value, json};

use crate::live::{Live, Status};
use crate::world::World;
use crate::world::raw::Raw;
use rows::Row;

/// The right that a call needs.
#[derive(Clone, Debug)]
enum Right {
    /// These verbs on these keys, in the syntax of a policy.
    Keys(&'static [Verb], String),
    Capability(Capability),
    /// A lease of the client's own, with the capability `lease` to create it.
    OwnLease,
    /// Any binding that matches the client.
    Binding,
    /// None: every verified client may make the call.
    Nothing,
}

/// The result of a call with the right.
#[derive(Clone, Debug)]
enum Answer {
    Ok,
    /// etcd's own error: its code and the beginning of its message.
    Etcd(u32, &'static str),
}

#[test]
fn the_table_names_every_method() {
    let named: BTreeSet<Method> =
        rows::ALL.iter().flat_map(|service| service("")).map(|row| row.method).collect();
    assert_eq!(named.into_iter().collect::<Vec<_>>(), Method::ALL);
}

#[tokio::test]
async fn kv_rows() {
    rows_hold(rows::kv).await;
}

#[tokio::test]
async fn watch_rows() {
    rows_hold(rows::watch).await;
}

#[tokio::test]
async fn lease_rows() {
    rows_hold(rows::lease).await;
}

#[tokio::test]
async fn cluster_rows() {
    rows_hold(rows::cluster).await;
}

#[tokio::test]
async fn maintenance_rows() {
    rows_hold(rows::maintenance).await;
}

#[tokio::test]
async fn auth_rows() {
    rows_hold(rows::auth).await;
}

#[tokio::test]
async fn lock_and_election_rows() {
    rows_hold(rows::lock_and_election).await;
}

#[tokio::test]
async fn health_rows() {
    rows_hold(rows::health).await;
}

/// The client that has exactly the right of a row.
fn holder(row: &Row) -> String {
    format!("only-{}", row.name)
}

/// The clients that have every right except that of a row: one for each part of it, with what the
/// audit log reports as missing.
fn lackers(row: &Row) -> Vec<(String, &'static str, Value)> {
    match &row.right {
        Right::Keys(verbs, keys) => {
            let (key, range_end) = match keys.strip_suffix('*') {
                None => (keys.clone(), String::new()),
                Some(prefix) => (prefix.to_owned(), end_of(prefix)),
            };
            let missing =
                |verb: &Verb| json!({"verb": verb.name(), "key": key, "range_end": range_end});
            verbs
                .iter()
                .map(|verb| {
                    (format!("all-but-{}-{verb}", row.name), "key_not_granted", missing(verb))
                })
                .collect()
        }
        Right::Capability(capability) => {
            vec![(
                format!("all-but-{}", row.name),
                "capability_not_granted",
                json!({"capability": capability.name()}),
            )]
        }
        Right::OwnLease => {
            vec![(format!("all-but-{}", row.name), "lease_not_owned", json!({"lease": "LEASE"}))]
        }
        Right::Binding => vec![("stranger".to_owned(), "no_binding", Value::Null)],
        Right::Nothing => vec![],
    }
}

/// The end of a prefix of ASCII.
fn end_of(prefix: &str) -> String {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    String::from_utf8(end).unwrap()
}

fn policy(rows: &[Row]) -> String {
    let names = |left_out: &[Capability]| {
        let kept = Capability::ALL.iter().filter(|capability| !left_out.contains(capability));
        kept.map(|capability| capability.name()).collect::<Vec<_>>().join(", ")
    };
    let (mut roles, mut bindings) = (String::new(), String::new());
    for (place, row) in rows.iter().enumerate() {
        let (only, all_but) = (holder(row), lackers(row));
        let left_out: &[Capability] = match &row.right {
            // A right to use all leases of others includes the right to use leases.
            Right::Capability(Capability::Lease) => &[Capability::Lease, Capability::LeaseAdmin],
            Right::Capability(capability) => &[*capability],
            Right::OwnLease => &[Capability::LeaseAdmin],
            Right::Keys(..) | Right::Binding | Right::Nothing => &[],
        };
        let given = match &row.right {
            Right::Keys(verbs, keys) => {
                let verbs = verbs.iter().map(|verb| verb.name()).collect::<Vec<_>>().join(", ");
                format!("allow: [{{keys: \"{keys}\", verbs: [{verbs}]}}]")
            }
            Right::Capability(capability) => format!("capabilities: [{capability}]"),
            Right::OwnLease => "capabilities: [lease]".to_owned(),
            Right::Binding | Right::Nothing => {
                "allow: [{keys: /nothing/of/the/kind, verbs: [read]}]".to_owned()
            }
        };
        writeln!(roles, "  only-{place}: {{{given}}}").unwrap();
        writeln!(
            roles,
            "  rest-{place}:\n    allow: [{{keys: \"*\", verbs: [rw]}}]\n    capabilities: [{}]",
            names(left_out)
        )
        .unwrap();
        writeln!(bindings, "  - {{cn: {only}, roles: [only-{place}]}}").unwrap();
        for (lacker, _, missing) in all_but.iter().filter(|(name, ..)| name != "stranger") {
            let deny = match (&row.right, missing["verb"].as_str()) {
                (Right::Keys(_, keys), Some(verb)) => {
                    format!(", deny: [{{keys: \"{keys}\", verbs: [{verb}]}}]")
                }
                _ => String::new(),
            };
            writeln!(bindings, "  - {{cn: {lacker}, roles: [rest-{place}]{deny}}}").unwrap();
        }
    }
    format!("version: 1\nmode: enforce\nroles:\n{roles}bindings:\n{bindings}")
}

async fn rows_hold(service: fn(&str) -> Vec<Row>) {
    // No health checks in between: every message that etcd counts belongs to a row.
    let quiet = std::time::Duration::from_secs(3600);
    let world = World::with(&policy(&service("$P")))
        .own_etcd()
        .config(move |config| config.upstream.health_interval = quiet)
        .start()
        .await;
    let mut direct = world.direct().await;
    for name in ["k", "taken/x", "d/x"] {
        direct.put(world.key(name), "1", None).await.unwrap();
    }
    let lease = direct.lease_grant(600, None).await.unwrap().id();
    direct.campaign(world.key("led"), "leader", lease).await.unwrap();
    drop(direct);
    for row in service(&world.prefix) {
        row_holds(&world, &row).await;
    }
}

async fn row_holds(world: &World, row: &Row) {
    let name = row.name;
    let mut raw = world.raw(&holder(row)).await;
    let lease = if matches!(row.right, Right::OwnLease) { grant(&mut raw).await } else { 0 };
    let message = row.message(lease);

    let before = messages_at_etcd(world, row.method).await;
    // Streams stay open while messages are counted: etcd counts an end as one more message.
    let mut open = Vec::new();
    for (common_name, reason, mut missing) in lackers(row) {
        if missing["lease"].is_string() {
            missing["lease"] = json!(format!("{lease:016x}"));
        }
        let (answer, live) =
            outcome(&mut world.raw(&common_name).await, row.method, &message).await;
        open.extend(live);
        assert_eq!(answer, refusal(row.method, lease), "{name} as {common_name}");
        let line = world
            .audited(|line| {
                line["identity"]["cn"] == *common_name && line["method"] == row.method.path()
            })
            .await;
        assert_eq!(
            (&line["decision"], &line["reason"]),
            (&json!("deny"), &json!(reason)),
            "{name}: {line}"
        );
        assert_eq!(line["missing"], missing, "{name}: {line}");
        if row.method.call_kind() != CallKind::BidiStreaming {
            assert_eq!(
                (line.get("member"), &line["grpc_status"]),
                (None, &json!(7)),
                "{name}: {line}"
            );
        }
    }
    // The proxy itself asks for the keys of a lease that is not the client's.
    let own_questions = if row.method == Method::LeaseTimeToLive { 1.0 } else { 0.0 };
    assert_eq!(
        messages_at_etcd(world, row.method).await - before,
        own_questions,
        "{name}: a refused call reached etcd"
    );

    let before = messages_at_etcd(world, row.method).await;
    let (answer, live) = outcome(&mut raw, row.method, &message).await;
    open.extend(live);
    match row.answer() {
        Answer::Ok => assert_eq!(answer, Outcome::Status((0, String::new())), "{name}"),
        Answer::Etcd(code, text) => match &answer {
            Outcome::Status((got, message)) => {
                assert!(*got == code && message.starts_with(text), "{name}: {answer:?}");
            }
            Outcome::InItsPlace(_) => panic!("{name}: {answer:?}"),
        },
    }
    let heard = messages_at_etcd(world, row.method).await - before;
    let by_the_proxy = row.method.is_health() || row.is_unknown_to_etcd();
    assert_eq!(
        heard,
        if by_the_proxy { 0.0 } else { 1.0 },
        "{name}: an allowed call must reach etcd"
    );
    // The audit line of a call with a single decision is written when the call ends.
    drop(open);
    if matches!(row.right, Right::Nothing) {
        // There is no decision, so there is no audit line.
        return;
    }
    world
        .audited(|line| {
            line["identity"]["cn"] == *holder(row)
                && line["method"] == row.method.path()
                && line["decision"] == "allow"
        })
        .await;
}

/// The outcome of a call.
#[derive(Debug, PartialEq)]
enum Outcome {
    Status(Status),
    /// A refusal as one message of a stream that stays open.
    InItsPlace(Vec<u8>),
}

/// The outcome of a refused call; `lease` is the lease that it named.
fn refusal(method: Method, lease: i64) -> Outcome {
    let permission_denied = "etcdserver: permission denied";
    match method {
        Method::Watch => Outcome::InItsPlace(
            pb::WatchResponse {
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason: format!(
                    "rpc error: code = PermissionDenied desc = {permission_denied}"
                ),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Method::LeaseKeepAlive => Outcome::InItsPlace(
            pb::LeaseKeepAliveResponse { id: lease, ttl: 0, header: None }.encode_to_vec(),
        ),
        _ => Outcome::Status((7, permission_denied.to_owned())),
    }
}

/// Makes the call: a unary call to its end, a stream to its first message.
async fn outcome(raw: &mut Raw, method: Method, message: &[u8]) -> (Outcome, Option<Live>) {
    match method.call_kind() {
        CallKind::Unary | CallKind::BlockingUnary | CallKind::BulkStreaming => {
            let answer = raw.call(method.path(), message).await;
            assert!(answer.error.is_none(), "{answer:?}");
            (
                Outcome::Status((answer.grpc_status().unwrap(), answer.grpc_message().to_owned())),
                None,
            )
        }
        CallKind::ServerStreaming => {
            let mut live = Live::ask(raw, method, message).await;
            let first = live.next_bytes().await;
            (
                Outcome::Status(first.map_or_else(|status| status, |_| (0, String::new()))),
                Some(live),
            )
        }
        CallKind::BidiStreaming => {
            let mut live = Live::open(raw, method).await;
            live.send_bytes(message);
            (first_of_conversation(&mut live, method).await, Some(live))
        }
    }
}

async fn first_of_conversation(live: &mut Live, method: Method) -> Outcome {
    let ok = Outcome::Status((0, String::new()));
    let (refused, bytes) = if method == Method::Watch {
        let first: pb::WatchResponse = live.next().await.unwrap();
        assert!(first.created);
        real_header(first.header.as_ref());
        (first.canceled, pb::WatchResponse { header: None, ..first }.encode_to_vec())
    } else {
        let first: pb::LeaseKeepAliveResponse = live.next().await.unwrap();
        real_header(first.header.as_ref());
        (first.ttl == 0, pb::LeaseKeepAliveResponse { header: None, ..first }.encode_to_vec())
    };
    if refused { Outcome::InItsPlace(bytes) } else { ok }
}

fn real_header(header: Option<&pb::ResponseHeader>) {
    let header = header.expect("a header");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0, "{header:?}");
}

async fn grant(raw: &mut Raw) -> i64 {
    let answer = raw
        .call(Method::LeaseGrant.path(), &pb::LeaseGrantRequest { ttl: 600, id: 0 }.encode_to_vec())
        .await;
    pb::LeaseGrantResponse::decode(answer.messages()[0]).unwrap().id
}

/// The number of messages of a method that etcd has received.
async fn messages_at_etcd(world: &World, method: Method) -> f64 {
    let (service, rpc) = method.path()[1..].split_once('/').unwrap();
    let labels = [format!("grpc_method=\"{rpc}\""), format!("grpc_service=\"{service}\"")];
    let text = world.etcd().metrics(0).await.unwrap();
    let samples = text.lines().filter(|line| {
        line.starts_with("grpc_server_msg_received_total{")
            && labels.iter().all(|l| line.contains(l))
    });
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn a_proxy_in_front_of_a_healthy_etcd_says_serving() {
    let world = World::start("version: 1\nmode: enforce\nroles: {r: {capabilities: [status]}}\nbindings: [{cn: a, roles: [r]}]").await;
    for caller in ["a", "a client that no binding names"] {
        let mut raw = world.raw(caller).await;
        assert_eq!(raw.call(Method::HealthCheck.path(), b"").await.messages(), [b"\x08\x01"]);
        let (list, mut direct) =
            (Method::HealthList.path(), Raw::direct(world.etcd().addresses()[0]).await);
        let answer = raw.call(list, b"").await;
        assert_eq!(
            (answer.grpc_status(), answer.body),
            (Some(0), direct.call(list, b"").await.body),
            "the same as from etcd"
        );
        assert_eq!(
            Live::ask(&mut raw, Method::HealthWatch, b"").await.next_bytes().await.unwrap(),
            b"\x08\x01"
        );
    }
}
