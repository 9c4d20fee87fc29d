//! etcd's own Go client with short-lived certificates: it reconnects with the renewed one, and its
//! watch misses nothing.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use etcd_warden_testbed::pki::{Leaf, Validity, write_private};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::world::go_tool::go_program;
use crate::world::{SOON, World, authorities};

const POLICY: &str = "
version: 1
mode: enforce
roles:
  reader:
    allow:
      - { keys: $P/*, verbs: [read] }
bindings:
  - { cn: felix, roles: [reader] }
";

/// A number from the environment, for longer runs.
fn asked(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`"))
    })
}

/// Acts like a renewal agent: replaces one file after the other, each as a whole.
fn renew(folder: &Path, lifetime: Duration) {
    let issued = authorities()
        .clients
        .issue(&Leaf::client("felix").validity(Validity::For(lifetime)))
        .unwrap();
    for (name, content) in [("felix.key", &issued.key), ("felix.crt", &issued.certificate)] {
        let new = write_private(folder, &format!("{name}.new"), content).unwrap();
        std::fs::rename(new, folder.join(name)).unwrap();
    }
}

/// `ETCD_WARDEN_TEST_RENEWALS=120 ETCD_WARDEN_TEST_LIFETIME=60` runs for an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_the_certificate_it_was_opened_with() {
    let renewals = asked("ETCD_WARDEN_TEST_RENEWALS", 4);
    let lifetime = Duration::from_secs(asked("ETCD_WARDEN_TEST_LIFETIME", 4));
    let program =
        tokio::task::spawn_blocking(|| go_program("renewing-watcher", "renewing-watcher", "."))
            .await
            .unwrap();
    let world = World::start(POLICY).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = write_private(folder.path(), "ca.crt", &authorities().clients.pem()).unwrap();
    renew(folder.path(), lifetime);
    let mut watcher = Command::new(program)
        .arg(world.endpoint())
        .args([ca, folder.path().join("felix.crt"), folder.path().join("felix.key")])
        .arg(world.key(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let created = tokio::time::timeout(SOON, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(created.as_deref(), Some("created"));

    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            let Some((revision, value)) = line.split_once(' ') else { continue };
            seen.push((revision.parse::<i64>().unwrap(), value.to_owned()));
            if value == "last" {
                break;
            }
        }
        seen
    });
    let mut direct = world.direct().await;
    let mut written = Vec::new();
    let mut put = async |value: String| {
        let answer = direct.put(world.key("counter"), value.clone(), None).await.unwrap();
        written.push((answer.header().unwrap().revision(), value));
    };
    let mut number = 0;
    for _ in 0..renewals {
        let renewed = Instant::now();
        while renewed.elapsed() < lifetime / 2 {
            put(number.to_string()).await;
            number += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        renew(folder.path(), lifetime);
    }
    put("last".to_owned()).await;
    let seen =
        tokio::time::timeout(SOON, seen).await.expect("the watcher sees the last event").unwrap();
    assert_eq!(seen.len(), written.len());
    assert_eq!(seen, written);
    let ended =
        world.metric("etcd_warden_streams_terminated_total", &["reason=\"identity\""]).await;
    assert!(ended >= 1.0, "no certificate expired: the test shows nothing");
    eprintln!("{} events while {ended} certificates expired", seen.len());
}
