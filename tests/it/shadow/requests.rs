//! The requests: valid, refused, malformed in many ways, and not gRPC at all.

use etcd_warden_core::authorize::Reason;
use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::{v3electionpb, v3lockpb};
use http::{HeaderMap, HeaderValue};
use prost::Message;

use super::twins::{Case, Expected, Step};
use crate::world;
use crate::world::raw::{framed, grpc_headers, gzipped};

use Expected::{Allow, WouldDeny};

const KEYS: Expected = WouldDeny(Reason::KeyNotGranted);
const CAPABILITY: Expected = WouldDeny(Reason::CapabilityNotGranted);
const LEASE: Expected = WouldDeny(Reason::LeaseNotOwned);
const FORM: Expected = WouldDeny(Reason::MalformedMessage);
const FRAMING: Expected = WouldDeny(Reason::BadFraming);

/// The role of the client.
pub const ROLE: &str = "
roles:
  own:
    allow:
      - keys: /a/*
        verbs: [rw]
    capabilities: [lease]
";

/// A valid call.
fn call(method: Method, message: &impl Message, expected: Expected) -> Case {
    of_bytes(method, &message.encode_to_vec(), expected)
}

fn of_bytes(method: Method, message: &[u8], expected: Expected) -> Case {
    Case {
        name: format!("{method:?}"),
        verb: http::Method::POST,
        path: method.path().to_owned(),
        headers: grpc_headers(),
        steps: vec![Step::Data(framed(message)), Step::End],
        expected: vec![expected],
    }
}

impl Case {
    fn named(mut self, name: &str) -> Self {
        self.name = format!("{}: {name}", self.name);
        self
    }

    fn steps(mut self, steps: Vec<Step>) -> Self {
        self.steps = steps;
        self
    }

    fn expecting(mut self, expected: &[Expected]) -> Self {
        self.expected = expected.to_vec();
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }
}

fn key(key: &str) -> Vec<u8> {
    key.as_bytes().to_vec()
}

fn put(name: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key(name), value: key(value), ..Default::default() }
}

fn range(from: &str, to: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key(from), range_end: key(to), ..Default::default() }
}

fn put_op(request: pb::PutRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(request)) }
}

fn range_op(request: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(request)) }
}

/// Leases whose ids the tests choose. They outlive the tests.
const LEASES: [i64; 3] = [0x1111, 0x2222, 0x3333];

/// Every method, allowed and refused.
pub fn well_made() -> Vec<Case> {
    let mut cases = vec![
        call(Method::Put, &put("/a/1", "one"), Allow),
        call(Method::Put, &put("/b/1", "two"), KEYS),
        call(Method::Put, &put("", ""), KEYS),
        call(Method::Put, &pb::PutRequest { prev_kv: true, ..put("/a/1", "three") }, Allow),
        call(Method::Put, &pb::PutRequest { ignore_value: true, ..put("/a/none", "") }, Allow),
        call(Method::Put, &pb::PutRequest { lease: 99, ..put("/a/1", "no lease") }, Allow),
        call(Method::Range, &range("/a/1", ""), Allow),
        call(Method::Range, &range("/a/", "/a0"), Allow),
        call(Method::Range, &range("/a/", "/c"), KEYS),
        call(Method::Range, &range("\0", "\0"), KEYS),
        call(Method::Range, &range("", ""), KEYS),
        call(Method::Range, &pb::RangeRequest { revision: 1_000_000, ..range("/a/1", "") }, Allow),
        call(
            Method::Range,
            &pb::RangeRequest { limit: 1, count_only: true, ..range("/a/", "/a0") },
            Allow,
        ),
        call(
            Method::Range,
            &pb::RangeRequest { serializable: true, keys_only: true, ..range("/a/", "/a0") },
            Allow,
        ),
        call(Method::RangeStream, &range("/a/", "/a0"), Allow),
        call(Method::RangeStream, &range("/b/", "/b0"), KEYS),
        call(
            Method::Txn,
            &pb::TxnRequest {
                success: vec![put_op(put("/a/2", "x")), range_op(range("/a/2", ""))],
                ..Default::default()
            },
            Allow,
        ),
        call(
            Method::Txn,
            &pb::TxnRequest { success: vec![put_op(put("/b/2", "x"))], ..Default::default() },
            KEYS,
        ),
        call(
            Method::Txn,
            &pb::TxnRequest {
                success: vec![put_op(put("/a/2", "x")), put_op(put("/a/2", "y"))],
                ..Default::default()
            },
            Allow,
        ),
        call(Method::Txn, &pb::TxnRequest::default(), Allow),
        call(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: 10_000, id: LEASES[0] }, Allow),
        call(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: 20_000, id: LEASES[1] }, Allow),
        call(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: 30_000, id: LEASES[2] }, Allow),
        call(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: 30_000, id: LEASES[2] }, Allow),
        call(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: 1 << 40, id: 7 }, Allow),
        call(Method::Put, &pb::PutRequest { lease: LEASES[0], ..put("/a/leased", "x") }, Allow),
        call(Method::Put, &pb::PutRequest { lease: LEASES[1], ..put("/b/leased", "x") }, KEYS),
        call(
            Method::LeaseTimeToLive,
            &pb::LeaseTimeToLiveRequest { id: LEASES[0], keys: true },
            Allow,
        ),
        call(
            Method::LeaseTimeToLive,
            &pb::LeaseTimeToLiveRequest { id: LEASES[1], keys: true },
            LEASE,
        ),
        call(Method::LeaseTimeToLive, &pb::LeaseTimeToLiveRequest { id: 5, keys: true }, Allow),
        call(Method::LeaseLeases, &pb::LeaseLeasesRequest {}, Allow),
        call(Method::LeaseRevoke, &pb::LeaseRevokeRequest { id: LEASES[1] }, LEASE),
        call(Method::LeaseRevoke, &pb::LeaseRevokeRequest { id: LEASES[1] }, Allow).named("gone"),
        call(
            Method::Lock,
            &v3lockpb::LockRequest { name: key("/a/lock"), lease: LEASES[0] },
            Allow,
        ),
        call(Method::Unlock, &v3lockpb::UnlockRequest { key: key("/a/lock/1111") }, Allow),
        call(Method::Lock, &v3lockpb::LockRequest { name: key("/b/lock"), lease: LEASES[2] }, KEYS),
        call(
            Method::Campaign,
            &v3electionpb::CampaignRequest {
                name: key("/a/vote"),
                lease: LEASES[2],
                value: key("me"),
            },
            LEASE,
        ),
        call(Method::Leader, &v3electionpb::LeaderRequest { name: key("/a/vote") }, Allow),
        call(Method::Leader, &v3electionpb::LeaderRequest { name: key("/b/vote") }, KEYS),
        call(Method::Observe, &v3electionpb::LeaderRequest { name: key("/a/vote") }, Allow).steps(
            vec![
                Step::Data(framed(
                    &v3electionpb::LeaderRequest { name: key("/a/vote") }.encode_to_vec(),
                )),
                Step::End,
                Step::Await(1),
                Step::Reset,
            ],
        ),
        call(
            Method::Proclaim,
            &v3electionpb::ProclaimRequest { leader: None, value: key("x") },
            KEYS,
        ),
        call(Method::Resign, &v3electionpb::ResignRequest { leader: None }, KEYS),
        call(
            Method::DeleteRange,
            &pb::DeleteRangeRequest { key: key("/a/2"), ..Default::default() },
            Allow,
        ),
        call(
            Method::DeleteRange,
            &pb::DeleteRangeRequest { key: key("/b/"), range_end: key("/b0"), prev_kv: true },
            KEYS,
        ),
        call(Method::Compact, &pb::CompactionRequest { revision: 3, physical: true }, CAPABILITY),
        call(Method::Compact, &pb::CompactionRequest { revision: 2, physical: false }, CAPABILITY),
        call(Method::Range, &pb::RangeRequest { revision: 2, ..range("/a/1", "") }, Allow)
            .named("compacted"),
        call(Method::MemberList, &pb::MemberListRequest::default(), CAPABILITY),
        call(
            Method::MemberAdd,
            &pb::MemberAddRequest {
                peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()],
                is_learner: true,
            },
            CAPABILITY,
        ),
        call(Method::MemberRemove, &pb::MemberRemoveRequest { id: 1 }, CAPABILITY),
        call(
            Method::MemberUpdate,
            &pb::MemberUpdateRequest { id: 1, peer_ur_ls: vec!["http://127.0.0.1:3".to_owned()] },
            CAPABILITY,
        ),
        call(Method::MemberPromote, &pb::MemberPromoteRequest { id: 1 }, CAPABILITY),
        call(Method::Status, &pb::StatusRequest {}, CAPABILITY),
        call(Method::Alarm, &pb::AlarmRequest::default(), CAPABILITY),
        call(Method::Hash, &pb::HashRequest {}, CAPABILITY),
        call(Method::HashKV, &pb::HashKvRequest { revision: 0 }, CAPABILITY),
        call(Method::HashKV, &pb::HashKvRequest { revision: 1_000_000 }, CAPABILITY),
        call(Method::Snapshot, &pb::SnapshotRequest {}, CAPABILITY),
        call(Method::Defragment, &pb::DefragmentRequest {}, CAPABILITY),
        call(Method::MoveLeader, &pb::MoveLeaderRequest { target_id: 1 }, CAPABILITY),
        call(
            Method::Downgrade,
            &pb::DowngradeRequest { action: 0, version: "3.6.0".to_owned() },
            CAPABILITY,
        ),
        call(
            Method::Downgrade,
            &pb::DowngradeRequest { action: 2, version: String::new() },
            CAPABILITY,
        ),
        call(
            Method::Authenticate,
            &pb::AuthenticateRequest { name: "root".to_owned(), password: "x".to_owned() },
            Allow,
        ),
        call(Method::AuthEnable, &pb::AuthEnableRequest {}, CAPABILITY),
        call(Method::AuthDisable, &pb::AuthDisableRequest {}, CAPABILITY),
        call(Method::AuthStatus, &pb::AuthStatusRequest {}, CAPABILITY),
        call(Method::RoleAdd, &pb::AuthRoleAddRequest { name: "r".to_owned() }, CAPABILITY),
        call(Method::RoleAdd, &pb::AuthRoleAddRequest { name: "r".to_owned() }, CAPABILITY),
        call(Method::RoleGet, &pb::AuthRoleGetRequest { role: "r".to_owned() }, CAPABILITY),
        call(
            Method::RoleGrantPermission,
            &pb::AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm: None },
            CAPABILITY,
        ),
        call(
            Method::RoleRevokePermission,
            &pb::AuthRoleRevokePermissionRequest { role: "r".to_owned(), ..Default::default() },
            CAPABILITY,
        ),
        call(Method::RoleList, &pb::AuthRoleListRequest {}, CAPABILITY),
        call(
            Method::UserAdd,
            &pb::AuthUserAddRequest {
                name: "u".to_owned(),
                options: Some(etcd_warden_proto::authpb::UserAddOptions { no_password: true }),
                ..Default::default()
            },
            CAPABILITY,
        ),
        call(Method::UserAdd, &pb::AuthUserAddRequest::default(), CAPABILITY),
        call(Method::UserGet, &pb::AuthUserGetRequest { name: "u".to_owned() }, CAPABILITY),
        call(
            Method::UserGrantRole,
            &pb::AuthUserGrantRoleRequest { user: "u".to_owned(), role: "r".to_owned() },
            CAPABILITY,
        ),
        call(
            Method::UserRevokeRole,
            &pb::AuthUserRevokeRoleRequest { name: "u".to_owned(), role: "none".to_owned() },
            CAPABILITY,
        ),
        call(
            Method::UserChangePassword,
            &pb::AuthUserChangePasswordRequest { name: "u".to_owned(), ..Default::default() },
            CAPABILITY,
        ),
        call(Method::UserList, &pb::AuthUserListRequest {}, CAPABILITY),
        call(Method::UserDelete, &pb::AuthUserDeleteRequest { name: "u".to_owned() }, CAPABILITY),
        call(Method::RoleDelete, &pb::AuthRoleDeleteRequest { role: "r".to_owned() }, CAPABILITY),
        of_bytes(Method::HealthCheck, b"", Allow),
        of_bytes(Method::HealthList, b"", Allow),
        of_bytes(Method::HealthCheck, b"\x0a\x04none", Allow),
        of_bytes(Method::HealthWatch, b"", Allow).steps(vec![
            Step::Data(framed(b"")),
            Step::End,
            Step::Await(1),
            Step::Reset,
        ]),
    ];
    // A value beyond etcd's limit of one request, below that of one message.
    let large = "x".repeat(1_700_000);
    cases.push(call(Method::Put, &put("/a/large", &large), Allow).named("1.7 MB"));
    cases
}

/// Malformed variants that every message can have.
pub fn malformed() -> Vec<Case> {
    let bases = [
        call(Method::Range, &range("/a/1", ""), Allow),
        call(Method::Put, &put("/a/m", "x"), Allow),
        call(
            Method::DeleteRange,
            &pb::DeleteRangeRequest { key: key("/b/x"), ..Default::default() },
            KEYS,
        ),
        call(
            Method::Txn,
            &pb::TxnRequest { success: vec![put_op(put("/a/t", "x"))], ..Default::default() },
            Allow,
        ),
        call(
            Method::LeaseTimeToLive,
            &pb::LeaseTimeToLiveRequest { id: LEASES[0], keys: true },
            Allow,
        ),
        call(Method::LeaseRevoke, &pb::LeaseRevokeRequest { id: 77 }, Allow),
        call(
            Method::Lock,
            &v3lockpb::LockRequest { name: key("/a/again"), lease: LEASES[0] },
            Allow,
        ),
        call(Method::HashKV, &pb::HashKvRequest { revision: 4 }, CAPABILITY),
        call(Method::RoleGet, &pb::AuthRoleGetRequest { role: "none".to_owned() }, CAPABILITY),
        call(Method::RangeStream, &range("/a/1", ""), Allow),
    ];
    bases.iter().flat_map(malformations).collect()
}

fn malformations(base: &Case) -> Vec<Case> {
    let [Step::Data(whole), ..] = &base.steps[..] else { unreachable!("a base is one message") };
    let (whole, message) = (whole.clone(), whole[5..].to_vec());
    let usual = base.expected[0];
    // In the services without keys only the method's capability decides, whatever fields a newer
    // etcd may have.
    let unknown = if usual == CAPABILITY { CAPABILITY } else { FORM };
    let data = |bytes: &[u8]| Step::Data(bytes.to_vec());
    let with = |end: &[u8]| framed(&[&message[..], end].concat());
    let case = |name: &str, expected: Expected, steps: Vec<Step>| {
        base.clone().named(name).steps(steps).expecting(&[expected])
    };
    let flagged = |flag: u8| [&[flag], &whole[1..]].concat();
    let packed = world::raw::gzip(&message);
    let reframed = |bytes: &[u8]| [&[1], &framed(bytes)[1..]].concat();
    let gzip = |name: &str, expected, body: &[u8]| {
        case(name, expected, vec![data(body), Step::End]).header("grpc-encoding", "gzip")
    };
    vec![
        case("cut by one byte", FRAMING, vec![data(&whole[..whole.len() - 1]), Step::End]),
        case("half a header", FRAMING, vec![data(&whole[..3]), Step::End]),
        case("a frame header only", FRAMING, vec![data(&whole[..5]), Step::End]),
        case("no message", FRAMING, vec![Step::End]),
        case("headers only", FRAMING, vec![Step::EndWithHead]),
        case("only empty frames", FRAMING, vec![data(b""), data(b""), Step::End]),
        case("two messages", FRAMING, vec![data(&[&whole[..], &whole].concat()), Step::End]),
        case("two messages in two frames", FRAMING, vec![data(&whole), data(&whole), Step::End]),
        case("one byte too many", FRAMING, vec![data(&[&whole[..], b"x"].concat()), Step::End]),
        case("compressed, without an encoding", FRAMING, vec![data(&flagged(1)), Step::End]),
        gzip("gzip", usual, &gzipped(&message)),
        gzip("gzip, cut", FRAMING, &reframed(&packed[..packed.len() - 1])),
        gzip("invalid gzip", FRAMING, &reframed(&message)),
        gzip("gzip with a trailing byte", FRAMING, &reframed(&[&packed[..], b"x"].concat())),
        gzip("gzip in two members", FRAMING, &reframed(&[&packed[..], &packed].concat())),
        gzip("a gzip bomb", WouldDeny(Reason::TooLarge), &gzipped(&[0; 3 << 20])),
        gzip("gzip, twice", FRAMING, &[gzipped(&message), gzipped(&message)].concat()),
        case(
            "an encoding unknown to etcd",
            WouldDeny(Reason::Compressed),
            vec![data(&whole), Step::End],
        )
        .header("grpc-encoding", "snappy"),
        case(
            "compressed in an unknown way",
            WouldDeny(Reason::Compressed),
            vec![data(&flagged(1)), Step::End],
        )
        .header("grpc-encoding", "snappy"),
        case("flag 2", FRAMING, vec![data(&flagged(2)), Step::End]),
        case("flag 255", FRAMING, vec![data(&flagged(255)), Step::End]),
        case("trailers", FRAMING, vec![data(&whole), Step::Trailers("x", "y")]),
        case(
            "byte by byte",
            usual,
            whole.iter().map(|byte| data(&[*byte])).chain([Step::End]).collect(),
        ),
        case(
            "empty frames in between",
            usual,
            vec![data(b""), data(&whole[..4]), data(b""), data(&whole[4..]), data(b""), Step::End],
        ),
        case("an unknown field", unknown, vec![data(&with(b"\xc0\x3e\x01")), Step::End]),
        case("an unknown field of bytes", unknown, vec![data(&with(b"\xc2\x3e\x02hi")), Step::End]),
        case(
            "field 1 of a wrong type",
            FORM,
            vec![data(&with(b"\x0d\x01\x02\x03\x04")), Step::End],
        ),
        case("a varint without end", FORM, vec![data(&with(b"\x10\xff")), Step::End]),
        case("field 0", FORM, vec![data(&with(b"\x00\x00")), Step::End]),
        case("an end-group tag without a group", FORM, vec![data(&with(b"\x0c")), Step::End]),
        case("a length beyond the end", FORM, vec![data(&with(b"\x0a\x7f")), Step::End]),
        case(
            "larger than every limit",
            WouldDeny(Reason::TooLarge),
            vec![data(&with(&[0; 3 << 20])), Step::End],
        ),
        case(
            "a header of 4 GiB",
            WouldDeny(Reason::TooLarge),
            vec![data(b"\x00\xff\xff\xff\xffx"), Step::End],
        ),
        base.clone()
            .named("cut off by a reset")
            .steps(vec![data(&whole[..whole.len() - 1]), Step::Reset])
            .expecting(&[]),
    ]
}

/// Headers that are not gRPC, name no method, or contain more than needed.
pub fn heads() -> Vec<Case> {
    let base = call(Method::Range, &range("/a/1", ""), Allow);
    let with_path = |path: &str| {
        Case { path: path.to_owned(), name: format!("path {path}"), ..base.clone() }
            .expecting(&[WouldDeny(Reason::UnknownMethod)])
    };
    let not_grpc = |case: Case| case.expecting(&[WouldDeny(Reason::NotGrpc)]);
    let get = |path: &str| {
        let case = Case {
            verb: http::Method::GET,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            name: format!("GET {path}"),
            ..base.clone()
        };
        not_grpc(case.steps(vec![Step::EndWithHead]))
    };
    let of_type = |value: &'static str| {
        let mut case = base.clone().named(value);
        case.headers.insert("content-type", HeaderValue::from_static(value));
        not_grpc(case)
    };
    let json = |path: &str, body: &str| {
        let mut case = Case { path: path.to_owned(), ..of_type("application/json") };
        case.name = format!("POST {path}");
        case.steps(vec![Step::Data(key(body)), Step::End])
    };
    let mut untyped = base.clone().named("no content-type");
    untyped.headers.remove("content-type");
    let mut cases = vec![
        with_path("/"),
        with_path("/etcdserverpb.KV"),
        with_path("/etcdserverpb.KV/"),
        with_path("/etcdserverpb.KV/range"),
        with_path("/etcdserverpb.KV/Range/"),
        with_path("//etcdserverpb.KV/Range"),
        with_path("/etcdserverpb.KV//Range"),
        with_path("/etcdserverpb.KV/Range?x=1"),
        with_path("/etcdserverpb%2eKV/Range"),
        with_path("/etcdserverpb.KV/./Range"),
        with_path("/etcdserverpb.KV/../etcdserverpb.KV/Range"),
        with_path("/ETCDSERVERPB.KV/Range"),
        with_path("/etcdserverpb.Nothing/Range"),
        with_path("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
        with_path("/a/b/c/d"),
        get("/health"),
        get("/version"),
        get("/metrics"),
        get("/readyz"),
        get("/nothing"),
        get("/v3/kv/range"),
        get(Method::Range.path()),
        not_grpc(Case { verb: http::Method::PUT, ..base.clone() }.named("PUT")),
        not_grpc(Case { verb: http::Method::HEAD, ..get("/version") }.named("HEAD")),
        not_grpc(
            Case { verb: http::Method::OPTIONS, ..get("/version") }
                .named("OPTIONS")
                .header("origin", "https://example.org"),
        ),
        json("/v3/kv/range", r#"{"key": "L2EvMQ=="}"#),
        json("/v3/kv/put", r#"{"key": "L2EvZw==", "value": "eA=="}"#),
        json("/v3/kv/put", "{"),
        json("/version", "{}"),
        not_grpc(untyped),
        of_type("application/grpc-web"),
        of_type("application/grpcx"),
        of_type("application/json"),
        of_type("APPLICATION/GRPC"),
        of_type("text/plain"),
        of_type(""),
    ];
    for value in [
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
        "application/grpc+json",
        "application/grpc+none",
    ] {
        cases.push(of_type(value).expecting(&[Allow]));
    }
    cases.extend(metadata(&base));
    cases
}

fn metadata(base: &Case) -> Vec<Case> {
    let mut without_te = base.clone().named("no te");
    without_te.headers.remove("te");
    let with = |name: &'static str, value: &'static str| {
        base.clone().named(&format!("{name}: {value}")).header(name, value)
    };
    let slow = |name: &str, expected: Expected, steps: Vec<Step>| {
        base.clone().named(name).header("grpc-timeout", "300m").steps(steps).expecting(&[expected])
    };
    let [Step::Data(whole), ..] = &base.steps[..] else { unreachable!("a base is one message") };
    vec![
        without_te,
        with("grpc-timeout", "10S"),
        with("grpc-timeout", "10"),
        with("grpc-timeout", "x"),
        with("grpc-timeout", "-1S"),
        with("grpc-timeout", "999999999S"),
        with("grpc-encoding", "identity"),
        with("grpc-encoding", "gzip"),
        with("grpc-accept-encoding", "gzip"),
        with("grpc-previous-rpc-attempts", "3"),
        with("user-agent", "odd \t agent"),
        with("hasleader", "true"),
        with("hasleader", "maybe"),
        with("hasleader", "true").header("hasleader", "true"),
        with("client-api-version", "99.0.0"),
        with("authorization", "no token"),
        with("token", "no.token.1"),
        with("authorization", "Basic eA==").header("authorization", "again"),
        with("x-unheard-of", "anything"),
        with("x-unheard-of-bin", "AAECAw"),
        with("x-unheard-of-bin", "AAECAw=="),
        with("x-unheard-of-bin", "!"),
        with("grpc-trace-bin", "AA"),
        with("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        with("grpcgateway-accept", "application/json"),
        with("grpcgateway-authorization", "no token"),
        with("origin", "https://example.org"),
        with("accept", "application/json"),
        // HTTP/2 itself resets a stream whose length does not match.
        with("content-length", "9").expecting(&[]),
        with("trailer", "x"),
        with("cookie", "a=b"),
        with("x-forwarded-for", "192.0.2.1"),
        slow("a deadline before any message", FRAMING, vec![]),
        slow(
            "a deadline in the middle of a message",
            FRAMING,
            vec![Step::Data(whole[..7].to_vec())],
        ),
    ]
}

/// Requests whose client never ends its side.
pub fn never_half_closed() -> Vec<Case> {
    let open = |method: Method, message: &[u8], expected: Expected| {
        // RangeStream waits for the end, so only its deadline ends it.
        let timeout = if method == Method::RangeStream { "200m" } else { "10S" };
        of_bytes(method, message, expected)
            .named("never half-closed")
            .header("grpc-timeout", timeout)
            .steps(vec![Step::Data(framed(message))])
    };
    let slowly = |method: Method, message: &[u8], expected: Expected| {
        let steps = framed(message).iter().map(|byte| Step::Data(vec![*byte])).collect();
        open(method, message, expected).named("in pieces").steps(steps)
    };
    let requests = [
        (Method::Range, range("/a/1", "").encode_to_vec(), Allow),
        (Method::Put, put("/b/open", "x").encode_to_vec(), KEYS),
        (Method::RangeStream, range("/a/", "/a0").encode_to_vec(), Allow),
        (
            Method::LeaseTimeToLive,
            pb::LeaseTimeToLiveRequest { id: LEASES[0], keys: true }.encode_to_vec(),
            Allow,
        ),
        (Method::MemberList, Vec::new(), CAPABILITY),
    ];
    let mut cases: Vec<Case> = requests
        .iter()
        .flat_map(|(method, message, expected)| {
            [open(*method, message, *expected), slowly(*method, message, *expected)]
        })
        .collect();
    let base = of_bytes(Method::Range, &range("/a/1", "").encode_to_vec(), FRAMING);
    cases.extend([
        base.clone()
            .named("an unknown encoding, and no message")
            .header("grpc-encoding", "snappy")
            .steps(vec![])
            .expecting(&[WouldDeny(Reason::Compressed)]),
        base.clone()
            .named("gzip, and no message")
            .header("grpc-encoding", "gzip")
            .header("grpc-timeout", "300m")
            .steps(vec![]),
        base.clone()
            .named("an invalid deadline, and no message")
            .header("grpc-timeout", "x")
            .steps(vec![]),
        Case { path: "/etcdserverpb.KV/Nothing".to_owned(), ..base.clone() }
            .steps(vec![])
            .expecting(&[WouldDeny(Reason::UnknownMethod)]),
    ]);
    cases
}

/// A create of a watch.
pub fn watch_of(from: &str, to: &str) -> Vec<u8> {
    let create =
        pb::WatchCreateRequest { key: key(from), range_end: key(to), ..Default::default() };
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
        .encode_to_vec()
}

/// Watch and LeaseKeepAlive streams. A watch stream does not end with the client's side of it.
pub fn conversations() -> Vec<Case> {
    let base = |method: Method| of_bytes(method, b"", Allow);
    let create = |from: &str, to: &str, id: i64| {
        let create = pb::WatchCreateRequest {
            key: key(from),
            range_end: key(to),
            watch_id: id,
            start_revision: 0,
            ..Default::default()
        };
        framed(
            &pb::WatchRequest {
                request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
            }
            .encode_to_vec(),
        )
    };
    let cancel = |id: i64| {
        let cancel = pb::WatchCancelRequest { watch_id: id };
        framed(
            &pb::WatchRequest {
                request_union: Some(pb::watch_request::RequestUnion::CancelRequest(cancel)),
            }
            .encode_to_vec(),
        )
    };
    let progress = framed(
        &pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::ProgressRequest(
                pb::WatchProgressRequest {},
            )),
        }
        .encode_to_vec(),
    );
    let alive = |id: i64| framed(&pb::LeaseKeepAliveRequest { id }.encode_to_vec());
    let watch = |name: &str, steps: Vec<Step>, expected: &[Expected]| {
        base(Method::Watch).named(name).steps(steps).expecting(expected)
    };
    let keep = |name: &str, steps: Vec<Step>, expected: &[Expected]| {
        base(Method::LeaseKeepAlive).named(name).steps(steps).expecting(expected)
    };
    let data = |bytes: &[u8]| Step::Data(bytes.to_vec());
    let (own, foreign) = (create("/a/", "/a0", 0), create("/b/", "/b0", 0));
    let half = own.len() / 2;
    vec![
        watch(
            "allowed, refused, allowed",
            vec![
                data(&own),
                Step::Await(1),
                data(&foreign),
                Step::Await(2),
                data(&own),
                Step::Await(3),
                Step::End,
                Step::Reset,
            ],
            &[Allow, KEYS, Allow],
        ),
        watch(
            "all in one frame",
            vec![
                data(&[&own[..], &foreign, &own].concat()),
                Step::Await(3),
                Step::End,
                Step::Reset,
            ],
            &[Allow, KEYS, Allow],
        ),
        watch(
            "one in two frames",
            vec![data(&own[..half]), data(&own[half..]), Step::Await(1), Step::End, Step::Reset],
            &[Allow],
        ),
        watch(
            "an id twice",
            vec![
                data(&create("/a/", "/a0", 7)),
                Step::Await(1),
                data(&create("/a/", "", 7)),
                Step::Await(2),
                Step::End,
                Step::Reset,
            ],
            &[Allow, Allow],
        ),
        watch(
            "cancelled",
            vec![
                data(&own),
                Step::Await(1),
                data(&cancel(0)),
                Step::Await(2),
                data(&cancel(55)),
                data(&own),
                Step::Await(3),
                Step::End,
                Step::Reset,
            ],
            &[Allow, Allow, Allow, Allow],
        ),
        watch(
            "progress",
            vec![
                data(&own),
                Step::Await(1),
                data(&progress),
                Step::Await(2),
                Step::End,
                Step::Reset,
            ],
            &[Allow, Allow],
        ),
        watch(
            "an unknown field",
            vec![
                data(&[&own[..], &framed(b"\xc0\x3e\x01")].concat()),
                Step::Await(1),
                Step::End,
                Step::Reset,
            ],
            &[Allow, FORM],
        ),
        watch(
            "an empty message",
            vec![data(&framed(b"")), data(&own), Step::Await(1), Step::End, Step::Reset],
            &[Allow, Allow],
        ),
        watch(
            "not protobuf",
            vec![data(&own), Step::Await(1), data(&framed(b"\x0a\xff\x01"))],
            &[Allow, FORM],
        ),
        watch(
            "cut",
            vec![data(&own), Step::Await(1), data(&own[..half]), Step::End],
            &[Allow, FRAMING],
        ),
        watch(
            "compressed, without an encoding",
            vec![data(&own), Step::Await(1), data(b"\x01\x00\x00\x00\x01x")],
            &[Allow, FRAMING],
        ),
        watch("gzip", vec![data(&gzipped(&own[5..]))], &[Allow])
            .header("grpc-encoding", "gzip")
            .header("grpc-timeout", "2S"),
        watch("invalid gzip", vec![data(b"\x01\x00\x00\x00\x01x")], &[FRAMING])
            .header("grpc-encoding", "gzip"),
        watch(
            "larger than every limit",
            vec![data(&own), Step::Await(1), data(&framed(&[0; 3 << 20]))],
            &[Allow, WouldDeny(Reason::TooLarge)],
        ),
        watch("reset", vec![data(&own), Step::Await(1), Step::Reset], &[Allow]),
        watch(
            "trailers",
            vec![data(&own), Step::Await(1), Step::Trailers("x", "y"), Step::Reset],
            &[Allow],
        ),
        call(Method::Put, &pb::PutRequest { lease: LEASES[2], ..put("/b/kept", "x") }, KEYS),
        keep(
            "own, none",
            vec![
                data(&alive(LEASES[0])),
                Step::Await(1),
                data(&alive(99)),
                Step::Await(2),
                Step::End,
            ],
            &[Allow, Allow],
        ),
        keep(
            "two at once",
            vec![data(&[alive(LEASES[0]), alive(LEASES[2])].concat()), Step::Await(2), Step::End],
            &[Allow, LEASE],
        ),
        keep(
            "an unknown field",
            vec![data(&framed(b"\x08\x63\xc0\x3e\x01")), Step::Await(1), Step::End],
            &[FORM],
        ),
        keep("not protobuf", vec![data(&framed(b"\x08\xff"))], &[FORM]),
        keep("no message at all", vec![Step::End], &[]),
    ]
}

/// A request after which the twins differ, so it is the last: an id that etcd chooses.
pub fn unlike() -> Vec<Case> {
    vec![
        call(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: 10_000, id: 0 }, Allow)
            .named("etcd chooses the id"),
    ]
}

/// More metadata than the proxy accepts, and less than etcd does.
pub fn large_head() -> Case {
    let mut case = call(Method::Range, &range("/a/1", ""), Allow).named("a large head");
    case.headers.insert("x-large", HeaderValue::from_str(&"x".repeat(20 * 1024)).unwrap());
    case
}

/// The URLs of the members.
pub fn members() -> Case {
    call(Method::MemberList, &pb::MemberListRequest::default(), CAPABILITY)
}
