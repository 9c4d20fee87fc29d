//! A signal ends a run early and in order, also when the server does not respond. A second signal
//! ends it at once.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use super::{BenchClient, CALICO, as_etcd, certificates, keys_below};
use crate::world::fake::{Fake, Visit};
use crate::world::{World, soon};

/// Much longer than the test should take, and much shorter than the run would take without the
/// signal.
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn of(command: &mut Command) -> Self {
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, said }
    }

    /// Ctrl-C has the same effect, but SIGINT is ignored by a process that a shell started in the
    /// background.
    async fn terminate(&self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    }

    /// Waits until it prints this.
    async fn wait_for(&mut self, what: &str) {
        loop {
            let line = timeout(PATIENCE, self.said.next_line())
                .await
                .unwrap_or_else(|_| panic!("it never prints `{what}`"));
            if line.unwrap().unwrap_or_else(|| panic!("it ended without `{what}`")).contains(what) {
                return;
            }
        }
    }

    /// Its exit code and its report.
    async fn ends(mut self) -> (Option<i32>, serde_json::Value) {
        let (mut out, mut report) = (self.child.stdout.take().unwrap(), String::new());
        timeout(PATIENCE, out.read_to_string(&mut report))
            .await
            .expect("the process ends")
            .unwrap();
        let code = self.child.wait().await.unwrap().code();
        (code, serde_json::from_str(&report).unwrap_or_default())
    }
}

/// A server that never responds to a Put, and to nothing at all from this request on.
async fn stands_still(from: usize) -> Fake {
    Fake::serving(move |mut visit: Visit| async move {
        visit.body().await;
        if visit.index >= from || visit.path.ends_with("/Put") {
            visit.reset().await;
        } else {
            as_etcd(&mut visit);
        }
    })
    .await
}

/// 100 requests per second are due, and one stream waits for the first response.
fn load(client: &BenchClient, fake: &Fake, more: [&str; 2]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
    command.args([
        "bench",
        "--cacert=ca.crt",
        "--cert=client.crt",
        "--key=client.key",
        "--output=json",
        "--mix=put",
    ]);
    command
        .args(["--connections=1", "--streams=1", "--warm-up=0s", "--rate=100", "--time=1h"])
        .args(more);
    Running::of(
        command.arg(format!("--endpoint=https://{}", fake.address)).current_dir(client.path()),
    )
}

#[tokio::test]
async fn queued_requests_are_not_sent_after_a_signal() {
    let (fake, client) = (stands_still(usize::MAX).await, BenchClient::direct());
    let mut running = load(&client, &fake, ["--keys=1", "--timeout=1s"]);
    // Some 300 are due by then: five minutes of work, one after the other.
    soon("four requests", async || (fake.arrivals("Put").len() >= 4).then_some(())).await;
    running.terminate().await;
    running.wait_for("another signal stops at once").await;
    let (code, report) = running.ends().await;
    assert_eq!((code, &report["stopped"]), (Some(0), &true.into()), "{report:#}");
    assert!(report["steps"][0]["targets"][0]["not_sent"].as_u64().unwrap() > 100, "{report:#}");
}

#[tokio::test]
async fn a_second_signal_ends_it_and_reports_the_keys_left() {
    // The list of existing keys, the Txn that writes the one key, and then nothing.
    let (fake, client) = (stands_still(2).await, BenchClient::direct());
    let mut running = load(&client, &fake, ["--keys=1", "--timeout=1h"]);
    soon("a request", async || fake.arrivals("Put").first().cloned()).await;
    running.terminate().await;
    running.wait_for("another signal stops at once").await;
    running.terminate().await;
    running.wait_for("keys may be left below /etcd-warden-bench/").await;
    assert_eq!(running.ends().await.0, Some(130));
}

#[tokio::test]
async fn a_signal_while_nodes_start_leaves_no_keys() {
    let world = World::with(CALICO).own_etcd().start().await;
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &["a", "b"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
    command.args([
        "bench",
        "calico",
        "--output=json",
        "--identities=.",
        "--pods-per-node=2",
        "--policies=3",
        "--ramp=2h",
    ]);
    let endpoint = format!("--endpoint={}", world.endpoint());
    let mut running = Running::of(command.arg(endpoint).current_dir(folder.path()));
    running.wait_for("start of all nodes").await;
    running.terminate().await;
    let (code, report) = running.ends().await;
    assert_eq!((code, &report["stopped"]), (Some(0), &true.into()), "{report:#}");
    assert_eq!(keys_below(&world, "/calico/").await, [""; 0]);
}

#[tokio::test]
async fn a_signal_during_setup_removes_the_keys() {
    // Each Txn of a hundred keys takes a moment: there are a thousand of them.
    let fake = Fake::serving(|mut visit: Visit| async move {
        visit.body().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        as_etcd(&mut visit);
    })
    .await;
    let client = BenchClient::direct();
    let mut running = load(&client, &fake, ["--keys=100000", "--timeout=1m"]);
    soon("some keys are written", async || (fake.arrivals("Txn").len() >= 2).then_some(())).await;
    running.terminate().await;
    running.wait_for("deleting the keys").await;
    let (code, report) = running.ends().await;
    assert_eq!(
        (code, &report["stopped"], &report["steps"]),
        (Some(0), &true.into(), &serde_json::json!([])),
        "{report:#}"
    );
    assert!(fake.arrivals("Txn").len() < 100 && fake.arrivals("Put").is_empty());
    assert!(fake.arrivals("Range").len() >= 2, "it lists the keys to remove");
}
