//! Measurements of one proxy after the other: new connections, idle connections, huge responses.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_warden_core::method::Method;
use etcd_warden_core::wire::frame;
use etcd_warden_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, SnapshotRequest,
};
use etcd_warden_tools::bench::connection::Connection;
use futures_util::StreamExt as _;
use prost::Message;

use crate::environment::Environment;
use crate::peer::Peer;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The results of one measurement: a row per proxy, a column per unit.
pub struct Column {
    pub title: &'static str,
    pub rows: Vec<(String, Vec<f64>)>,
    units: &'static [&'static str],
}

type Measuring<'s> = Pin<Box<dyn Future<Output = Column> + 's>>;

pub struct SingleBenchmark {
    pub name: &'static str,
    measure: for<'s> fn(&'s Environment) -> Measuring<'s>,
}

impl SingleBenchmark {
    pub fn measure<'s>(&self, environment: &'s Environment) -> Measuring<'s> {
        (self.measure)(environment)
    }
}

pub const ALL: [SingleBenchmark; 3] = [
    SingleBenchmark {
        name: "new-connections",
        measure: |environment| Box::pin(new_connections(environment)),
    },
    SingleBenchmark {
        name: "idle-connections",
        measure: |environment| Box::pin(idle_connections(environment)),
    },
    SingleBenchmark {
        name: "huge-responses",
        measure: |environment| Box::pin(huge_responses(environment)),
    },
];

/// The default limit of descriptors here; HAProxy needs two per connection.
pub const IDLE: usize = 9_500;

fn message(message: &impl Message) -> Bytes {
    frame::encode(&message.encode_to_vec())
}

fn one_key() -> Bytes {
    message(&RangeRequest { key: b"/etcd-warden-bench/none".to_vec(), ..RangeRequest::default() })
}

async fn new_connections(environment: &Environment) -> Column {
    const MANY: u32 = 400;
    let mut rows = Vec::new();
    for peer in &environment.peers {
        let begun = Instant::now();
        let used = peer.measured(async {
            for _ in 0..MANY {
                environment
                    .connection(peer.address)
                    .call(Method::Range, one_key(), TIMEOUT)
                    .await
                    .unwrap();
            }
        });
        let cpu = used.await.map_or(f64::NAN, |(cpu, _)| cpu.as_secs_f64() * 1e6 / f64::from(MANY));
        rows.push((
            peer.name.clone(),
            vec![cpu, begun.elapsed().as_secs_f64() * 1e6 / f64::from(MANY)],
        ));
    }
    Column {
        title: "One new mTLS connection with one Range on it",
        rows,
        units: &["CPU us", "us until its response"],
    }
}

async fn idle_connections(environment: &Environment) -> Column {
    let mut rows = Vec::new();
    for peer in environment.peers.iter().filter(|peer| peer.pid().is_some()) {
        let mut open: Vec<Connection> = Vec::new();
        let opened = peer.measured(async {
            let all = futures_util::stream::iter(0..IDLE).map(|_| async {
                let connection = environment.connection(peer.address);
                connection.open().await.map(|()| connection)
            });
            open = all.buffer_unordered(16).map(|opened| opened.unwrap()).collect().await;
        });
        let (cpu, _) = opened.await.unwrap();
        // Checks that they are served, not only accepted.
        for connection in open.iter().step_by(100) {
            connection.call(Method::Range, one_key(), TIMEOUT).await.unwrap();
        }
        let after = peer.resident().unwrap();
        rows.push((
            peer.name.clone(),
            vec![mb(peer.fresh), mb(after), cpu.as_secs_f64() * 1e6 / IDLE as f64],
        ));
    }
    Column {
        title: "9,500 idle mTLS connections",
        rows,
        units: &["MB at its start", "MB with them", "CPU us of each"],
    }
}

async fn huge_responses(environment: &Environment) -> Column {
    const VALUES: usize = 1000;
    let direct = environment.connection(environment.etcd());
    let prefix = b"/etcd-warden-bench/huge/";
    for number in 0..VALUES {
        let key = [&prefix[..], format!("{number:04}").as_bytes()].concat();
        let put = PutRequest { key, value: vec![b'v'; 100_000], ..PutRequest::default() };
        direct.call(Method::Put, message(&put), TIMEOUT).await.unwrap();
    }
    let range_end = b"/etcd-warden-bench/huge0".to_vec();
    let range = message(&RangeRequest {
        key: prefix.to_vec(),
        range_end: range_end.clone(),
        ..RangeRequest::default()
    });
    let mut rows = Vec::new();
    for peer in environment.peers.iter().filter(|peer| peer.pid().is_some()) {
        let (range_cpu, range_more, bytes) =
            streamed(environment, peer, Method::Range, &range).await;
        assert!(bytes > VALUES * 100_000, "{}: {bytes} bytes", peer.name);
        let (snapshot_cpu, snapshot_more, snapshot) =
            streamed(environment, peer, Method::Snapshot, &message(&SnapshotRequest {})).await;
        let per_mb = |cpu: Duration, bytes: usize| cpu.as_secs_f64() * 1e3 / (bytes as f64 / 1e6);
        rows.push((
            peer.name.clone(),
            vec![
                per_mb(range_cpu, bytes),
                mb(range_more),
                per_mb(snapshot_cpu, snapshot),
                mb(snapshot_more),
            ],
        ));
    }
    let delete =
        DeleteRangeRequest { key: prefix.to_vec(), range_end, ..DeleteRangeRequest::default() };
    direct.call(Method::DeleteRange, message(&delete), TIMEOUT).await.unwrap();
    let units = &[
        "Range of 100 MB: CPU ms/MB",
        "MB more at its peak",
        "snapshot: CPU ms/MB",
        "MB more at its peak",
    ];
    Column { title: "Huge responses", rows, units }
}

/// Reads a response and discards it: CPU time, additional memory, and number of bytes. Runs twice;
/// the first run is a warm-up.
async fn streamed(
    environment: &Environment,
    peer: &Peer,
    method: Method,
    request: &Bytes,
) -> (Duration, u64, usize) {
    let connection = environment.connection(peer.address);
    let mut last = (Duration::ZERO, 0, 0);
    for _ in 0..2 {
        let mut bytes = 0;
        let used = peer.measured(async {
            let (mut send, response) = connection.begin(method).await.unwrap();
            send.send_data(request.clone(), true).unwrap();
            let mut response = connection.response(response).await.unwrap();
            while let Some(message) = response.message().await.unwrap() {
                bytes += message.len();
            }
        });
        let (cpu, more) = used.await.unwrap();
        last = (cpu, more, bytes);
    }
    last
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        writeln!(f, "| | {} |\n|---{}|", self.units.join(" | "), "|---".repeat(self.units.len()))?;
        for (name, figures) in &self.rows {
            let cells = figures.iter().map(|figure| {
                if figure.is_nan() { "-".to_owned() } else { format!("{figure:.1}") }
            });
            writeln!(f, "| {name} | {} |", cells.collect::<Vec<_>>().join(" | "))?;
        }
        Ok(())
    }
}
