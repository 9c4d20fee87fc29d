//! Log and audit lines about hostile clients: on a full disk, and with names that try to forge a
//! line.

use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::{AuditAllowed, OnFull};
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;
use serde_json::Value;

use super::POLICY;
use crate::process::{ServerFiles, text};
use crate::world::raw::{Raw, tls};
use crate::world::{World, authorities, soon};

fn range(key: &[u8]) -> Vec<u8> {
    pb::RangeRequest { key: key.to_vec(), ..Default::default() }.encode_to_vec()
}

async fn on_a_full_disk(on_full: OnFull, allowed: AuditAllowed) -> World {
    let world = World::with(POLICY).config(move |config| {
        config.audit.file = Some("/dev/full".into());
        config.audit.queue = 256;
        config.audit.on_full = on_full;
        config.audit.allowed = allowed;
    });
    world.start().await
}

#[tokio::test]
async fn a_flood_of_lines_on_a_full_disk_delays_no_client() {
    let world = on_a_full_disk(OnFull::Drop, AuditAllowed::All).await;
    let neighbour = world.neighbour().await;
    let mut raw = world.raw("alice").await;
    for _ in 0..2000 {
        assert_eq!(
            raw.call(Method::Range.path(), &range(b"/elsewhere")).await.grpc_status(),
            Some(7)
        );
    }
    neighbour.was_served("audit lines at full rate on a full disk").await;
    soon("the count of lost lines", || async {
        (world.metric("etcd_warden_audit_lines_lost_total", &[]).await >= 2000.0).then_some(())
    })
    .await;
    assert!(world.metric("etcd_warden_audit_errors_total", &[]).await >= 1.0);
    assert_eq!(world.metric("etcd_warden_audit_lines_written_total", &[]).await, 0.0);
}

#[tokio::test]
async fn with_deny_a_full_disk_refuses_only_audited_calls() {
    let world = on_a_full_disk(OnFull::Deny, AuditAllowed::Writes).await;
    let (mut alice, mut bob) = (world.raw("alice").await, world.raw("bob").await);
    let put = pb::PutRequest { key: world.key("a").into(), ..Default::default() }.encode_to_vec();
    let mut answers = Vec::new();
    while answers.last() != Some(&Some(8)) {
        answers.push(alice.call(Method::Put.path(), &put).await.grpc_status());
        assert!(answers.len() < 10_000, "no line was lost on a full disk");
    }
    assert!(answers.iter().all(|status| matches!(status, Some(0 | 8))), "{answers:?}");
    assert!(world.metric("etcd_warden_limits_hit_total", &[r#"limit="audit_queue""#]).await >= 1.0);
    for _ in 0..500 {
        assert_eq!(
            bob.call(Method::Range.path(), &range(world.key("a").as_bytes())).await.grpc_status(),
            Some(0)
        );
    }
}

#[tokio::test]
async fn no_name_and_no_key_forges_a_line_of_log_or_audit() {
    const FORGED: &str = "\n{\"forged\":true}\n2026-01-01T00:00:00Z ERROR forged\u{1b}[31m";
    let world = World::start(POLICY).await;
    let files = ServerFiles::new(
        &world,
        &POLICY.replace("$P", "/t"),
        "max-connections-per-identity: 1\nlog-filter: debug",
    );
    let serving = files.start(&[]).await;
    let key = [b"/t/".as_slice(), FORGED.as_bytes(), b"\xff\x00"].concat();
    let mut held = Vec::new();
    for name in
        [format!("evil{FORGED}"), format!("evil{FORGED}"), "alice".to_owned(), "alice".to_owned()]
    {
        let issued = authorities()
            .clients
            .issue(&etcd_warden_testbed::pki::Leaf::client(&name).organization(&name))
            .unwrap();
        let stream =
            tls(serving.files.listen, Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap();
        let mut raw = Raw::over(stream).await;
        let _ = raw.call(Method::Range.path(), &range(&key)).await;
        let mut headers = crate::world::raw::grpc_headers();
        headers
            .insert("user-agent", http::HeaderValue::from_bytes(b"\xff{\"forged\":true}").unwrap());
        let _ = raw.send("/%0a{forged}/x", &headers, b"").await;
        held.push(raw);
    }
    serving.signal("TERM");
    drop(held);
    let (output, files) = serving.end().await;
    let log = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(log.contains("too many connections of this identity"), "{log}");
    for line in log.lines() {
        assert!(!line.starts_with("2026-01-01") && !line.starts_with('{'), "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
    }
    let audit = std::fs::read_to_string(files.path("audit.jsonl")).unwrap();
    assert!(!audit.is_empty());
    for line in audit.lines() {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line.get("forged").is_none() && line.get("decision").is_some(), "{line:#}");
    }
}
