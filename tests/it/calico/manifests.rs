//! `deploy/kubernetes`, rendered by kustomize over Calico's own manifest as an operator does it,
//! and accepted field by field by a real kube-apiserver. Its etcd is behind a proxy that enforces
//! the policy of the static pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use etcd_warden_gateway::config::Config;
use etcd_warden_testbed::pki::write_private;
use etcd_warden_tools::doctor::examine;
use etcd_warden_tools::doctor::report::{Part, Severity};
use etcd_warden_tools::doctor::stolen::StolenCertificate;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::apiserver::Apiserver;
use super::cluster::{Cluster, Programs, Way};
use super::segmented::segmented;
use super::{inside, refused, runtime};
use crate::deploy::{deploy, text};
use crate::segment::manifest;
use crate::world::go_tool::go_program;
use crate::world::{World, authorities, soon};

/// The overlays that an operator renders.
const FORMS: [&str; 6] = [
    "proxy/static-pod",
    "proxy/daemonset",
    "per-component",
    "per-node/host-files",
    "per-node/vault",
    "per-node/spire",
];

/// `deploy/kubernetes` with Calico's manifest in place.
struct Tree {
    folder: TempDir,
    kustomize: PathBuf,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&deploy().join("kubernetes"), folder.path());
        fs::write(folder.path().join("calico/calico-etcd.yaml"), manifest("v3.31.0")).unwrap();
        Self {
            folder,
            kustomize: go_program("kustomize", "kustomize", "sigs.k8s.io/kustomize/kustomize/v5"),
        }
    }

    /// The objects of one form, in the order of kustomize.
    fn rendered(&self, form: &str) -> Vec<(String, Value)> {
        let output = Command::new(&self.kustomize)
            .arg("build")
            .arg(self.folder.path().join(form))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{form}: {errors}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.split("\n---\n")
            .map(|object| (object.to_owned(), serde_saphyr::from_str(object).unwrap()))
            .collect()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The REST path of an object.
fn rest_path(object: &Value) -> String {
    let (version, kind) =
        (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let plural = match kind {
        "ClusterSPIFFEID"
        | "ConfigMap"
        | "Secret"
        | "ServiceAccount"
        | "Namespace"
        | "Pod"
        | "DaemonSet"
        | "Deployment"
        | "ClusterRole"
        | "ClusterRoleBinding"
        | "PodDisruptionBudget"
        | "CustomResourceDefinition" => format!("{}s", kind.to_lowercase()),
        other => panic!("no REST path is known for {other}"),
    };
    let base =
        if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let name = object["metadata"]["name"].as_str().unwrap();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{base}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("{base}/{plural}/{name}"),
    }
}

/// A cluster whose kube-apiserver reaches its etcd through a proxy that enforces the policy of the
/// static pod.
pub async fn behind_the_static_pods_policy(look: impl AsyncFn(&Apiserver)) {
    let programs = tokio::task::spawn_blocking(Programs::build).await.unwrap();
    let shadow = text("kubernetes/proxy/static-pod/policy.yaml");
    let policy = shadow.replace("mode: shadow", "mode: enforce");
    assert_ne!(policy, shadow);
    let components =
        |config: &mut Config| config.downstream.client_cas[0].name = "components".into();
    let world = World::with(&policy).own_etcd().config(components).start().await;
    let cluster = Cluster::new(&programs, Way::through(&world));
    let apiserver = Apiserver::start(&cluster).await;
    soon("namespace kube-system", async || {
        apiserver.get("/api/v1/namespaces/kube-system").await.map(drop)
    })
    .await;
    look(&apiserver).await;
    // The report of `etcd-warden doctor`: certificates for the proxy, no certificate and plain text
    // all fail at etcd itself.
    let stolen = cluster.folder().join("stolen");
    let attackers = ["kube-apiserver", "calico-node", "calico-kube-controllers"].map(|name| {
        let at = stolen.join(name);
        fs::create_dir_all(&at).unwrap();
        let issued = authorities().clients.client(name).unwrap();
        write_private(&at, "etcd-cert", &issued.certificate).unwrap();
        write_private(&at, "etcd-key", &issued.key).unwrap();
        StolenCertificate::read(&at).unwrap()
    });
    let report =
        examine(&Config { listen_addr: world.address(), ..world.config.clone() }, &attackers).await;
    let bypasses: Vec<_> =
        report.findings().iter().filter(|finding| finding.part == Part::Bypass).collect();
    assert!(
        bypasses.len() > attackers.len()
            && bypasses.iter().all(|finding| finding.severity == Severity::Ok),
        "{report}"
    );
    apiserver.stop().await;
    assert_eq!(refused(&world.audit()), Vec::<String>::new());
}

#[test]
#[ignore = "needs root and builds Calico, kube-apiserver and kustomize, minutes the first time; .ci/run runs it"]
fn kube_apiserver_takes_every_form_field_for_field() {
    if inside("calico::manifests::kube_apiserver_takes_every_form_field_for_field") {
        runtime().block_on(behind_the_static_pods_policy(async |apiserver| {
            let tree = Tree::new();
            apiserver
                .apply("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/clusterspiffeids.spire.spiffe.io", &spiffe_ids())
                .await;
            let served = "/apis/spire.spiffe.io/v1alpha1/clusterspiffeids";
            soon("the resource of SPIRE", async || apiserver.get(served).await.map(drop)).await;
            for form in FORMS {
                for (yaml, object) in tree.rendered(form) {
                    let taken = apiserver.apply(&rest_path(&object), &yaml).await;
                    let template = taken.pointer("/spec/template").unwrap_or(&taken);
                    for container in containers(template).filter(|container| container["name"] == "etcd-warden") {
                        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{form}: {container}");
                    }
                }
            }
            // kube-apiserver must reject an unknown field; otherwise the checks above would show
            // nothing.
            let mut pod = tree.rendered("proxy/static-pod").remove(0).1;
            pod["metadata"]["name"] = json!("with-an-error");
            pod["spec"]["containers"][0]["readOnlyRootFileSystem"] = json!(true);
            let (status, body) = apiserver.try_apply(&rest_path(&pod), &pod.to_string()).await;
            assert!(status >= 400 && body.contains("readOnlyRootFileSystem"), "{status} {body}");
        }));
    }
}

/// Init containers and containers of a Pod or of a Pod template.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
}

/// The fields of a ClusterSPIFFEID, from the documentation of spire-controller-manager
/// (docs/clusterspiffeid-crd.md at 430567cc, and its `hint`). Its definition is in no package that
/// is available here.
fn spiffe_ids() -> String {
    let (text, texts, flag) = (
        json!({ "type": "string" }),
        json!({ "type": "array", "items": { "type": "string" } }),
        json!({ "type": "boolean" }),
    );
    let labels = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let selector = json!({ "type": "object", "properties": { "matchLabels": labels } });
    let spec = json!({
        "type": "object", "required": ["spiffeIDTemplate"],
        "properties": {
            "spiffeIDTemplate": text, "podSelector": selector, "namespaceSelector": selector, "dnsNameTemplates": texts,
            "workloadSelectorTemplates": texts, "ttl": text, "jwtTtl": text, "federatesWith": texts, "admin": flag, "downstream": flag,
            "autoPopulateDNSNames": flag, "fallback": flag, "className": text, "hint": text,
        },
    });
    let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "clusterspiffeids.spire.spiffe.io" },
        "spec": {
            "group": "spire.spiffe.io", "scope": "Cluster",
            "names": { "kind": "ClusterSPIFFEID", "plural": "clusterspiffeids", "singular": "clusterspiffeid" },
            "versions": [{ "name": "v1alpha1", "served": true, "storage": true, "schema": schema }],
        },
    })
    .to_string()
}

#[test]
#[ignore = "builds kustomize, a minute the first time; .ci/run runs it"]
fn per_node_certificates_change_only_paths_in_the_cni_config() {
    let calico = manifest("v3.31.0");
    let calico =
        calico.split("\n---\n").map(|object| serde_saphyr::from_str::<Value>(object).unwrap());
    let calico =
        calico.into_iter().find(|object| object["metadata"]["name"] == "calico-config").unwrap();
    let theirs = calico["data"]["cni_network_config"].as_str().unwrap();
    let tree = Tree::new();
    for (form, key_and_certificate, ca) in [
        ("host-files", "/etc/calico/etcd-certs/cni", "/etc/calico/etcd-certs/cni/etcd-ca"),
        ("vault", "/run/calico-etcd/cni", "__ETCD_CA_CERT_FILE__"),
        ("spire", "/run/calico-etcd/cni", "__ETCD_CA_CERT_FILE__"),
    ] {
        let expected = theirs
            .replace("__ETCD_KEY_FILE__", &format!("{key_and_certificate}/etcd-key"))
            .replace("__ETCD_CERT_FILE__", &format!("{key_and_certificate}/etcd-cert"))
            .replace("__ETCD_CA_CERT_FILE__", ca);
        let ours = fs::read_to_string(
            tree.folder.path().join(format!("per-node/{form}/cni-network-config.json")),
        )
        .unwrap();
        let parsed = |text: &str| {
            serde_json::from_str::<Value>(&text.replace("__CNI_MTU__", "1500")).unwrap()
        };
        assert_eq!(parsed(&ours), parsed(&expected), "{form}");

        let objects = tree.rendered(&format!("per-node/{form}"));
        let node = &objects.iter().find(|(_, object)| object["kind"] == "DaemonSet").unwrap().1["spec"]
            ["template"];
        let names: Vec<&str> =
            containers(node).map(|container| container["name"].as_str().unwrap()).collect();
        let side_cars: &[&str] = match form {
            "vault" => &["vault-agent"],
            "spire" => &["spiffe-helper-node", "spiffe-helper-cni"],
            _ => &[],
        };
        // The issuer starts first and keeps running.
        assert_eq!(
            names,
            [side_cars, &["install-cni", "ebpf-bootstrap", "calico-node"]].concat(),
            "{form}"
        );
        for container in containers(node).take(side_cars.len()) {
            assert_eq!(container["restartPolicy"], "Always", "{form}");
        }
        let secrets: Vec<&Value> = node["spec"]["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|volume| volume["secret"].is_object())
            .collect();
        assert!(secrets.is_empty(), "{form}: a Secret is the same on every node: {secrets:?}");
    }
}

/// The source of this container's certificate: the volume at `/calico-secrets`, without its name
/// and its files' mode.
fn certificate(objects: &[Value], name: &str) -> (Value, Value) {
    let found = objects.iter().map(|object| &object["spec"]["template"]).find_map(|pod| {
        let container = containers(pod).find(|container| container["name"] == name)?;
        Some((pod, container))
    });
    let (pod, container) = found.unwrap_or_else(|| panic!("there is no container {name}"));
    let mount = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|mount| mount["mountPath"] == "/calico-secrets")
        .unwrap();
    let mut volume = pod["spec"]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|volume| volume["name"] == mount["name"])
        .unwrap()
        .clone();
    volume.as_object_mut().unwrap().remove("name");
    let mode = volume.get_mut("secret").map_or(Value::Null, |secret| secret["defaultMode"].take());
    (volume, mode)
}

#[test]
#[ignore = "builds kustomize, a minute the first time; .ci/run runs it"]
fn each_container_has_the_certificate_of_calico_segment() {
    let tree = Tree::new();
    for (form, per_node) in
        [("per-component", None), ("per-node/host-files", Some("host-path=/etc/calico/etcd-certs"))]
    {
        let ours: Vec<Value> = tree.rendered(form).into_iter().map(|(_, object)| object).collect();
        let segmented = segmented("v3.31.0", "https://10.0.0.1:23790", per_node).text;
        let theirs = segmented
            .split("---\n")
            .filter(|object| object.contains("\nkind: ") || object.starts_with("kind: "));
        let theirs: Vec<Value> =
            theirs.map(|object| serde_saphyr::from_str(object).unwrap()).collect();
        for (container, mode) in
            [("calico-node", 0o400), ("install-cni", 0o400), ("calico-kube-controllers", 0o440)]
        {
            let ((volume, given), (expected, _)) =
                (certificate(&ours, container), certificate(&theirs, container));
            assert_eq!(volume, expected, "{form}: {container}");
            assert!(given.is_null() || given == mode, "{form}: {container}: {given}");
        }
    }
}
