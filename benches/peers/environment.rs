//! etcd, and the proxies in front of it, with the same certificates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use etcd_warden_gateway::config::Endpoint;
use etcd_warden_testbed::etcd::{self, Etcd, Options, Programs, Release, Source, Tls};
use etcd_warden_testbed::pki::{Authority, Files, Leaf, Usage, write_private};
use etcd_warden_tools::bench::connection::{Connection, Destination};
use tempfile::TempDir;

use crate::Arguments;
use crate::client_tls;
use crate::others;
use crate::peer::Peer;

/// The identity that all proxies accept.
pub const CLIENT: &str = "node-500";

/// All parts of a run.
pub struct Environment {
    pub peers: Vec<Peer>,
    pub description: String,
    pub files: Pki,
    /// TLS configuration of the client.
    tls: Arc<rustls::ClientConfig>,
    etcd: Etcd,
    folder: TempDir,
}

/// The files of all certificates.
pub struct Pki {
    pub server: Files,
    pub proxy: Files,
    pub client: Files,
    pub ca: PathBuf,
}

/// The settings of one proxy.
pub struct ProxySettings<'s> {
    pub folder: &'s Path,
    pub files: &'s Pki,
    pub listen: SocketAddr,
    pub etcd: SocketAddr,
    pub workers: usize,
}

impl Environment {
    pub async fn start(arguments: &Arguments) -> Self {
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
        let client = authority.client(CLIENT).unwrap();
        let files = Pki {
            server: server.write(folder.path(), "server").unwrap(),
            // grpc-proxy does not start with a certificate that has a CN.
            proxy: authority
                .issue(&Leaf::client("").without_common_name())
                .unwrap()
                .write(folder.path(), "proxy")
                .unwrap(),
            client: client.write(folder.path(), "client").unwrap(),
            ca: write_private(folder.path(), "ca.crt", &authority.pem()).unwrap(),
        };
        let mut environment = Self {
            peers: Vec::new(),
            description: String::new(),
            files,
            tls: Arc::new(client_tls::config(&authority.pem(), &client.certificate, &client.key)),
            etcd,
            folder,
        };
        environment.start_proxies(arguments, &programs).await;
        environment
    }

    /// Starts the proxies. The gateway is first: all others are compared with the first one.
    async fn start_proxies(&mut self, arguments: &Arguments, programs: &Programs) {
        let etcd = self.etcd.addresses()[0];
        let mut absent = Vec::new();
        let ours = [("etcd-warden".to_owned(), env!("CARGO_BIN_EXE_etcd-warden").to_owned())];
        let ours = if arguments.programs.is_empty() { &ours[..] } else { &arguments.programs };
        let wanted = |name: &str| Arguments::wants(&arguments.peers, name);
        let settings = |listen| ProxySettings {
            folder: self.folder.path(),
            files: &self.files,
            listen,
            etcd,
            workers: arguments.workers,
        };
        let mut peers = Vec::new();
        for (name, program) in ours {
            let listen = free_address();
            peers.push(start(warden(program, name, &settings(listen)), name, &settings(listen)));
        }
        for (name, command) in others::ALL {
            if !wanted(name) {
                continue;
            }
            let listen = free_address();
            match command(&settings(listen), &programs.etcd) {
                Some(command) => peers.push(start(command, name, &settings(listen))),
                None => absent.push(name),
            }
        }
        if wanted("direct") {
            peers.push(Peer::direct(etcd));
        }
        for peer in &mut peers {
            reachable(peer, self.folder.path()).await;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        peers.iter_mut().for_each(|peer| peer.fresh = peer.resident().unwrap_or_default());
        self.description = format!(
            "etcd {}, {} thread(s) for each peer, each slice {} s, {} rounds",
            programs.version, arguments.workers, arguments.slice, arguments.rounds
        );
        if !absent.is_empty() {
            self.description.push_str(&format!(
                "\nnot installed: {} (benches/peers/run installs what it can)",
                absent.join(", ")
            ));
        }
        self.peers = peers;
    }

    /// A connection through a proxy or directly to etcd, which is opened when it is used.
    pub fn connection(&self, address: SocketAddr) -> Connection {
        let endpoint =
            Endpoint { host: address.ip().to_string().into(), port: address.port(), tls: true };
        Connection::new(Destination { endpoint, tls: Some(self.tls.clone()) })
    }

    /// The client address of etcd.
    pub fn etcd(&self) -> SocketAddr {
        self.etcd.addresses()[0]
    }

    /// The metrics address of etcd.
    pub fn metrics(&self) -> SocketAddr {
        self.etcd.metrics_address(0).unwrap()
    }
}

/// A policy with ten roles of 100 grants each for the only identity. Denials are audited, metrics
/// counted.
fn policy() -> String {
    let mut policy = String::from("version: 1\nmode: enforce\nroles:\n");
    for role in 0..10 {
        policy.push_str(&format!("  role-{role}:\n    allow:\n"));
        for grant in 0..100 {
            policy.push_str(&format!(
                "      - keys: /bench/{role}/{grant:03}/*\n        verbs: [rw]\n"
            ));
        }
    }
    policy.push_str("  bench:\n    allow:\n      - keys: /etcd-warden-bench/*\n        verbs: [rw]\n    capabilities: [lease, snapshot]\n");
    policy.push_str(&format!("bindings:\n  - cn: {CLIENT}\n    roles: [bench"));
    (0..10).for_each(|role| policy.push_str(&format!(", role-{role}")));
    policy.push_str("]\n");
    policy
}

fn warden(program: &str, name: &str, settings: &ProxySettings<'_>) -> Command {
    let ProxySettings { folder, files, listen, etcd, workers } = settings;
    let policy = write_private(folder, &format!("{name}-policy.yaml"), &policy()).unwrap();
    let mut command = Command::new(program);
    command
        .arg("serve")
        .arg(format!("--listen-addr={listen}"))
        .arg(format!("--endpoints=https://{etcd}"));
    command
        .arg("--cert")
        .arg(&files.proxy.cert)
        .arg("--key")
        .arg(&files.proxy.key)
        .arg("--cacert")
        .arg(&files.ca);
    command
        .arg("--cert-file")
        .arg(&files.server.cert)
        .arg("--key-file")
        .arg(&files.server.key)
        .arg("--trusted-ca-file")
        .arg(&files.ca);
    command
        .arg("--policy")
        .arg(policy)
        .arg("--audit-file")
        .arg(folder.join(format!("{name}.jsonl")));
    command.arg("--admin-addr=none").arg(format!("--workers={workers}")).arg("--log-filter=warn");
    command
}

/// Starts a proxy. Its output goes to a file.
fn start(mut command: Command, name: &str, settings: &ProxySettings<'_>) -> Peer {
    let log = std::fs::File::create(settings.folder.join(format!("{name}.log"))).unwrap();
    let process = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
    Peer::new(name, settings.listen, process.unwrap_or_else(|error| panic!("{name}: {error}")))
}

async fn reachable(peer: &Peer, folder: &Path) {
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(peer.address).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let log =
        std::fs::read_to_string(folder.join(format!("{}.log", peer.name))).unwrap_or_default();
    panic!("{} does not listen on {}:\n{log}", peer.name, peer.address);
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
