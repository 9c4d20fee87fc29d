//! Segmented manifests in a cluster: a real kube-apiserver reads each with strict validation. From
//! the result the containers of Calico are laid out as by a kubelet, each with the certificate that
//! its volume names. The programs of 3.31 then work with them in front of a proxy that enforces the
//! policy of the manifest.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use etcd_warden_testbed::pki::Issued;
use etcd_warden_tools::calico::{Endpoints, Options, PerNode, Segmented, segment};
use serde_json::{Value, json};
use tokio::process::Command;

use super::apiserver::Apiserver;
use super::cluster::{Cluster, Daemon, Programs, Way, feed, said};
use super::kubelet::{Kubelet, lay};
use super::scenario::{Pod, netns, plugin};
use super::{inside, refused, runtime};
use crate::segment::{MANIFESTS, manifest};
use crate::world::{World, soon};

const NODE: &str = "n1";
const PER_NODE: &str = "host-path=/etc/calico/etcd-certs";

#[test]
#[ignore = "needs root and builds Calico and kube-apiserver, minutes the first time; .ci/run runs it"]
fn a_segmented_manifest_and_its_certificates_work() {
    if inside("calico::segmented::a_segmented_manifest_and_its_certificates_work") {
        runtime().block_on(certificates_drive_the_programs(
            None,
            ["calico-node", "calico-cni", "calico-kube-controllers"],
        ));
    }
}

#[test]
#[ignore = "needs root and builds Calico and kube-apiserver, minutes the first time; .ci/run runs it"]
fn a_segmented_manifest_per_node_works_too() {
    if inside("calico::segmented::a_segmented_manifest_per_node_works_too") {
        runtime().block_on(certificates_drive_the_programs(
            Some(PER_NODE),
            ["calico-node:n1", "cni:n1", "calico-kube-controllers"],
        ));
    }
}

async fn certificates_drive_the_programs(per_node: Option<&str>, names: [&'static str; 3]) {
    let programs = tokio::task::spawn_blocking(Programs::build).await.unwrap();
    let policy = segmented("v3.31.0", "https://192.0.2.1:2379", per_node).policy;
    // This cluster starts empty.
    let first = |role: &str| format!("roles: [{role}-per-node, calico-first-start]");
    let enforced =
        enforced(&policy).replace("roles: [calico-node-per-node]", &first("calico-node"));
    let enforced = enforced.replace("roles: [calico-cni-per-node]", &first("calico-cni"));
    let world = World::with(&enforced).own_etcd().start().await;
    let cluster = Cluster::new(&programs, Way::through(&world));
    let apiserver = Apiserver::start(&cluster).await;
    soon("namespace kube-system", async || {
        apiserver.get("/api/v1/namespaces/kube-system").await.map(drop)
    })
    .await;
    // The last version is the one whose programs run.
    let mut objects = BTreeMap::new();
    for version in MANIFESTS {
        let done = segmented(version, &world.endpoint(), per_node);
        assert!(version != "v3.31.0" || done.policy == policy);
        objects = applied(&apiserver, &done.text).await;
    }
    let folder = cluster.folder().join("kubelet");
    let kubelet = Kubelet { host: folder.join("host"), folder, node: NODE.to_owned(), objects };
    fill(&kubelet, names, &cluster, &apiserver).await;
    start_node(&cluster, &kubelet).await;
    install_cni_and_start_a_pod(&cluster, &apiserver, &kubelet).await;
    controllers(&cluster, &apiserver, &kubelet, &world).await;
    apiserver.stop().await;

    assert!(world.as_("stranger").await.get("/calico/", None).await.is_err());
    world.audited(|line| line.to_string().contains("stranger")).await;
    let audit = world.audit();
    let refused = refused(&audit);
    assert!(refused.len() == 1 && refused[0].contains("stranger"), "{refused:#?}");
    for name in names {
        let identity = format!("default/cn:{name}");
        assert!(
            audit
                .iter()
                .any(|line| line["decision"] == "allow" && line.to_string().contains(&identity)),
            "{name} was never created"
        );
    }
}

pub fn segmented(version: &str, endpoint: &str, per_node: Option<&str>) -> Segmented {
    let options = Options {
        endpoints: Some(Endpoints::parse(endpoint).unwrap()),
        per_node: per_node.map(|form| PerNode::parse(form).unwrap()),
        ..Options::default()
    };
    segment(version, &manifest(version), &options).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The policy in its final form, for a cluster whose kube-apiserver uses the same etcd.
fn enforced(policy: &str) -> String {
    let enforced = policy
        .replace("\nmode: shadow\n", "\nmode: enforce\n")
        .replace("include: [", "include: [kubernetes, ");
    assert!(enforced != policy);
    format!("{enforced}  - cn: kube-apiserver\n    roles: [kube-apiserver]\n")
}

/// Applies every object of a manifest and returns them as kube-apiserver has read them, by kind and
/// name.
async fn applied(apiserver: &Apiserver, text: &str) -> BTreeMap<(String, String), Value> {
    // Removed in Kubernetes 1.25; everything else in the manifest of 3.20 still exists.
    let text = text.replace("apiVersion: policy/v1beta1\n", "apiVersion: policy/v1\n");
    let mut objects = BTreeMap::new();
    for document in text.split("---\n").filter(|document| !document.trim().is_empty()) {
        let field = |name: &str| {
            document.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
        };
        let (kind, name) = (field("kind:"), field("  name:"));
        let path = match kind.as_str() {
            "ServiceAccount" | "Secret" | "ConfigMap" => {
                format!("/api/v1/namespaces/kube-system/{}s", kind.to_lowercase())
            }
            "ClusterRole" | "ClusterRoleBinding" => {
                format!("/apis/rbac.authorization.k8s.io/v1/{}s", kind.to_lowercase())
            }
            "DaemonSet" | "Deployment" => {
                format!("/apis/apps/v1/namespaces/kube-system/{}s", kind.to_lowercase())
            }
            "PodDisruptionBudget" => {
                "/apis/policy/v1/namespaces/kube-system/poddisruptionbudgets".to_owned()
            }
            other => panic!("{other}"),
        };
        let object = apiserver.apply(&format!("{path}/{name}"), document).await;
        objects.insert((kind, name), object);
    }
    assert!(objects.len() >= 11, "{:?}", objects.keys());
    objects
}

/// Creates the Secrets or host folders that the volumes at `/calico-secrets` name, each with the
/// certificate of its component.
async fn fill(kubelet: &Kubelet, names: [&str; 3], cluster: &Cluster<'_>, apiserver: &Apiserver) {
    for (container, name) in
        ["calico-node", "install-cni", "calico-kube-controllers"].into_iter().zip(names)
    {
        let volume = kubelet.volume(container);
        let issued = (cluster.way.certificates)(name);
        if let Some(path) = volume["hostPath"]["path"].as_str() {
            assert_eq!(volume["hostPath"]["type"], "Directory");
            lay(
                &kubelet.host.join(path.trim_start_matches('/')),
                &files(&cluster.way.ca, &issued),
                0o400,
            );
            continue;
        }
        let secret = volume["secret"]["secretName"].as_str().unwrap();
        let object = json!({
            "metadata": { "name": secret },
            "stringData": { "etcd-ca": cluster.way.ca, "etcd-cert": issued.certificate, "etcd-key": issued.key },
        });
        // It does not exist yet: no Secret of the manifest has been mounted twice.
        apiserver.create("/api/v1/namespaces/kube-system/secrets", object).await;
        let mode = volume["secret"]["defaultMode"].as_u64().unwrap();
        assert_eq!(mode, if name == "calico-kube-controllers" { 0o440 } else { 0o400 }, "{name}");
        lay(
            &kubelet.folder.join("secrets").join(secret),
            &files(&cluster.way.ca, &issued),
            mode as u32,
        );
    }
}

/// The three files of a component.
fn files(ca: &str, issued: &Issued) -> [(&'static str, Vec<u8>); 3] {
    [
        ("etcd-ca", ca.into()),
        ("etcd-cert", issued.certificate.clone().into()),
        ("etcd-key", issued.key.clone().into()),
    ]
}

async fn start_node(cluster: &Cluster<'_>, kubelet: &Kubelet) {
    let mut command = kubelet.command(&cluster.programs.node, "calico-node");
    command
        .arg("-startup")
        .env("NODENAME", NODE)
        .env("IP", "10.10.0.1/24")
        .env("CALICO_IPV4POOL_CIDR", "192.168.0.0/16");
    said("calico-node -startup", &feed(command, "").await);
}

/// Runs `install-cni` in its own root with its mounts, then the plugin with the configuration and
/// files that it leaves on the host.
async fn install_cni_and_start_a_pod(
    cluster: &Cluster<'_>,
    apiserver: &Apiserver,
    kubelet: &Kubelet,
) {
    let root = kubelet.folder.join("install-cni");
    for folder in ["opt/cni/bin", "host/opt/cni/bin", "host/etc/cni/net.d"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(&cluster.programs.install, root.join("opt/cni/bin/install")).unwrap();
    fs::rename(kubelet.secrets("install-cni"), root.join("calico-secrets")).unwrap();
    let mut command = Command::new("chroot");
    command.arg(&root).arg(kubelet.container("install-cni")["command"][0].as_str().unwrap());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(kubelet.environment("install-cni"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    said("install-cni", &feed(command, "").await);
    let net = root.join("host/etc/cni/net.d");
    let written = fs::read_to_string(net.join("10-calico.conflist")).unwrap();
    assert!(
        written.contains("\"etcd_key_file\": \"/etc/cni/net.d/calico-tls/etcd-key\""),
        "{written}"
    );
    // The host's folder has another path here.
    let list: Value =
        serde_json::from_str(&written.replace("/etc/cni/net.d/", &format!("{}/", net.display())))
            .unwrap();
    let mut config = list["plugins"][0].clone();
    for key in ["name", "cniVersion"] {
        config[key] = list[key].clone();
    }
    config.as_object_mut().unwrap().remove("log_file_path");
    fs::copy(&apiserver.kubeconfig, net.join("calico-kubeconfig")).unwrap();
    let pod = Pod { node: NODE, namespace: "default", name: "web", container: "c9", address: None };
    soon("namespace default", async || apiserver.get("/api/v1/namespaces/default").await.map(drop))
        .await;
    let object = json!({ "metadata": { "name": pod.name }, "spec": { "nodeName": NODE, "containers": [{ "name": "c", "image": "none" }] } });
    apiserver.create("/api/v1/namespaces/default/pods", object).await;
    netns("add", &pod).await;
    let answer = plugin(cluster, &config, &pod, "ADD").await;
    assert!(answer.contains("192.168."), "{answer}");
    plugin(cluster, &config, &pod, "DEL").await;
    netns("del", &pod).await;
}

/// Starts kube-controllers and waits until they have written the objects of a namespace.
async fn controllers(
    cluster: &Cluster<'_>,
    apiserver: &Apiserver,
    kubelet: &Kubelet,
    world: &World,
) {
    let mut command = kubelet.command(&cluster.programs.controllers, "calico-kube-controllers");
    command.env("KUBECONFIG", &apiserver.kubeconfig);
    let mut daemon = Daemon::start(cluster, "kube-controllers", command);
    let key = "/calico/resources/v3/projectcalico.org/profiles/kns.kube-system";
    daemon
        .until(key, async |_| !world.direct().await.get(key, None).await.unwrap().kvs().is_empty())
        .await;
    daemon.stop().await;
}
