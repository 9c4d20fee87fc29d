//! Refused watches, and events of unknown watches.

use std::time::Duration;

use etcd_warden_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use etcd_warden_proto::mvccpb::Event;
use prost::Message as _;

use super::{BenchClient, POLICY, as_etcd, keys_left};
use crate::world::World;
use crate::world::fake::{Fake, Visit};
use crate::world::raw::framed;

#[tokio::test]
async fn a_refused_watch_is_reported_and_leaves_no_keys() {
    let world = World::with(POLICY)
        .config(|config| config.limits.max_watches_per_identity = Some(1))
        .start()
        .await;
    let (endpoint, prefix) =
        (format!("--endpoint={}", world.endpoint()), format!("--prefix={}/", world.prefix));
    let ran = BenchClient::client("bench")
        .bench(&[&endpoint, &prefix, "--mix=watch-fanout", "--watchers=2", "--keys=5", "--count=5"])
        .await;
    assert_eq!(ran.0.status.code(), Some(1), "{}", ran.err());
    assert!(
        ran.err().contains("a watcher: ResourceExhausted: etcdserver: too many requests"),
        "{}",
        ran.err()
    );
    assert_eq!(keys_left(&world).await, 0);
}

#[tokio::test]
async fn events_of_an_unknown_watch_are_a_wrong_response() {
    let fake = Fake::serving(|mut visit: Visit| async move {
        if !visit.path.ends_with("/Watch") {
            visit.body().await;
            return as_etcd(&mut visit);
        }
        let header = Some(ResponseHeader { revision: 1, ..ResponseHeader::default() });
        let mut out = visit.begin(
            &WatchResponse { header, created: true, ..WatchResponse::default() }.encode_to_vec(),
        );
        let stray = WatchResponse {
            watch_id: 5,
            events: vec![Event::default()],
            ..WatchResponse::default()
        };
        out.send_data(framed(&stray.encode_to_vec()).into(), false).unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let endpoint = format!("--endpoint=https://{}", fake.address);
    let load = [
        "--mix=watch-fanout",
        "--watchers=1",
        "--keys=1",
        "--connections=1",
        "--streams=1",
        "--count=1",
        "--warm-up=0s",
    ];
    let report = BenchClient::direct()
        .bench(&[&load[..], &["--timeout=1s", &endpoint]].concat())
        .await
        .report(1);
    let examples = report["verification"]["examples"].to_string();
    assert!(examples.contains("1 events of watch 5, which is not on this stream"), "{examples}");
    // Its own write is not among them.
    assert!(examples.contains("events up to revision "), "{examples}");
}
