//! The templates of `deploy/kubernetes/per-node/vault`, rendered by the program that has the
//! template engine of Vault's agent, in front of a minimal fake Vault. Their output is accepted by
//! a proxy that enforces the policy beside them.

use std::path::Path;
use std::sync::{Arc, Mutex};

use etcd_warden_testbed::pki::Issued;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::cluster::said;
use crate::deploy::text;
use crate::world::go_tool::go_program;
use crate::world::{World, authorities, connect, is_permission_denied};

const NODES: &str = "/calico/resources/v3/projectcalico.org/nodes";

/// The requests to the fake Vault: paths and parameters.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A fake Vault that issues every certificate it is asked for.
async fn vault() -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&seen)));
        }
    });
    (address, asked)
}

/// Handles one request and closes the connection.
async fn answer(stream: TcpStream, asked: Asked) {
    let mut stream = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    stream.read_line(&mut line).await.unwrap();
    let path = line.split(' ').nth(1).unwrap().to_owned();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.unwrap();
        match header.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let parameters: Value = serde_json::from_slice(&body).unwrap_or_default();
    let issued = authorities()
        .clients
        .client(parameters["common_name"].as_str().unwrap_or("unnamed"))
        .unwrap();
    asked.lock().unwrap().push((path, parameters));
    let data = json!({ "certificate": issued.certificate, "issuing_ca": authorities().clients.pem(), "private_key": issued.key });
    let body = json!({ "data": data }).to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
}

/// The certificate that a template wrote for Calico.
fn written(folder: &Path) -> Issued {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    Issued { certificate: read("etcd-cert"), key: read("etcd-key") }
}

#[tokio::test]
#[ignore = "builds consul-template, a minute or two the first time; .ci/run runs it"]
async fn the_templates_write_a_certificate_of_this_node() {
    let program = tokio::task::spawn_blocking(|| {
        go_program("consul-template", "consul-template", "github.com/hashicorp/consul-template")
    })
    .await
    .unwrap();
    let (address, asked) = vault().await;
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().join("certs");
    let mut command = Command::new(program);
    command.args([
        "-once",
        "-vault-addr",
        &address,
        "-vault-renew-token=false",
        "-vault-retry=false",
    ]);
    for name in ["node", "cni"] {
        std::fs::create_dir_all(certs.join(name)).unwrap();
        let source = folder.path().join(format!("{name}.ctmpl"));
        let template = text(&format!("kubernetes/per-node/vault/{name}.ctmpl"));
        std::fs::write(&source, template.replace("\"/certs/", &format!("\"{}/", certs.display())))
            .unwrap();
        command.arg("-template").arg(format!(
            "{}:{}/{name}/bundle.pem",
            source.display(),
            certs.display()
        ));
    }
    let output = command
        .env_clear()
        .env("VAULT_TOKEN", "t")
        .env("NODE_NAME", "worker-1")
        .output()
        .await
        .unwrap();
    said("consul-template", &output);
    let mut names: Vec<String> = asked
        .lock()
        .unwrap()
        .iter()
        .map(|(path, asked)| format!("{path} {}", asked["common_name"]))
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["calico-node", "cni"]
            .map(|name| format!("/v1/pki-calico/issue/calico-per-node \"{name}:worker-1\"")),
        "one certificate for each template"
    );

    // The policy of Vault permits these parameters and no others: `not_after`, for instance, could
    // exceed the role's max_ttl.
    let policy = text("kubernetes/per-node/vault/vault-policy.hcl");
    let list = policy.split_once("allowed_parameters = {").unwrap().1.split_once('}').unwrap().0;
    let allowed: Vec<&str> = list.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert_eq!(allowed, ["common_name", "exclude_cn_from_sans", "ttl"]);
    for (_, parameters) in asked.lock().unwrap().iter() {
        assert!(
            parameters.as_object().unwrap().keys().all(|name| allowed.contains(&name.as_str())),
            "{parameters}"
        );
    }

    // A single CA has both roles here.
    let shadow = text("kubernetes/per-node/vault/policy.yaml");
    let policy =
        shadow.replace("mode: shadow", "mode: enforce").replace("ca: components", "ca: nodes");
    let nodes = |config: &mut etcd_warden_gateway::config::Config| {
        config.downstream.client_cas[0].name = "nodes".into();
    };
    let world = World::with(&policy).own_etcd().config(nodes).start().await;
    let mut node =
        connect(&[world.endpoint()], &authorities().clients, &written(&certs.join("node"))).await;
    node.put(format!("{NODES}/worker-1"), "mine", None).await.unwrap();
    assert!(is_permission_denied(&node.put(format!("{NODES}/worker-2"), "not mine", None).await));
    let mut cni =
        connect(&[world.endpoint()], &authorities().clients, &written(&certs.join("cni"))).await;
    cni.get(format!("{NODES}/worker-1"), None).await.unwrap();
    assert!(is_permission_denied(
        &cni.put(format!("{NODES}/worker-1"), "not the plugin's", None).await
    ));
}
