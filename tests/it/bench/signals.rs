//! A signal ends a run early and in order, also when nobody answers; a second one ends it at once.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use super::{CALICO, Caller, as_etcd, certificates, keys_below};
use crate::world::fake::{Fake, Visit};
use crate::world::{World, soon};

/// Much longer than what is waited for, and much shorter than what would be waited for without the
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

    /// What an operator's Ctrl-C does too, which is ignored by what a shell has put into the
    /// background.
    async fn terminate(&self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    }

    /// Waits until it says this.
    async fn says(&mut self, what: &str) {
        loop {
            let line = timeout(PATIENCE, self.said.next_line())
                .await
                .unwrap_or_else(|_| panic!("it never says `{what}`"));
            if line.unwrap().unwrap_or_else(|| panic!("it ended without `{what}`")).contains(what) {
                return;
            }
        }
    }

    /// Its exit code and its report.
    async fn ends(mut self) -> (Option<i32>, serde_json::Value) {
        let (mut out, mut report) = (self.child.stdout.take().unwrap(), String::new());
        timeout(PATIENCE, out.read_to_string(&mut report)).await.expect("it ends").unwrap();
        let code = self.child.wait().await.unwrap().code();
        (code, serde_json::from_str(&report).unwrap_or_default())
    }
}

/// A server that never answers a Put, and nothing at all from this request on.
async fn stands_still(from: usize) -> Fake {
    Fake::serving(move |mut visit: Visit| async move {
        visit.body().await;
        if visit.place >= from || visit.path.ends_with("/Put") {
            visit.reset().await;
        } else {
            as_etcd(&mut visit);
        }
    })
    .await
}

/// 100 requests per second are due, and one stream waits for the answer of the first.
fn load(caller: &Caller, fake: &Fake, more: [&str; 2]) -> Running {
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
        command.arg(format!("--endpoint=https://{}", fake.address)).current_dir(caller.path()),
    )
}

#[tokio::test]
async fn what_has_piled_up_before_a_server_that_stands_still_is_not_sent_after_a_signal() {
    let (fake, caller) = (stands_still(usize::MAX).await, Caller::direct());
    let mut running = load(&caller, &fake, ["--keys=1", "--timeout=1s"]);
    // Some 300 are due by then: five minutes' worth, one after the other.
    soon("four requests", async || (fake.arrivals("Put").len() >= 4).then_some(())).await;
    running.terminate().await;
    running.says("another signal ends it at once").await;
    let (code, report) = running.ends().await;
    assert_eq!((code, &report["stopped"]), (Some(0), &true.into()), "{report:#}");
    assert!(report["steps"][0]["targets"][0]["not_sent"].as_u64().unwrap() > 100, "{report:#}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_says_where_keys_are_left() {
    // The list of what is there, the Txn that writes the one key, and then nothing.
    let (fake, caller) = (stands_still(2).await, Caller::direct());
    let mut running = load(&caller, &fake, ["--keys=1", "--timeout=1h"]);
    soon("a request", async || fake.arrivals("Put").first().cloned()).await;
    running.terminate().await;
    running.says("another signal ends it at once").await;
    running.terminate().await;
    running.says("keys of this run may be left below /etcd-warden-bench/").await;
    assert_eq!(running.ends().await.0, Some(130));
}

#[tokio::test]
async fn a_cluster_whose_nodes_start_one_by_one_ends_after_a_signal_and_leaves_nothing() {
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
    running.says("the storm").await;
    running.terminate().await;
    let (code, report) = running.ends().await;
    assert_eq!((code, &report["stopped"]), (Some(0), &true.into()), "{report:#}");
    assert_eq!(keys_below(&world, "/calico/").await, [""; 0]);
}

#[tokio::test]
async fn a_signal_while_keys_are_written_gives_a_report_of_nothing_and_removes_them() {
    // Each Txn of a hundred keys waits a moment: there are a thousand of them.
    let fake = Fake::serving(|mut visit: Visit| async move {
        visit.body().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        as_etcd(&mut visit);
    })
    .await;
    let caller = Caller::direct();
    let mut running = load(&caller, &fake, ["--keys=100000", "--timeout=1m"]);
    soon("some keys are written", async || (fake.arrivals("Txn").len() >= 2).then_some(())).await;
    running.terminate().await;
    running.says("removing the keys").await;
    let (code, report) = running.ends().await;
    assert_eq!(
        (code, &report["stopped"], &report["steps"]),
        (Some(0), &true.into(), &serde_json::json!([])),
        "{report:#}"
    );
    assert!(fake.arrivals("Txn").len() < 100 && fake.arrivals("Put").is_empty());
    assert!(fake.arrivals("Range").len() >= 2, "it looks for what is to be removed");
}
