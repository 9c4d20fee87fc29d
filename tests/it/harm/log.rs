//! The log under attack: a log that is not read, and lines that a peer without a certificate can
//! cause.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::process::{ServerFiles, Serving, text};
use crate::world::raw::{Raw, tls};
use crate::world::{SOON, World, authorities, soon};

const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: /t/*, verbs: [rw]}]}}\nbindings: [{cn: alice, roles: [r]}]\n";

async fn serving(more: &str) -> Serving {
    ServerFiles::new(&World::start(POLICY).await, POLICY, more).start(&[]).await
}

async fn alice(serving: &Serving) -> Raw {
    let issued = authorities().clients.client("alice").unwrap();
    Raw::over(
        tls(serving.files.listen, Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap(),
    )
    .await
}

/// The sum of a metric's samples that contain this label.
async fn metric(serving: &Serving, name: &str, label: &str) -> f64 {
    let page = serving.page("/metrics").await;
    let samples =
        page.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn a_log_that_is_not_read_stops_no_client_and_no_exit() {
    // With every frame in the log, the pipe of 64 KiB is full at once. It is not read until the
    // end.
    let mut serving = serving("log-filter: debug").await;
    let mut alice = alice(&serving).await;
    let range = pb::RangeRequest { key: b"/t/a".into(), ..Default::default() }.encode_to_vec();
    while metric(&serving, "etcd_warden_log_lines_lost_total", "full").await < 500.0 {
        for _ in 0..100 {
            assert_eq!(alice.call(Method::Range.path(), &range).await.grpc_status(), Some(0));
        }
    }
    serving.signal("TERM");
    let ended =
        tokio::time::timeout(SOON, serving.child.wait()).await.expect("the process ends").unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn failed_handshakes_in_floods_fill_no_log_and_are_counted() {
    const FAILED: usize = 400;
    let serving = serving("").await;
    let flood = async |bytes: &'static [u8], failed: usize| {
        for _ in 0..FAILED {
            let mut stream = TcpStream::connect(serving.files.listen).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        let failures = || metric(&serving, "etcd_warden_handshake_failures_total", "reason");
        soon("all failed handshakes counted", || async {
            (failures().await >= failed as f64).then_some(())
        })
        .await;
    };
    flood(b"GET / HTTP/1.0\r\n\r\n", FAILED).await;
    // A connection that ends before its first byte is a balancer's check.
    flood(b"", 2 * FAILED).await;
    assert!(
        metric(&serving, "etcd_warden_log_lines_lost_total", "repeated").await
            >= (FAILED - 100) as f64
    );
    serving.signal("TERM");
    let (output, _) = serving.end().await;
    let said = text(&output.stderr);
    let lines = |what: &str| said.lines().filter(|line| line.contains(what)).count();
    assert!((50..100).contains(&lines("handshake failed")), "{said}");
    assert_eq!(lines("first byte"), 0, "{said}");
    assert_eq!(lines("stopped"), 1, "the last line is written: {said}");
}
