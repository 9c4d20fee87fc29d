//! The messages and policies of the benchmarks.

use std::fmt::Write as _;
use std::sync::Arc;

use etcd_warden_core::identity::Identity;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::{Policy, Principal};
use etcd_warden_proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use etcd_warden_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use prost::Message;

/// The principal of every measurement. It has all `roles` of the policy, with `grants` each.
pub fn principal(roles: usize, grants: usize) -> Principal {
    let mut policy = String::from("version: 1\nmode: enforce\nroles:\n");
    for role in 0..roles {
        writeln!(policy, "  role-{role}:\n    allow:").unwrap();
        for grant in 0..grants {
            writeln!(policy, "      - keys: /bench/{role:04}/{grant:06}/*\n        verbs: [rw]")
                .unwrap();
        }
    }
    let names: Vec<String> = (0..roles).map(|role| format!("role-{role}")).collect();
    write!(policy, "bindings:\n  - cn: node\n    roles: [{}]\n", names.join(", ")).unwrap();
    let policy = Policy::parse("bench.yaml", policy.as_bytes(), 1, None).unwrap();
    policy.principal(&Identity {
        ca: Arc::from("default"),
        common_name: Ok(Arc::from("node")),
        uri_sans: Vec::new(),
        dns_sans: Vec::new(),
        organizations: Vec::new(),
        distinction: None,
        serial: String::new(),
        issuer: String::new(),
        not_after: i64::MAX,
    })
}

fn key(number: usize) -> Vec<u8> {
    format!("/bench/0000/{:06}/{}", 50, "k".repeat(70) + &format!("{number:05}")).into_bytes()
}

fn range() -> Vec<u8> {
    RangeRequest { key: key(0), ..RangeRequest::default() }.encode_to_vec()
}

fn put(number: usize) -> RequestOp {
    let put = PutRequest { key: key(number), value: vec![b'v'; 100], ..PutRequest::default() };
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

/// An update as in libcalico-go: a compare, a Put, and a Range of the same key if the compare
/// fails.
fn guarded(operations: usize) -> Vec<u8> {
    let compare = |number| Compare {
        target: CompareTarget::Mod.into(),
        key: key(number),
        target_union: Some(TargetUnion::ModRevision(7)),
        ..Compare::default()
    };
    let get = |number| RangeRequest { key: key(number), ..RangeRequest::default() };
    TxnRequest {
        compare: (0..operations).map(compare).collect(),
        success: (0..operations).map(put).collect(),
        failure: (0..operations)
            .map(|number| RequestOp {
                request: Some(request_op::Request::RequestRange(get(number))),
            })
            .collect(),
    }
    .encode_to_vec()
}

/// A transaction of 128 Puts, etcd's default limit (`--max-txn-ops`).
fn many_puts() -> Vec<u8> {
    TxnRequest { success: (0..128).map(put).collect(), ..TxnRequest::default() }.encode_to_vec()
}

/// The messages with their names.
pub fn messages() -> [(&'static str, Method, Vec<u8>); 4] {
    [
        ("Range", Method::Range, range()),
        ("guarded Txn", Method::Txn, guarded(1)),
        ("Txn of 128 Puts", Method::Txn, many_puts()),
        ("128 guards and 256 operations", Method::Txn, guarded(128)),
    ]
}
