//! The audit log: which identity did what, by which right. No line is lost without being counted.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::{AuditAllowed, OnFull};
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;
use serde_json::{Value, json};

use crate::live::Live;
use crate::reload::create;
use crate::world::{World, WorldBuilder, is_permission_denied, soon};

const POLICY: &str = "version: 1\nmode: enforce\nroles:\n  own: {allow: [{keys: $P/a/*, verbs: [rw]}], capabilities: [lease]}\n\
    bindings:\n  - {cn: alice, roles: [own]}\n  - {cn: shade, roles: [own], mode: shadow}\n";

#[tokio::test]
async fn each_kind_of_request_has_its_line() {
    let world = World::start(POLICY).await;
    let mut raw = world.raw("alice").await;
    // A lease of another client, with an attached key that alice may not write.
    let mut direct = world.direct().await;
    let others = direct.lease_grant(600, None).await.unwrap().id();
    direct
        .put(world.key("b"), "1", Some(etcd_client::PutOptions::new().with_lease(others)))
        .await
        .unwrap();
    let (key, other) = (world.key("a/k"), world.key("b"));
    let put = |key: &str, lease| {
        pb::PutRequest { key: key.into(), lease, ..Default::default() }.encode_to_vec()
    };
    let range = pb::RangeRequest {
        key: world.key("a/").into(),
        range_end: b"\0".to_vec(),
        ..Default::default()
    };
    let answers = [
        raw.call(Method::Put.path(), &put(&key, 0)).await,
        raw.call(Method::Put.path(), &put(&other, 0)).await,
        raw.call(Method::Range.path(), &range.encode_to_vec()).await,
        raw.call(Method::MemberList.path(), b"").await,
        raw.call(
            Method::LeaseRevoke.path(),
            &pb::LeaseRevokeRequest { id: others }.encode_to_vec(),
        )
        .await,
        raw.call(Method::Put.path(), b"\xff").await,
        raw.call("/etcdserverpb.KV/Putt", b"").await,
        raw.call(
            Method::LeaseGrant.path(),
            &pb::LeaseGrantRequest { ttl: 60, id: 0 }.encode_to_vec(),
        )
        .await,
    ];
    let statuses: Vec<_> =
        answers.iter().map(|answer| u64::from(answer.grpc_status().unwrap())).collect();
    let mut stream = Live::open(&mut raw, Method::Watch).await;
    for prefix in ["a/", "b/"] {
        stream.send(&create(&world.key(prefix), 0));
        stream.next_bytes().await.unwrap();
    }
    soon("all lines", || async { (world.audit().len() == 10).then_some(()) }).await;
    let lines = world.audit();
    let ids: BTreeSet<_> = lines.iter().map(|line| line["request_id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), lines.len());
    for (line, status) in lines.iter().zip(&statuses) {
        assert_eq!(line["grpc_status"], json!(status), "{line}");
    }
    let decisions: Vec<_> = lines
        .iter()
        .map(|line| (line["decision"].as_str().unwrap(), line["reason"].as_str()))
        .collect();
    let expected = [
        ("allow", None),
        ("deny", Some("key_not_granted")),
        ("deny", Some("key_not_granted")),
        ("deny", Some("capability_not_granted")),
        ("deny", Some("lease_not_owned")),
        ("deny", Some("malformed_message")),
        ("deny", Some("unknown_method")),
        ("allow", None),
        ("allow", None),
        ("deny", Some("key_not_granted")),
    ];
    assert_eq!(decisions, expected);
    let policy = serde_json::from_str::<Value>(&world.admin("/policy").await.1).unwrap();
    for line in &lines {
        assert_eq!(
            (&line["identity"]["cn"], &line["identity"]["ca"], &line["mode"]),
            (&json!("alice"), &json!("default"), &json!("enforce"))
        );
        assert_eq!(
            (&line["roles"], &line["policy"]["hash"], &line["policy"]["generation"]),
            (&json!(["own"]), &policy["hash"], &json!(1))
        );
        assert!(
            line["peer"].as_str().unwrap().starts_with("127.0.0.1:")
                && line["time"].as_str().unwrap().ends_with('Z')
        );
        let known = line["reason"] != "unknown_method";
        assert_eq!(
            (line["method"].is_string(), line["path"].is_string()),
            (known, !known),
            "{line}"
        );
        assert_eq!(line["grant"].is_string(), line["decision"] == "allow", "{line}");
    }
    assert_eq!(
        lines[0]["accesses"],
        json!([{"verbs": ["create", "update"], "key": key, "range_end": ""}])
    );
    assert!(
        lines[0]["grant"].as_str().unwrap().contains(&world.key("a/*"))
            && lines[0]["member"].is_string(),
        "{}",
        lines[0]
    );
    assert_eq!(lines[1]["missing"], json!({"verb": "create", "key": other, "range_end": ""}));
    assert_eq!(lines[2]["accesses"][0]["range_end"], json!("\\x00"));
    assert_eq!(lines[3]["missing"], json!({"capability": "member-list"}));
    assert_eq!(lines[4]["missing"], json!({"lease": format!("{others:016x}")}));
    assert_eq!((&lines[4]["leases"][0]["use"], lines[1].get("member")), (&json!("revoke"), None));
    assert_eq!(lines[8]["accesses"][0]["verbs"], json!(["read"]));
}

#[tokio::test]
async fn audits_all_denials_and_allowed_calls_as_configured() {
    for (allowed, expected) in [
        (AuditAllowed::None, vec!["deny", "would_deny"]),
        (AuditAllowed::Writes, vec!["allow Put", "allow Put", "deny", "would_deny"]),
        (AuditAllowed::All, vec!["allow Put", "allow Put", "allow Range", "deny", "would_deny"]),
    ] {
        let mut world =
            World::with(POLICY).config(move |config| config.audit.allowed = allowed).start().await;
        let (mut alice, mut shade) = (world.as_("alice").await, world.as_("shade").await);
        alice.put(world.key("a/k"), "1", None).await.unwrap();
        alice.get(world.key("a/k"), None).await.unwrap();
        shade.put(world.key("a/k"), "1", None).await.unwrap();
        assert!(is_permission_denied(&alice.get(world.key("b"), None).await));
        shade.get(world.key("b"), None).await.unwrap();
        // When the proxy has ended, the queue has been written to disk.
        drop((alice, shade));
        world.shut_down().await;
        let mut lines: Vec<_> = world.audit().iter().map(short).collect();
        lines.sort();
        assert_eq!(lines, expected);
    }
}

fn short(line: &Value) -> String {
    let decision = line["decision"].as_str().unwrap();
    let rpc = line["method"].as_str().unwrap().rsplit('/').next().unwrap();
    if decision == "allow" { format!("allow {rpc}") } else { decision.to_owned() }
}

/// A disk that accepts nothing more once a pipe is full, until the test reads it.
struct SlowDisk {
    path: PathBuf,
    end: std::fs::File,
    _folder: tempfile::TempDir,
}

impl SlowDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        // Opened for reading and writing, so that opening does not wait for the other end, and
        // non-blocking, so that a read returns.
        let nonblocking = 0o4000;
        let end = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nonblocking)
            .open(&path)
            .unwrap();
        Self { path, end, _folder: folder }
    }

    fn audited(&self, builder: WorldBuilder, queue: usize, on_full: OnFull) -> WorldBuilder {
        let path = self.path.clone();
        builder.config(move |config| {
            config.audit.file = Some(path);
            config.audit.queue = queue;
            config.audit.on_full = on_full;
        })
    }

    /// Reads the lines since the last call.
    fn read(&mut self, into: &mut String) {
        let mut buffer = [0; 65_536];
        while let Ok(length @ 1..) = self.end.read(&mut buffer) {
            into.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
    }

    /// Reads until there are `count` complete lines.
    async fn lines(&mut self, text: &mut String, count: usize) -> Vec<Value> {
        let cell = std::cell::RefCell::new((self, text));
        let lines = soon("the lines", || async {
            let (disk, text) = &mut *cell.borrow_mut();
            disk.read(text);
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            (whole.lines().count() >= count)
                .then(|| whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
        });
        lines.await
    }
}

/// Sends refused calls until the lines of twenty in a row are lost: the pipe is full, the writer
/// waits for it, and this identity's share of the queue is used up. One lost line is not enough,
/// because the writer may be about to free a slot.
async fn flood(world: &World, common_name: &str) -> usize {
    let mut client = world.as_(common_name).await;
    let mut calls = 0;
    loop {
        let before = lost(world).await;
        for _ in 0..20 {
            assert!(is_permission_denied(
                &client.get(world.key(&format!("b/{}", "x".repeat(500))), None).await
            ));
        }
        calls += 20;
        if lost(world).await == before + 20 {
            return calls;
        }
        assert!(calls < 20_000, "the pipe never fills up");
    }
}

/// The number of lines lost so far.
async fn lost(world: &World) -> usize {
    world.metric("etcd_warden_audit_lines_lost_total", &[]).await.to_string().parse().unwrap()
}

#[tokio::test]
async fn with_deny_no_call_passes_without_an_audit_line() {
    let mut disk = SlowDisk::new();
    let world = disk.audited(World::with(POLICY), 32, OnFull::Deny).start().await;
    let mut alice = world.as_("alice").await;
    flood(&world, "alice").await;
    let refused = alice.put(world.key("a/k"), "1", None).await;
    assert!(
        matches!(&refused, Err(etcd_client::Error::GRpcStatus(status))
            if status.code() == tonic::Code::ResourceExhausted && status.message() == "etcdserver: too many requests"),
        "{refused:?}"
    );
    assert!(world.metric("etcd_warden_limits_hit_total", &["limit=\"audit_queue\""]).await >= 1.0);
    assert_eq!(world.direct().await.get(world.key("a/k"), None).await.unwrap().count(), 0);
    // The disk accepts lines again, so the proxy accepts calls again.
    let mut text = String::new();
    let disk = std::cell::RefCell::new((&mut disk, &mut text));
    soon("a call that is allowed again", || async {
        {
            let (disk, text) = &mut *disk.borrow_mut();
            disk.read(text);
        }
        world.as_("alice").await.put(world.key("a/k"), "1", None).await.ok()
    })
    .await;
}

#[tokio::test]
async fn with_drop_calls_pass_and_the_next_line_counts_the_loss() {
    let mut disk = SlowDisk::new();
    let world = disk.audited(World::with(POLICY), 32, OnFull::Drop).start().await;
    let calls = flood(&world, "alice").await;
    let mut alice = world.as_("alice").await;
    let mut text = String::new();
    // The next line that is written reports a loss, so the last ones may have to wait for one more.
    for calls in calls + 1..calls + 10 {
        alice.put(world.key("a/k"), "1", None).await.unwrap();
        let lost = lost(&world).await;
        let lines = disk.lines(&mut text, calls - lost).await;
        if lines.iter().filter_map(|line| line["lost"].as_u64()).sum::<u64>() == lost as u64 {
            return;
        }
    }
    panic!("{} losses are missing in the lines: {text}", lost(&world).await);
}

#[tokio::test]
async fn one_identitys_flood_loses_no_line_of_another() {
    let mut disk = SlowDisk::new();
    let world = disk.audited(World::with(POLICY), 256, OnFull::Deny).start().await;
    let calls = flood(&world, "eve").await;
    let mut alice = world.as_("alice").await;
    for n in 0..5 {
        alice.put(world.key(&format!("a/{n}")), "1", None).await.unwrap();
        assert!(is_permission_denied(&alice.put(world.key(&format!("b/{n}")), "1", None).await));
    }
    let lost = lost(&world).await;
    let lines = disk.lines(&mut String::new(), calls + 10 - lost).await;
    assert_eq!(lines.iter().filter(|line| line["identity"]["cn"] == "alice").count(), 10);
}
