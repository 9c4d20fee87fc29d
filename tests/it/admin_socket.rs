//! Break-glass mode changes at the admin socket: who may use it, what it changes, and what it
//! leaves behind.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::live::Live;
use crate::reload::create;
use crate::world::{World, WorldBuilder, is_permission_denied, soon};

const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: $P/*, verbs: [rw]}]}}\nbindings: [{cn: alice, roles: [r]}]\n";

fn with_socket(policy: &str) -> WorldBuilder {
    World::with(policy).config(|config| {
        config.admin_socket = Some(config.policy.with_file_name("admin.sock"));
        config.admin_debug = false;
    })
}

fn socket(world: &World) -> PathBuf {
    world.config.admin_socket.clone().unwrap()
}

/// Sends one request to the socket. Returns status and body.
async fn ask(path: &Path, method: &str, page: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let request = format!(
        "{method} {page} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Changes the mode and returns the page in the response.
async fn mode(world: &World, mode: &str) -> Value {
    let (status, body) = ask(&socket(world), "POST", "/mode", mode).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

async fn in_force(world: &World) -> Value {
    serde_json::from_str::<Value>(&ask(&socket(world), "GET", "/policy", "").await.1).unwrap()["mode"].take()
}

#[tokio::test]
async fn break_glass_admits_all_until_ended_and_is_audited() {
    let world = with_socket(POLICY).start().await;
    let mut bob = world.as_("bob").await;
    assert!(is_permission_denied(&bob.put(world.key("x"), "1", None).await));

    assert_eq!(mode(&world, "shadow\n").await["mode_override"], "shadow");
    // Shadow mode waits until etcd has reported that its own auth is off.
    soon("shadow mode", || async { (in_force(&world).await == "shadow").then_some(()) }).await;
    bob.put(world.key("x"), "2", None).await.unwrap();
    let line = world.audited(|line| line["event"] == "mode").await;
    let own = std::fs::metadata(socket(&world)).unwrap().uid();
    assert_eq!(
        (&line["mode"], &line["before"], &line["uid"]),
        (&json!("shadow"), &json!("policy"), &json!(own))
    );
    assert_eq!(line["pid"], json!(std::process::id()));
    assert_eq!(world.metric("etcd_warden_mode_changes_total", &["to=\"shadow\""]).await, 1.0);

    // The override survives a reload, so the repaired policy runs in shadow mode first.
    world.replace_policy(&POLICY.replace("alice", "carol"));
    assert_eq!(in_force(&world).await, "shadow");
    bob.put(world.key("x"), "3", None).await.unwrap();

    let page = mode(&world, "policy").await;
    assert_eq!((&page["mode"], &page["mode_override"]), (&json!("enforce"), &Value::Null));
    assert!(is_permission_denied(&bob.put(world.key("x"), "4", None).await));
    world.as_("carol").await.put(world.key("x"), "5", None).await.unwrap();
    let line = world.audited(|line| line["event"] == "mode" && line["mode"] == "policy").await;
    assert_eq!(
        (&line["before"], &line["policy"]["generation"]),
        (&json!("shadow"), &page["generation"])
    );
}

#[tokio::test]
async fn open_streams_follow_the_mode() {
    let world = with_socket(&POLICY.replace("mode: enforce", "mode: shadow")).start().await;
    let mut bobs = Live::open(&mut world.raw("bob").await, Method::Watch).await;
    bobs.send(&create(&world.key("w"), 1));
    assert!(bobs.next::<pb::WatchResponse>().await.unwrap().created);
    assert_eq!(mode(&world, "enforce").await["mode"], "enforce");
    assert_eq!(bobs.next_bytes().await.unwrap_err().0, 14, "its client comes back, and is judged");
    assert!(
        world.metric("etcd_warden_streams_terminated_total", &["reason=\"mode\""]).await >= 1.0
    );
}

#[tokio::test]
async fn shadow_mode_waits_for_an_etcd_without_auth() {
    let world = with_socket(POLICY).own_etcd().start().await;
    let mut direct = world.direct().await;
    direct.user_add("root", "secret", None).await.unwrap();
    direct.user_grant_role("root", "root").await.unwrap();
    direct.auth_enable().await.unwrap();
    assert_eq!(mode(&world, "shadow").await["mode"], "enforce");
    let suspended = || async {
        let page: Value =
            serde_json::from_str(&ask(&socket(&world), "GET", "/policy", "").await.1).unwrap();
        assert_eq!(page["mode"], "enforce");
        page["last_error"]
            .as_str()
            .is_some_and(|why| why.contains("etcd's own auth is on"))
            .then_some(())
    };
    soon("the reason", suspended).await;
    assert!(is_permission_denied(&world.as_("bob").await.put(world.key("x"), "1", None).await));
}

#[tokio::test]
async fn the_socket_shows_every_page_the_address_is_read_only() {
    let world = with_socket(POLICY).start().await;
    let mut stream = world.raw("alice").await;
    let _open = Live::open(&mut stream, Method::Watch).await;
    assert_eq!(world.admin("/debug/streams").await.0, 404);
    let (status, streams) = soon("the stream", || async {
        let answer = ask(&socket(&world), "GET", "/debug/streams", "").await;
        answer.1.contains("alice").then_some(answer)
    })
    .await;
    assert_eq!(status, 200, "{streams}");
    for page in ["/livez", "/readyz", "/metrics", "/policy"] {
        assert_eq!(ask(&socket(&world), "GET", page, "").await.0, 200, "{page}");
    }
    let address = world.running().admin_addr.unwrap();
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"POST /mode HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nshadow")
        .await
        .unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert_eq!(world.generation().await, 1);
}

#[tokio::test]
async fn an_unknown_mode_changes_nothing() {
    let world = with_socket(POLICY).start().await;
    let long = "shadow".repeat(1000);
    for nonsense in ["", "off", "Shadow", "shadow enforce", "\u{0}", &long] {
        let (status, body) = ask(&socket(&world), "POST", "/mode", nonsense).await;
        assert_eq!(
            (status, body.as_str()),
            (400, "unknown mode: send `shadow`, `enforce` or `policy`\n"),
            "{nonsense:?}"
        );
    }
    for (method, page) in [("POST", "/policy"), ("PUT", "/mode"), ("DELETE", "/mode")] {
        assert_eq!(ask(&socket(&world), method, page, "shadow").await.0, 405, "{method} {page}");
    }
    assert_eq!(world.generation().await, 1);
    assert!(world.audit().iter().all(|line| line["event"].is_null()));
}

#[tokio::test]
async fn the_socket_is_removed_with_the_proxy() {
    let mut world = with_socket(POLICY).start().await;
    let path = socket(&world);
    assert!(path.exists());
    world.shut_down().await;
    assert!(!path.exists());
}
