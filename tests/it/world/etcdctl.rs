//! The real etcdctl, through the proxy and directly.

use std::process::Stdio;

use etcd_warden::pki::{Issued, write_private};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{World, authorities, root};

/// What etcdctl said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its exit code.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Standard output of a call that worked.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Standard error of a call that failed.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_ne!(self.code, Some(0), "{self:?}");
        self.stderr
    }
}

impl World {
    /// Runs etcdctl through the proxy, with a certificate for this name.
    pub async fn etcdctl(&self, common_name: &str, arguments: &[&str]) -> Said {
        self.etcdctl_with_input(common_name, arguments, "").await
    }

    /// As [`World::etcdctl`], with standard input (for `txn` and `put KEY`).
    pub async fn etcdctl_with_input(&self, common_name: &str, arguments: &[&str], input: &str) -> Said {
        let issued = authorities().clients.client(common_name).unwrap();
        self.run_etcdctl(&self.endpoint(), &authorities().clients.pem(), &issued, arguments, input).await
    }

    /// Runs etcdctl directly against etcd.
    pub async fn etcdctl_direct(&self, arguments: &[&str], input: &str) -> Said {
        let endpoints = self.etcd().endpoints().join(",");
        self.run_etcdctl(&endpoints, &authorities().upstream.pem(), root(), arguments, input).await
    }

    async fn run_etcdctl(&self, endpoints: &str, ca: &str, issued: &Issued, arguments: &[&str], input: &str) -> Said {
        let folder = tempfile::tempdir().unwrap();
        let files = issued.write(folder.path(), "client").unwrap();
        let ca = write_private(folder.path(), "ca.crt", ca).unwrap();
        let program = self.etcd().programs().etcdctl.as_ref().expect("the tests need an etcdctl beside the etcd that is named");
        let mut child = Command::new(program)
            .args(["--endpoints", endpoints])
            .arg("--cacert")
            .arg(ca)
            .arg("--cert")
            .arg(files.cert)
            .arg("--key")
            .arg(files.key)
            .args(arguments)
            .current_dir(self.folder())
            // Whatever ETCDCTL_* is set outside is not meant for this one.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may have ended without reading.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}
