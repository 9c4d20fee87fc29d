//! Lease lookups at etcd: charged to the client that causes them, made once for all waiting calls,
//! and read no further than needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::world::fake::{Fake, Visit, trailers};
use crate::world::raw::{Answer, Raw, framed, grpc_headers};
use crate::world::{World, soon};

const POLICY: &str = "
version: 1
mode: enforce
roles:
  own: {allow: [{keys: /a/*, verbs: [rw]}], capabilities: [lease]}
  elsewhere: {allow: [{keys: /b/*, verbs: [rw]}], capabilities: [lease]}
bindings:
  - {cn: alice, roles: [own]}
  - {cn: neighbour, roles: [own]}
  - {cn: other, roles: [elsewhere]}
  - {cn: shade, roles: [own], mode: shadow}
";

const TOO_MANY: (Option<u32>, &str) = (Some(8), "etcdserver: too many requests");

/// The complete response about a lease with these keys.
fn keys(id: i64, keys: &[&str]) -> Vec<u8> {
    let keys = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    pb::LeaseTimeToLiveResponse {
        id,
        ttl: 60,
        granted_ttl: 60,
        keys,
        ..pb::LeaseTimeToLiveResponse::default()
    }
    .encode_to_vec()
}

fn asked_lease(body: &[u8]) -> i64 {
    pb::LeaseTimeToLiveRequest::decode(&body[5..]).unwrap().id
}

/// Starts a LeaseRevoke, which needs rights on the keys of the lease.
async fn revoke(raw: &mut Raw, id: i64) -> tokio::task::JoinHandle<Answer> {
    let mut stream = raw.open(Method::LeaseRevoke.path(), &grpc_headers()).await.unwrap();
    let message = pb::LeaseRevokeRequest { id }.encode_to_vec();
    stream.request.send_data(framed(&message).into(), true).unwrap();
    tokio::spawn(Answer::read(stream.response))
}

fn said(answer: &Answer) -> (Option<u32>, &str) {
    (answer.grpc_status(), answer.grpc_message())
}

/// An etcd that delays each lease lookup until the test allows it. It responds with the keys that
/// the lease had when the request arrived.
async fn slow(attached: &'static [&'static [&'static str]]) -> (Fake, Arc<Semaphore>) {
    let go = Arc::new(Semaphore::new(0));
    let (gate, asked) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    let fake = Fake::serving(move |mut visit: Visit| {
        let (gate, asked) = (gate.clone(), asked.clone());
        async move {
            let body = visit.body().await;
            if visit.path == Method::LeaseTimeToLive.path() {
                let now = attached[asked.fetch_add(1, Ordering::SeqCst).min(attached.len() - 1)];
                gate.acquire().await.unwrap().forget();
                return visit.answer(&keys(asked_lease(&body), now));
            }
            visit.answer(b"");
        }
    });
    (fake.await, go)
}

async fn questions(fake: &Fake, count: usize) {
    soon("the lookups", || async {
        (fake.arrivals("LeaseTimeToLive").len() >= count).then_some(())
    })
    .await;
}

async fn in_flight(world: &World, calls: f64) {
    soon("the calls", || async {
        (world.metric("etcd_warden_requests_in_flight", &[]).await == calls).then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_calls_about_one_lease_ask_etcd_once() {
    let (fake, go) = slow(&[&["/a/k"]]).await;
    let world = fake.world(POLICY).await;
    let (mut alice, mut neighbour) = (world.raw("alice").await, world.raw("neighbour").await);
    let mut calls = vec![revoke(&mut alice, 77).await];
    questions(&fake, 1).await;
    for _ in 0..50 {
        calls.push(revoke(&mut alice, 77).await);
        calls.push(revoke(&mut neighbour, 77).await);
    }
    in_flight(&world, 101.0).await;
    go.add_permits(2);
    for call in calls {
        assert_eq!(call.await.unwrap().grpc_status(), Some(0));
    }
    // The first lookup, and one for all calls that arrived after it.
    assert_eq!(fake.arrivals("LeaseTimeToLive").len(), 2);
}

#[tokio::test]
async fn one_lookup_is_judged_by_the_rights_of_each_client() {
    let (fake, go) = slow(&[&["/a/k", "/a/l"]]).await;
    let world = fake.world(POLICY).await;
    let (mut alice, mut other, mut again) =
        (world.raw("alice").await, world.raw("other").await, world.raw("alice").await);
    let mut calls = vec![(0, revoke(&mut alice, 77).await)];
    questions(&fake, 1).await;
    for _ in 0..20 {
        calls.push((0, revoke(&mut alice, 77).await));
        calls.push((7, revoke(&mut other, 77).await));
        calls.push((0, revoke(&mut again, 77).await));
    }
    in_flight(&world, 61.0).await;
    go.add_permits(2);
    for (status, call) in calls {
        assert_eq!(call.await.unwrap().grpc_status(), Some(status));
    }
    assert_eq!(
        (fake.arrivals("LeaseTimeToLive").len(), fake.arrivals("LeaseRevoke").len()),
        (2, 41)
    );
}

#[tokio::test]
async fn no_call_is_judged_by_an_older_lookup() {
    // Between the two lookups another client attaches a key that alice may not write.
    let (fake, go) = slow(&[&["/a/k"], &["/a/k", "/b/k"]]).await;
    let world = fake.world(POLICY).await;
    let mut alice = world.raw("alice").await;
    let first = revoke(&mut alice, 77).await;
    questions(&fake, 1).await;
    let second = revoke(&mut alice, 77).await;
    in_flight(&world, 2.0).await;
    go.add_permits(2);
    assert_eq!(first.await.unwrap().grpc_status(), Some(0));
    assert_eq!(second.await.unwrap().grpc_status(), Some(7));
    assert_eq!(fake.arrivals("LeaseRevoke").len(), 1);
}

#[tokio::test]
async fn lookups_are_shared_fairly_and_shadow_mode_passes() {
    let (fake, _go) = slow(&[&[]]).await;
    let world = fake.world(POLICY).await;
    let mut alice = world.raw("alice").await;
    let mut calls = Vec::new();
    for id in 0..64 {
        calls.push(revoke(&mut alice, 1000 + id).await);
    }
    // The first identity gets half of the 64.
    questions(&fake, 32).await;
    // Which calls get a slot depends on the scheduling of her connection.
    let mut calls: futures_util::stream::FuturesUnordered<_> = calls.into_iter().collect();
    for _ in 0..32 {
        let refused = futures_util::StreamExt::next(&mut calls).await.unwrap();
        assert_eq!(said(&refused.unwrap()), TOO_MANY);
    }
    let line = world.audited(|line| line["reason"] == "limit").await;
    assert_eq!(
        (&line["decision"], &line["method"]),
        (&json!("deny"), &json!(Method::LeaseRevoke.path()))
    );
    assert_eq!(
        world.metric("etcd_warden_limits_hit_total", &["limit=\"lease_questions\""]).await,
        32.0
    );
    // Another identity still has its own share.
    let _call = revoke(&mut world.raw("neighbour").await, 7).await;
    questions(&fake, 33).await;
    // Shadow mode delays no call: at the limit it records and forwards.
    let mut shade = world.raw("shade").await;
    let mut calls = Vec::new();
    for id in 0..60 {
        calls.push(revoke(&mut shade, 2000 + id).await);
    }
    let would =
        world.audited(|line| line["decision"] == "would_deny" && line["reason"] == "limit").await;
    assert_eq!(would["method"], Method::LeaseRevoke.path());
    for call in calls {
        assert_eq!(call.await.unwrap().grpc_status(), Some(0));
    }
}

#[tokio::test]
async fn a_lookup_stops_at_the_first_key_not_covered() {
    let fake = Fake::serving(|mut visit: Visit| async move {
        let body = visit.body().await;
        if visit.path != Method::LeaseTimeToLive.path() {
            return visit.answer(b"");
        }
        // The first key and then silence: the complete response would be long.
        let first = framed(&keys(asked_lease(&body), &["/b/k", &"k".repeat(9000)]));
        let mut out = visit.head();
        out.send_data(first[..40].to_vec().into(), false).unwrap();
        visit.reset_amid(&mut out).await;
    })
    .await;
    let world = fake.world(POLICY).await;
    let answer = revoke(&mut world.raw("alice").await, 77).await.await.unwrap();
    assert_eq!(said(&answer), (Some(7), "etcdserver: permission denied"));
    let reset = || async { fake.arrivals("LeaseTimeToLive")[0].reset };
    assert_eq!(soon("the end of the lookup", reset).await, h2::Reason::CANCEL);
    assert!(fake.arrivals("LeaseRevoke").is_empty());
}

#[tokio::test]
async fn only_a_whole_answer_with_status_0_allows() {
    let whole = framed(&keys(77, &["/a/k"]));
    let other = framed(&keys(78, &["/a/k"]));
    let cases = [
        ("cut", whole[..whole.len() - 1].to_vec(), 0),
        ("another lease", other, 0),
        ("an error after it", whole.clone(), 14),
        ("nothing", Vec::new(), 0),
        ("two", [&whole[..], &whole].concat(), 0),
    ];
    for (what, bytes, status) in cases {
        let fake = Fake::serving(move |mut visit: Visit| {
            let bytes = bytes.clone();
            async move {
                visit.body().await;
                if visit.path != Method::LeaseTimeToLive.path() {
                    return visit.answer(b"");
                }
                let mut out = visit.head();
                out.send_data(bytes.into(), false).unwrap();
                out.send_trailers(trailers(status, "")).unwrap();
            }
        })
        .await;
        let world = fake.world(POLICY).await;
        let answer = revoke(&mut world.raw("alice").await, 77).await.await.unwrap();
        assert_eq!(answer.grpc_status(), Some(14), "{what}: {answer:?}");
        assert_eq!(world.audited(|_| true).await["reason"], "lease_unknown", "{what}");
        assert!(fake.arrivals("LeaseRevoke").is_empty(), "{what}");
    }
}
