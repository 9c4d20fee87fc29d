//! The program itself as a child process, with its own files, in front of the shared etcd.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use etcd_warden_testbed::pki::write_private;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::world::{SOON, World, authorities, soon};

/// The folder of a process and its address.
pub struct ServerFiles {
    pub folder: TempDir,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
}

/// A running `serve`.
pub struct Serving {
    pub child: Child,
    pub files: ServerFiles,
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl ServerFiles {
    /// Creates a folder with everything that `serve` needs. The configuration is that of a world's
    /// proxy plus these lines.
    pub fn new(world: &World, policy: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (listen, admin) = (free_port(), free_port());
        let at = |name: &str| folder.path().join(name).display().to_string();
        authorities()
            .clients
            .server(&["127.0.0.1"])
            .unwrap()
            .write(folder.path(), "server")
            .unwrap();
        crate::world::root().write(folder.path(), "upstream").unwrap();
        write_private(folder.path(), "clients-ca.crt", &authorities().clients.pem()).unwrap();
        write_private(folder.path(), "etcd-ca.crt", &authorities().upstream.pem()).unwrap();
        write_private(folder.path(), "policy.yaml", policy).unwrap();
        let files = world.config.downstream.cert_file.file_name().unwrap().to_str().unwrap();
        let key = world.config.downstream.key_file.file_name().unwrap().to_str().unwrap();
        let (cert, upstream_key) = world.config.upstream.identity.as_ref().unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let config = format!(
            "listen-addr: {listen}\nadmin-addr: {admin}\ncert-file: {}\nkey-file: {}\ntrusted-ca-file: {}\nendpoints: {}\n\
             cert: {}\nkey: {}\ncacert: {}\npolicy: {}\naudit-file: {}\nworkers: 1\n\
             reload-interval: 0s\n{more}\n",
            at(files),
            at(key),
            at("clients-ca.crt"),
            world.etcd().addresses()[0],
            at(&name(cert)),
            at(&name(upstream_key)),
            at("etcd-ca.crt"),
            at("policy.yaml"),
            at("audit.jsonl"),
        );
        write_private(folder.path(), "config.yaml", &config).unwrap();
        Self { folder, listen, admin }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `etcd-warden serve --config ...` with these flags and an empty environment, not started yet.
    pub fn serve(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
        command.arg("serve").arg("--config").arg(self.path("config.yaml")).args(flags).env_clear();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(self, flags: &[&str]) -> Serving {
        let child = self.serve(flags).spawn().unwrap();
        Serving { child, files: self }.ready().await
    }
}

impl Serving {
    pub async fn ready(self) -> Self {
        let admin = self.files.admin;
        soon("a proxy that is ready", || async move {
            let (status, _) = etcd_warden_gateway::http_client::get(admin, "/readyz").await.ok()?;
            (status == 200).then_some(())
        })
        .await;
        self
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        assert!(
            std::process::Command::new("kill").args(["-s", name, &id]).status().unwrap().success()
        );
    }

    /// Waits for the process to exit.
    pub async fn end(self) -> (Output, ServerFiles) {
        (output(self.child).await, self.files)
    }

    pub async fn page(&self, path: &str) -> String {
        etcd_warden_gateway::http_client::get(self.files.admin, path).await.unwrap().1
    }
}

/// The output of a process that exits soon.
pub async fn output(child: Child) -> Output {
    tokio::time::timeout(SOON + Duration::from_secs(10), child.wait_with_output())
        .await
        .expect("the process ends")
        .unwrap()
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
