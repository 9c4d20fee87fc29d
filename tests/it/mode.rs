//! `etcd-warden mode`: changes the mode of a running gateway while a client writes.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::process::Command;

use crate::process::text;
use crate::world::{World, is_permission_denied};

const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: $P/*, verbs: [rw]}]}}\nbindings: [{cn: alice, roles: [r]}]\n";

async fn world() -> World {
    World::with(POLICY)
        .config(|config| {
            config.admin_socket = Some(config.policy.with_file_name("admin.sock"));
        })
        .start()
        .await
}

fn socket(world: &World) -> PathBuf {
    world.config.admin_socket.clone().unwrap()
}

async fn run(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_etcd-warden"))
        .arg("mode")
        .args(args)
        .arg("--admin")
        .arg(socket)
        .env_clear()
        .output()
        .await
        .unwrap()
}

/// Runs a command that must succeed, and returns what it prints.
async fn mode(world: &World, args: &[&str]) -> String {
    let output = run(&socket(world), args).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

#[tokio::test]
async fn changes_what_a_client_may_write() {
    let world = world().await;
    let mut bob = world.as_("bob").await;
    let before = mode(&world, &["show"]).await;
    assert!(before.starts_with("mode: enforce\noverride: none"), "{before}");
    assert!(is_permission_denied(&bob.put(world.key("x"), "1", None).await));

    // The command returns when the mode is in effect: no write needs a second attempt.
    let shadow = mode(&world, &["shadow"]).await;
    assert!(shadow.starts_with("mode: shadow\noverride: shadow\npolicy generation: "), "{shadow}");
    bob.put(world.key("x"), "2", None).await.unwrap();

    let enforce = mode(&world, &["enforce", "--output", "json"]).await;
    let page: Value = serde_json::from_str(&enforce).unwrap();
    assert_eq!((&page["mode"], &page["mode_override"]), (&"enforce".into(), &"enforce".into()));
    assert!(is_permission_denied(&bob.put(world.key("x"), "3", None).await));

    mode(&world, &["shadow"]).await;
    let policy = mode(&world, &["policy"]).await;
    assert!(policy.starts_with("mode: enforce\noverride: none"), "{policy}");
    assert!(is_permission_denied(&bob.put(world.key("x"), "4", None).await));
    world.as_("alice").await.put(world.key("x"), "5", None).await.unwrap();
}

#[tokio::test]
async fn exits_with_1_if_shadow_mode_is_suspended() {
    let world = World::with(POLICY)
        .config(|config| {
            config.admin_socket = Some(config.policy.with_file_name("admin.sock"));
        })
        .own_etcd()
        .start()
        .await;
    let mut direct = world.direct().await;
    direct.user_add("root", "secret", None).await.unwrap();
    direct.user_grant_role("root", "root").await.unwrap();
    direct.auth_enable().await.unwrap();
    let output = run(&socket(&world), &["shadow"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("mode: enforce\noverride: shadow\n"));
    let error = text(&output.stderr);
    assert!(error.contains("`shadow` is not in effect: "), "{error}");
}

#[tokio::test]
async fn an_error_says_why_the_gateway_cannot_be_asked() {
    let folder = tempfile::tempdir().unwrap();
    let fails = async |socket: &Path, words: &str| {
        let output = run(socket, &["enforce"]).await;
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.contains(words) && output.stdout.is_empty(), "{error}");
    };
    fails(&folder.path().join("none"), "there is no socket").await;
    let left = folder.path().join("left");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    fails(&left, "`serve` is not running").await;
    let other = folder.path().join("other");
    let listener = UnixListener::bind(&other).unwrap();
    let answers =
        ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.0 404 Not Found\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n{}"];
    for answer in answers {
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_buf(&mut Vec::<u8>::with_capacity(1024)).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(serve, fails(&other, "not the admin socket of etcd-warden"));
    }
    let close = async { drop(listener.accept().await.unwrap()) };
    tokio::join!(close, fails(&other, "no answer from"));
}
