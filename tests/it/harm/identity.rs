//! Limits of one identity on concurrent use and on rate. Over a limit it gets etcd's own error, and
//! no other client is affected.

use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::Limits;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::watch_request::RequestUnion;
use h2::Reason;
use prost::Message as _;

use crate::live::{Live, Status};
use crate::reload::create;
use crate::world::fake::{Fake, Visit};
use crate::world::raw::{Raw, framed, grpc_headers};
use crate::world::{World, soon};

const POLICY: &str = "
version: 1
mode: enforce
roles:
  all:
    allow: [{keys: $P/*, verbs: [rw]}]
    capabilities: [lease]
bindings:
  - {cn: alice, roles: [all]}
  - {cn: bob, roles: [all]}
  - {cn: neighbour, roles: [all]}
";

const TOO_MANY: &str = "etcdserver: too many requests";
const REFUSED_WATCH: &str =
    "rpc error: code = ResourceExhausted desc = etcdserver: too many requests";

async fn limited(policy: &str, limit: impl Fn(&mut Limits) + Send + 'static) -> World {
    World::with(policy).config(move |config| limit(&mut config.limits)).start().await
}

fn range(world: &World) -> Vec<u8> {
    pb::RangeRequest { key: world.key("a").into(), ..Default::default() }.encode_to_vec()
}

/// The response to a Range of this client.
async fn asks(world: &World, raw: &mut Raw) -> (Option<u32>, String) {
    let answer = raw.call(Method::Range.path(), &range(world)).await;
    (answer.grpc_status(), answer.grpc_message().to_owned())
}

fn too_many() -> (Option<u32>, String) {
    (Some(8), TOO_MANY.to_owned())
}

fn served() -> (Option<u32>, String) {
    (Some(0), String::new())
}

async fn hits(world: &World, limit: &str) -> f64 {
    world.metric("etcd_warden_limits_hit_total", &[&format!("limit=\"{limit}\"")]).await
}

/// A Watch stream with one watch that etcd has confirmed.
async fn watching(world: &World, raw: &mut Raw) -> Live {
    let mut stream = Live::open(raw, Method::Watch).await;
    stream.send(&create(&world.key("w/"), 0));
    let answer = stream.next::<pb::WatchResponse>().await.unwrap();
    assert!(answer.created && !answer.canceled, "{answer:?}");
    stream
}

fn is_one_too_many(answer: &Result<pb::WatchResponse, Status>) -> bool {
    answer.as_ref().is_ok_and(|answer| {
        (answer.created, answer.canceled, answer.watch_id, &*answer.cancel_reason)
            == (true, true, -1, REFUSED_WATCH)
    })
}

#[tokio::test]
async fn requests_in_flight_are_counted_over_all_connections() {
    let world = limited(POLICY, |limits| limits.max_requests_per_identity = Some(3)).await;
    let neighbour = world.neighbour().await;
    let (mut first, mut second) = (world.raw("alice").await, world.raw("alice").await);
    let mut held = vec![watching(&world, &mut first).await];
    for _ in 0..2 {
        held.push(watching(&world, &mut second).await);
    }
    assert_eq!(asks(&world, &mut first).await, too_many());
    assert_eq!(asks(&world, &mut second).await, too_many());
    assert_eq!(asks(&world, &mut world.raw("bob").await).await, served());
    neighbour.is_unharmed().await;
    let line = world.audited(|line| line["reason"] == "limit").await;
    assert_eq!(
        (&line["identity"]["cn"], &line["grpc_status"]),
        (&"alice".into(), &8.into()),
        "{line:#}"
    );
    assert_eq!(line["method"], Method::Range.path());
    assert_eq!(hits(&world, "requests_in_flight").await, 2.0);
    held.pop();
    soon("a free slot", || async {
        (asks(&world, &mut world.raw("alice").await).await == served()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_unfinished_request_keeps_its_slot_until_cancelled() {
    let world = limited(POLICY, |limits| limits.max_requests_per_identity = Some(5)).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut stream = raw.open(Method::Range.path(), &grpc_headers()).await.unwrap();
        stream.request.send_data(framed(&range(&world))[..3].to_vec().into(), false).unwrap();
        open.push(stream);
    }
    let mut other = world.raw("alice").await;
    soon("five open calls", || async {
        (world.metric("etcd_warden_requests_in_flight", &[]).await >= 5.0).then_some(())
    })
    .await;
    assert_eq!(asks(&world, &mut other).await, too_many());
    neighbour.is_unharmed().await;
    drop(open);
    soon("their end", || async {
        (asks(&world, &mut world.raw("alice").await).await == served()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_watch_stream_over_the_limit_refuses_its_creates() {
    let world = limited(POLICY, |limits| limits.max_requests_per_identity = Some(2)).await;
    let mut raw = world.raw("alice").await;
    let mut held = vec![watching(&world, &mut raw).await, watching(&world, &mut raw).await];
    let mut above = Live::open(&mut raw, Method::Watch).await;
    for _ in 0..3 {
        above.send(&create(&world.key("w/"), 0));
        let answer = above.next().await;
        assert!(is_one_too_many(&answer), "{answer:?}");
    }
    let progress = pb::WatchRequest {
        request_union: Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})),
    };
    above.send(&progress);
    assert!(above.is_quiet().await, "no watch is left to report progress");
    assert_eq!(hits(&world, "requests_in_flight").await, 3.0);
    // With a free slot, the client is asked to reconnect, in the way that makes clientv3 do it.
    drop(held.pop());
    let told = soon("a free slot", || async {
        let mut again = Live::open(&mut world.raw("alice").await, Method::Watch).await;
        again.send(&create(&world.key("w/"), 0));
        again.next::<pb::WatchResponse>().await.ok().filter(|answer| !answer.canceled)
    });
    assert!(told.await.created);
    soon("the slot is free again", || async {
        (asks(&world, &mut world.raw("alice").await).await == served()).then_some(())
    })
    .await;
    above.send(&create(&world.key("w/"), 0));
    assert_eq!(above.next::<pb::WatchResponse>().await.unwrap_err().0, 14);
}

#[tokio::test]
async fn overflow_watch_streams_are_limited_too() {
    let world = limited(POLICY, |limits| {
        limits.max_requests = 800;
        limits.max_requests_per_identity = Some(1);
    })
    .await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    let _held = watching(&world, &mut raw).await;
    // Overflow slots for refusals inside a stream are a sixteenth of all, and shared as fairly.
    let mut standing = Vec::new();
    let told = loop {
        let mut stream = Live::open(&mut raw, Method::Watch).await;
        stream.send(&create(&world.key("w/"), 0));
        match stream.next::<pb::WatchResponse>().await {
            Ok(answer) => assert!(is_one_too_many(&Ok(answer))),
            Err(status) => break status,
        }
        standing.push(stream);
    };
    assert_eq!(standing.len(), 800 / 16 / 2);
    assert_eq!(told, (14, TOO_MANY.to_owned()));
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn watches_are_counted_over_all_streams() {
    let world = limited(POLICY, |limits| limits.max_watches_per_identity = Some(4)).await;
    let mut raw = world.raw("alice").await;
    let mut first = watching(&world, &mut raw).await;
    let mut second = watching(&world, &mut world.raw("alice").await).await;
    // Several at once, before etcd has responded to any of them.
    let many: Vec<u8> =
        (0..5).flat_map(|_| framed(&create(&world.key("w/"), 0).encode_to_vec())).collect();
    first.send_as_they_are(&many);
    let mut refused = 0;
    for _ in 0..5 {
        let answer = first.next::<pb::WatchResponse>().await;
        refused += usize::from(is_one_too_many(&answer));
        assert!(answer.unwrap().created);
    }
    assert_eq!(refused, 3);
    second.send(&create(&world.key("w/"), 0));
    assert!(is_one_too_many(&second.next().await));
    assert_eq!(hits(&world, "watches").await, 4.0);
    let line = world.audited(|line| line["reason"] == "limit").await;
    assert_eq!(line["method"], Method::Watch.path());
    // All earlier ones still work, and other identities have their own.
    let _bobs = watching(&world, &mut world.raw("bob").await).await;
    world.direct().await.put(world.key("w/x"), "1", None).await.unwrap();
    for stream in [&mut first, &mut second] {
        assert_eq!(stream.next::<pb::WatchResponse>().await.unwrap().events.len(), 1);
    }
    // A cancelled watch, or one whose stream ends, gives back its slot.
    let cancel = pb::WatchRequest {
        request_union: Some(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 })),
    };
    second.send(&cancel);
    assert!(second.next::<pb::WatchResponse>().await.unwrap().canceled);
    second.send(&create(&world.key("w/"), 0));
    assert!(!second.next::<pb::WatchResponse>().await.unwrap().canceled);
    drop(first);
    soon("three free slots", || async {
        let mut third = Live::open(&mut world.raw("alice").await, Method::Watch).await;
        third.send_as_they_are(&many[..many.len() / 5 * 3]);
        for _ in 0..3 {
            if third.next::<pb::WatchResponse>().await.unwrap().canceled {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_etcd_refuses_takes_no_slot() {
    let world = limited(POLICY, |limits| limits.max_watches_per_identity = Some(2)).await;
    let mut stream = Live::open(&mut world.raw("alice").await, Method::Watch).await;
    stream.send(&create(&world.key("w/"), 7));
    assert_eq!(stream.next::<pb::WatchResponse>().await.unwrap().watch_id, 7);
    for _ in 0..5 {
        // The id is taken.
        stream.send(&create(&world.key("w/"), 7));
        let answer = stream.next::<pb::WatchResponse>().await.unwrap();
        assert!(answer.canceled && answer.cancel_reason != REFUSED_WATCH, "{answer:?}");
    }
    stream.send(&create(&world.key("w/"), 8));
    assert!(!stream.next::<pb::WatchResponse>().await.unwrap().canceled);
}

#[tokio::test]
async fn connections_over_the_limit_get_enhance_your_calm() {
    let world = limited(POLICY, |limits| limits.max_connections_per_identity = Some(2)).await;
    let neighbour = world.neighbour().await;
    let (mut first, second) = (world.raw("alice").await, world.raw("alice").await);
    assert_eq!(asks(&world, &mut first).await, served());
    let mut above = world.raw("alice").await;
    let answer = above.call(Method::Range.path(), &range(&world)).await;
    assert_eq!(answer.error.and_then(|error| error.reason()), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(hits(&world, "connections_per_identity").await, 1.0);
    assert_eq!(asks(&world, &mut first).await, served());
    assert_eq!(asks(&world, &mut world.raw("bob").await).await, served());
    neighbour.is_unharmed().await;
    second.connection.abort();
    drop(second);
    soon("a free slot", || async {
        (asks(&world, &mut world.raw("alice").await).await == served()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_rate_is_per_identity_and_stream_messages_wait() {
    let world = limited(POLICY, |limits| limits.requests_per_second_per_identity = Some(20)).await;
    let lease = world.as_("bob").await.lease_grant(600, None).await.unwrap().id();
    let mut raw = world.raw("alice").await;
    let mut stream = watching(&world, &mut raw).await;
    let mut refused = 0;
    for _ in 0..100 {
        refused += usize::from(asks(&world, &mut raw).await == too_many());
    }
    assert!(refused > 0, "expected refusals: a hundred calls at once exceed twenty per second");
    assert!(hits(&world, "requests_per_second").await >= 1.0);
    assert_eq!(asks(&world, &mut world.raw("bob").await).await, served());
    // On a stream, a create is refused in place.
    let mut answers = Vec::new();
    for _ in 0..40 {
        stream.send(&create(&world.key("w/"), 0));
    }
    for _ in 0..40 {
        answers.push(stream.next::<pb::WatchResponse>().await);
    }
    assert!(answers.iter().any(is_one_too_many));
    // A keepalive has no such response, so it is delayed.
    let mut keepalive = Live::open(&mut world.raw("bob").await, Method::LeaseKeepAlive).await;
    for _ in 0..40 {
        keepalive.send(&pb::LeaseKeepAliveRequest { id: lease });
    }
    for _ in 0..40 {
        let answer = keepalive.next::<pb::LeaseKeepAliveResponse>().await.unwrap();
        assert!(answer.id == lease && answer.ttl > 0, "{answer:?}");
    }
}

/// A message that waits for the rate is judged after the wait. If the new policy may have been too
/// late for that, the test repeats it with another identity.
#[tokio::test]
async fn a_delayed_message_is_judged_by_the_policy_at_its_turn() {
    let world = limited(POLICY, |limits| limits.requests_per_second_per_identity = Some(1)).await;
    let lease = world.direct().await.lease_grant(600, None).await.unwrap().id();
    for name in ["alice", "bob", "neighbour"] {
        world.replace_policy(POLICY);
        let mut keepalive = Live::open(&mut world.raw(name).await, Method::LeaseKeepAlive).await;
        let before_the_first = std::time::Instant::now();
        for _ in 0..2 {
            keepalive.send(&pb::LeaseKeepAliveRequest { id: lease });
        }
        assert!(keepalive.next::<pb::LeaseKeepAliveResponse>().await.unwrap().ttl > 0);
        world.replace_policy(&POLICY.replace("[lease]", "[status]"));
        let in_time = before_the_first.elapsed() < std::time::Duration::from_secs(1);
        let second = keepalive.next::<pb::LeaseKeepAliveResponse>().await.unwrap();
        if in_time {
            return assert_eq!(second.ttl, 0, "{second:?}");
        }
    }
    panic!("the policy was too late three times");
}

#[tokio::test]
async fn by_default_a_flood_gets_its_share_and_others_are_served() {
    let world = limited(POLICY, |limits| limits.max_requests = 40).await;
    let mut raw = world.raw("alice").await;
    let mut held = Vec::new();
    loop {
        let mut stream = raw.open(Method::Range.path(), &grpc_headers()).await.unwrap();
        stream.request.send_data(framed(&range(&world))[..3].to_vec().into(), false).unwrap();
        // A refusal is immediate; a call with a slot waits for its end.
        match tokio::time::timeout(std::time::Duration::from_millis(200), &mut stream.response)
            .await
        {
            Ok(answer) => {
                assert_eq!(answer.unwrap().headers()["grpc-status"], "8");
                break;
            }
            Err(_) => held.push(stream),
        }
    }
    assert_eq!(held.len(), 20);
    let neighbour = world.neighbour().await;
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn shadow_mode_has_no_limit_of_an_identity() {
    let world = limited(&POLICY.replace("mode: enforce", "mode: shadow"), |limits| {
        limits.max_requests_per_identity = Some(1);
        limits.max_connections_per_identity = Some(1);
        limits.max_watches_per_identity = Some(1);
        limits.requests_per_second_per_identity = Some(1);
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut raw = world.raw("alice").await;
        held.push(watching(&world, &mut raw).await);
        held.push(watching(&world, &mut raw).await);
        assert_eq!(asks(&world, &mut raw).await, served());
    }
    for limit in
        ["requests_in_flight", "connections_per_identity", "watches", "requests_per_second"]
    {
        assert_eq!(hits(&world, limit).await, 0.0, "{limit}");
    }
}

#[tokio::test]
async fn one_identity_cannot_use_up_all_logins() {
    let etcd = Fake::serving(|mut visit: Visit| async move {
        visit.body().await;
        visit.answer(b"");
    })
    .await;
    let world = World::with(POLICY)
        .config(etcd.replace_etcd())
        .config(|config| config.limits.authenticate_per_second = 40)
        .start()
        .await;
    let message = pb::AuthenticateRequest { name: "user".to_owned(), password: "guess".to_owned() }
        .encode_to_vec();
    let (mut alice, mut bob) = (world.raw("alice").await, world.raw("bob").await);
    for _ in 0..3 {
        while alice.call(Method::Authenticate.path(), &message).await.grpc_status() == Some(0) {}
        assert_eq!(
            bob.call(Method::Authenticate.path(), &message).await.grpc_status(),
            Some(0),
            "one identity has used them all"
        );
    }
    assert!(hits(&world, "authenticate").await >= 3.0);
}
