//! `etcd-warden doctor` in front of etcds that are closed, partly open and open.

use std::path::{Path, PathBuf};

use etcd_warden_gateway::config::Config;
use etcd_warden_testbed::etcd::run::{Etcd, Options};
use etcd_warden_testbed::pki::write_private;
use etcd_warden_tools::doctor::examine;
use etcd_warden_tools::doctor::report::{Finding, Part, Report, Severity};
use etcd_warden_tools::doctor::stolen::StolenCertificate;
use tempfile::TempDir;

use crate::process::{ServerFiles, output, text};
use crate::world::{World, authorities, programs};

const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: $P/*, verbs: [rw]}]}}\nbindings: [{cn: alice, roles: [r]}]\n";

/// A component's certificate, as Calico mounts it.
fn stolen(folder: &Path, name: &str) -> PathBuf {
    let issued = authorities().clients.client(name).unwrap();
    write_private(folder, "etcd-cert", &issued.certificate).unwrap();
    write_private(folder, "etcd-key", &issued.key).unwrap();
    folder.to_owned()
}

/// A report with both certificates that an attacker may have stolen from alice.
async fn looked(world: &World) -> Report {
    let config = Config { listen_addr: world.address(), ..world.config.clone() };
    let folder = tempfile::tempdir().unwrap();
    examine(&config, &[StolenCertificate::read(&stolen(folder.path(), "alice")).unwrap()]).await
}

/// Severity and observation of the finding about this subject.
fn said<'r>(report: &'r Report, part: Part, subject: &str) -> (Severity, &'r str) {
    let mut found = report
        .findings()
        .iter()
        .filter(|finding| finding.part == part && finding.subject.contains(subject));
    let one = found.next().unwrap_or_else(|| panic!("no finding about `{subject}`: {report}"));
    (one.severity, &one.seen)
}

#[tokio::test]
async fn an_etcd_that_admits_only_the_proxy_is_reported_closed() {
    let world = World::with(POLICY).own_etcd().start().await;
    world.direct().await.put(world.key("a"), "1", None).await.unwrap();
    let report = looked(&world).await;
    for subject in ["without a certificate", "in plain text", "with CN=alice", "trusts"] {
        let (verdict, seen) = said(&report, Part::Bypass, subject);
        assert_eq!(verdict, Severity::Ok, "{subject}: {seen}");
    }
    assert!(
        said(&report, Part::Bypass, "without a certificate").1.contains("CertificateRequired"),
        "{report}"
    );
    assert!(said(&report, Part::Bypass, "trusts").1.contains("CN="), "{report}");
    assert_eq!(said(&report, Part::Proxy, "without a certificate").0, Severity::Ok);
    assert_eq!(
        said(&report, Part::Proxy, "CN=alice"),
        (Severity::Ok, "is default/cn:alice with r (enforce)")
    );
    assert_eq!(
        said(&report, Part::Keys, "all keys"),
        (Severity::Ok, "1 checked; 1 have a binding")
    );
    assert_ne!(report.severity(), Severity::Wrong, "{report}");
}

#[tokio::test]
async fn an_etcd_that_trusts_the_clients_ca_is_reported_open() {
    let folder = tempfile::tempdir().unwrap();
    let both = authorities().upstream.pem() + &authorities().clients.pem();
    let file = write_private(folder.path(), "both.crt", &both).unwrap();
    let world = World::with(POLICY)
        .etcd_flag(&format!("--trusted-ca-file={}", file.display()))
        .start()
        .await;
    let report = looked(&world).await;
    assert_eq!(said(&report, Part::Bypass, "with CN=alice"), (Severity::Wrong, "reads keys"));
    let (verdict, seen) = said(&report, Part::Bypass, "trusts");
    assert_eq!(verdict, Severity::Wrong, "{seen}");
    assert!(seen.contains("is accepted by etcd itself"), "{seen}");
    assert_eq!(said(&report, Part::Bypass, "without a certificate").0, Severity::Ok);
}

#[tokio::test]
async fn an_etcd_without_client_certificates_is_reported_open() {
    let world = World::with(POLICY)
        .etcd_flag("--client-cert-auth=false")
        .etcd_flag("--trusted-ca-file=")
        .start()
        .await;
    let report = looked(&world).await;
    assert_eq!(
        said(&report, Part::Bypass, "without a certificate"),
        (Severity::Wrong, "reads keys")
    );
    assert_eq!(said(&report, Part::Bypass, "in plain text").0, Severity::Ok);
}

/// Pods in the host's network reach the loopback address, with whatever listens there beside the
/// TLS port.
#[tokio::test]
async fn an_advertised_plain_text_port_is_reported() {
    let plain = Etcd::start(programs(), Options::default()).await.unwrap();
    let url = &plain.endpoints()[0];
    let world = World::with(POLICY)
        .etcd_flag(&format!("--advertise-client-urls={url},https://127.0.0.1:1"))
        .start()
        .await;
    let report = looked(&world).await;
    assert_eq!(
        said(&report, Part::Bypass, &format!("{url} in plain text")),
        (Severity::Wrong, "reads keys")
    );
}

/// If no server responds, nothing is known about a certificate.
#[tokio::test]
async fn a_stolen_certificate_that_could_not_be_tried_is_an_error() {
    let world = World::start(POLICY).await;
    let mut config = Config { listen_addr: world.address(), ..world.config.clone() };
    config.upstream.endpoints[0].port = 1;
    let folder = tempfile::tempdir().unwrap();
    let report =
        examine(&config, &[StolenCertificate::read(&stolen(folder.path(), "alice")).unwrap()])
            .await;
    let told = |part: &Finding| part.subject == "CN=alice" && part.severity == Severity::Wrong;
    assert!(report.findings().iter().any(told), "{report}");
}

#[tokio::test]
async fn reports_unbound_keys_and_a_policy_that_refuses_nothing() {
    let world = World::with(&POLICY.replace("enforce", "shadow")).own_etcd().start().await;
    let mut direct = world.direct().await;
    for key in ["/registry/pods/default/a", "/registry/pods/default/b", "compact_rev_key"] {
        direct.put(key, "1", None).await.unwrap();
    }
    let report = looked(&world).await;
    assert_eq!(
        said(&report, Part::Keys, "/registry/pods/default/"),
        (Severity::Warning, "2 keys on which no binding has a right")
    );
    assert_eq!(said(&report, Part::Keys, "compact_rev_key").0, Severity::Warning);
    assert_eq!(
        said(&report, Part::Files, "policy.yaml"),
        (Severity::Warning, "in shadow mode: nothing is denied")
    );
}

#[tokio::test]
async fn the_command_prints_all_findings_and_exits_1() {
    let files = ServerFiles::new(&World::start(POLICY).await, &POLICY.replace("$P", "/doctor"), "");
    let thief = TempDir::new().unwrap();
    let run = async |more: &[&str]| {
        let mut command = files.serve(&[]);
        command = {
            let mut doctor = tokio::process::Command::new(command.as_std().get_program());
            doctor
                .arg("doctor")
                .arg("--config")
                .arg(files.path("config.yaml"))
                .args(more)
                .env_clear();
            doctor
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .kill_on_drop(true);
            doctor
        };
        output(command.spawn().unwrap()).await
    };
    let folder = stolen(thief.path(), "alice").display().to_string();
    let told = run(&["--stolen", &folder]).await;
    let page = text(&told.stdout);
    assert_eq!(told.status.code(), Some(0), "{page}{}", text(&told.stderr));
    for words in
        ["bypasses of the gateway\n", "the gateway does not run here", "CN=alice", " wrong\n"]
    {
        assert!(page.contains(words), "{words}: {page}");
    }
    // The key to all of etcd is readable by every user of the host.
    let key = files.path("upstream.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let told = run(&["--output", "json"]).await;
    assert_eq!(told.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(report["verdict"], "wrong");
    let wrong: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["verdict"] == "wrong")
        .collect();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0]["subject"].as_str().unwrap().ends_with("upstream.key"), "{wrong:?}");
    // An unreadable file is reported before anything is probed.
    let told = run(&["--stolen", "/nowhere"]).await;
    assert_eq!(told.status.code(), Some(78));
    assert!(text(&told.stderr).contains("/nowhere/etcd-cert"), "{}", text(&told.stderr));
}
