//! `docs/tutorial.md`, run as it is written: its commands in a shell, in their order, and after
//! each way back the step again. Where a comment of the page says so, the test does what a cluster
//! does by itself: `<!-- pods -->` (Calico's pods restart with their settings from kube-apiserver
//! and do their work) and `<!-- etcd: FLAGS -->` (an operator restarts etcd with other flags).
//!
//! Two nodes share this host, so push-certificates writes to a node's folder instead of using
//! `ssh`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use etcd_warden_testbed::pki::{Authority, Leaf, Usage, write_private};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::apiserver::Apiserver;
use super::cluster::{Cluster, Daemon, Programs, Way, feed, said};
use super::kubelet::Kubelet;
use super::scenario::{Pod, netns, plugin};
use super::{inside, runtime};
use crate::deploy::deploy;
use crate::segment::manifest;
use crate::world::go_tool::go_program;
use crate::world::{SOON, World, programs, soon};

const PAGE: &str = include_str!("../../../docs/tutorial.md");
const ETCD: &str = "https://10.10.0.1:2379";
const NODES: [&str; 2] = ["n1", "n2"];

/// Expected output of the page's commands, in order. A line must contain all parts that are
/// separated by `..`.
const SEEN: &[&str] = &[
    // 1: a node's certificate writes and removes an object that applies to every policy.
    "/calico/",
    "OK",
    // 2
    "calico-etcd-kube-controllers",
    // 5: nothing would have been refused; then calicoctl, which the policy does not know yet.
    "nothing would have been refused",
    "n1",
    "1",
    // 6
    "permission denied",
    "refused",
    "\"cn\":\"calico-node\"",
    // 7: the old certificate, before and after.
    "with CN=calico  .. reads keys",
    "something is wrong",
    "with CN=calico  .. shut out",
    // 8
    "nothing would have been refused to a node",
    "/calico/resources/v3/projectcalico.org/nodes/n2",
    "permission denied",
    "refused",
    "permission denied",
    "refused",
];

/// The parts of the page.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Commands(String),
    Pods,
    Etcd(Vec<String>),
    /// The way back from the last commands.
    Back(String),
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = page.lines();
    let mut back = false;
    while let Some(line) = lines.next() {
        match line {
            "```bash" => {
                let commands: String = lines
                    .by_ref()
                    .take_while(|line| *line != "```")
                    .map(|line| format!("{line}\n"))
                    .collect();
                steps.push(if std::mem::take(&mut back) {
                    Step::Back(commands)
                } else {
                    Step::Commands(commands)
                });
            }
            "<!-- pods -->" => steps.push(Step::Pods),
            "<!-- back -->" => back = true,
            _ => {
                if let Some(flags) =
                    line.strip_prefix("<!-- etcd: ").and_then(|line| line.strip_suffix(" -->"))
                {
                    steps.push(Step::Etcd(flags.split(' ').map(str::to_owned).collect()));
                }
            }
        }
    }
    steps
}

#[test]
fn the_page_has_steps_and_each_way_back() {
    let steps = steps(PAGE);
    let number = |fits: fn(&Step) -> bool| steps.iter().filter(|step| fits(step)).count();
    assert!(number(|step| matches!(step, Step::Commands(_))) >= 12, "{steps:?}");
    assert!(
        number(|step| matches!(step, Step::Back(_))) >= 4
            && number(|step| *step == Step::Pods) >= 5,
        "{steps:?}"
    );
    assert_eq!(number(|step| matches!(step, Step::Etcd(_))), 2);
}

#[test]
#[ignore = "needs root and builds Calico, kubectl and kube-apiserver, minutes the first time; .ci/run runs it"]
fn the_tutorials_commands_work_forwards_and_back() {
    if inside("calico::tutorial::the_tutorials_commands_work_forwards_and_back") {
        runtime().block_on(tutorial());
    }
}

async fn tutorial() {
    let calico = tokio::task::spawn_blocking(Programs::build).await.unwrap();
    let kubectl = tokio::task::spawn_blocking(|| {
        go_program("kubectl", "kubectl", "k8s.io/kubernetes/cmd/kubectl")
    })
    .await
    .unwrap();
    // Kubernetes has a separate etcd in this test.
    let world = World::with(
        "version: 1\nmode: enforce\nroles: {r: {capabilities: [status]}}\nbindings: [{cn: x, roles: [r]}]\n",
    );
    let world = world.own_etcd().start().await;
    let cluster = Cluster::new(&calico, Way::direct(world.etcd().endpoints()[0].clone()));
    let apiserver = Apiserver::start(&cluster).await;
    soon("namespace kube-system", async || {
        apiserver.get("/api/v1/namespaces/kube-system").await.map(drop)
    })
    .await;
    for node in NODES {
        apiserver.create("/api/v1/nodes", json!({ "metadata": { "name": node } })).await;
    }
    let workspace = Workspace::new(&cluster, &apiserver, &kubectl);
    let mut etcd = workspace.etcd(&[]).await;
    apply(&workspace, &apiserver).await;
    workspace.pods(&cluster, &apiserver).await;

    let mut shell = workspace.shell();
    let mut last = String::new();
    for step in steps(PAGE) {
        match step {
            Step::Commands(commands) => {
                shell.run(&commands).await;
                last = commands;
            }
            Step::Pods => workspace.pods(&cluster, &apiserver).await,
            Step::Back(commands) => {
                shell.run(&commands).await;
                workspace.pods(&cluster, &apiserver).await;
                shell.run(&last).await;
                workspace.pods(&cluster, &apiserver).await;
            }
            Step::Etcd(flags) => {
                etcd.stop().await;
                etcd = workspace.etcd(&flags).await;
            }
        }
    }
    shell.has_said(SEEN);
    // No call of Calico itself was ever refused.
    let audit = std::fs::read_to_string(workspace.folder.join("audit.jsonl")).unwrap();
    let denied: Vec<Value> = audit
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["decision"] == "deny")
        .collect();
    assert_eq!(denied.len(), 3, "{denied:#?}");
    etcd.stop().await;
    apiserver.stop().await;
}

/// The working folder of the page.
struct Workspace {
    folder: PathBuf,
    bin: PathBuf,
    kubeconfig: PathBuf,
}

impl Workspace {
    fn new(cluster: &Cluster<'_>, apiserver: &Apiserver, kubectl: &Path) -> Self {
        let folder = cluster.folder().join("tutorial");
        let bin = cluster.folder().join("bin");
        for made in [&folder, &bin] {
            std::fs::create_dir(made).unwrap();
        }
        let etcdctl = programs()
            .etcdctl
            .clone()
            .unwrap_or_else(|| panic!("there is no etcdctl beside {}", programs().etcd.display()));
        let warden = PathBuf::from(env!("CARGO_BIN_EXE_etcd-warden"));
        let remote = bin.join("remote");
        std::fs::write(
            &remote,
            "#!/bin/sh\nETCD_CERTS=hosts/$1/etc/calico/etcd-certs exec sh -c \"$2\"\n",
        )
        .unwrap();
        std::fs::set_permissions(&remote, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        std::os::unix::fs::symlink(
            deploy().join("hosts/push-certificates"),
            bin.join("push-certificates"),
        )
        .unwrap();
        for (name, program) in [
            ("etcdctl", &etcdctl),
            ("kubectl", &kubectl.to_owned()),
            ("calicoctl", &cluster.programs.calicoctl),
            ("etcd-warden", &warden),
        ] {
            std::os::unix::fs::symlink(program, bin.join(name)).unwrap();
        }
        let ca = Authority::new("etcd").unwrap();
        write_private(&folder, "old-etcd-ca.crt", &ca.pem()).unwrap();
        ca.issue(&Leaf::server(&["10.10.0.1"]).usage(Usage::Both))
            .unwrap()
            .write(&folder, "etcd")
            .unwrap();
        let shared = ca.client("calico").unwrap();
        shared.write(&folder, "calico").unwrap();
        // The manifest, filled in as Calico's guide says.
        let encoded = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
        let mut text = manifest("v3.31.0").replace("http://<ETCD_IP>:<ETCD_PORT>", ETCD);
        for (name, content) in
            [("etcd-ca", &ca.pem()), ("etcd-cert", &shared.certificate), ("etcd-key", &shared.key)]
        {
            text =
                text.replace(&format!("# {name}: null"), &format!("{name}: {}", encoded(content)));
            let setting = name.replace('-', "_");
            text = text.lines().map(|line| filled(line, &setting, name) + "\n").collect();
        }
        assert!(text.matches("/calico-secrets/etcd-").count() >= 3);
        std::fs::write(folder.join("calico-etcd.yaml"), text).unwrap();
        Self { folder, bin, kubeconfig: apiserver.kubeconfig.clone() }
    }

    /// Starts etcd with its old data and flags, changed by these flags.
    async fn etcd(&self, flags: &[String]) -> Etcd {
        let mut command = Command::new(&programs().etcd);
        command.current_dir(&self.folder).env_clear();
        for flag in [
            "--data-dir=etcd-data",
            "--client-cert-auth",
            "--trusted-ca-file=old-etcd-ca.crt",
            "--cert-file=etcd.crt",
            "--key-file=etcd.key",
        ] {
            command.arg(flag);
        }
        command.args([
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
        ]);
        let log = std::fs::File::create(self.folder.join("etcd.log")).unwrap();
        let child = command
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        soon("etcd", async || {
            tokio::net::TcpStream::connect("10.10.0.1:2379").await.ok().map(drop)
        })
        .await;
        Etcd(child)
    }

    fn shell(&self) -> Shell {
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap());
        let mut child = Command::new("bash")
            .current_dir(&self.folder)
            .env_clear()
            .envs([
                ("PATH", path.as_str()),
                ("KUBECONFIG", self.kubeconfig.to_str().unwrap()),
                ("HOME", self.folder.to_str().unwrap()),
                ("REMOTE_SHELL", "remote"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (stdin, stdout) =
            (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        Shell {
            _child: child,
            stdin,
            stdout,
            said: Vec::new(),
            log: self.folder.join("warden.log"),
        }
    }

    /// Restarts Calico's pods: each does something in etcd that can be observed.
    async fn pods(&self, cluster: &Cluster<'_>, apiserver: &Apiserver) {
        for (number, node) in NODES.into_iter().enumerate() {
            let kubelet = Kubelet::look(
                apiserver,
                node,
                &cluster.folder().join("kubelet"),
                &self.folder.join("hosts").join(node),
            )
            .await;
            let mut command = kubelet.command(&cluster.programs.node, "calico-node");
            command
                .arg("-startup")
                .env("NODENAME", node)
                .env("CALICO_IPV4POOL_CIDR", "192.168.0.0/16")
                .env("IP", format!("10.10.0.{}/24", number + 1));
            said(&format!("calico-node -startup of {node}"), &feed(command, "").await);
            self.pod(
                cluster,
                apiserver,
                &kubelet,
                Pod { node, namespace: "default", name: node, container: node, address: None },
            )
            .await;
            if number == 0 {
                self.controllers(cluster, apiserver, &kubelet).await;
            }
        }
    }

    async fn pod(&self, cluster: &Cluster<'_>, apiserver: &Apiserver, kubelet: &Kubelet, pod: Pod) {
        let path = "/api/v1/namespaces/default/pods";
        if apiserver.get(&format!("{path}/{}", pod.name)).await.is_none() {
            let spec =
                json!({ "nodeName": pod.node, "containers": [{ "name": "c", "image": "none" }] });
            apiserver.create(path, json!({ "metadata": { "name": pod.name }, "spec": spec })).await;
        }
        let secrets = kubelet.secrets("install-cni");
        let environment = kubelet.environment("install-cni");
        let endpoints = environment
            .iter()
            .find(|(name, _)| name == "ETCD_ENDPOINTS")
            .map(|(_, value)| value.as_str())
            .unwrap();
        let config = json!({
            "name": "k8s-pod-network", "cniVersion": "0.3.1", "type": "calico", "nodename": pod.node, "etcd_endpoints": endpoints,
            "etcd_key_file": secrets.join("etcd-key"), "etcd_cert_file": secrets.join("etcd-cert"), "etcd_ca_cert_file": secrets.join("etcd-ca"),
            "mtu": 1500, "ipam": { "type": "calico-ipam" }, "policy": { "type": "k8s" }, "kubernetes": { "kubeconfig": self.kubeconfig },
        });
        netns("add", &pod).await;
        let answer = plugin(cluster, &config, &pod, "ADD").await;
        assert!(answer.contains("192.168."), "{answer}");
        plugin(cluster, &config, &pod, "DEL").await;
        netns("del", &pod).await;
    }

    /// kube-controllers recreate the profile of a namespace.
    async fn controllers(&self, cluster: &Cluster<'_>, apiserver: &Apiserver, kubelet: &Kubelet) {
        let namespace =
            format!("made-{}", std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis());
        apiserver.create("/api/v1/namespaces", json!({ "metadata": { "name": namespace } })).await;
        let mut command = kubelet.command(&cluster.programs.controllers, "calico-kube-controllers");
        command.env("KUBECONFIG", &self.kubeconfig).env("LOG_LEVEL", "debug");
        let mut daemon = Daemon::start(cluster, "kube-controllers", command);
        daemon
            .until(&format!("profile of {namespace}"), async |log| {
                log.contains(&format!("kns.{namespace}"))
            })
            .await;
        daemon.stop().await;
    }
}

/// `  etcd_ca: ""  # ...` with its file.
fn filled(line: &str, setting: &str, file: &str) -> String {
    match line.trim_start().starts_with(&format!("{setting}: \"\"")) {
        true => format!("  {setting}: \"/calico-secrets/{file}\""),
        false => line.to_owned(),
    }
}

/// The operator's work before the tutorial.
async fn apply(workspace: &Workspace, apiserver: &Apiserver) {
    let mut command = Command::new(workspace.bin.join("kubectl"));
    command
        .args(["apply", "-f"])
        .arg(workspace.folder.join("calico-etcd.yaml"))
        .env("KUBECONFIG", &apiserver.kubeconfig);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    said("kubectl apply", &feed(command, "").await);
}

struct Etcd(Child);

impl Etcd {
    async fn stop(mut self) {
        self.0.kill().await.unwrap();
    }
}

/// A shell that ends with the first command that fails.
struct Shell {
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    said: Vec<String>,
    /// The log of the page's proxy.
    log: PathBuf,
}

impl Shell {
    async fn run(&mut self, commands: &str) {
        const DONE: &str = "@@ done";
        // Background processes end with the shell.
        let before = "exec 2>&1; set -eu; trap 'kill $(jobs -p)' EXIT\n";
        let before = if self.said.is_empty() { before } else { "" };
        self.stdin
            .write_all(format!("{before}{commands}\necho '{DONE}'\n").as_bytes())
            .await
            .unwrap();
        let first = self.said.len();
        let log = self.log.clone();
        loop {
            let line = tokio::time::timeout(SOON * 3, self.stdout.next_line()).await;
            let so_far = || {
                let output = self.said[first..].join("\n");
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                let end = log.lines().rev().take(20).collect::<Vec<_>>();
                let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
                format!("{commands}\n--- output:\n{output}\n--- end of warden.log:\n{end}")
            };
            let line = line.unwrap_or_else(|_| panic!("does not end: {}", so_far())).unwrap();
            let Some(line) = line else { panic!("failed: {}", so_far()) };
            if line == DONE {
                self.said.push(String::new());
                return;
            }
            // Shown when the test fails.
            println!("{line}");
            self.said.push(line);
        }
    }

    fn has_said(&self, seen: &[&str]) {
        let mut lines = self.said.iter();
        for text in seen {
            assert!(
                lines.any(|line| text.split(" .. ").all(|words| line.contains(words))),
                "`{text}` is missing or out of order:\n{}",
                self.said.join("\n")
            );
        }
    }
}
