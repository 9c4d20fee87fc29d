//! What certificates per node rely on: the node's name in a pod's token, and real nodes that start
//! under the policies of the forms.

use etcd_warden_gateway::config::Config;
use serde_json::{Value, json};

use super::cluster::{Cluster, Programs, Way, feed, said};
use super::manifests::behind_the_static_pods_policy;
use super::{inside, refused, runtime};
use crate::deploy::{denying, text};
use crate::world::World;

/// The claim that Vault's JWT method (`/kubernetes.io/node/name`) and SPIRE's attestation of agents
/// read.
#[test]
#[ignore = "needs root and builds Calico and kube-apiserver, minutes the first time; .ci/run runs it"]
fn only_a_pods_own_token_names_its_node() {
    if inside("calico::per_node::only_a_pods_own_token_names_its_node") {
        runtime().block_on(behind_the_static_pods_policy(async |apiserver| {
            let system = "/api/v1/namespaces/kube-system";
            apiserver.create("/api/v1/nodes", json!({ "metadata": { "name": "n1" } })).await;
            apiserver.create(&format!("{system}/serviceaccounts"), json!({ "metadata": { "name": "calico-node" } })).await;
            let container = json!({ "name": "c", "image": "c" });
            let spec = json!({ "nodeName": "n1", "serviceAccountName": "calico-node", "containers": [container] });
            let pod = apiserver.create(&format!("{system}/pods"), json!({ "metadata": { "name": "calico-node-x" }, "spec": spec })).await;
            let bound = json!({ "kind": "Pod", "apiVersion": "v1", "name": "calico-node-x", "uid": pod["metadata"]["uid"] });
            let claims = async |bound: Value| {
                let request = json!({ "spec": { "audiences": ["vault"], "expirationSeconds": 3600, "boundObjectRef": bound } });
                let token = apiserver.create(&format!("{system}/serviceaccounts/calico-node/token"), request).await;
                claims(token["status"]["token"].as_str().unwrap())
            };
            let of_pod = claims(bound).await;
            assert_eq!(of_pod.pointer("/kubernetes.io/node/name").unwrap(), "n1", "{of_pod}");
            assert_eq!((&of_pod["sub"], &of_pod["aud"]), (&json!("system:serviceaccount:kube-system:calico-node"), &json!(["vault"])));
            // A right to create tokens of the account alone yields no token of a node.
            let of_nobody = claims(Value::Null).await;
            assert!(of_nobody.pointer("/kubernetes.io/node").is_none(), "{of_nobody}");
        }));
    }
}

/// The claims of a JWT, unverified.
fn claims(token: &str) -> Value {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let sextets = token
        .split('.')
        .nth(1)
        .unwrap()
        .bytes()
        .map(|byte| alphabet.iter().position(|known| *known == byte).unwrap());
    let (mut held, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for sextet in sextets {
        (held, count) = (held << 6 | sextet as u32, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((held >> count) as u8);
        }
    }
    serde_json::from_slice(&bytes).unwrap()
}

/// The policies per node contain a denial as a comment, because the first node of a cluster could
/// not start with it.
#[test]
#[ignore = "needs root and builds Calico, minutes the first time; .ci/run runs it"]
fn nodes_start_under_the_per_node_policy() {
    if inside("calico::per_node::nodes_start_under_the_per_node_policy") {
        runtime().block_on(async {
            let programs = tokio::task::spawn_blocking(Programs::build).await.unwrap();
            let policy = text("kubernetes/per-node/host-files/policy.yaml")
                .replace("mode: shadow", "mode: enforce");
            let components =
                |config: &mut Config| config.downstream.client_cas[0].name = "components".into();
            let world = World::with(&for_the_first_start(&policy))
                .own_etcd()
                .config(components)
                .start()
                .await;
            let cluster = Cluster::new(&programs, Way::through(&world));
            let start = async |node: &str, address: &str| {
                let mut startup = cluster.command(&programs.node, &format!("calico-node:{node}"));
                startup.arg("-startup").envs([
                    ("NODENAME", node),
                    ("IP", address),
                    ("CLUSTER_TYPE", "k8s,bgp"),
                ]);
                startup.envs([
                    ("CALICO_NETWORKING_BACKEND", "bird"),
                    ("CALICO_IPV4POOL_CIDR", "192.168.0.0/16"),
                ]);
                said(&format!("calico-node -startup on {node}"), &feed(startup, "").await);
            };
            start("n1", "10.10.0.1/24").await;
            // The objects that the first node creates exist: the role for them is not needed any
            // more.
            world.replace_policy(&policy);
            start("n1", "10.10.0.1/24").await;
            world.replace_policy(&denying(&policy));
            start("n1", "10.10.0.1/24").await;
            start("n2", "10.10.0.2/24").await;
            assert_eq!(refused(&world.audit()), Vec::<String>::new());
        });
    }
}

/// The policy in the form that its comment gives for the first start of a cluster.
fn for_the_first_start(policy: &str) -> String {
    let changed =
        policy.replace("[calico-node-per-node]", "[calico-node-per-node, calico-first-start]");
    let changed =
        changed.replace("[calico-cni-per-node]", "[calico-cni-per-node, calico-first-start]");
    assert_ne!(changed, policy);
    changed
}
