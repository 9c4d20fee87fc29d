//! The real etcdctl, through the proxy and directly.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use etcd_warden_testbed::etcd::Etcd;
use etcd_warden_testbed::pki::{Issued, write_private};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{SOON, World, authorities, root};

/// The output of etcdctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Printed {
    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Standard error of a command that must have failed.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_ne!(self.code, Some(0), "{self:?}");
        self.stderr
    }
}

impl World {
    /// Runs etcdctl through the proxy, with a certificate for this name.
    pub async fn etcdctl(&self, common_name: &str, arguments: &[&str]) -> Printed {
        self.etcdctl_with_input(common_name, arguments, "").await
    }

    /// Like [`World::etcdctl`], with standard input (for `txn` and `put KEY`).
    pub async fn etcdctl_with_input(
        &self,
        common_name: &str,
        arguments: &[&str],
        input: &str,
    ) -> Printed {
        let issued = authorities().clients.client(common_name).unwrap();
        self.run_etcdctl(&self.endpoint(), &authorities().clients.pem(), &issued, arguments, input)
            .await
    }

    /// Runs etcdctl directly against etcd.
    pub async fn etcdctl_direct(&self, arguments: &[&str], input: &str) -> Printed {
        let endpoints = self.etcd().endpoints().join(",");
        self.run_etcdctl(&endpoints, &authorities().upstream.pem(), root(), arguments, input).await
    }

    async fn run_etcdctl(
        &self,
        endpoints: &str,
        ca: &str,
        issued: &Issued,
        arguments: &[&str],
        input: &str,
    ) -> Printed {
        Etcdctl::new(self.etcd(), endpoints, ca, issued).run(arguments, input).await
    }
}

/// A command that takes longer than this hangs. (`check perf` takes a minute.)
const PATIENCE: Duration = Duration::from_secs(90);

/// etcdctl with its endpoints and certificates.
pub struct Etcdctl {
    program: PathBuf,
    pub endpoints: String,
    folder: TempDir,
}

/// One step in a session with a long-running etcdctl.
#[derive(Clone, Copy, Debug)]
pub enum Turn<'t> {
    /// Types this.
    Type(&'t str),
    /// Waits until standard output has this number of lines in total.
    Lines(usize),
    /// Waits until standard output has this line.
    Until(&'t str),
}

impl Etcdctl {
    /// The etcdctl beside `etcd`, for `endpoints` whose certificates `ca` signed.
    pub fn new(etcd: &Etcd, endpoints: &str, ca: &str, issued: &Issued) -> Self {
        let program =
            etcd.programs().etcdctl.clone().expect("the tests need an etcdctl beside the etcd");
        Self::named(program, endpoints, ca, issued)
    }

    /// Any etcdctl.
    pub fn named(program: PathBuf, endpoints: &str, ca: &str, issued: &Issued) -> Self {
        let folder = tempfile::tempdir().unwrap();
        issued.write(folder.path(), "client").unwrap();
        write_private(folder.path(), "ca.crt", ca).unwrap();
        Self { program, endpoints: endpoints.to_owned(), folder }
    }

    /// Its working directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs it to its end.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Printed {
        let mut child = self.spawn(arguments);
        let mut stdin = child.stdin.take().unwrap();
        // It may have ended without reading.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let output =
            output.unwrap_or_else(|_| panic!("etcdctl {arguments:?} does not end")).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Printed {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Runs it through these steps and ends it with SIGTERM. (SIGINT is ignored by a process that a
    /// shell started in the background, and so by its children.) Returns everything that it wrote.
    pub async fn talk(&self, arguments: &[&str], turns: &[Turn<'_>]) -> Vec<String> {
        let mut child = self.spawn(arguments);
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        for turn in turns {
            match turn {
                Turn::Type(text) => stdin.write_all(text.as_bytes()).await.unwrap(),
                Turn::Lines(_) | Turn::Until(_) => {
                    let enough = |said: &[String]| match turn {
                        Turn::Lines(lines) => said.len() >= *lines,
                        Turn::Until(last) => said.last().is_some_and(|line| line == last),
                        Turn::Type(_) => true,
                    };
                    while !enough(&said) {
                        let line = tokio::time::timeout(SOON, stdout.next_line()).await;
                        let line = line
                            .unwrap_or_else(|_| panic!("{arguments:?}: no line after {said:#?}"))
                            .unwrap();
                        said.push(
                            line.unwrap_or_else(|| panic!("{arguments:?} ended after {said:#?}")),
                        );
                    }
                }
            }
        }
        let pid = child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        while let Some(line) = tokio::time::timeout(PATIENCE, stdout.next_line())
            .await
            .expect("etcdctl ends after SIGTERM")
            .unwrap()
        {
            said.push(line);
        }
        tokio::time::timeout(PATIENCE, child.wait())
            .await
            .expect("etcdctl ends after SIGTERM")
            .unwrap();
        said
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let file = |name: &str| self.folder.path().join(name);
        Command::new(&self.program)
            .args(["--endpoints", &self.endpoints])
            .arg("--cacert")
            .arg(file("ca.crt"))
            .arg("--cert")
            .arg(file("client.crt"))
            .arg("--key")
            .arg(file("client.key"))
            .args(arguments)
            .current_dir(self.folder.path())
            // ETCDCTL_* variables of the environment are not meant for this run.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }
}
