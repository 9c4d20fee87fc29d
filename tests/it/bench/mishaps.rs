//! What goes wrong around a run takes nothing from what it has shown, and leaves no keys.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{CALICO, Caller, POLICY, Ran, calico, certificates, keys_below, keys_left};
use crate::world::World;

/// A member that tells its metrics once, and is then gone.
async fn told_once() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n# TYPE grpc_server_handled_total counter\n").await.unwrap();
    });
    address
}

/// The run has a report, which says that etcd's count is missing and nothing else.
fn is_told(ran: &Ran) {
    let report = ran.report(1);
    let mistakes = report["verification"]["mistakes"].as_array().unwrap();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].as_str().unwrap().starts_with("what etcd counted is not known: http://127.0.0.1:"), "{mistakes:?}");
    assert!(report["steps"][0]["targets"][0]["ok"].as_u64().unwrap() > 0, "{report:#}");
}

#[tokio::test]
async fn metrics_that_are_gone_after_a_run_cost_neither_its_report_nor_its_cleaning_up() {
    let world = World::start(POLICY).await;
    let (endpoint, prefix) = (format!("--endpoint={}", world.endpoint()), format!("--prefix={}/", world.prefix));
    let metrics = format!("--etcd-metrics=http://{}", told_once().await);
    is_told(&Caller::client("bench").bench(&[&endpoint, &prefix, &metrics, "--count=20", "--keys=5", "--warm-up=0s"]).await);
    assert_eq!(keys_left(&world).await, 0);
}

#[tokio::test]
async fn metrics_that_are_gone_after_a_cluster_leave_none_of_its_keys() {
    let world = World::with(CALICO).own_etcd().start().await;
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &["worker"]);
    let endpoint = format!("--endpoint={}", world.endpoint());
    let metrics = format!("--etcd-metrics=http://{}", told_once().await);
    is_told(&calico(folder.path(), &[&endpoint, &metrics, "--time=1s", "--pods-per-node=2", "--policies=3"]).await);
    assert_eq!(keys_below(&world, "/calico/").await, [""; 0]);
}
