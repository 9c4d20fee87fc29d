//! `lock` and `elect`. etcdctl implements them with leases, transactions and watches
//! (`client/v3/concurrency`). It never calls the services Lock and Election, which exist for
//! clients without that package.

use etcd_warden_core::keyspace::prefix_end;
use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use etcd_warden_proto::etcdserverpb::{request_op, watch_request};

use super::call::{Request, one};

/// The lease of the session. The value makes no difference, because the lease is assumed to be the
/// identity's own.
pub(super) const SESSION: i64 = 1;
/// The lease of another client, which holds the lock.
const OTHER: i64 = 2;

/// `etcdctl lock NAME`: all requests that it may send to acquire and to release the lock
/// (`mutex.go`).
pub(super) fn lock(name: &[u8], ttl: i64) -> Vec<Request> {
    let (own, owner) = (key_of(name, SESSION), range(prefix(name)));
    let acquire = pb::TxnRequest {
        compare: vec![created_at(&own, 0)],
        success: vec![put(&own), read(owner.clone())],
        failure: vec![read(range_of(&own)), read(owner.clone())],
    };
    let release = pb::DeleteRangeRequest { key: own.clone(), ..Default::default() };
    let rest = [
        wait(name, owner),
        one(Method::Range, &range_of(&own)),
        one(Method::DeleteRange, &release),
    ];
    [session(ttl), one(Method::Txn, &acquire), rest.concat()].concat()
}

/// `etcdctl elect NAME PROPOSAL`: the same for an election (`election.go`, Campaign and Resign).
pub(super) fn campaign(name: &[u8]) -> Vec<Request> {
    let own = key_of(name, SESSION);
    let campaign = pb::TxnRequest {
        compare: vec![created_at(&own, 0)],
        success: vec![put(&own)],
        failure: vec![read(range_of(&own))],
    };
    let delete = pb::DeleteRangeRequest { key: own.clone(), ..Default::default() };
    let delete = pb::RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) };
    let resign = pb::TxnRequest {
        compare: vec![created_at(&own, 1)],
        success: vec![delete],
        failure: Vec::new(),
    };
    let rest = [
        wait(name, range(prefix(name))),
        one(Method::Range, &range_of(&own)),
        one(Method::Txn, &resign),
    ];
    [session(60), one(Method::Txn, &campaign), rest.concat()].concat()
}

/// `etcdctl elect --listen NAME` (`election.go`, Observe).
pub(super) fn listen(name: &[u8]) -> Vec<Request> {
    let all = range(prefix(name));
    let until_elected = watch(all.key.clone(), all.range_end.clone());
    [session(60), one(Method::Range, &all), until_elected, watch(key_of(name, OTHER), Vec::new())]
        .concat()
}

/// A session: a lease that is kept alive (`session.go`).
fn session(ttl: i64) -> Vec<Request> {
    let grant = one(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl, id: 0 });
    [grant, one(Method::LeaseKeepAlive, &pb::LeaseKeepAliveRequest { id: SESSION })].concat()
}

/// Waits for the clients ahead in the queue: reads the newest of their keys and watches it
/// (`key.go`, waitDeletes).
fn wait(name: &[u8], before: pb::RangeRequest) -> Vec<Request> {
    [one(Method::Range, &before), watch(key_of(name, OTHER), Vec::new())].concat()
}

fn prefix(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

fn key_of(name: &[u8], lease: i64) -> Vec<u8> {
    [name, format!("/{lease:x}").as_bytes()].concat()
}

fn range(prefix: Vec<u8>) -> pb::RangeRequest {
    let range_end = prefix_end(&prefix).unwrap_or_default().into_vec();
    pb::RangeRequest { key: prefix, range_end, limit: 1, ..Default::default() }
}

fn range_of(key: &[u8]) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_vec(), ..Default::default() }
}

fn read(range: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(request_op::Request::RequestRange(range)) }
}

fn put(key: &[u8]) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.to_vec(), lease: SESSION, ..Default::default() };
    pb::RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

fn created_at(key: &[u8], revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.to_vec(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

fn watch(key: Vec<u8>, range_end: Vec<u8>) -> Vec<Request> {
    let create = pb::WatchCreateRequest { key, range_end, ..Default::default() };
    one(
        Method::Watch,
        &pb::WatchRequest {
            request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
        },
    )
}
