//! Checks of `deploy/` that need no cluster: policies and configurations are valid, pods match
//! their configuration, no start waits for another one, and the scripts work. `calico::manifests`
//! has the rest.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use etcd_warden_core::policy::Policy;
use etcd_warden_gateway::config::{ClientCa, Config, ServeArgs, load};
use etcd_warden_testbed::pki::{Authority, Issued, Leaf, write_private};
use serde_json::Value;
use tempfile::TempDir;

use crate::world::{World, authorities, connect, is_permission_denied};

/// The CAs that the configurations name, and the one that they contain as a comment.
const CAS: [&str; 2] = ["components", "nodes"];

pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

pub fn text(path: &str) -> String {
    fs::read_to_string(deploy().join(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

pub fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&text(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// Every file below `deploy/` with this name, as a relative path.
fn named(name: &str) -> Vec<String> {
    fn look(folder: &Path, name: &str, found: &mut Vec<String>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                look(&path, name, found);
            } else if path.file_name().unwrap() == name {
                found.push(path.strip_prefix(deploy()).unwrap().display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    look(&deploy(), name, &mut found);
    found.sort();
    found
}

fn config(path: &str) -> Config {
    let loaded = load(&ServeArgs::of_file(Some(deploy().join(path))), []);
    loaded.unwrap_or_else(|errors| panic!("deploy/{path}: {errors}")).0
}

#[test]
fn every_policy_is_valid_and_begins_in_shadow_mode() {
    let policies = named("policy.yaml");
    assert_eq!(policies.len(), 5, "{policies:?}");
    for path in policies {
        let policy = Policy::parse(&path, text(&path).as_bytes(), 1, None)
            .unwrap_or_else(|errors| panic!("{errors}"));
        for found in [policy.warnings().to_string(), policy.check_cas(&CAS).to_string()] {
            assert_eq!(found, "", "{path}");
        }
        assert!(policy.has_shadow(), "{path}");
        let without_ca: Vec<_> = text(&path)
            .split("\n  - ")
            .skip(1)
            .filter(|binding| !binding.contains("\n    ca: "))
            .map(str::to_owned)
            .collect();
        assert!(without_ca.is_empty(), "{path}: every CA could issue {without_ca:?}");
    }
}

#[test]
fn every_configuration_loads_and_names_the_cas_of_the_policies() {
    let configurations = named("config.yaml");
    assert_eq!(configurations.len(), 2, "{configurations:?}");
    for path in configurations {
        let named = |config: &Config| {
            config.downstream.client_cas.iter().map(|ca| ca.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(named(&config(&path)), CAS[..1], "{path}");
        let folder = TempDir::new().unwrap();
        let both = folder.path().join("config.yaml");
        fs::write(&both, text(&path).replace("  # nodes: ", "  nodes: ")).unwrap();
        let (both, _) = load(&ServeArgs::of_file(Some(both)), []).unwrap();
        assert_eq!(named(&both), CAS, "{path}");
    }
}

/// The pods of the proxy, each with its configuration.
fn proxies() -> [(Value, Config); 2] {
    let pod = yaml("kubernetes/proxy/static-pod/etcd-warden.yaml");
    let template = yaml("kubernetes/proxy/daemonset/daemonset.yaml")["spec"]["template"].take();
    [
        (pod, config("kubernetes/proxy/static-pod/config.yaml")),
        (template, config("kubernetes/proxy/daemonset/config.yaml")),
    ]
}

#[test]
fn the_pods_of_the_proxy_fit_their_configuration() {
    for (pod, config) in proxies() {
        let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
        assert_eq!(container["ports"][0]["containerPort"], config.listen_addr.port());
        let admin = config.admin_addr.unwrap();
        for (probe, path) in
            [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
        {
            let get = &container[probe]["httpGet"];
            let asked = (get["host"].as_str(), get["port"].as_u64(), get["path"].as_str());
            assert_eq!(
                asked,
                (Some(admin.ip().to_string().as_str()), Some(admin.port().into()), Some(path)),
                "{probe}"
            );
        }
        assert!(
            spec["terminationGracePeriodSeconds"].as_u64().unwrap()
                > config.drain_timeout.as_secs()
        );
        assert!(
            config.audit.stdout && config.audit.file.is_none(),
            "the root of the container is read-only"
        );
        // Every path in the configuration is mounted, and written ones are mounted writable.
        let mounts: Vec<(&str, bool)> =
            container["volumeMounts"].as_array().unwrap().iter().map(mount).collect();
        let mounted = |path: &Path, written: bool| {
            mounts.iter().any(|(at, read_only)| path.starts_with(at) && !(written && *read_only))
        };
        let upstream = config.upstream.identity.clone().unwrap();
        let read = [
            &config.policy,
            &config.downstream.cert_file,
            &config.downstream.key_file,
            &upstream.0,
            &upstream.1,
        ];
        for path in read.into_iter().chain(&config.upstream.cacert).chain(&config.lease_key_file) {
            assert!(mounted(path, false), "{} is not mounted", path.display());
        }
        for ca in &config.downstream.client_cas {
            assert!(mounted(&ca.file, false), "{} is not mounted", ca.file.display());
        }
        assert!(mounted(config.state_dir.as_deref().unwrap(), true));
    }
}

fn mount(mount: &Value) -> (&str, bool) {
    (mount["mountPath"].as_str().unwrap(), mount["readOnly"] == true)
}

#[test]
fn the_pods_of_the_proxy_have_no_right_that_they_do_not_need() {
    for (pod, _) in proxies() {
        let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["runAsUser"], 65532);
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert!(spec["securityContext"]["fsGroup"].is_null(), "it has no effect on hostPath");
        let rights = &container["securityContext"];
        assert_eq!(
            (&rights["readOnlyRootFilesystem"], &rights["allowPrivilegeEscalation"]),
            (&true.into(), &false.into())
        );
        assert_eq!(rights["capabilities"]["drop"], serde_json::json!(["ALL"]));
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(spec["priorityClassName"], "system-node-critical");
        assert_eq!(spec["hostNetwork"], true);
    }
}

#[test]
fn the_static_pod_does_not_need_the_api_server() {
    let pod = yaml("kubernetes/proxy/static-pod/etcd-warden.yaml");
    for volume in pod["spec"]["volumes"].as_array().unwrap() {
        let kinds: Vec<&String> =
            volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
        assert_eq!(kinds, ["hostPath"], "kubelet cannot mount {volume} before kube-apiserver runs");
        // The kubelet would create it for root, and the proxy could not use it.
        assert_eq!(volume["hostPath"]["type"], "Directory");
    }
    let container = &pod["spec"]["containers"][0];
    for field in ["env", "envFrom"] {
        assert!(container[field].is_null(), "{field}");
    }
    assert!(pod["spec"]["serviceAccountName"].is_null());
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
}

/// The names of nodes that a policy binds, with the CA.
fn bound(path: &str) -> BTreeSet<String> {
    let bindings = yaml(path)["bindings"].take();
    let of_nodes =
        bindings.as_array().unwrap().iter().filter(|binding| binding["ca"] == "nodes").cloned();
    of_nodes
        .map(|binding| binding["cn"].as_str().or(binding["uri"].as_str()).unwrap().to_owned())
        .collect()
}

#[test]
fn vault_issues_the_names_that_the_policy_binds_and_no_others() {
    let folder = "kubernetes/per-node/vault";
    let role: Value = serde_json::from_str(&text(&format!("{folder}/pki-role.json"))).unwrap();
    let allowed =
        role["allowed_domains"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let allowed: BTreeSet<String> = allowed
        .map(|name| name.replace("{{identity.entity.aliases.ACCESSOR.name}}", "{node}"))
        .collect();
    assert_eq!(allowed, bound(&format!("{folder}/policy.yaml")));
    for open in [
        "allow_any_name",
        "allow_subdomains",
        "allow_glob_domains",
        "allow_localhost",
        "allow_wildcard_certificates",
        "allow_ip_sans",
        "server_flag",
    ] {
        assert_eq!(role[open], false, "{open}");
    }
    // `disabled` would switch off the check of Common Names.
    assert!(role["cn_validations"].is_null());
    // Without the node in the alias, the service account would have one alias with the rights of
    // the node that logged in last.
    let login: Value = serde_json::from_str(&text(&format!("{folder}/auth-role.json"))).unwrap();
    assert_eq!(
        (&login["user_claim"], &login["user_claim_json_pointer"]),
        (&"/kubernetes.io/node/name".into(), &true.into())
    );
    assert_eq!(login["bound_subject"], "system:serviceaccount:kube-system:calico-node");
}

#[test]
fn spire_issues_the_ids_that_the_policy_binds() {
    let folder = "kubernetes/per-node/spire";
    let ids = text(&format!("{folder}/spiffe-ids.yaml"));
    let templates = ids.lines().filter_map(|line| line.trim().strip_prefix("spiffeIDTemplate: "));
    let ids: BTreeSet<String> = templates
        .map(|id| {
            id.trim_matches('"')
                .replace("{{ .TrustDomain }}", "example.org")
                .replace("{{ .PodSpec.NodeName }}", "{node}")
        })
        .collect();
    assert_eq!(ids, bound(&format!("{folder}/policy.yaml")));
    // The selector must name the container; otherwise any container of the pod could be calico/node
    // or the plugin.
    let documents = text(&format!("{folder}/spiffe-ids.yaml"));
    for (document, component, helper) in documents
        .split("---\n")
        .zip(["calico-node", "cni"])
        .zip(["node", "cni"])
        .map(|((a, b), c)| (a, b, c))
    {
        assert!(
            document.contains(&format!("/{component}/{{{{ .PodSpec.NodeName }}}}\"")),
            "{document}"
        );
        let selectors: Vec<&str> =
            document.lines().filter_map(|line| line.trim().strip_prefix("- k8s:")).collect();
        assert_eq!(
            selectors,
            ["ns:kube-system", "sa:calico-node", &format!("container-name:spiffe-helper-{helper}")]
        );
        // A kubelet may set labels of its own Node.
        assert!(
            !document
                .lines()
                .any(|line| line.contains("NodeMeta") && !line.trim().starts_with('#'))
        );
    }
}

/// A policy per node with the denial that it contains as a comment.
pub fn denying(policy: &str) -> String {
    let denial = "    # deny:\n    #   - keys: /calico/resources/v3/projectcalico.org/clusterinformations/default\n    #     verbs: [update]\n";
    let with = policy.replace(denial, &denial.replace("    # ", "    "));
    assert_ne!(with, policy);
    with
}

/// With the certificates of each form, a node can write its own Node, but not another node's, and
/// cannot act as another component. The issuer of nodes cannot create a kube-apiserver.
#[tokio::test]
async fn with_each_form_a_node_speaks_for_itself_alone() {
    let nodes = Authority::new("nodes CA").unwrap();
    let folder = TempDir::new().unwrap();
    let file = write_private(folder.path(), "nodes-ca.crt", &nodes.pem()).unwrap();
    let by_uri = |uri: &str| Leaf::client("").without_common_name().uri(uri);
    for (form, issuer, leaf) in [
        ("host-files", &authorities().clients, Leaf::client("calico-node:n1")),
        ("vault", &nodes, Leaf::client("calico-node:n1")),
        ("spire", &nodes, by_uri("spiffe://example.org/calico-node/n1")),
    ] {
        let policy = denying(&text(&format!("kubernetes/per-node/{form}/policy.yaml")))
            .replace("mode: shadow", "mode: enforce");
        let file = file.clone();
        let two_cas = |config: &mut Config| {
            config.downstream.client_cas[0].name = "components".into();
            config.downstream.client_cas.push(ClientCa { name: "nodes".into(), file });
        };
        let world = World::with(&policy).own_etcd().config(two_cas).start().await;
        let as_ = async |issued: &Issued| {
            connect(&[world.endpoint()], &authorities().clients, issued).await
        };
        let (own, other) = ["n1", "n2"]
            .map(|node| format!("/calico/resources/v3/projectcalico.org/nodes/{node}"))
            .into();
        let mut node = as_(&issuer.issue(&leaf).unwrap()).await;
        node.put(own.as_str(), "mine", None)
            .await
            .unwrap_or_else(|error| panic!("{form}: {error}"));
        for key in [
            other.as_str(),
            "/calico/resources/v3/projectcalico.org/clusterinformations/default",
            "/registry/pods/a/b",
        ] {
            assert!(is_permission_denied(&node.put(key, "not mine", None).await), "{form}: {key}");
        }
        let pods = "/registry/pods/default/a";
        let mut real = as_(&authorities().clients.client("kube-apiserver").unwrap()).await;
        real.put(pods, "1", None).await.unwrap_or_else(|error| panic!("{form}: {error}"));
        let mut minted = as_(&nodes.client("kube-apiserver").unwrap()).await;
        assert!(is_permission_denied(&minted.put(pods, "2", None).await), "{form}");
    }
}

fn push(nodes: &Path, host: &Path, names: &[&str]) -> Output {
    let remote = host.join("remote");
    fs::write(&remote, format!("#!/bin/sh\nETCD_CERTS={}/$1 exec sh -c \"$2\"\n", host.display()))
        .unwrap();
    fs::set_permissions(&remote, fs::Permissions::from_mode(0o755)).unwrap();
    Command::new(deploy().join("hosts/push-certificates"))
        .arg(nodes)
        .args(names)
        .env("REMOTE_SHELL", remote)
        .output()
        .unwrap()
}

#[test]
fn certificates_go_to_their_own_node_and_change_together() {
    let folder = TempDir::new().unwrap();
    let (nodes, hosts) = (folder.path().join("nodes"), folder.path().join("hosts"));
    fs::create_dir(&hosts).unwrap();
    let issue = |generation: u32| {
        for (node, component) in
            [("n1", "calico-node"), ("n1", "cni"), ("n2", "calico-node"), ("n2", "cni")]
        {
            let at = nodes.join(node).join(component);
            fs::create_dir_all(&at).unwrap();
            for file in ["etcd-ca", "etcd-cert", "etcd-key"] {
                fs::write(at.join(file), format!("{node} {component} {file} {generation}"))
                    .unwrap();
            }
        }
    };
    let read = |path: &str| fs::read_to_string(hosts.join(path)).unwrap();
    issue(1);
    let said = push(&nodes, &hosts, &[]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "n1\nn2\n");
    for (path, content) in [
        ("n1/calico-node/etcd-cert", "n1 calico-node etcd-cert 1"),
        ("n2/cni/etcd-key", "n2 cni etcd-key 1"),
    ] {
        assert_eq!(read(path), content);
    }
    let mode = |path: &str| fs::metadata(hosts.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("n1/cni/etcd-key"), mode("n1/cni/etcd-cert")), (0o600, 0o644));
    // The folder is mounted: it stays, and one link changes its content.
    issue(2);
    assert!(push(&nodes, &hosts, &["n1"]).status.success());
    assert_eq!(
        (read("n1/calico-node/etcd-key"), read("n2/calico-node/etcd-key")),
        ("n1 calico-node etcd-key 2".into(), "n2 calico-node etcd-key 1".into())
    );
    assert!(fs::read_link(hosts.join("n1/calico-node/etcd-key")).unwrap().starts_with("..data"));
    // An incomplete set changes nothing, not even the other component's. A missing node is
    // reported.
    issue(3);
    fs::remove_file(nodes.join("n1/cni/etcd-key")).unwrap();
    for wrong in [&["n1"], &["n3"]] {
        assert_eq!(push(&nodes, &hosts, wrong).status.code(), Some(1));
    }
    assert_eq!(read("n1/calico-node/etcd-key"), "n1 calico-node etcd-key 2");
    let versions = fs::read_dir(hosts.join("n1/calico-node")).unwrap().count();
    assert_eq!(versions, 5, "expected three files, the link, and one version");
    // The leftovers of an interrupted push.
    issue(4);
    let current = fs::read_link(hosts.join("n1/calico-node/..data")).unwrap();
    std::os::unix::fs::symlink(current, hosts.join("n1/calico-node/..next")).unwrap();
    assert!(push(&nodes, &hosts, &["n1"]).status.success());
    assert_eq!(read("n1/calico-node/etcd-key"), "n1 calico-node etcd-key 4");
}

#[test]
fn the_image_holds_the_program_and_what_it_is_linked_with() {
    let dockerfile = text("container/Dockerfile");
    let program = Path::new(env!("CARGO_BIN_EXE_etcd-warden"));
    let copied = format!(
        "/src/target/release/{} /usr/bin/etcd-warden\n",
        program.file_name().unwrap().display()
    );
    for line in [
        copied.as_str(),
        "USER 65532:65532\n",
        "ENTRYPOINT [\"/usr/bin/etcd-warden\"]\n",
        "distroless/cc-debian12:nonroot\n",
    ] {
        assert!(dockerfile.contains(line), "{line}");
    }
    // distroless/cc has glibc, libgcc and libstdc++.
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .unwrap_or_else(|error| panic!("this test needs `ldd` (libc-bin): {error}"));
    let linked = String::from_utf8(output.stdout).unwrap();
    for library in linked
        .lines()
        .map(|line| line.split_whitespace().next().unwrap().rsplit('/').next().unwrap())
    {
        let there = [
            "linux-vdso",
            "ld-linux-",
            "libc.so",
            "libm.so",
            "libgcc_s.so",
            "libstdc++.so",
            "libpthread.so",
            "libdl.so",
            "librt.so",
        ];
        assert!(
            there.iter().any(|known| library.starts_with(known)),
            "{library} is not in the image"
        );
    }
    // Every file that the build reads is in its context.
    let context = text("container/Dockerfile.dockerignore");
    for path in context.lines().filter_map(|line| line.strip_prefix('!')) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{path}");
    }
}
