//! `etcd-warden demo`, as a user starts it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::world::{SOON, programs};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
    command
        .arg("demo")
        .arg("--etcd")
        .arg(&programs().etcd)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn every_decision_is_as_expected_and_every_role_has_both() {
    let output = demo(&["--once", "--output", "json"]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["as_expected"], true);

    let mut by_role: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for call in report["calls"].as_array().unwrap().iter().filter(|call| call["role"].is_string()) {
        let verdict = call["verdict"].as_str().unwrap();
        *by_role.entry(call["role"].as_str().unwrap()).or_default().entry(verdict).or_default() +=
            1;
        let grant = call["audit"]["grant"].as_str();
        match verdict {
            "allowed" => {
                assert!(grant.unwrap().starts_with(call["role"].as_str().unwrap()), "{call}");
            }
            _ => assert!(grant.is_none() && call["audit"]["missing"].is_string(), "{call}"),
        }
    }
    assert_eq!(by_role.len(), 9, "{by_role:?}");
    assert!(by_role.values().all(|verdicts| verdicts.len() == 2), "{by_role:?}");

    let refused = report["calls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|call| call["verdict"] == "refused")
        .count();
    let shadow = report["shadow"].as_array().unwrap();
    assert_eq!(shadow.len(), refused);
    assert!(shadow.iter().all(|call| call["audit"]["decision"] == "would_deny"));
    assert_eq!(
        report["audit"].as_array().unwrap().len(),
        report["calls"].as_array().unwrap().len() + shadow.len()
    );
}

#[tokio::test]
async fn output_that_is_no_terminal_has_no_colour_and_fits() {
    let output = demo(&["--once"]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'));
    assert!(text.ends_with("every result is the expected one.\n"), "{text}");
    let wide = text
        .lines()
        .filter(|line| !line.contains("\"decision\""))
        .find(|line| line.chars().count() > 140);
    assert_eq!(wide, None);
}

#[tokio::test]
async fn reports_a_named_etcd_that_does_not_exist() {
    let output = Command::new(env!("CARGO_BIN_EXE_etcd-warden"))
        .args(["demo", "--etcd", "/nowhere/etcd"])
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("there is no etcd at `/nowhere/etcd`")
    );
}

/// A demo without arguments for etcd, with this PATH and an empty tools folder.
fn demo_on_path(path: &str, tools: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
    command.args(["demo", "--once", "--output", "json"]);
    command
        .env_remove("ETCD_WARDEN_ETCD")
        .env("PATH", path)
        .env("ETCD_WARDEN_TOOLS", tools)
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn uses_an_etcd_on_path_that_is_new_enough() {
    let nothing_built = tempfile::tempdir().unwrap();
    let path = format!("{}:/usr/bin:/bin", programs().etcd.parent().unwrap().display());
    let output = demo_on_path(&path, nothing_built.path()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["etcd"]["version"], programs().version.to_string());
    assert_eq!(nothing_built.path().read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn with_an_old_etcd_and_no_go_it_lists_the_alternatives() {
    let nothing_built = tempfile::tempdir().unwrap();
    let old = tempfile::tempdir().unwrap();
    let etcd = old.path().join("etcd");
    std::fs::write(&etcd, "#!/bin/sh\necho 'etcd Version: 3.4.23'\n").unwrap();
    std::fs::set_permissions(&etcd, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output =
        demo_on_path(old.path().to_str().unwrap(), nothing_built.path()).output().await.unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    for way in [
        "--etcd PATH",
        "ETCD_WARDEN_ETCD",
        "etcd 3.5 or newer on PATH",
        "install Go",
        "there is no `go` on PATH",
    ] {
        assert!(said.contains(way), "{said}");
    }
}

/// The printed commands work when they are typed, and Ctrl-C leaves nothing behind.
#[tokio::test]
async fn it_stays_up_until_ctrl_c() {
    let mut child = demo(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut invitation = Vec::new();
    let read = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with("  cd ") || !invitation.is_empty() {
                invitation.push(line.trim().to_owned());
            }
            if invitation.last().is_some_and(|line| line.ends_with("mine")) {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, read).await.expect("the demo prints the next commands");
    let output = Command::new("sh").args(["-c", &invitation.join("\n")]).output().await.unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("/nodes/worker-1\n"), "{stdout}{stderr}");
    assert!(stderr.contains("etcdserver: permission denied"), "{stdout}{stderr}");

    let folder = invitation[0].strip_prefix("cd ").unwrap().to_owned();
    assert!(std::path::Path::new(&folder).is_dir());
    let id = child.id().unwrap().to_string();
    assert!(
        Command::new("sh").args(["-c", "kill -INT \"$0\"", &id]).status().await.unwrap().success()
    );
    let ended = tokio::time::timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
    assert!(ended.status.success(), "{}", ended.status);
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert!(!std::path::Path::new(&folder).exists());
}
