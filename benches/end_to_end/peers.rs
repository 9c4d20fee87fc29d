//! etcd, and what stands in front of it: each a process of its own, so that its CPU time can be read.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use etcd_warden::etcd::{self, Etcd, Options, Release, Source, Tls};
use etcd_warden::pki::{Authority, Files, Leaf, Usage, write_private};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use crate::load::Target;

/// Something that requests can go through.
pub struct Peer {
    pub name: String,
    address: SocketAddr,
    process: Option<Child>,
}

impl Peer {
    /// Time that its threads have run so far, to the nanosecond as the scheduler counts it; etcd itself is not measured.
    pub fn cpu(&self) -> Duration {
        let Some(process) = &self.process else { return Duration::ZERO };
        let threads = std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
        let ran = |thread: std::io::Result<std::fs::DirEntry>| -> u64 {
            let schedstat = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
            schedstat.split(' ').next().unwrap().parse().unwrap()
        };
        Duration::from_nanos(threads.map(ran).sum())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Everything that a run needs.
pub struct Stage {
    pub peers: Vec<Peer>,
    pub description: String,
    etcd: Etcd,
    tls: Arc<rustls::ClientConfig>,
    key: Vec<u8>,
    _folder: TempDir,
}

impl Stage {
    /// With the proxy as cargo built it, or with other builds of it, each named as its file.
    pub async fn set(others: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("bench").unwrap();
        let server = authority.issue(&Leaf::server(&["127.0.0.1"]).usage(Usage::Both)).unwrap();
        let programs = tokio::task::spawn_blocking(|| etcd::find(&Source::Pinned(Release::newest())).unwrap()).await.unwrap();
        let tls = Tls { server: server.clone(), trusted_ca: authority.pem() };
        let etcd = Etcd::start(&programs, Options { tls: Some(tls), ..Options::default() }).await.unwrap();
        let files = Pki {
            server: server.write(folder.path(), "server").unwrap(),
            proxy: authority.client("proxy").unwrap().write(folder.path(), "proxy").unwrap(),
            ca: write_private(folder.path(), "ca.crt", &authority.pem()).unwrap(),
        };
        let client = authority.client("node-500").unwrap();
        let key = format!("/bench/{}", "k".repeat(93)).into_bytes();
        put(&etcd, &authority, &client, &key).await;

        let mut peers = vec![Peer { name: "direct".to_owned(), address: etcd.addresses()[0], process: None }];
        if others.is_empty() {
            peers.push(warden("etcd-warden", env!("CARGO_BIN_EXE_etcd-warden"), folder.path(), &files, etcd.addresses()[0]));
        }
        for program in others {
            let name = Path::new(program).file_name().unwrap().to_str().unwrap();
            peers.push(warden(name, program, folder.path(), &files, etcd.addresses()[0]));
        }
        let mut description = format!("etcd {}", programs.version);
        match haproxy(folder.path(), &files, etcd.addresses()[0]) {
            Some(peer) => peers.push(peer),
            None => description.push_str(", no haproxy on PATH (Debian: apt-get install haproxy)"),
        }
        for peer in &peers {
            reachable(peer).await;
        }
        let tls = Arc::new(client_tls(&authority.pem(), &client.certificate, &client.key));
        Self { peers, description, etcd, tls, key, _folder: folder }
    }

    pub fn key(&self) -> &[u8] {
        &self.key
    }

    pub fn target(&self, peer: &Peer) -> Target {
        Target { address: peer.address, tls: self.tls.clone() }
    }

    /// How many calls etcd has answered with OK.
    pub async fn handled(&self, rpc: &str) -> f64 {
        let text = self.etcd.metrics(0).await.unwrap();
        let label = format!("grpc_method=\"{rpc}\"");
        let line = text
            .lines()
            .find(|line| line.starts_with("grpc_server_handled_total{") && line.contains(&label) && line.contains("grpc_code=\"OK\""));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

struct Pki {
    server: Files,
    proxy: Files,
    ca: std::path::PathBuf,
}

/// Ten roles of a hundred grants each for the one identity that calls; denials are audited, metrics counted.
fn policy() -> String {
    let mut policy = String::from("version: 1\nmode: enforce\nroles:\n");
    for role in 0..10 {
        policy.push_str(&format!("  role-{role}:\n    allow:\n"));
        for grant in 0..100 {
            policy.push_str(&format!("      - keys: /bench/{role}/{grant:03}/*\n        verbs: [rw]\n"));
        }
    }
    policy.push_str("  bench:\n    allow:\n      - keys: /bench/k*\n        verbs: [rw]\nbindings:\n  - cn: node-500\n    roles: [bench");
    (0..10).for_each(|role| policy.push_str(&format!(", role-{role}")));
    policy.push_str("]\n");
    policy
}

fn warden(name: &str, program: &str, folder: &Path, files: &Pki, etcd: SocketAddr) -> Peer {
    let policy = write_private(folder, "policy.yaml", &policy()).unwrap();
    let address = free_address();
    let mut command = Command::new(program);
    command.arg("serve").arg(format!("--listen-addr={address}")).arg(format!("--endpoints=https://{etcd}"));
    command.arg("--cert").arg(&files.proxy.cert).arg("--key").arg(&files.proxy.key).arg("--cacert").arg(&files.ca);
    command.arg("--cert-file").arg(&files.server.cert).arg("--key-file").arg(&files.server.key).arg("--trusted-ca-file").arg(&files.ca);
    command.arg("--policy").arg(policy).arg("--audit-file").arg(folder.join(format!("{name}.jsonl")));
    command.arg("--admin-addr=none").arg("--workers=1").arg("--log-filter=warn");
    let process = command.stdin(Stdio::null()).spawn().unwrap();
    Peer { name: name.to_owned(), address, process: Some(process) }
}

/// One thread, as we have; it checks the CN and the path, which is all that it can see.
fn haproxy(folder: &Path, files: &Pki, etcd: SocketAddr) -> Option<Peer> {
    let pem = |name: &str, files: &Files| {
        let text = std::fs::read_to_string(&files.cert).unwrap() + &std::fs::read_to_string(&files.key).unwrap();
        write_private(folder, name, &text).unwrap().display().to_string()
    };
    let (server, proxy) = (pem("haproxy-server.pem", &files.server), pem("haproxy-proxy.pem", &files.proxy));
    let (ca, address) = (files.ca.display(), free_address());
    let config = format!(
        "global\n  nbthread 1\n  maxconn 2000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         frontend clients\n  bind {address} ssl crt {server} ca-file {ca} verify required alpn h2\n  \
         http-request deny unless {{ ssl_c_s_dn(cn) node-500 }}\n  http-request deny unless {{ path_beg /etcdserverpb. }}\n  \
         default_backend etcd\nbackend etcd\n  server etcd {etcd} ssl crt {proxy} ca-file {ca} verify required alpn h2\n"
    );
    let config = write_private(folder, "haproxy.cfg", &config).unwrap();
    let mut command = Command::new("haproxy");
    let process = command.arg("-f").arg(config).arg("-db").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    Some(Peer { name: "haproxy".to_owned(), address, process: Some(process) })
}

async fn put(etcd: &Etcd, authority: &Authority, client: &etcd_warden::pki::Issued, key: &[u8]) {
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .identity(Identity::from_pem(&client.certificate, &client.key));
    let mut client = Client::connect(etcd.endpoints(), Some(ConnectOptions::new().with_tls(tls))).await.unwrap();
    client.put(key, "v".repeat(100), None).await.unwrap();
}

async fn reachable(peer: &Peer) {
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(peer.address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} does not listen on {}", peer.name, peer.address);
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn client_tls(ca: &str, certificate: &str, key: &str) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}
