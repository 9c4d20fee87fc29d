//! etcd's own grpc-proxy, which the gateway replaces.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use etcd_client::{Client, ConnectOptions, GetOptions};
use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::pki::{Leaf, write_private};
use prost::Message as _;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::fixture::Fixture;
use crate::world::raw::Raw;
use crate::world::{SOON, authorities, is_permission_denied, programs, soon};

/// A running `etcd grpc-proxy`, in plain text for its clients.
struct GrpcProxy {
    process: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl GrpcProxy {
    async fn before(fixture: &Fixture) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // With a name in it, the certificate would make every client that user.
        let nameless =
            authorities().upstream.issue(&Leaf::client("x").without_common_name()).unwrap();
        let nameless = nameless.write(folder.path(), "proxy").unwrap();
        let authority =
            write_private(folder.path(), "etcd-ca.crt", &authorities().upstream.pem()).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new(&programs().etcd)
            .args(["grpc-proxy", "start"])
            .arg(format!("--endpoints={}", fixture.world.etcd().endpoints()[0]))
            .arg(format!("--listen-addr={address}"))
            .arg(format!("--data-dir={}", folder.path().join("data").display()))
            .arg(format!("--cacert={}", authority.display()))
            .arg(format!("--cert={}", nameless.cert.display()))
            .arg(format!("--key={}", nameless.key.display()))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        soon("etcd's proxy", || async { TcpStream::connect(address).await.ok() }).await;
        Self { process, address, _folder: folder }
    }

    async fn as_user(&self, name: &str) -> Client {
        let login = ConnectOptions::new().with_user(name, format!("{name}'s"));
        Client::connect([format!("http://{}", self.address)], Some(login)).await.unwrap()
    }
}

/// A value that one client had read was served from the cache to every other client, and one
/// message crashed the process.
#[tokio::test]
async fn etcd_22065_answers_of_one_client_for_another() {
    let fixture = Fixture::on(programs).await;
    fixture.holds().await;
    let mut grpc_proxy = GrpcProxy::before(&fixture).await;
    let read = || Some(GetOptions::new().with_serializable());
    let secret = fixture.world.key("secret");
    let mut attacker = grpc_proxy.as_user("attacker").await;
    let refused = attacker.get(secret.clone(), read()).await.unwrap_err().to_string();
    assert!(refused.contains("etcdserver: permission denied"), "{refused}");
    grpc_proxy.as_user("root").await.get(secret.clone(), None).await.unwrap();
    let cached = attacker.get(secret.clone(), read()).await.unwrap();
    assert_eq!(cached.kvs()[0].value(), b"s3cret", "the attack reads another client's response");

    let mut owner = fixture.world.as_("owner").await;
    let mut attacker = fixture.proxied().await;
    for options in [read(), None] {
        assert_eq!(
            owner.get(secret.clone(), options.clone()).await.unwrap().kvs()[0].value(),
            b"s3cret"
        );
        for own_options in [read(), None] {
            assert!(is_permission_denied(&attacker.get(secret.clone(), own_options).await));
        }
    }

    let empty =
        pb::TxnRequest { success: vec![pb::RequestOp { request: None }], ..Default::default() }
            .encode_to_vec();
    let mut raw = Raw::over(TcpStream::connect(grpc_proxy.address).await.unwrap()).await;
    raw.call(Method::Txn.path(), &empty).await;
    let ended = tokio::time::timeout(SOON, grpc_proxy.process.wait())
        .await
        .expect("one message of any client crashes it")
        .unwrap();
    assert!(!ended.success());

    let answer = fixture.world.raw("attacker").await.call(Method::Txn.path(), &empty).await;
    assert_eq!(answer.grpc_status(), Some(3), "{answer:?}");
    fixture.holds().await;
}
