//! Operator commands with untrusted input: a member of etcd, a certificate, a file. No terminal
//! escape is printed, every wait ends, and every invalid input is an error that names it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use etcd_warden_proto::authpb::Permission;
use etcd_warden_proto::etcdserverpb::{
    AuthRoleGetResponse, AuthRoleListResponse, AuthUserListResponse, Member, MemberListResponse,
    RangeResponse,
};
use etcd_warden_proto::mvccpb::KeyValue;
use etcd_warden_testbed::pki::write_private;
use prost::Message as _;

use crate::process::{ServerFiles, text};
use crate::world::World;
use crate::world::fake::{Fake, Visit};

/// A window title, a colour, a line break, a C1 control, and a character that reorders text.
const HOSTILE: &str = "n\x1b]0;owned\x07\x1b[31m\r\nFAKE\u{9b}31m\u{202e}\u{2028}";
const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: /a/*, verbs: [rw]}]}}\nbindings: [{cn: alice, roles: [r]}]\n";

/// Runs the program until it exits by itself.
async fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(120), command.output())
        .await
        .unwrap_or_else(|_| panic!("{arguments:?} does not end"))
        .unwrap()
}

/// Asserts that the output has no control character, no line that begins with untrusted text, and
/// no debug form of an error.
fn is_harmless(arguments: &[&str], output: &Output) {
    for said in [text(&output.stdout), text(&output.stderr)] {
        let bad = |c: char| {
            (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{2028}'..='\u{202e}')
        };
        assert!(!said.contains(bad), "{arguments:?}: {said:?}");
        assert!(!said.contains("\nFAKE"), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
}

fn member_list() -> Vec<u8> {
    let member = Member {
        name: HOSTILE.to_owned(),
        peer_ur_ls: vec![format!("http://127.0.0.1:1/{HOSTILE}")],
        client_ur_ls: vec![format!("https://127.0.0.1:1{HOSTILE}")],
        ..Member::default()
    };
    MemberListResponse { members: vec![member], ..MemberListResponse::default() }.encode_to_vec()
}

/// A fake etcd that responds to every request of a command with hostile names.
async fn liar() -> Fake {
    Fake::serving(|mut visit: Visit| async move {
        visit.body().await;
        let names =
            vec![HOSTILE.to_owned(), "x: {cn: y}\n  - {cn: mallory, roles: [root]}".to_owned()];
        match visit.path.rsplit('/').next().unwrap_or_default() {
            "MemberList" => visit.answer(&member_list()),
            "Range" => {
                let kvs = vec![KeyValue {
                    key: format!("/k{HOSTILE}/x").into_bytes(),
                    ..KeyValue::default()
                }];
                visit.answer(
                    &RangeResponse { kvs, count: 1, ..RangeResponse::default() }.encode_to_vec(),
                );
            }
            "RoleList" => visit.answer(
                &AuthRoleListResponse { roles: names, ..AuthRoleListResponse::default() }
                    .encode_to_vec(),
            ),
            "RoleGet" => {
                let perm = vec![Permission { key: b"/a".to_vec(), ..Permission::default() }];
                visit.answer(
                    &AuthRoleGetResponse { perm, ..AuthRoleGetResponse::default() }.encode_to_vec(),
                );
            }
            "UserList" => visit.answer(
                &AuthUserListResponse { users: names, ..AuthUserListResponse::default() }
                    .encode_to_vec(),
            ),
            "UserGet" | "AuthStatus" => visit.answer(b""),
            _ => visit.status(2, "%1B%5D0%3Bowned%07%0D%0AFAKE%C2%9B31m"),
        }
    })
    .await
}

/// A folder with a configuration for this etcd.
async fn files(etcd: &Fake) -> ServerFiles {
    let world = World::start(POLICY).await;
    let files = ServerFiles::new(&world, POLICY, "");
    let config = std::fs::read_to_string(files.path("config.yaml")).unwrap();
    let real = world.etcd().addresses()[0].to_string();
    assert!(config.contains(&real));
    write_private(
        files.folder.path(),
        "config.yaml",
        &config.replace(&real, &etcd.address.to_string()),
    )
    .unwrap();
    files
}

#[tokio::test]
async fn no_command_prints_terminal_escapes() {
    let (liar, failing) = (
        liar().await,
        Fake::serving(|mut visit: Visit| async move {
            visit.body().await;
            visit.status(2, "%1B%5D0%3Bowned%07%0D%0AFAKE%C2%9B31m");
        })
        .await,
    );
    for etcd in [&liar, &failing] {
        let files = files(etcd).await;
        let folder = files.folder.path();
        let bench = [
            "bench",
            &format!("--endpoint=https://{}", etcd.address),
            "--cacert=etcd-ca.crt",
            "--cert=upstream.crt",
            "--key=upstream.key",
            "--count=5",
            "--keys=5",
            "--warm-up=0s",
        ];
        for arguments in [
            &["doctor", "--config", "config.yaml"][..],
            &["doctor", "--config", "config.yaml", "-o", "json"],
            &["policy", "import", "--config", "config.yaml"],
            &bench,
        ] {
            let output = run(folder, arguments).await;
            is_harmless(arguments, &output);
            assert!(!output.stdout.is_empty() || !output.stderr.is_empty(), "{arguments:?}");
        }
    }
    // The imported policy contains the names as they are, and nothing else.
    let files = files(&liar).await;
    let imported = run(files.folder.path(), &["policy", "import", "--config", "config.yaml"]).await;
    std::fs::write(files.path("imported.yaml"), &imported.stdout).unwrap();
    let checked = run(files.folder.path(), &["policy", "check", "imported.yaml"]).await;
    assert!(!text(&imported.stdout).contains("\n  - {cn: mallory"), "{}", text(&imported.stdout));
    is_harmless(&["policy", "check"], &checked);
}

/// Each command that reads a file; `FILE` stands for its path.
const READERS: &[&[&str]] = &[
    &["policy", "check", "FILE"],
    &["policy", "check", "FILE", "-o", "json"],
    &["policy", "explain", "--policy", "FILE", "--cn", "alice", "get", "a"],
    &["policy", "import", "--config", "FILE"],
    &["doctor", "--config", "FILE"],
    &["doctor", "--config", "config.yaml", "--stolen", "FILE"],
    &["serve", "--config", "FILE"],
    &["certs", "list", "FILE"],
    &[
        "certs",
        "issue",
        "--ca-cert",
        "ca.crt",
        "--ca-key",
        "ca.key",
        "--component",
        "cni",
        "--nodes-from",
        "FILE",
        "--out",
        "out",
        "--dry-run",
    ],
    &[
        "certs",
        "issue",
        "--ca-cert",
        "FILE",
        "--ca-key",
        "ca.key",
        "--component",
        "typha",
        "--out",
        "out",
        "--dry-run",
    ],
    &[
        "certs",
        "issue",
        "--ca-cert",
        "ca.crt",
        "--ca-key",
        "FILE",
        "--component",
        "typha",
        "--out",
        "out",
        "--dry-run",
    ],
    &["calico", "segment", "--manifest", "FILE", "--endpoints", "https://10.0.0.1:23790", "--diff"],
    &["bench", "--endpoint=https://127.0.0.1:1", "--cacert", "FILE"],
    &[
        "bench",
        "--endpoint=https://127.0.0.1:1",
        "--cacert",
        "ca.crt",
        "--cert",
        "FILE",
        "--key",
        "FILE",
    ],
];

/// Files that no command can use, and a folder.
fn odd_files(folder: &Path) -> Vec<PathBuf> {
    let contents: [(&str, &[u8]); 7] = [
        ("empty", b""),
        ("zeroes", &[0; 4096]),
        ("latin1", b"# \xe9\xff\xfe\r\n"),
        ("utf16", b"\xff\xfen\0o\0d\0e\0\r\0\n\0"),
        ("bom", b"\xef\xbb\xbf\r\n"),
        ("hostile", HOSTILE.as_bytes()),
        ("cut", b"-----BEGIN CERTIFICATE-----\r\nMIIB"),
    ];
    let mut files = Vec::new();
    for (name, content) in contents {
        std::fs::write(folder.join(name), content).unwrap();
        files.push(folder.join(name));
    }
    let hostile = folder.join(HOSTILE.replace('/', "_"));
    std::fs::write(&hostile, "version: 2\n").unwrap();
    std::fs::create_dir(folder.join("folder")).unwrap();
    std::fs::File::create(folder.join("sparse")).unwrap().set_len(3 << 30).unwrap();
    assert!(
        std::process::Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap().success()
    );
    files.extend([
        hostile,
        folder.join("folder"),
        folder.join("missing"),
        folder.join("sparse"),
        folder.join("pipe"),
    ]);
    files
}

#[tokio::test]
async fn every_unusable_file_is_an_error_that_names_it() {
    let etcd = liar().await;
    let files = files(&etcd).await;
    let folder = files.folder.path();
    let ca = etcd_warden_testbed::pki::Authority::new("odd").unwrap();
    std::fs::write(folder.join("ca.crt"), ca.pem()).unwrap();
    for file in odd_files(folder) {
        for reader in READERS {
            let file = file.to_str().unwrap();
            let arguments: Vec<&str> =
                reader.iter().map(|word| if *word == "FILE" { file } else { word }).collect();
            let output = run(folder, &arguments).await;
            is_harmless(&arguments, &output);
            let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
            // `certs list` accepts a folder, or a file without a certificate.
            if !reader.starts_with(&["certs", "list"]) {
                assert!(
                    matches!(output.status.code(), Some(1 | 64 | 78)),
                    "{arguments:?}: {:?} {said}",
                    output.status
                );
                let name: String = file
                    .rsplit('/')
                    .next()
                    .unwrap()
                    .chars()
                    .take_while(|c| !c.is_control())
                    .collect();
                assert!(said.contains(&name), "{arguments:?}: {said}");
            }
            for form in ["Os {", "Custom {", "Error {", "Kind(", "Some(", "Err("] {
                assert!(!said.contains(form), "{arguments:?}: debug output: {said}");
            }
        }
    }
}

#[tokio::test]
async fn no_command_waits_forever_for_a_silent_or_endless_server() {
    let silent = Fake::serving(|mut visit: Visit| async move {
        visit.body().await;
        visit.reset().await;
    });
    let endless = Fake::serving(|mut visit: Visit| async move {
        visit.body().await;
        let mut out = visit.head();
        let frame = bytes::Bytes::from(crate::world::raw::framed(&[0; 1 << 16]));
        loop {
            out.reserve_capacity(frame.len());
            match std::future::poll_fn(|cx| out.poll_capacity(cx)).await {
                Some(Ok(room)) if room >= frame.len() => {}
                Some(Ok(_)) => continue,
                _ => return,
            }
            if out.send_data(frame.clone(), false).is_err() {
                return;
            }
        }
    });
    for etcd in [silent.await, endless.await] {
        let files = files(&etcd).await;
        let endpoint = format!("--endpoint=https://{}", etcd.address);
        let cluster = [
            "--cacert=etcd-ca.crt",
            "--cert=upstream.crt",
            "--key=upstream.key",
            "--timeout=300ms",
        ];
        for arguments in [
            [&["bench", &endpoint, "--keys=5", "--time=1s"][..], &cluster].concat(),
            [&["bench", "calico", &endpoint, "--nodes=1", "--time=1s"][..], &cluster].concat(),
            vec!["policy", "import", "--config", "config.yaml"],
            vec!["doctor", "--config", "config.yaml"],
        ] {
            let output = run(files.folder.path(), &arguments).await;
            is_harmless(&arguments, &output);
            // A finding of doctor is not an error of doctor.
            let code = output.status.code();
            assert!(
                code == Some(1) || (arguments[0] == "doctor" && code == Some(0)),
                "{arguments:?}: {}",
                text(&output.stderr)
            );
        }
    }
}
