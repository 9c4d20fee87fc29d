//! One identity on many connections, each with a full turn of work: a neighbour still gets its
//! turn. The test measures the CPU time that the program uses until the neighbour has its response,
//! which does not depend on the load of the machine.

use std::time::Duration;

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use super::POLICY;
use super::memory::raw;
use crate::process::{ServerFiles, Serving};
use crate::world::raw::tls_over;
use crate::world::raw::wire::{PING, PREFACE, SETTINGS, frame};
use crate::world::{World, authorities};

const CONNECTIONS: usize = 100;

/// Less than the sockets hold while they are not read.
const WIRE: usize = 96 * 1024;

/// The CPU time that a neighbour may wait for.
const MOST: Duration = Duration::from_millis(50);

const WINDOW_UPDATE: u8 = 8;

/// The CPU time of its threads.
fn worked(serving: &Serving) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", serving.child.id().unwrap())).unwrap();
    let time = |task: std::io::Result<std::fs::DirEntry>| {
        let schedstat =
            std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
        schedstat.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(tasks.map(time).sum())
}

async fn connection(serving: &Serving) -> TlsStream<TcpStream> {
    let address = serving.files.listen;
    let issued = authorities().clients.client("alice").unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(1 << 20).unwrap();
    let connected = socket.connect(address).await.unwrap();
    let mut stream = tls_over(
        connected,
        &authorities().clients,
        address,
        Some(&issued),
        &[b"h2"],
        rustls::ALL_VERSIONS,
    )
    .await
    .unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// The CPU time until a neighbour has its response, while these bytes in records of this length
/// wait on each connection.
async fn worked_until_answered(flood: &[u8], record: usize) -> Duration {
    let world = World::start(POLICY).await;
    let serving = ServerFiles::new(&world, &POLICY.replace("$P", "/t"), "").start(&[]).await;
    let range = pb::RangeRequest { key: b"/t/a".into(), ..Default::default() }.encode_to_vec();
    let mut neighbour = raw(&serving, "neighbour").await;
    assert_eq!(neighbour.call(Method::Range.path(), &range).await.grpc_status(), Some(0));
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(connection(&serving).await);
    }
    let mut least = Duration::MAX;
    // Several times, because this test may notice a response late.
    for _ in 0..3 {
        serving.signal("STOP");
        for stream in &mut streams {
            for record in flood.chunks(record) {
                stream.write_all(record).await.unwrap();
            }
            stream.flush().await.unwrap();
        }
        let before = worked(&serving);
        let answer = neighbour.call(Method::Range.path(), &range);
        let answered = async {
            let answer = answer.await;
            (answer.grpc_status(), worked(&serving) - before)
        };
        let (answered, ()) = tokio::join!(answered, async { serving.signal("CONT") });
        assert_eq!(answered.0, Some(0));
        least = least.min(answered.1);
        // All of it was read: the next round begins like this one.
        let mut all = raw(&serving, "alice").await;
        assert_eq!(all.call(Method::Range.path(), &range).await.grpc_status(), Some(0));
    }
    least
}

#[tokio::test]
async fn many_connections_of_one_identity_delay_no_neighbour() {
    let frames = |one: Vec<u8>| one.repeat(WIRE / (one.len() + 1));
    let window = frames(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    let pings = frames(frame(PING, 1, 0, b"12345678"));
    // A record has 22 bytes of overhead.
    let records = &window[..WIRE / 24 / 13 * 13];
    for (what, flood, record) in [
        ("WINDOW_UPDATE", &window[..], 1 << 14),
        ("PING", &pings[..], 1 << 14),
        ("records of one byte", records, 1),
    ] {
        let worked = worked_until_answered(flood, record).await;
        eprintln!(
            "{what} on {CONNECTIONS} connections: the neighbour's response took {worked:?} of CPU"
        );
        assert!(worked < MOST, "{what}: {worked:?}");
    }
}
