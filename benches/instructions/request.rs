//! Counts instructions and allocations of a whole request in the gateway's worker thread, including
//! TLS and HTTP/2. Two runs with different numbers of requests are compared: start, handshakes and
//! shutdown are the same in both, so the difference belongs to the requests.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_warden_core::method::Method;
use etcd_warden_core::wire::frame;
use etcd_warden_gateway::config::Endpoint;
use etcd_warden_proto::etcdserverpb::{PutRequest, RangeRequest};
use etcd_warden_testbed::etcd::{self, Etcd, Options, Release, Source, Tls};
use etcd_warden_testbed::pki::{Authority, Files, Leaf, Usage, write_private};
use etcd_warden_tools::bench::connection::{Connection, Destination};
use prost::Message;
use rustix::process::{Pid, Signal, kill_process};

use crate::client_tls;

const FEW: u64 = 500;
const MANY: u64 = 2500;

/// Generous, because valgrind is slow.
const TIMEOUT: Duration = Duration::from_secs(120);

const KEY: &[u8] = b"/calico/resources/v3/projectcalico.org/nodes/n1";

const POLICY: &str = "version: 1\nmode: enforce\nroles:\n  node:\n    allow:\n      - keys: /calico/*\n        verbs: [rw]\nbindings:\n  - cn: node\n    roles: [node]\n";

/// Counts of callgrind.
#[derive(Clone, Copy)]
struct Counts {
    instructions: u64,
    allocations: u64,
}

/// Instructions of one Range and of one Put of 100 bytes, and allocations of a hundred of them.
pub fn counts() -> Vec<(String, u64)> {
    let value = vec![b'v'; 100];
    let range = RangeRequest { key: KEY.to_vec(), ..RangeRequest::default() };
    let put = PutRequest { key: KEY.to_vec(), value, ..PutRequest::default() };
    let requests = [
        ("Range", Method::Range, range.encode_to_vec()),
        ("Put", Method::Put, put.encode_to_vec()),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut counts = Vec::new();
    for (name, method, message) in requests {
        let [few, many] = [FEW, MANY].map(|times| {
            tokio::task::LocalSet::new()
                .block_on(&runtime, counted(method, frame::encode(&message), times))
        });
        let each = |of: fn(Counts) -> u64, by: u64| (of(many) - of(few)) * by / (MANY - FEW);
        counts.push((format!("request/{name}"), each(|counted| counted.instructions, 1)));
        counts.push((
            format!("request/{name}/allocations of a hundred"),
            each(|counted| counted.allocations, 100),
        ));
    }
    counts
}

/// Sends `times` requests, one after the other, through a gateway under valgrind to a new etcd.
async fn counted(method: Method, message: Bytes, times: u64) -> Counts {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("bench").unwrap();
    let server =
        authority.issue(&Leaf::server(&["127.0.0.1", "localhost"]).usage(Usage::Both)).unwrap();
    let programs =
        tokio::task::spawn_blocking(|| etcd::find(&Source::Pinned(Release::newest())).unwrap())
            .await
            .unwrap();
    let tls = Tls { server: server.clone(), trusted_ca: authority.pem() };
    let etcd =
        Etcd::start(&programs, Options { tls: Some(tls), ..Options::default() }).await.unwrap();
    let client = authority.client("node").unwrap();
    let ca = write_private(folder.path(), "ca.crt", &authority.pem()).unwrap();
    let [server, own] = [("server", server), ("proxy", authority.client("proxy").unwrap())]
        .map(|(name, leaf)| leaf.write(folder.path(), name).unwrap());
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut proxy = Proxy(start(folder.path(), listen, etcd.addresses()[0], &ca, [&server, &own]));
    let connection = Connection::new(Destination {
        endpoint: Endpoint { host: listen.ip().to_string().into(), port: listen.port(), tls: true },
        tls: Some(Arc::new(client_tls::config(&authority.pem(), &client.certificate, &client.key))),
    });
    let begun = Instant::now();
    while let Err(failure) = connection.open().await {
        assert!(
            begun.elapsed() < TIMEOUT && proxy.0.try_wait().unwrap().is_none(),
            "{}: {}",
            failure.message(),
            log(folder.path())
        );
    }
    for _ in 0..times {
        connection.call(method, message.clone(), TIMEOUT).await.unwrap();
    }
    drop(connection);
    kill_process(Pid::from_child(&proxy.0), Signal::TERM).unwrap();
    // The client's task must run meanwhile, to close its connection.
    let asked = Instant::now();
    let ended = loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Some(ended) = proxy.0.try_wait().unwrap() {
            break ended;
        }
        assert!(asked.elapsed() < TIMEOUT, "the gateway does not exit: {}", log(folder.path()));
    };
    assert!(ended.success(), "{ended}: {}", log(folder.path()));
    // One file per thread. Only the worker counts: other threads do background work.
    let profiles = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let profiles = profiles
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("callgrind"));
    let worker = profiles
        .map(|path| fs::read_to_string(path).unwrap())
        .find(|profile| profile.contains("proxy::call::serve"));
    read(&worker.expect("no thread has served a request"))
}

/// Kills the process when dropped, also after a panic.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(
    folder: &Path,
    listen: SocketAddr,
    etcd: SocketAddr,
    ca: &Path,
    [server, own]: [&Files; 2],
) -> Child {
    let policy = write_private(folder, "policy.yaml", POLICY).unwrap();
    let said = fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--separate-threads=yes"])
        .arg(format!("--callgrind-out-file={}", folder.join("callgrind").display()));
    command
        .arg(env!("CARGO_BIN_EXE_etcd-warden"))
        .arg("serve")
        .arg(format!("--listen-addr={listen}"))
        .arg(format!("--endpoints=https://{etcd}"));
    command.arg("--cert").arg(&own.cert).arg("--key").arg(&own.key).arg("--cacert").arg(ca);
    command
        .arg("--cert-file")
        .arg(&server.cert)
        .arg("--key-file")
        .arg(&server.key)
        .arg("--trusted-ca-file")
        .arg(ca);
    command.arg("--policy").arg(policy).arg("--audit-file").arg(folder.join("audit.jsonl"));
    command.args(["--admin-addr=none", "--workers=1", "--log-filter=warn"]);
    command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
    command.spawn().unwrap_or_else(|error| {
        panic!("cannot run valgrind: {error}; on Debian: apt-get install valgrind")
    })
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// Sums all instructions, and all calls of libc's allocation functions. A function is named at its
/// first occurrence and numbered from then on (valgrind's manual, "Callgrind Format
/// Specification").
fn read(profile: &str) -> Counts {
    let instructions = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))
        .expect("no line `totals:`")
        .trim()
        .parse()
        .unwrap();
    let mut allocators = Vec::new();
    let (mut allocations, mut is_allocator) = (0, false);
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
            let (number, name) = function.split_once(' ').unwrap_or((function, ""));
            if matches!(name, "malloc" | "calloc" | "realloc" | "posix_memalign" | "aligned_alloc")
            {
                allocators.push(number);
            }
            is_allocator = allocators.contains(&number);
        } else if let Some(calls) = line.strip_prefix("calls=").filter(|_| is_allocator) {
            allocations += calls.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    assert!(allocations > 0, "no call of an allocation function in the profile");
    Counts { instructions, allocations }
}
