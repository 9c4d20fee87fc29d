//! The real `etcdctl watch` as a running process: clientv3, which resumes by itself.

use std::process::Stdio;

use etcd_warden_testbed::pki::write_private;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::world::{SOON, World, authorities};

/// A watch that prints its events.
pub struct EtcdctlWatch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _folder: TempDir,
}

impl EtcdctlWatch {
    /// Watches everything under `prefix` from `revision` on, through any of these endpoints.
    pub fn start(
        world: &World,
        endpoints: &[String],
        common_name: &str,
        prefix: &str,
        revision: i64,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = authorities()
            .clients
            .client(common_name)
            .unwrap()
            .write(folder.path(), "client")
            .unwrap();
        let ca = write_private(folder.path(), "ca.crt", &authorities().clients.pem()).unwrap();
        let program = world
            .etcd()
            .programs()
            .etcdctl
            .as_ref()
            .expect("the tests need an etcdctl beside the etcd");
        let mut child = Command::new(program)
            .args(["--endpoints", &endpoints.join(","), "--cacert"])
            .arg(ca)
            .arg("--cert")
            .arg(files.cert)
            .arg("--key")
            .arg(files.key)
            .args(["watch", "--prefix", prefix, "--rev", &revision.to_string()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, _folder: folder }
    }

    /// Key and value of the next Put.
    pub async fn next(&mut self) -> (String, String) {
        let read = async {
            let mut line = async || self.lines.next_line().await.unwrap();
            assert_eq!(line().await.as_deref(), Some("PUT"));
            (line().await.unwrap(), line().await.unwrap())
        };
        tokio::time::timeout(SOON, read)
            .await
            .unwrap_or_else(|_| panic!("etcdctl printed nothing for {SOON:?}"))
    }

    /// True while it runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}
