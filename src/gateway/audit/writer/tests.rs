use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use super::super::line::tests::example;
use super::*;

fn config(file: &Path, queue: usize, on_full: OnFull) -> config::Audit {
    config::Audit {
        file: Some(file.to_owned()),
        stdout: false,
        allowed: AuditAllowed::All,
        sample: 1.0,
        queue,
        on_full,
    }
}

fn start(config: &config::Audit) -> (Audit, Arc<Metrics>) {
    let metrics = Metrics::new();
    (Audit::start(config, Arc::clone(&metrics)).unwrap(), metrics)
}

fn submit(audit: &Audit, owner: &str, request_id: u64) -> Result<(), Full> {
    audit.reserve(&owner.into())?.submit(&Record { request_id, ..example() });
    Ok(())
}

fn ids(text: &str) -> Vec<u64> {
    text.lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect(line)["request_id"].as_u64().unwrap()
        })
        .collect()
}

/// Waits until `done` is true. The test runner's timeout bounds it.
fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn shows(metrics: &Metrics, series: &str) -> bool {
    metrics.render().lines().any(|line| line == series)
}

#[test]
fn writes_every_line_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.json");
    let (audit, metrics) = start(&config(&path, 100_000, OnFull::Drop));
    for id in 0..5000 {
        submit(&audit, "alice", id).unwrap();
    }
    assert!(audit.close());
    assert_eq!(ids(&std::fs::read_to_string(&path).unwrap()), Vec::from_iter(0..5000));
    assert!(shows(&metrics, "etcd_warden_audit_lines_written_total 5000"));
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o137,
        0,
        "no more than 0640"
    );
}

#[test]
fn names_a_file_that_cannot_be_opened() {
    let error = Audit::start(
        &config(Path::new("/nonexistent/audit.json"), 10, OnFull::Drop),
        Metrics::new(),
    )
    .err()
    .unwrap();
    assert!(error.to_string().starts_with("audit file `/nonexistent/audit.json`: "), "{error}");
}

#[test]
fn records_the_decisions_that_are_configured() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.json");
    let wants = |allowed, sample| {
        let (audit, _) =
            start(&config::Audit { allowed, sample, ..config(&path, 10, OnFull::Drop) });
        move |decision, effect| (0..10_000).filter(|_| audit.wants(decision, effect)).count()
    };
    let none = wants(AuditAllowed::None, 1.0);
    assert_eq!(
        (none(Decision::Deny, Effect::Reads), none(Decision::WouldDeny, Effect::Writes)),
        (10_000, 10_000)
    );
    assert_eq!(
        (none(Decision::Allow, Effect::Reads), none(Decision::Allow, Effect::Writes)),
        (0, 0)
    );
    let writes = wants(AuditAllowed::Writes, 1.0);
    assert_eq!(
        (writes(Decision::Allow, Effect::Reads), writes(Decision::Allow, Effect::Writes)),
        (0, 10_000)
    );
    let tenth = wants(AuditAllowed::All, 0.1);
    assert!((800..1200).contains(&tenth(Decision::Allow, Effect::Reads)));
    assert_eq!(tenth(Decision::Deny, Effect::Reads), 10_000);
    assert_eq!(wants(AuditAllowed::All, 0.0)(Decision::Allow, Effect::Reads), 0);
}

#[test]
fn without_an_output_nothing_is_recorded_or_refused() {
    let config = config::Audit { file: None, ..config(Path::new("/"), 1, OnFull::Deny) };
    let (audit, _) = start(&config);
    assert!(!audit.wants(Decision::Deny, Effect::Writes));
    assert!((0..10).all(|id| submit(&audit, "alice", id).is_ok()));
    assert!(audit.close());
}

#[test]
fn an_unused_slot_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let (audit, _) = start(&config(&directory.path().join("audit.json"), 1, OnFull::Deny));
    let owner = "alice".into();
    let slot = audit.reserve(&owner).unwrap();
    assert_eq!(audit.reserve(&owner).err(), Some(Full));
    drop(slot);
    assert!(audit.reserve(&owner).is_ok());
}

#[test]
fn a_full_disk_loses_lines_and_counts_them() {
    let (audit, metrics) = start(&config(Path::new("/dev/full"), 1000, OnFull::Drop));
    for id in 0..20 {
        submit(&audit, "alice", id).unwrap();
    }
    assert!(audit.close());
    assert!(shows(&metrics, "etcd_warden_audit_lines_lost_total 20"), "{}", metrics.render());
    assert!(shows(&metrics, "etcd_warden_audit_lines_written_total 0"));
    assert!(shows(&metrics, "etcd_warden_audit_queue_length 0"));
}

#[test]
fn with_on_full_deny_a_full_disk_refuses_requests() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.json");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let (audit, metrics) = start(&config(&path, 8, OnFull::Deny));
    let written: Vec<u64> =
        (0..9).filter(|id| submit(&audit, &format!("identity-{id}"), *id).is_ok()).collect();
    assert_eq!(written, Vec::from_iter(0..8));
    // There is space again: the queued lines are written, and the refused one is reported.
    std::fs::remove_file(&path).unwrap();
    audit.reopen();
    wait_until(|| shows(&metrics, "etcd_warden_audit_queue_length 0"));
    submit(&audit, "alice", 100).unwrap();
    assert!(audit.close());
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(ids(&text), [0, 1, 2, 3, 4, 5, 6, 7, 100]);
    let reported: u64 = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["lost"].as_u64())
        .sum();
    assert_eq!(reported, 1);
}

/// Stands for a disk that hangs: a pipe that is not read is full after 64 KiB.
struct Pipe {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    reader: std::fs::File,
}

fn pipe() -> Pipe {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&path)
        .status()
        .expect("mkfifo (coreutils) is needed for this test");
    assert!(made.success());
    let reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    Pipe { _directory: directory, path, reader }
}

#[test]
fn on_a_slow_disk_a_flood_loses_only_its_own_lines() {
    let mut pipe = pipe();
    let (audit, metrics) = start(&config(&pipe.path, 2000, OnFull::Drop));
    for id in 0..10_000 {
        submit(&audit, "flood", id).unwrap();
    }
    for id in 0..100 {
        submit(&audit, "quiet", 1_000_000 + id).unwrap();
    }
    // Nothing has waited for the pipe so far. Reading it gives all lines of the quiet identity.
    let mut text = Vec::new();
    let mut buffer = [0; 64 * 1024];
    let last = b"\"request_id\":1000099";
    while !text.ends_with(b"\n") || !text.windows(last.len()).any(|bytes| bytes == last) {
        let length = pipe.reader.read(&mut buffer).unwrap();
        text.extend_from_slice(&buffer[..length]);
    }
    let text = String::from_utf8(text).unwrap();
    let ids = ids(&text);
    assert_eq!(ids.iter().filter(|id| **id >= 1_000_000).count(), 100);
    let flood = ids.iter().filter(|id| **id < 1_000_000).count() as u64;
    assert!((200..5000).contains(&flood), "{flood}");
    let reported: u64 = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["lost"].as_u64())
        .sum();
    assert_eq!(reported, 10_000 - flood, "each lost line is reported once");
    assert!(shows(&metrics, &format!("etcd_warden_audit_lines_lost_total {reported}")));
    assert!(audit.close());
}

#[test]
fn on_a_slow_disk_a_flood_is_refused_alone() {
    let pipe = pipe();
    let (audit, _) = start(&config(&pipe.path, 2000, OnFull::Deny));
    let refused = (0..10_000).filter(|id| submit(&audit, "flood", *id).is_err()).count();
    assert!(refused > 5000, "{refused}");
    assert!((0..100).all(|id| submit(&audit, "quiet", id).is_ok()));
}

#[test]
fn closing_does_not_wait_for_a_disk_that_hangs() {
    let pipe = pipe();
    let (audit, _) = start(&config(&pipe.path, 2000, OnFull::Drop));
    for id in 0..1000 {
        submit(&audit, "alice", id).unwrap();
    }
    assert!(!audit.close_within(Duration::from_millis(50)));
}

#[test]
fn after_a_rename_reopening_writes_to_a_new_file() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("audit.json"), directory.path().join("audit.json.1"));
    let (audit, metrics) = start(&config(&path, 100, OnFull::Drop));
    submit(&audit, "alice", 1).unwrap();
    wait_until(|| shows(&metrics, "etcd_warden_audit_queue_length 0"));
    std::fs::rename(&path, &old).unwrap();
    audit.reopen();
    submit(&audit, "alice", 2).unwrap();
    assert!(audit.close());
    assert_eq!(ids(&std::fs::read_to_string(old).unwrap()), [1]);
    assert_eq!(ids(&std::fs::read_to_string(path).unwrap()), [2]);
}

/// A line wakes the writer, and the file is to be reopened before it has gathered the batch.
#[test]
fn reopens_before_writing_a_batch_that_has_consumed_the_wake() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.json");
    let (audit, mut writer, _finished) =
        Audit::with_writer(&config(&path, 100, OnFull::Drop), Metrics::new()).unwrap();
    submit(&audit, "alice", 1).unwrap();
    let first = writer.next().unwrap();
    std::fs::rename(&path, directory.path().join("old.json")).unwrap();
    audit.reopen();
    writer.write_batch(first);
    assert_eq!(ids(&std::fs::read_to_string(path).unwrap()), [1]);
}

#[test]
fn a_failed_reopening_keeps_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let (audit, metrics) = start(&config(&inner.join("audit.json"), 100, OnFull::Drop));
    let moved = directory.path().join("moved");
    std::fs::rename(&inner, &moved).unwrap();
    audit.reopen();
    submit(&audit, "alice", 1).unwrap();
    assert!(audit.close());
    assert_eq!(ids(&std::fs::read_to_string(moved.join("audit.json")).unwrap()), [1]);
    assert!(shows(&metrics, "etcd_warden_audit_errors_total 1"));
}

#[test]
fn lines_after_closing_are_counted_as_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (audit, metrics) = start(&config(&directory.path().join("audit.json"), 100, OnFull::Drop));
    assert!(audit.close() && audit.close());
    submit(&audit, "alice", 1).unwrap();
    assert!(shows(&metrics, "etcd_warden_audit_lines_lost_total 1"));
}
