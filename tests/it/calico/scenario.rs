//! A cluster of two nodes, from its first start to the deletion of a node.

use serde_json::{Value, json};
use tokio::process::Command;

use super::apiserver::Apiserver;
use super::cluster::{Cluster, Daemon, feed, said};
use super::dataplane;
use crate::world::soon;

const NODES: [&str; 2] = ["n1", "n1-b.example.org"];
const NAMESPACES: [&str; 2] = ["prod", "dash-ed-ns"];

/// Runs the whole scenario; every step must succeed.
pub async fn run(cluster: &Cluster<'_>) {
    // The CNI plugin does this once on each host.
    let _ = std::fs::remove_file("/run/calico/cni/ipam_upgraded");
    let apiserver = Apiserver::start(cluster).await;
    kubernetes(&apiserver).await;
    for _ in 0..2 {
        for node in NODES {
            start_node(cluster, node).await;
        }
        // Fields that are not set are filled in at the next start.
        let bare = json!({ "apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": { "name": "node.n1" }, "spec": {} });
        cluster.calicoctl("calicoctl", &["replace", "-f", "-"], &bare.to_string()).await;
    }
    tunnels(cluster, "Never", "Always", "Never").await;
    let mut long = Vec::new();
    for node in NODES {
        long.push(felix(cluster, node).await);
        long.push(confd(cluster, node).await);
        long.push(monitor(cluster, node).await);
    }
    long.push(typha(cluster).await);
    wireguard(cluster).await;
    tunnels(cluster, "Always", "Never", "Always").await;
    for node in NODES {
        let off = r#"{"status":{"wireguardPublicKey":"","wireguardPublicKeyV6":""}}"#;
        cluster.calicoctl("calicoctl", &["patch", "node", node, "--patch", off], "").await;
    }
    tunnels(cluster, "Never", "Always", "Never").await;
    let controllers = controllers(cluster, &apiserver).await;
    pods(cluster, &apiserver).await;
    changes(cluster, &apiserver).await;
    calicoctl(cluster).await;
    delete_node(cluster, &apiserver).await;
    for daemon in long {
        daemon.stop().await;
    }
    controllers.stop().await;
    apiserver.stop().await;
    for pod in PODS.iter().filter(|pod| pod.stays()) {
        netns("del", pod).await;
    }
}

async fn kubernetes(apiserver: &Apiserver) {
    for namespace in NAMESPACES {
        apiserver
            .create(
                "/api/v1/namespaces",
                json!({ "metadata": { "name": namespace, "labels": { "is": namespace } } }),
            )
            .await;
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        apiserver.create(&accounts, json!({ "metadata": { "name": "web-account" } })).await;
    }
    for node in NODES {
        apiserver
            .create(
                "/api/v1/nodes",
                json!({ "metadata": { "name": node, "labels": { "zone": "a" } } }),
            )
            .await;
    }
    let crd = json!({
        "metadata": { "name": "things.example.org" },
        "spec": {
            "group": "example.org", "scope": "Cluster", "names": { "plural": "things", "kind": "Thing" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }],
        },
    });
    apiserver.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd).await;
    let lease = json!({ "metadata": { "name": "a-lease" }, "spec": { "holderIdentity": "me", "leaseDurationSeconds": 15 } });
    apiserver.create("/apis/coordination.k8s.io/v1/namespaces/prod/leases", lease).await;
    let policy = json!({ "metadata": { "name": "allow-web" }, "spec": { "podSelector": {}, "policyTypes": ["Ingress"] } });
    apiserver.create("/apis/networking.k8s.io/v1/namespaces/prod/networkpolicies", policy).await;
    // Events are attached to a lease.
    let event = json!({
        "metadata": { "name": "it-happened", "namespace": "prod" }, "reason": "Test", "type": "Normal",
        "involvedObject": { "kind": "Namespace", "name": "prod", "namespace": "prod" },
    });
    apiserver.create("/api/v1/namespaces/prod/events", event).await;
}

/// calico-node as `node`.
fn node_command(cluster: &Cluster<'_>, node: &str, arguments: &[&str]) -> Command {
    let mut command = cluster.command(&cluster.programs.node, &format!("calico-node:{node}"));
    let address = if node == NODES[0] { "10.10.0.1/24" } else { "10.10.0.2/24" };
    command
        .args(arguments)
        .env("NODENAME", node)
        .env("CALICO_K8S_NODE_REF", node)
        .env("CALICO_NETWORKING_BACKEND", "bird")
        .env("CLUSTER_TYPE", "k8s,bgp")
        .env("IP", address)
        .env("IP6", address.replace("10.10.0.", "fd00:10::").replace("/24", "/64"))
        .env("AS", "64512")
        .env("CALICO_IPV4POOL_CIDR", "192.168.0.0/16")
        .env("CALICO_IPV6POOL_CIDR", "fd00:1::/112")
        .env("FELIX_IPV6SUPPORT", "true");
    command
}

async fn start_node(cluster: &Cluster<'_>, node: &str) {
    let output = feed(node_command(cluster, node, &["-startup"]), "").await;
    said(&format!("calico-node -startup of {node}"), &output);
}

/// Sets the modes of the default pools and waits for the tunnel addresses of each node, or for
/// their removal.
async fn tunnels(cluster: &Cluster<'_>, ipip: &str, vxlan: &str, vxlan_v6: &str) {
    for (pool, ipip, vxlan) in
        [("default-ipv4-ippool", ipip, vxlan), ("default-ipv6-ippool", "Never", vxlan_v6)]
    {
        let modes = json!({ "spec": { "ipipMode": ipip, "vxlanMode": vxlan } }).to_string();
        cluster.calicoctl("calicoctl", &["patch", "ippool", pool, "--patch", &modes], "").await;
    }
    for node in NODES {
        tunnel_addresses(cluster, node).await;
    }
}

/// Each Felix writes the keys into its Node after the data plane's last report.
async fn wireguard(cluster: &Cluster<'_>) {
    soon("the keys of WireGuard", async || {
        let shown = cluster.calicoctl("calicoctl-ro", &["get", "node", "-o", "yaml"], "").await;
        (shown.matches(dataplane::PUBLIC_KEY).count() == 2 * NODES.len()).then_some(())
    })
    .await;
}

async fn tunnel_addresses(cluster: &Cluster<'_>, node: &str) {
    let output = feed(
        node_command(cluster, node, &["-allocate-tunnel-addrs", "-allocate-tunnel-addrs-run-once"]),
        "",
    )
    .await;
    let text = said(&format!("-allocate-tunnel-addrs of {node}"), &output);
    assert!(!text.contains("permission denied"), "{text}");
}

/// Starts Felix with a data plane that only reports, and waits until it is in sync.
async fn felix(cluster: &Cluster<'_>, node: &str) -> Daemon {
    let secrets = cluster.secrets(&format!("calico-node:{node}"));
    let mut command = node_command(cluster, node, &["-felix"]);
    command
        .env("FELIX_DATASTORETYPE", "etcdv3")
        .env("FELIX_ETCDENDPOINTS", &cluster.way.endpoint)
        .env("FELIX_ETCDCAFILE", secrets.ca)
        .env("FELIX_ETCDCERTFILE", secrets.cert)
        .env("FELIX_ETCDKEYFILE", secrets.key)
        .env("FELIX_FELIXHOSTNAME", node)
        .env("FELIX_USEINTERNALDATAPLANEDRIVER", "false")
        .env("FELIX_DATAPLANEDRIVER", dataplane::driver(cluster.folder(), node))
        .env("FELIX_ENDPOINTREPORTINGENABLED", "true")
        .env("FELIX_LOGSEVERITYSCREEN", "info")
        // Felix drops log lines when there are many, and the expected one may be among them.
        .env("FELIX_DEBUGDISABLELOGDROPPING", "true")
        .env("FELIX_HEALTHENABLED", "false");
    let mut daemon = Daemon::start(cluster, &format!("felix-{node}"), command);
    daemon.wait_for("in-sync").await;
    daemon
}

/// Starts Typha and waits until it could serve.
async fn typha(cluster: &Cluster<'_>) -> Daemon {
    let secrets = cluster.secrets("typha");
    let mut command = cluster.command(&cluster.programs.typha, "typha");
    command
        .env("TYPHA_DATASTORETYPE", "etcdv3")
        .env("TYPHA_ETCDENDPOINTS", &cluster.way.endpoint)
        .env("TYPHA_ETCDCAFILE", secrets.ca)
        .env("TYPHA_ETCDCERTFILE", secrets.cert)
        .env("TYPHA_ETCDKEYFILE", secrets.key)
        .env("TYPHA_LOGSEVERITYSCREEN", "info")
        .env("TYPHA_LOGFILEPATH", "none")
        .env("TYPHA_DEBUGDISABLELOGDROPPING", "true");
    let mut daemon = Daemon::start(cluster, "typha", command);
    daemon.wait_for("in-sync").await;
    daemon
}

/// Starts confd with one template and waits until it has rendered it: then it is in sync.
async fn confd(cluster: &Cluster<'_>, node: &str) -> Daemon {
    let folder = cluster.folder().join(format!("confd-{node}"));
    for part in ["conf.d", "config", "templates"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    let rendered = folder.join("rendered");
    let resource = format!(
        "[template]\nsrc = \"t\"\ndest = \"{}\"\nprefix = \"/calico\"\nkeys = [\"/\"]\n",
        rendered.display()
    );
    std::fs::write(folder.join("conf.d/t.toml"), resource).unwrap();
    std::fs::write(folder.join("templates/t"), "in sync\n").unwrap();
    let mut command = node_command(cluster, node, &["-confd", "-confd-confdir"]);
    command.arg(folder);
    let mut daemon = Daemon::start(cluster, &format!("confd-{node}"), command);
    daemon.until("rendered", async |_| rendered.exists()).await;
    daemon
}

async fn monitor(cluster: &Cluster<'_>, node: &str) -> Daemon {
    Daemon::start(
        cluster,
        &format!("monitor-{node}"),
        node_command(cluster, node, &["-monitor-addresses"]),
    )
}

async fn controllers(cluster: &Cluster<'_>, apiserver: &Apiserver) -> Daemon {
    let mut command = cluster.command(&cluster.programs.controllers, "kube-controllers");
    command
        .env("KUBECONFIG", &apiserver.kubeconfig)
        .env(
            "ENABLED_CONTROLLERS",
            "policy,namespace,serviceaccount,workloadendpoint,node,loadbalancer",
        )
        .env("AUTO_HOST_ENDPOINTS", "enabled")
        // More often than kube-apiserver, so that both get to do it: the one that wrote the key
        // compacts.
        .env("COMPACTION_PERIOD", "1s")
        .env("LOG_LEVEL", "info");
    let mut daemon = Daemon::start(cluster, "kube-controllers", command);
    let made = async |arguments: &[&str], name: &str| {
        cluster.calicoctl("calicoctl-ro", arguments, "").await.contains(name)
    };
    for (kind, name) in [("profile", "kns.dash-ed-ns"), ("profile", "ksa.prod.web-account")] {
        daemon.until(name, async |_| made(&["get", kind, "-o", "yaml"], name).await).await;
    }
    let policies = ["get", "networkpolicy", "-n", "prod", "-o", "yaml"];
    daemon.until("policy", async |_| made(&policies, "knp.default.allow-web").await).await;
    daemon
}

async fn cni(cluster: &Cluster<'_>, apiserver: &Apiserver, pod: &Pod, verb: &str) -> String {
    let secrets = cluster.secrets(&format!("cni:{}", pod.node));
    let config = json!({
        "name": "k8s-pod-network", "cniVersion": "0.3.1", "type": "calico", "log_level": "info", "nodename": pod.node,
        "datastore_type": "etcdv3", "etcd_endpoints": cluster.way.endpoint,
        "etcd_key_file": secrets.key, "etcd_cert_file": secrets.cert, "etcd_ca_cert_file": secrets.ca, "mtu": 1500,
        "ipam": { "type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true" }, "policy": { "type": "k8s" }, "kubernetes": { "kubeconfig": apiserver.kubeconfig },
    });
    plugin(cluster, &config, pod, verb).await
}

/// Runs the CNI plugin with this configuration for a pod.
pub async fn plugin(cluster: &Cluster<'_>, config: &Value, pod: &Pod, verb: &str) -> String {
    let folder = cluster.folder().join("cni");
    if !folder.exists() {
        std::fs::create_dir(&folder).unwrap();
        for name in ["calico", "calico-ipam"] {
            std::os::unix::fs::symlink(&cluster.programs.cni, folder.join(name)).unwrap();
        }
    }
    let arguments = [
        ("K8S_POD_NAMESPACE", pod.namespace),
        ("K8S_POD_NAME", pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.container),
    ];
    let mut command = Command::new(folder.join("calico"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", pod.container)
        .env("CNI_NETNS", format!("/run/netns/{}", pod.container))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", &folder)
        .env(
            "CNI_ARGS",
            format!(
                "IgnoreUnknown=1;{}",
                arguments.map(|(name, value)| format!("{name}={value}")).join(";")
            ),
        )
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    said(&format!("CNI {verb} of {}", pod.name), &feed(command, &config.to_string()).await)
}

#[derive(Clone, Copy)]
pub struct Pod {
    pub node: &'static str,
    pub namespace: &'static str,
    pub name: &'static str,
    pub container: &'static str,
    pub address: Option<&'static str>,
}

impl Pod {
    /// True if the pod exists to the end.
    fn stays(&self) -> bool {
        self.node != NODES[0] || self.address.is_some()
    }
}

const PODS: [Pod; 4] = [
    Pod { node: NODES[0], namespace: "prod", name: "web-0", container: "c0", address: None },
    Pod { node: NODES[0], namespace: "dash-ed-ns", name: "a--b", container: "c1", address: None },
    Pod { node: NODES[1], namespace: "prod", name: "web-1", container: "c2", address: None },
    Pod {
        node: NODES[0],
        namespace: "prod",
        name: "fixed",
        container: "c3",
        address: Some("192.168.77.7"),
    },
];

async fn pods(cluster: &Cluster<'_>, apiserver: &Apiserver) {
    for pod in &PODS {
        let annotations = pod
            .address
            .map(|address| json!({ "cni.projectcalico.org/ipAddrs": format!("[\"{address}\"]") }));
        let object = json!({
            "metadata": { "name": pod.name, "labels": { "app": "web" }, "annotations": annotations },
            "spec": { "nodeName": pod.node, "serviceAccountName": "web-account", "containers": [{ "name": "c", "image": "none" }] },
        });
        apiserver.create(&format!("/api/v1/namespaces/{}/pods", pod.namespace), object).await;
        netns("add", pod).await;
        let answer = cni(cluster, apiserver, pod, "ADD").await;
        let address = answer
            .split('"')
            .find(|word| word.starts_with("192.168."))
            .unwrap_or_else(|| panic!("no address: {answer}"));
        assert!(pod.address.is_none_or(|fixed| address.starts_with(fixed)), "{answer}");
        // The work of a kubelet; kube-controllers only look at pods with an address.
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        let mut object = apiserver.get(&path).await.unwrap();
        let address = address.split('/').next();
        object["status"] =
            json!({ "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] });
        apiserver.replace(&format!("{path}/status"), object).await;
    }
    let shown = cluster
        .calicoctl("calicoctl-ro", &["get", "workloadendpoint", "-A", "-o", "yaml"], "")
        .await;
    assert_eq!(shown.matches("kind: WorkloadEndpoint\n").count(), PODS.len(), "{shown}");
    // kube-controllers copy the label of a pod to its endpoint.
    let path = "/api/v1/namespaces/prod/pods/web-0";
    let mut pod = apiserver.get(path).await.unwrap();
    pod["metadata"]["labels"]["more"] = json!("label");
    apiserver.replace(path, pod).await;
    soon("the label", async || {
        let shown = cluster
            .calicoctl("calicoctl-ro", &["get", "workloadendpoint", "-n", "prod", "-o", "yaml"], "")
            .await;
        shown.contains("more: label").then_some(())
    })
    .await;
    // A pod whose sandbox is recreated before the old one is gone.
    let again = Pod { container: "c4", ..PODS[0] };
    netns("add", &again).await;
    cni(cluster, apiserver, &again, "ADD").await;
    // A runtime may ask twice. The pod of the other node stays for the deletion of its node, the
    // one with a fixed address for calicoctl.
    for pod in PODS.iter().filter(|pod| !pod.stays()).chain([&again]) {
        for _ in 0..2 {
            cni(cluster, apiserver, pod, "DEL").await;
        }
        netns("del", pod).await;
    }
}

pub async fn netns(verb: &str, pod: &Pod) {
    said(
        &format!("ip netns {verb}"),
        &Command::new("ip").args(["netns", verb, pod.container]).output().await.unwrap(),
    );
}

/// Changes and removes objects that reach Calico through kube-controllers.
async fn changes(cluster: &Cluster<'_>, apiserver: &Apiserver) {
    let shows = async |arguments: &[&str], text: &str| {
        cluster.calicoctl("calicoctl-ro", arguments, "").await.contains(text)
    };
    for (path, label) in
        [("/api/v1/namespaces/prod", "of-the-namespace"), ("/api/v1/nodes/n1", "of-the-node")]
    {
        let mut object = apiserver.get(path).await.unwrap();
        object["metadata"]["labels"]["more"] = json!(label);
        apiserver.replace(path, object).await;
    }
    let policy = "/apis/networking.k8s.io/v1/namespaces/prod/networkpolicies/allow-web";
    let mut object = apiserver.get(policy).await.unwrap();
    object["spec"]["ingress"] = json!([{ "ports": [{ "port": 4711 }] }]);
    apiserver.replace(policy, object).await;
    for (kind, text) in [("profile", "of-the-namespace"), ("hostendpoint", "of-the-node")] {
        soon(text, async || shows(&["get", kind, "-o", "yaml"], text).await.then_some(())).await;
    }
    let policies = ["get", "networkpolicy", "-n", "prod", "-o", "yaml"];
    soon("the change of the policy", async || shows(&policies, "4711").await.then_some(())).await;
    apiserver.delete(policy).await;
    apiserver.delete("/api/v1/namespaces/dash-ed-ns/serviceaccounts/web-account").await;
    soon("the removal of the policy", async || {
        (!shows(&policies, "allow-web").await).then_some(())
    })
    .await;
    soon("the removal of the profile", async || {
        (!shows(&["get", "profile"], "ksa.dash-ed-ns").await).then_some(())
    })
    .await;
    load_balancer(cluster, apiserver).await;
}

/// A Service with an address from a pool for load balancers.
async fn load_balancer(cluster: &Cluster<'_>, apiserver: &Apiserver) {
    let pool = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "balanced" },
        "spec": { "cidr": "172.30.0.0/26", "allowedUses": ["LoadBalancer"], "assignmentMode": "Automatic", "nodeSelector": "all()" },
    });
    cluster.calicoctl("calicoctl", &["create", "-f", "-"], &pool.to_string()).await;
    let services = "/api/v1/namespaces/prod/services";
    let service = json!({ "metadata": { "name": "web" }, "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }], "selector": { "app": "web" } } });
    apiserver.create(services, service).await;
    let address = soon("an address of the load balancer", async || {
        let service = apiserver.get(&format!("{services}/web")).await.unwrap();
        service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
    })
    .await;
    apiserver.delete(&format!("{services}/web")).await;
    soon("the address is free", async || {
        let shown = cluster
            .calicoctl("calicoctl-ro", &["ipam", "show", &format!("--ip={address}")], "")
            .await;
        shown.contains("not assigned").then_some(())
    })
    .await;
}

/// Every kind that calicoctl knows, with each variant that may use it.
async fn calicoctl(cluster: &Cluster<'_>) {
    let resource = |kind: &str, namespaced: bool, name: &str, spec: Value| {
        let mut metadata = json!({ "name": name });
        if namespaced {
            metadata["namespace"] = json!("prod");
        }
        json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec })
    };
    let policies = [
        resource("Tier", false, "security", json!({ "order": 10 })),
        resource(
            "GlobalNetworkPolicy",
            false,
            "security.g",
            json!({ "tier": "security", "selector": "all()" }),
        ),
        resource("GlobalNetworkPolicy", false, "default.g", json!({ "selector": "all()" })),
        resource("NetworkPolicy", true, "default.n", json!({ "selector": "all()" })),
        resource("GlobalNetworkSet", false, "gset", json!({ "nets": ["10.0.0.0/8"] })),
        resource("NetworkSet", true, "set", json!({ "nets": ["10.0.0.0/8"] })),
        resource("Profile", false, "p", json!({ "labelsToApply": { "a": "b" } })),
        resource("StagedGlobalNetworkPolicy", false, "default.sg", json!({ "selector": "all()" })),
        resource("StagedNetworkPolicy", true, "default.s", json!({ "selector": "all()" })),
        resource("StagedKubernetesNetworkPolicy", true, "sk", json!({ "podSelector": {} })),
    ];
    let others = [
        resource(
            "BGPPeer",
            false,
            "peer",
            json!({ "peerIP": "10.10.0.9", "asNumber": 64513, "node": NODES[1] }),
        ),
        resource("BGPConfiguration", false, "default", json!({ "asNumber": 64512 })),
        resource("BGPFilter", false, "filter", json!({})),
        resource(
            "HostEndpoint",
            false,
            "hep",
            json!({ "node": NODES[1], "interfaceName": "eth0" }),
        ),
        resource("IPPool", false, "pool", json!({ "cidr": "172.31.0.0/24" })),
        resource(
            "IPReservation",
            false,
            "reserved",
            json!({ "reservedCIDRs": ["192.168.1.0/30"] }),
        ),
    ];
    for (who, resources) in [("calicoctl-editor", &policies[..]), ("calicoctl", &others[..])] {
        for resource in resources {
            cluster.calicoctl(who, &["create", "-f", "-"], &resource.to_string()).await;
            cluster.calicoctl(who, &["apply", "-f", "-"], &resource.to_string()).await;
            let kind = resource["kind"].as_str().unwrap();
            let name = resource["metadata"]["name"].as_str().unwrap();
            let everywhere: &[&str] =
                if resource["metadata"]["namespace"].is_null() { &[] } else { &["-A"] };
            let shown = cluster
                .calicoctl("calicoctl-ro", &[&["get", kind, "-o", "yaml"], everywhere].concat(), "")
                .await;
            assert!(shown.contains(name), "{kind} {name}: {shown}");
        }
    }
    for kind in [
        "node",
        "felixconfiguration",
        "kubecontrollersconfiguration",
        "clusterinformation",
        "ippool",
        "profile",
        "tier",
    ] {
        cluster.calicoctl("calicoctl-ro", &["get", kind, "-o", "wide"], "").await;
    }
    for who in ["calicoctl-ro", "calicoctl-editor"] {
        cluster.calicoctl(who, &["ipam", "show", "--show-blocks"], "").await;
    }
    cluster.calicoctl("calicoctl-ro", &["ipam", "check"], "").await;
    cluster.calicoctl("calicoctl", &["ipam", "configure", "--strictaffinity=false"], "").await;
    cluster.calicoctl("calicoctl", &["ipam", "release", "--ip=192.168.77.7"], "").await;
    for step in ["lock", "export", "unlock"] {
        cluster.calicoctl("calicoctl", &["datastore", "migrate", step], "").await;
    }
    for (who, resources) in [("calicoctl-editor", &policies[..]), ("calicoctl", &others[1..])] {
        for resource in resources.iter().rev().filter(|resource| resource["kind"] != "HostEndpoint")
        {
            cluster.calicoctl(who, &["delete", "-f", "-"], &resource.to_string()).await;
        }
    }
}

/// kube-controllers remove the node's objects.
async fn delete_node(cluster: &Cluster<'_>, apiserver: &Apiserver) {
    apiserver
        .delete(&format!("/api/v1/namespaces/prod/pods/{}?gracePeriodSeconds=0", PODS[2].name))
        .await;
    apiserver.delete(&format!("/api/v1/nodes/{}", NODES[1])).await;
    soon("the removal of the node", async || {
        let shown = cluster.calicoctl("calicoctl-ro", &["get", "node", "-o", "yaml"], "").await;
        (!shown.contains(NODES[1])).then_some(())
    })
    .await;
}
