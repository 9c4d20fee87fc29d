//! A real kube-apiserver and a client of its REST API.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_warden_testbed::pki::write_private;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::cluster::{Cluster, Daemon};
use crate::world::authorities;

/// The token of the only user, in the group that may do everything.
const TOKEN: &str = "scenario";

/// A running kube-apiserver.
pub struct Apiserver {
    address: SocketAddr,
    connector: TlsConnector,
    /// The kubeconfig for its clients.
    pub kubeconfig: PathBuf,
    daemon: Daemon,
}

impl Apiserver {
    pub async fn start(cluster: &Cluster<'_>) -> Self {
        let at = cluster.folder();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let serving =
            authorities().clients.server(&["127.0.0.1"]).unwrap().write(at, "apiserver").unwrap();
        let signing = authorities()
            .clients
            .client("service-accounts")
            .unwrap()
            .write(at, "service-accounts")
            .unwrap();
        let tokens =
            write_private(at, "tokens.csv", &format!("{TOKEN},admin,1,\"system:masters\"\n"))
                .unwrap();
        let ca = write_private(at, "apiserver-ca", &authorities().clients.pem()).unwrap();
        let etcd = cluster.secrets("kube-apiserver");
        let mut command = cluster.command(&cluster.programs.apiserver, "kube-apiserver");
        let flags = [
            ("etcd-servers", cluster.way.endpoint.clone()),
            ("etcd-cafile", etcd.ca.display().to_string()),
            ("etcd-certfile", etcd.cert.display().to_string()),
            ("etcd-keyfile", etcd.key.display().to_string()),
            ("etcd-compaction-interval", "2s".to_owned()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", address.port().to_string()),
            ("tls-cert-file", serving.cert.display().to_string()),
            ("tls-private-key-file", serving.key.display().to_string()),
            ("token-auth-file", tokens.display().to_string()),
            ("authorization-mode", "RBAC".to_owned()),
            // calico-node is privileged.
            ("allow-privileged", "true".to_owned()),
            ("service-account-issuer", "https://127.0.0.1".to_owned()),
            ("service-account-key-file", signing.cert.display().to_string()),
            ("service-account-signing-key-file", signing.key.display().to_string()),
            ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
            ("endpoint-reconciler-type", "none".to_owned()),
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ];
        command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": format!("https://{address}"), "certificate-authority": ca } }],
            "users": [{ "name": "c", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c" } }],
        });
        let kubeconfig = write_private(at, "kubeconfig", &kubeconfig.to_string()).unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authorities().clients.pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let connector = TlsConnector::from(Arc::new(
            config.with_root_certificates(roots).with_no_client_auth(),
        ));
        let mut daemon = Daemon::start(cluster, "kube-apiserver", command);
        daemon
            .until("readyz", async |_| {
                ask(&connector, address, "GET", "/readyz", None)
                    .await
                    .is_some_and(|(status, _)| status == 200)
            })
            .await;
        Self { address, connector, kubeconfig, daemon }
    }

    /// Creates an object.
    pub async fn create(&self, path: &str, object: Value) -> Value {
        let (status, body) = self.ask("POST", path, Some(Body::json(&object))).await;
        assert!((200..300).contains(&status), "{path}: {status} {body}\n{}", self.daemon.log());
        serde_json::from_str(&body).unwrap()
    }

    /// Server-side apply of an object in YAML; unknown and duplicate fields are errors. Returns the
    /// object as kube-apiserver has read it.
    pub async fn apply(&self, path: &str, yaml: &str) -> Value {
        let (status, body) = self.try_apply(path, yaml).await;
        assert!([200, 201].contains(&status), "{path}: {status} {body}\n{yaml}");
        serde_json::from_str(&body).unwrap()
    }

    /// Like `apply`, with the status and body of the response.
    pub async fn try_apply(&self, path: &str, yaml: &str) -> (u16, String) {
        let path = format!("{path}?fieldManager=tests&fieldValidation=Strict");
        self.ask(
            "PATCH",
            &path,
            Some(Body { kind: "application/apply-patch+yaml", text: yaml.to_owned() }),
        )
        .await
    }

    /// Reads an object; `None` if it does not exist, or not yet (429: the storage of a new resource
    /// is being set up).
    pub async fn get(&self, path: &str) -> Option<Value> {
        let (status, body) = self.ask("GET", path, None).await;
        assert!([200, 404, 429].contains(&status), "{path}: {status} {body}");
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    /// Replaces an object.
    pub async fn replace(&self, path: &str, object: Value) {
        let (status, body) = self.ask("PUT", path, Some(Body::json(&object))).await;
        assert_eq!(status, 200, "{path}: {body}");
    }

    pub async fn delete(&self, path: &str) {
        let (status, body) = self.ask("DELETE", path, None).await;
        assert!((200..300).contains(&status), "{path}: {status} {body}");
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Body>) -> (u16, String) {
        for _ in 0..5 {
            if let Some(answer) =
                ask(&self.connector, self.address, method, path, body.clone()).await
            {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("kube-apiserver does not answer:\n{}", self.daemon.log());
    }

    pub async fn stop(self) {
        self.daemon.stop().await;
    }
}

/// The body of a request and its content type.
#[derive(Clone)]
struct Body {
    kind: &'static str,
    text: String,
}

impl Body {
    fn json(object: &Value) -> Self {
        Self { kind: "application/json", text: object.to_string() }
    }
}

/// Sends one HTTP/1.0 request; the response is not chunked.
async fn ask(
    connector: &TlsConnector,
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Option<Body>,
) -> Option<(u16, String)> {
    let socket = TcpStream::connect(address).await.ok()?;
    let mut stream = connector.connect(ServerName::from(address.ip()), socket).await.ok()?;
    let Body { kind, text: body } =
        body.unwrap_or(Body { kind: "application/json", text: String::new() });
    let head = format!(
        "{method} {path} HTTP/1.0\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
