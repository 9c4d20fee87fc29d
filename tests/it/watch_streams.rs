//! Watches through the proxy behave as at etcd itself: nothing lost, nothing duplicated, everything
//! in order, also when etcd dies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcd_client::{Client, EventType, GetOptions, Txn, TxnOp, WatchOptions, WatchResponse};
use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::watch_request::RequestUnion;
use prost::Message as _;

use crate::etcdctl_watch::EtcdctlWatch;
use crate::live::Live;
use crate::reload::create;
use crate::world::raw::framed;
use crate::world::{SOON, World, soon};

const POLICY: &str = "version: 1\nmode: enforce\nroles:\n  all: {allow: [{keys: $P/*, verbs: [rw]}]}\n  \
    half: {allow: [{keys: $P/granted/*, verbs: [rw]}]}\n\
    bindings:\n  - {cn: watcher, roles: [all]}\n  - {cn: writer, roles: [all]}\n  - {cn: half, roles: [half]}\n";

/// A Put that a watcher received: revision, key, value.
type Seen = (i64, String, String);

fn puts(response: &WatchResponse) -> impl Iterator<Item = Seen> {
    response.events().iter().map(|event| {
        assert_eq!(event.event_type(), EventType::Put);
        let kv = event.kv().unwrap();
        (kv.mod_revision(), kv.key_str().unwrap().to_owned(), kv.value_str().unwrap().to_owned())
    })
}

async fn message(stream: &mut etcd_client::WatchStream) -> WatchResponse {
    tokio::time::timeout(SOON, stream.message())
        .await
        .unwrap_or_else(|_| panic!("no event within {SOON:?}"))
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn a_watcher_sees_ten_thousand_events_once_and_in_order() {
    const WRITERS: usize = 40;
    let world = World::start(POLICY).await;
    let mut watcher = world.as_("watcher").await;
    let mut stream =
        watcher.watch(world.key(""), Some(WatchOptions::new().with_prefix())).await.unwrap();
    let writer = world.as_("writer").await;
    let written = async {
        let writers = (0..WRITERS).map(|w| {
            let (mut client, prefix) = (writer.clone(), world.prefix.clone());
            async move {
                for n in 0..150 {
                    client
                        .put(format!("{prefix}/{w}/{n}"), format!("{w}.{n}"), None)
                        .await
                        .unwrap();
                }
                let batch: Vec<_> = (150..250)
                    .map(|n| TxnOp::put(format!("{prefix}/{w}/{n}"), format!("{w}.{n}"), None))
                    .collect();
                client.txn(Txn::new().and_then(batch)).await.unwrap();
            }
        });
        futures_util::future::join_all(writers).await;
    };
    let watched = async {
        let mut seen = Vec::new();
        while seen.len() < WRITERS * 250 {
            seen.extend(puts(&message(&mut stream).await));
        }
        seen
    };
    let (seen, ()) = tokio::join!(watched, written);
    assert_eq!(seen.len(), 10_000);
    assert!(seen.is_sorted_by_key(|(revision, ..)| *revision));
    let keys: BTreeSet<_> = seen.iter().map(|(_, key, _)| key.as_str()).collect();
    assert_eq!(keys.len(), 10_000);
    assert!(
        seen.iter()
            .all(|(_, key, value)| key.strip_prefix(&world.prefix).unwrap()[1..].replace('/', ".")
                == *value)
    );
}

/// Resumes the watch until `until` has been received.
async fn resume_until(
    client: &mut Client,
    prefix: &str,
    mut revision: i64,
    until: &str,
) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    loop {
        let options = WatchOptions::new().with_prefix().with_start_revision(revision);
        let Ok(mut stream) = client.watch(prefix, Some(options)).await else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        while let Ok(Some(response)) = stream.message().await {
            seen.extend(puts(&response));
            if let Some((last, _, value)) = seen.last() {
                revision = last + 1;
                if value == until {
                    return seen;
                }
            }
        }
    }
}

#[tokio::test]
async fn clients_resume_without_loss_after_a_kill_of_etcd() {
    let mut world = World::with(POLICY).own_etcd().start().await;
    let prefix = world.key("");
    let start = world.direct().await.get("x", None).await.unwrap().header().unwrap().revision() + 1;
    let mut etcdctl = EtcdctlWatch::start(&world, &[world.endpoint()], "watcher", &prefix, start);
    let mut watcher = world.as_("watcher").await;
    let watched = tokio::spawn({
        let prefix = prefix.clone();
        async move {
            tokio::time::timeout(SOON * 2, resume_until(&mut watcher, &prefix, start, "end"))
                .await
                .expect("the end")
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (mut client, prefix, stop) = (world.as_("writer").await, prefix.clone(), stop.clone());
        async move {
            let mut failures = 0;
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // Whether a failed write happened is decided by etcd, below.
                if client.put(format!("{prefix}{n}"), n.to_string(), None).await.is_err() {
                    failures += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
            let end =
                || async { client.clone().put(format!("{prefix}end"), "end", None).await.ok() };
            soon("the last write", end).await;
            failures
        }
    });
    let some = |what: &'static str, world: &World, more: i64| {
        let (endpoints, prefix) = (world.etcd().endpoints(), prefix.clone());
        async move {
            let mut direct = crate::world::connect(
                &endpoints,
                &crate::world::authorities().upstream,
                crate::world::root(),
            )
            .await;
            let options = || Some(GetOptions::new().with_prefix().with_count_only());
            let before = direct.get(prefix.as_str(), options()).await.unwrap().count();
            while direct.get(prefix.as_str(), options()).await.expect(what).count() < before + more
            {
            }
        }
    };
    for _ in 0..2 {
        some("writes before the kill", &world, 50).await;
        world.etcd_mut().kill(0);
        world.etcd_mut().restart(0).await.unwrap();
        some("writes after the kill", &world, 50).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0, "no write failed during the kill: this test shows nothing");
    let seen = watched.await.unwrap();

    // The actual writes, read from etcd itself.
    let mut direct = world.direct().await;
    let happened = resume_until(&mut direct, &prefix, start, "end").await;
    assert!(happened.len() > 200);
    assert_eq!(seen, happened);
    for (_, key, value) in happened {
        assert_eq!(etcdctl.next().await, (key, value));
    }
    assert!(etcdctl.runs());
}

#[tokio::test]
async fn refused_creates_are_answered_in_order_in_etcds_form() {
    let world = World::start(POLICY).await;
    let mut raw = world.raw("half").await;
    let mut stream = Live::open(&mut raw, Method::Watch).await;
    let (granted, not_granted) = (world.key("granted/"), world.key("secret/"));
    let creates: Vec<u8> = [&granted, &not_granted, &granted, &not_granted, &not_granted]
        .into_iter()
        .flat_map(|prefix| framed(&create(prefix, 0).encode_to_vec()))
        .collect();
    stream.send_as_they_are(&creates);
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(stream.next_bytes().await.unwrap());
    }
    // Not earlier, because other tests write to the same etcd.
    let status = world.direct().await.status().await.unwrap();
    let header = status.header().unwrap();
    for (id, bytes) in [0, -1, 1, -1, -1].into_iter().zip(answers) {
        let answer = pb::WatchResponse::decode(&bytes[..]).unwrap();
        let told = answer.header.unwrap();
        assert_eq!(
            (told.cluster_id, told.member_id, told.raft_term),
            (header.cluster_id(), header.member_id(), header.raft_term())
        );
        assert!(told.revision > 0 && told.revision <= header.revision(), "{told:?}");
        let reason = if id == -1 {
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
        } else {
            ""
        };
        let expected = pb::WatchResponse {
            header: Some(told),
            watch_id: id,
            created: true,
            canceled: id == -1,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        };
        assert_eq!(bytes, expected.encode_to_vec(), "{answer:?}");
    }
    world.direct().await.put(world.key("granted/x"), "1", None).await.unwrap();
    let both: BTreeSet<_> =
        [stream.next::<pb::WatchResponse>().await.unwrap(), stream.next().await.unwrap()]
            .iter()
            .map(|r| r.watch_id)
            .collect();
    assert_eq!(both, BTreeSet::from([0, 1]));
}

#[tokio::test]
async fn refusals_alone_keep_the_stream_up_too() {
    let world = World::start(POLICY).await;
    let mut stream = Live::open(&mut world.raw("half").await, Method::Watch).await;
    for _ in 0..600 {
        stream.send(&create(&world.key("secret/"), 0));
    }
    for _ in 0..600 {
        assert_eq!(stream.next::<pb::WatchResponse>().await.unwrap().watch_id, -1);
    }
    stream.send(&create(&world.key("granted/"), 0));
    assert_eq!(stream.next::<pb::WatchResponse>().await.unwrap().watch_id, 0);
}

/// Every request that a Watch stream can carry, and everything that etcd returns.
async fn conversation(client: &mut Client, prefix: &str) -> Vec<String> {
    let from = |revision| WatchOptions::new().with_start_revision(revision);
    let mut said = Vec::new();
    // An id that the client chose, and more events than etcd puts into one response.
    let big = from(3).with_prefix().with_watch_id(77).with_fragment().with_prev_key();
    let mut stream = client.watch(format!("{prefix}/big/"), Some(big)).await.unwrap();
    let mut events = 0;
    while events < 3 {
        let response = message(&mut stream).await;
        events += response.events().len();
        said.push(format!("{response:?}"));
    }
    stream.request_progress().await.unwrap();
    said.push(format!("{:?}", message(&mut stream).await));
    for (options, answers) in [
        // The same id again; an id that etcd chooses; one with past events; a compacted revision; a
        // future one.
        (WatchOptions::new().with_watch_id(77), 1),
        (WatchOptions::new(), 1),
        (from(6).with_filters([etcd_client::WatchFilterType::NoPut]), 2),
        (from(1), 2),
        (from(1_000), 1),
    ] {
        stream.watch(format!("{prefix}/k"), Some(options)).await.unwrap();
        for _ in 0..answers {
            said.push(format!("{:?}", message(&mut stream).await));
        }
    }
    // Cancelling an unknown watch gets no response.
    for id in [77, 4711, 0] {
        stream.cancel(id).await.unwrap();
    }
    for _ in 0..2 {
        said.push(format!("{:?}", message(&mut stream).await));
    }
    said
}

#[tokio::test]
async fn watch_responses_are_the_same_as_without_the_proxy() {
    let world = World::with(POLICY).own_etcd().start().await;
    let mut direct = world.direct().await;
    for n in 0..4 {
        direct.put(world.key(&format!("big/{n}")), vec![b'x'; 1_200_000], None).await.unwrap();
    }
    for n in 0..3 {
        direct.put(world.key("k"), n.to_string(), None).await.unwrap();
    }
    direct.delete(world.key("k"), None).await.unwrap();
    direct.compact(3, None).await.unwrap();
    let expected = conversation(&mut direct, &world.prefix).await;
    let answer = conversation(&mut world.as_("watcher").await, &world.prefix).await;
    for (got, expected) in answer.iter().zip(&expected) {
        assert!(
            got == expected,
            "{}\nexpected\n{}",
            &got[..got.len().min(2_000)],
            &expected[..expected.len().min(2_000)]
        );
    }
    assert_eq!(answer.len(), expected.len());
    assert!(
        expected.iter().any(|said| said.contains("fragment: true")),
        "etcd sent no fragment: this test shows nothing"
    );
}

#[tokio::test]
async fn two_clients_of_one_identity_do_not_affect_each_other() {
    let world = World::start(POLICY).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = Live::open(&mut world.raw("watcher").await, Method::Watch).await;
        stream.send(&create(&world.key("k/"), 7));
        assert_eq!(stream.next::<pb::WatchResponse>().await.unwrap().watch_id, 7);
        streams.push(stream);
    }
    let cancel = pb::WatchRequest {
        request_union: Some(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 7 })),
    };
    streams[0].send(&cancel);
    assert!(streams[0].next::<pb::WatchResponse>().await.unwrap().canceled);
    let mut direct = world.direct().await;
    for n in 0..3 {
        direct.put(world.key("k/x"), n.to_string(), None).await.unwrap();
    }
    let mut values = Vec::new();
    while values.len() < 3 {
        let response: pb::WatchResponse = streams[1].next().await.unwrap();
        values.extend(response.events.into_iter().map(|event| event.kv.unwrap().value));
    }
    assert_eq!(values, [b"0", b"1", b"2"]);
    assert!(streams[0].is_quiet().await);
}

#[tokio::test]
async fn a_thousand_watches_of_a_stream_end_with_it() {
    const WATCHES: i64 = 1_000;
    let world = World::start(POLICY).await;
    let mut raw = world.raw("watcher").await;
    let mut stream = Live::open(&mut raw, Method::Watch).await;
    // All at once: the proxy takes them as fast as etcd answers and holds no more than a few
    // hundred.
    let creates: Vec<u8> = (0..WATCHES)
        .flat_map(|id| framed(&create(&world.key(&format!("{id}/")), id + 1).encode_to_vec()))
        .collect();
    stream.send_as_they_are(&creates);
    for id in 0..WATCHES {
        let answer: pb::WatchResponse = stream.next().await.unwrap();
        assert_eq!((answer.watch_id, answer.created, answer.canceled), (id + 1, true, false));
    }
    assert_eq!(world.metric("etcd_warden_watches", &[]).await, WATCHES as f64);
    let (_, streams) = world.admin("/debug/streams").await;
    let streams: serde_json::Value = serde_json::from_str(&streams).unwrap();
    assert_eq!((&streams[0]["watches"], &streams[1]), (&WATCHES.into(), &serde_json::Value::Null));
    let mut direct = world.direct().await;
    for id in [999, 0, 500] {
        direct.put(world.key(&format!("{id}/x")), "1", None).await.unwrap();
        let answer: pb::WatchResponse = stream.next().await.unwrap();
        assert_eq!((answer.watch_id, answer.events.len()), (id + 1, 1));
    }
    drop(stream);
    soon("the watches' end", || async {
        (world.metric("etcd_warden_watches", &[]).await == 0.0).then_some(())
    })
    .await;
    soon("the stream's end", || async {
        (world.admin("/debug/streams").await.1.trim() == "[]").then_some(())
    })
    .await;
    // The connection still works.
    assert_eq!(
        raw.call(
            Method::Range.path(),
            &pb::RangeRequest { key: world.key("k").into(), ..Default::default() }.encode_to_vec()
        )
        .await
        .grpc_status(),
        Some(0)
    );
}
