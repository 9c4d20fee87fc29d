//! How the compares of a Txn narrow a Put: to a create only, or to an update only.

use etcd_warden_core::access::Verb;
use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::compare::CompareResult::{self, Equal, Greater, Less};
use etcd_warden_proto::etcdserverpb::compare::TargetUnion::{
    self, CreateRevision, ModRevision, Value, Version,
};
use etcd_warden_proto::etcdserverpb::request_op::Request;
use prost::Message as _;

use super::Judged;
use super::forms::op;

const POLICY: &str = r#"
version: 1
mode: enforce
roles:
  creator: {allow: [{keys: '$P/*', verbs: [read, create]}]}
  updater: {allow: [{keys: '$P/*', verbs: [read, update]}]}
  writer: {allow: [{keys: '$P/*', verbs: [read, create, update]}], capabilities: [lease]}
  blind: {allow: [{keys: '$P/*', verbs: [write]}]}
bindings:
  - {cn: creator, roles: [creator]}
  - {cn: updater, roles: [updater]}
  - {cn: writer, roles: [writer]}
  - {cn: blind, roles: [blind]}
"#;

type Branch = Vec<pb::RequestOp>;

fn compare(key: &str, result: CompareResult, union: TargetUnion) -> pb::Compare {
    let target = match union {
        Version(_) => 0,
        CreateRevision(_) => 1,
        ModRevision(_) => 2,
        Value(_) => 3,
        TargetUnion::Lease(_) => 4,
    };
    pb::Compare {
        key: key.into(),
        result: result.into(),
        target,
        target_union: Some(union),
        range_end: vec![],
    }
}

fn put(key: &str) -> pb::RequestOp {
    put_with(key, |_| ())
}

fn put_with(key: &str, change: impl FnOnce(&mut pb::PutRequest)) -> pb::RequestOp {
    let mut put = pb::PutRequest { key: key.into(), value: b"v".into(), ..Default::default() };
    change(&mut put);
    op(Request::RequestPut(put))
}

fn delete(key: &str, prev_kv: bool) -> pb::RequestOp {
    op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
        key: key.into(),
        prev_kv,
        range_end: vec![],
    }))
}

fn txn(compare: Vec<pb::Compare>, success: Branch, failure: Branch) -> pb::TxnRequest {
    pb::TxnRequest { compare, success, failure }
}

fn nested(txn: pb::TxnRequest) -> pb::RequestOp {
    op(Request::RequestTxn(txn))
}

/// Description, client, request, and the verb that is missing.
type Row = (&'static str, &'static str, pb::TxnRequest, Option<Verb>);

/// `g` is the key under test, `h` another one.
fn rows(g: &str, h: &str) -> Vec<Row> {
    use Verb::{Create, Delete, Read, Update};
    let missing = || vec![compare(g, Equal, ModRevision(0))];
    let there = || vec![compare(g, Equal, ModRevision(7))];
    let puts = || vec![put(g)];
    let mut range = compare(g, Equal, Version(0));
    range.range_end = h.into();
    vec![
        // A plain Put has no guard.
        ("no compare", "creator", txn(vec![], puts(), vec![]), Some(Update)),
        ("no compare", "updater", txn(vec![], puts(), vec![]), Some(Create)),
        ("no compare", "writer", txn(vec![], puts(), vec![]), None),
        // The key does not exist: the Put creates it.
        ("VERSION = 0", "creator", txn(vec![compare(g, Equal, Version(0))], puts(), vec![]), None),
        (
            "CREATE = 0",
            "creator",
            txn(vec![compare(g, Equal, CreateRevision(0))], puts(), vec![]),
            None,
        ),
        ("MOD = 0", "creator", txn(missing(), puts(), vec![]), None),
        ("VERSION < 1", "creator", txn(vec![compare(g, Less, Version(1))], puts(), vec![]), None),
        ("MOD = 0", "updater", txn(missing(), puts(), vec![]), Some(Create)),
        // The key exists: the Put updates it.
        ("MOD = 7", "updater", txn(there(), puts(), vec![]), None),
        (
            "VERSION > 0",
            "updater",
            txn(vec![compare(g, Greater, Version(0))], puts(), vec![]),
            None,
        ),
        (
            "VALUE = x",
            "updater",
            txn(vec![compare(g, Equal, Value(b"x".into()))], puts(), vec![]),
            None,
        ),
        ("MOD = 7", "creator", txn(there(), puts(), vec![]), Some(Update)),
        (
            "VALUE = x",
            "creator",
            txn(vec![compare(g, Equal, Value(b"x".into()))], puts(), vec![]),
            Some(Update),
        ),
        // The key may or may not exist.
        (
            "VERSION < 2",
            "creator",
            txn(vec![compare(g, Less, Version(2))], puts(), vec![]),
            Some(Update),
        ),
        (
            "LEASE = 0",
            "updater",
            txn(vec![compare(g, Equal, TargetUnion::Lease(0))], puts(), vec![]),
            Some(Create),
        ),
        // A compare on another key or on a range guards nothing.
        (
            "another key",
            "creator",
            txn(vec![compare(h, Equal, Version(0))], puts(), vec![]),
            Some(Update),
        ),
        ("a range", "creator", txn(vec![range], puts(), vec![]), Some(Update)),
        // The other branch runs when the only compare does not hold.
        ("else of MOD = 0", "updater", txn(missing(), vec![], puts()), None),
        ("else of MOD = 0", "creator", txn(missing(), vec![], puts()), Some(Update)),
        (
            "else of two compares",
            "updater",
            txn(vec![compare(g, Equal, Version(0)), compare(h, Equal, Version(0))], vec![], puts()),
            Some(Create),
        ),
        (
            "then of two compares",
            "creator",
            txn(vec![compare(h, Equal, Version(1)), compare(g, Equal, Version(0))], puts(), vec![]),
            None,
        ),
        // Nested (CVE-2026-33343): every operation is judged, and guards of the outer Txn hold
        // inside.
        (
            "nested, unguarded",
            "creator",
            txn(vec![], vec![nested(txn(vec![], puts(), vec![]))], vec![]),
            Some(Update),
        ),
        (
            "nested, guarded outside",
            "creator",
            txn(missing(), vec![nested(txn(vec![], puts(), vec![]))], vec![]),
            None,
        ),
        (
            "nested, guarded inside",
            "creator",
            txn(vec![], vec![nested(txn(missing(), puts(), vec![]))], vec![]),
            None,
        ),
        (
            "nested in else",
            "updater",
            txn(missing(), vec![], vec![nested(txn(vec![], vec![], puts()))]),
            None,
        ),
        (
            "nested, guarded inside after a write",
            "creator",
            txn(
                vec![compare(h, Equal, Version(0))],
                vec![put(h), nested(txn(missing(), puts(), vec![]))],
                vec![],
            ),
            Some(Update),
        ),
        // Guards do not narrow a delete.
        ("delete", "writer", txn(there(), vec![delete(g, false)], vec![]), Some(Delete)),
        ("delete", "blind", txn(vec![], vec![delete(g, false)], vec![]), None),
        // `prev_kv` returns the current value (CVE-2026-44283).
        (
            "put with prev_kv",
            "blind",
            txn(vec![], vec![put_with(g, |put| put.prev_kv = true)], vec![]),
            Some(Read),
        ),
        ("delete with prev_kv", "blind", txn(vec![], vec![delete(g, true)], vec![]), Some(Read)),
        ("a compare reads", "blind", txn(missing(), puts(), vec![]), Some(Read)),
        // A lease deletes the key later, guarded or not (CVE-2026-44283).
        (
            "put with lease",
            "writer",
            txn(missing(), vec![put_with(g, |put| put.lease = 7)], vec![]),
            Some(Delete),
        ),
        (
            "nested put with lease",
            "writer",
            txn(
                vec![],
                vec![nested(txn(missing(), vec![put_with(g, |put| put.lease = 7)], vec![]))],
                vec![],
            ),
            Some(Delete),
        ),
    ]
}

#[tokio::test]
async fn a_put_needs_what_its_compares_leave_open() {
    let judged = Judged::start(POLICY).await;
    for (place, (what, caller, txn, missing)) in
        rows(&judged.world.key("g"), &judged.world.key("h")).into_iter().enumerate()
    {
        let message = txn.encode_to_vec();
        let expected =
            missing.map(|verb| format!("key_not_granted: {verb} {}", judged.world.key("g")));
        assert_eq!(
            judged.by_policy(caller, Method::Txn, &message),
            expected,
            "row {place}: {what} as {caller}"
        );
        let answer =
            judged.by_proxy(&mut judged.world.raw(caller).await, Method::Txn, &message).await;
        assert_eq!(answer, expected, "row {place}: {what} as {caller}");
    }
}

#[tokio::test]
async fn outside_of_a_txn_a_put_and_a_delete_need_the_same() {
    let judged = Judged::start(POLICY).await;
    let g = judged.world.key("g");
    let put = |change: fn(&mut pb::PutRequest)| {
        let mut put = pb::PutRequest { key: g.clone().into(), ..Default::default() };
        change(&mut put);
        (Method::Put, put.encode_to_vec())
    };
    let delete = |prev_kv| {
        (
            Method::DeleteRange,
            pb::DeleteRangeRequest { key: g.clone().into(), prev_kv, range_end: vec![] }
                .encode_to_vec(),
        )
    };
    for (caller, (method, message), missing) in [
        ("creator", put(|_| ()), Some(Verb::Update)),
        ("updater", put(|_| ()), Some(Verb::Create)),
        ("writer", put(|_| ()), None),
        ("writer", put(|put| put.prev_kv = true), None),
        ("writer", put(|put| put.ignore_lease = true), None),
        ("writer", put(|put| put.lease = 7), Some(Verb::Delete)),
        ("blind", put(|put| put.prev_kv = true), Some(Verb::Read)),
        ("writer", delete(false), Some(Verb::Delete)),
        ("blind", delete(false), None),
        ("blind", delete(true), Some(Verb::Read)),
    ] {
        let expected = missing.map(|verb| format!("key_not_granted: {verb} {g}"));
        assert_eq!(judged.by_policy(caller, method, &message), expected, "{method:?} as {caller}");
        assert_eq!(
            judged.by_proxy(&mut judged.world.raw(caller).await, method, &message).await,
            expected,
            "{method:?} as {caller}"
        );
    }
}

#[tokio::test]
async fn a_right_to_create_never_overwrites() {
    let judged = Judged::start(POLICY).await;
    let key = judged.world.key("tier");
    let mut raw = judged.world.raw("creator").await;
    for (value, created) in [("first", true), ("second", false)] {
        let put = put_with(&key, |put| put.value = value.into());
        let txn = txn(vec![compare(&key, Equal, ModRevision(0))], vec![put], vec![]);
        let answer = raw.call(Method::Txn.path(), &txn.encode_to_vec()).await;
        assert_eq!(pb::TxnResponse::decode(answer.messages()[0]).unwrap().succeeded, created);
    }
    let found = judged.world.direct().await.get(key, None).await.unwrap();
    assert_eq!(found.kvs()[0].value(), b"first");
}
