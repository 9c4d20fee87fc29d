//! An error around a run does not invalidate its results and leaves no keys behind.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{BenchClient, CALICO, POLICY, Ran, calico, certificates, keys_below, keys_left};
use crate::world::World;

/// A member that serves its metrics once and is then gone.
async fn told_once() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        stream
            .write_all(b"HTTP/1.0 200 OK\r\n\r\n# TYPE grpc_server_handled_total counter\n")
            .await
            .unwrap();
    });
    address
}

/// Asserts that there is a report whose only finding is that etcd's count is missing.
fn is_told(ran: &Ran) {
    let report = ran.report(1);
    let mistakes = report["verification"]["errors"].as_array().unwrap();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(
        mistakes[0].as_str().unwrap().starts_with("etcd's counts are not known: http://127.0.0.1:"),
        "{mistakes:?}"
    );
    assert!(report["steps"][0]["targets"][0]["ok"].as_u64().unwrap() > 0, "{report:#}");
}

#[tokio::test]
async fn missing_metrics_after_a_run_do_not_prevent_cleanup() {
    let world = World::start(POLICY).await;
    let (endpoint, prefix) =
        (format!("--endpoint={}", world.endpoint()), format!("--prefix={}/", world.prefix));
    let metrics = format!("--etcd-metrics=http://{}", told_once().await);
    is_told(
        &BenchClient::client("bench")
            .bench(&[&endpoint, &prefix, &metrics, "--count=20", "--keys=5", "--warm-up=0s"])
            .await,
    );
    assert_eq!(keys_left(&world).await, 0);
}

#[tokio::test]
async fn missing_metrics_after_a_cluster_run_leave_no_keys() {
    let world = World::with(CALICO).own_etcd().start().await;
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &["worker"]);
    let endpoint = format!("--endpoint={}", world.endpoint());
    let metrics = format!("--etcd-metrics=http://{}", told_once().await);
    is_told(
        &calico(
            folder.path(),
            &[&endpoint, &metrics, "--time=1s", "--pods-per-node=2", "--policies=3"],
        )
        .await,
    );
    assert_eq!(keys_below(&world, "/calico/").await, [""; 0]);
}

#[tokio::test]
async fn two_etcds_are_not_compared_and_neither_is_written_to() {
    let (one, other) = (World::start(POLICY).await, World::with(POLICY).own_etcd().start().await);
    let compare =
        format!("--compare=a={},b={}", one.etcd().endpoints()[0], other.etcd().endpoints()[0]);
    let prefix = format!("--prefix={}/", one.prefix);
    let ran = BenchClient::direct()
        .bench(&[&compare, &prefix, "--count=20", "--keys=5", "--warm-up=0s"])
        .await;
    assert_eq!(ran.0.status.code(), Some(1), "{}", ran.err());
    assert!(
        ran.err().contains("`a` is cluster ") && ran.err().contains(", but `b` is cluster "),
        "{}",
        ran.err()
    );
    assert_eq!(keys_left(&one).await, 0);
}

#[tokio::test]
async fn does_not_remove_keys_that_it_did_not_create() {
    let world = World::start(POLICY).await;
    let key = world.key("data/00000001");
    world.direct().await.put(key.clone(), "1", None).await.unwrap();
    let (endpoint, prefix) =
        (format!("--endpoint={}", world.endpoint()), format!("--prefix={}/", world.prefix));
    let arguments = [&*endpoint, &*prefix, "--count=20", "--keys=5", "--warm-up=0s"];
    let refused = BenchClient::client("bench").bench(&arguments).await;
    assert!(
        refused.0.status.code() == Some(1) && refused.err().contains(&format!("such as {key}")),
        "{}",
        refused.err()
    );
    assert_eq!(keys_left(&world).await, 1);
}
