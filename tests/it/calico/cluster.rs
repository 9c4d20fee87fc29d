//! The programs, and the start of each with its own certificate.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use etcd_warden_testbed::pki::{Issued, write_private};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::world::go_tool::go_program;
use crate::world::{SOON, World, authorities, root};

pub struct Programs {
    pub node: PathBuf,
    pub cni: PathBuf,
    /// The program of the container `install-cni`.
    pub install: PathBuf,
    pub controllers: PathBuf,
    pub typha: PathBuf,
    pub calicoctl: PathBuf,
    pub apiserver: PathBuf,
}

impl Programs {
    /// Builds the programs that are missing.
    pub fn build() -> Self {
        let calico = |program, package: &str| {
            go_program("calico", program, &format!("github.com/projectcalico/calico/{package}"))
        };
        Self {
            node: calico("calico-node", "node/cmd/calico-node"),
            cni: calico("calico", "cni-plugin/cmd/calico"),
            install: install_cni(),
            controllers: calico("kube-controllers", "kube-controllers/cmd/kube-controllers"),
            typha: calico("calico-typha", "typha/cmd/calico-typha"),
            calicoctl: calico("calicoctl", "calicoctl/calicoctl"),
            apiserver: go_program(
                "kubernetes",
                "kube-apiserver",
                "k8s.io/kubernetes/cmd/kube-apiserver",
            ),
        }
    }
}

/// The program of the container `install-cni`.
pub fn install_cni() -> PathBuf {
    go_program(
        "calico-install",
        "install",
        "github.com/projectcalico/calico/cni-plugin/cmd/install",
    )
}

/// The way to etcd: through a proxy, or directly.
pub struct Way {
    pub endpoint: String,
    pub ca: String,
    /// Issues the certificate for a name.
    pub certificates: Box<dyn Fn(&str) -> Issued>,
}

impl Way {
    /// Through the proxy, each name with a certificate of the components' CA.
    pub fn through(world: &World) -> Self {
        let certificates = Box::new(|name: &str| authorities().clients.client(name).unwrap());
        Self { endpoint: world.endpoint(), ca: authorities().clients.pem(), certificates }
    }

    /// To etcd itself, every component as root.
    pub fn direct(endpoint: String) -> Self {
        Self {
            endpoint,
            ca: authorities().upstream.pem(),
            certificates: Box::new(|_| root().clone()),
        }
    }
}

/// One cluster on one etcd.
pub struct Cluster<'p> {
    pub programs: &'p Programs,
    pub way: Way,
    folder: TempDir,
}

/// A program's certificate: the three file names of Calico's Secrets.
pub struct Secrets {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl<'p> Cluster<'p> {
    pub fn new(programs: &'p Programs, way: Way) -> Self {
        Self { programs, way, folder: tempfile::tempdir().unwrap() }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The files of the component with this name.
    pub fn secrets(&self, common_name: &str) -> Secrets {
        let folder = self.folder().join(common_name.replace(':', "_"));
        if !folder.exists() {
            std::fs::create_dir(&folder).unwrap();
            let issued = (self.way.certificates)(common_name);
            write_private(&folder, "etcd-ca", &self.way.ca).unwrap();
            write_private(&folder, "etcd-cert", &issued.certificate).unwrap();
            write_private(&folder, "etcd-key", &issued.key).unwrap();
        }
        Secrets {
            ca: folder.join("etcd-ca"),
            cert: folder.join("etcd-cert"),
            key: folder.join("etcd-key"),
        }
    }

    /// A program as this component, configured for etcd as in Calico's manifests.
    pub fn command(&self, program: &Path, common_name: &str) -> Command {
        let secrets = self.secrets(common_name);
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATASTORE_TYPE", "etcdv3")
            .env("ETCD_ENDPOINTS", &self.way.endpoint)
            .env("ETCD_CA_CERT_FILE", secrets.ca)
            .env("ETCD_CERT_FILE", secrets.cert)
            .env("ETCD_KEY_FILE", secrets.key)
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs calicoctl as one of its variants, with a manifest on standard input.
    pub async fn calicoctl(&self, common_name: &str, arguments: &[&str], manifest: &str) -> String {
        let mut command = self.command(&self.programs.calicoctl, common_name);
        command
            .args(arguments)
            .env("KUBECONFIG", self.folder().join("kubeconfig"))
            .stdin(Stdio::piped());
        let output = feed(command, manifest).await;
        said(&format!("calicoctl {arguments:?} as {common_name}"), &output)
    }
}

/// Runs a command to its end, with this on standard input.
pub async fn feed(mut command: Command, input: &str) -> Output {
    let mut child = command.spawn().unwrap();
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.unwrap();
    }
    tokio::time::timeout(SOON * 6, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} does not end"))
        .unwrap()
}

/// The output of a command that must have succeeded.
pub fn said(what: &str, output: &Output) -> String {
    let text = [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat();
    assert!(output.status.success(), "{what}: {}\n{text}", output.status);
    text
}

/// A long-running program whose output goes to a file.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn start(cluster: &Cluster<'_>, name: &str, mut command: Command) -> Self {
        let log = cluster.folder().join(format!("{name}.log"));
        let file = std::fs::File::create(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap(), log }
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until its log contains this.
    pub async fn wait_for(&mut self, text: &str) {
        self.until(text, async |log| log.contains(text)).await;
    }

    /// Waits until `look` returns something; prints the log if it never does.
    pub async fn until(&mut self, what: &str, look: impl AsyncFn(&str) -> bool) {
        let begun = std::time::Instant::now();
        while !look(&self.log()).await {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended ({status}) before `{what}`:\n{}", self.log());
            }
            assert!(begun.elapsed() < SOON * 6, "never `{what}`:\n{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    pub async fn stop(mut self) {
        self.child.kill().await.unwrap();
    }
}
