//! `etcd-warden serve` from an operator's view: a process, its exit codes, messages and signals.

use std::os::unix::net::UnixDatagram;
use std::process::Output;

use etcd_warden_testbed::pki::{Leaf, Validity, write_private};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::process::{ServerFiles, output, text};
use crate::world::raw::tls;
use crate::world::{World, authorities, connect, soon};

const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: /proc/*, verbs: [rw]}]}}\nbindings: [{cn: alice, roles: [r]}]\n";

async fn files(more: &str) -> ServerFiles {
    ServerFiles::new(&World::start(POLICY).await, POLICY, more)
}

async fn run(files: &ServerFiles, flags: &[&str]) -> Output {
    output(files.serve(flags).spawn().unwrap()).await
}

/// Asserts that the process refuses to start, with all of these words on standard error and nothing
/// on standard output.
async fn refuses(files: &ServerFiles, flags: &[&str], code: i32, words: &[&str]) {
    let output = run(files, flags).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{flags:?}: {said}");
    assert!(output.stdout.is_empty() && !said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "{flags:?}: `{word}` is not in: {said}");
    }
}

async fn client(files: &ServerFiles) -> etcd_client::Client {
    let issued = authorities().clients.client("alice").unwrap();
    connect(&[format!("https://{}", files.listen)], &authorities().clients, &issued).await
}

#[tokio::test]
async fn logs_start_and_stop_and_notifies_systemd() {
    let files = files("").await;
    let socket_path = files.path("notify");
    let socket = UnixDatagram::bind(&socket_path).unwrap();
    socket.set_read_timeout(Some(crate::world::SOON)).unwrap();
    let child = files.serve(&[]).env("NOTIFY_SOCKET", &socket_path).spawn().unwrap();
    let serving = crate::process::Serving { child, files }.ready().await;
    client(&serving.files).await.put("/proc/a", "1", None).await.unwrap();
    serving.signal("TERM");
    let (output, files) = serving.end().await;
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    let line = |word: &str| said.lines().filter(|line| line.contains(&format!(" {word}"))).count();
    for word in ["starting version=", "serving listen=", "draining signal=\"SIGTERM\"", "stopped"] {
        assert_eq!(line(word), 1, "{word}: {said}");
    }
    assert!(said.contains(&files.listen.to_string()));
    let mut buffer = [0; 256];
    let mut heard = || {
        let length = socket.recv(&mut buffer).unwrap();
        text(&buffer[..length]).to_owned()
    };
    assert_eq!([heard(), heard()], ["READY=1", "STOPPING=1"]);
}

#[tokio::test]
async fn refuses_unsafe_files_with_path_and_reason() {
    let files = files("").await;
    let folder = files.folder.path();
    let file = |name: &str, content: &str| {
        write_private(folder, name, content).unwrap().display().to_string()
    };
    let expired = authorities()
        .clients
        .issue(&Leaf::server(&["127.0.0.1"]).validity(Validity::Expired))
        .unwrap();
    let expired = expired.write(folder, "expired").unwrap();
    let other =
        authorities().clients.server(&["127.0.0.1"]).unwrap().write(folder, "other").unwrap();
    let flag = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
    let empty = file("empty", "");
    let directory = folder.display().to_string();
    let under_a_file = format!("{empty}/policy");
    // Opening it would block until there is a reader.
    let pipe = files.path("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let cases: Vec<(Vec<String>, Vec<&str>)> = vec![
        (vec![format!("--trusted-ca-file={empty}")], vec![&empty, "is empty"]),
        (
            vec![flag("trusted-ca-file", &other.key)],
            vec![other.key.to_str().unwrap(), "certificate"],
        ),
        (vec![format!("--trusted-ca-file={directory}")], vec![&directory, "directory"]),
        (vec![format!("--key-file={empty}")], vec![&empty, "is empty"]),
        (vec!["--key-file=/nowhere/key".into()], vec!["/nowhere/key", "does not exist"]),
        (
            vec![flag("key-file", &other.key)],
            vec![other.key.to_str().unwrap(), "not the key of the certificate"],
        ),
        (
            vec![flag("cert-file", &expired.cert), flag("key-file", &expired.key)],
            vec![expired.cert.to_str().unwrap(), "expired"],
        ),
        (
            vec!["--policy=/nowhere/policy.yaml".into()],
            vec!["/nowhere/policy.yaml", "the file does not exist"],
        ),
        (vec![format!("--policy={directory}")], vec![&directory, "directory"]),
        (vec![format!("--policy={under_a_file}")], vec![&under_a_file]),
        (vec![format!("--policy={empty}")], vec![&empty]),
        (vec![format!("--audit-file={under_a_file}")], vec![&under_a_file]),
        (vec![flag("audit-file", &pipe)], vec![pipe.to_str().unwrap(), "pipe", "audit-stdout"]),
        (vec![format!("--audit-file={directory}")], vec![&directory, "directory"]),
        (vec!["--trusted-ca-file=".into()], vec!["--trusted-ca-file"]),
        (
            vec!["--endpoints=http://127.0.0.1:1".into()],
            vec!["http://127.0.0.1:1", "insecure-plaintext-upstream"],
        ),
    ];
    for (flags, words) in cases {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        refuses(&files, &flags, 78, &words).await;
    }
    // Errors of both sides at once.
    refuses(
        &files,
        &["--key-file=/nowhere/a", "--key=/nowhere/b"],
        78,
        &["/nowhere/a", "/nowhere/b"],
    )
    .await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // The address may become free, so systemd should try again.
    refuses(&files, &["--listen-addr", &address], 1, &[&address, "in use"]).await;
    refuses(&files, &["--admin-addr", &address], 1, &[&address, "in use"]).await;
}

#[tokio::test]
async fn refuses_a_policy_with_an_error_and_its_position() {
    let files = files("").await;
    let cases: [(&str, Vec<u8>, &[&str]); 6] = [
        ("latin1", b"version: 1\nmode: enforce # \xe4\n".to_vec(), &["UTF-8"]),
        ("large", vec![b'#'; 10 << 20], &["large", "8 MiB"]),
        ("unknown", POLICY.replace("cn: alice", "cnn: alice").into_bytes(), &["unknown:4:", "cnn"]),
        ("twice", format!("{POLICY}mode: shadow\n").into_bytes(), &["twice:5:1", "mode"]),
        ("tabs", b"version: 1\nmode: enforce\nroles:\n\tr: {}\n".to_vec(), &["tabs:4:"]),
        (
            "two",
            POLICY.replace("rw", "fly").replace("cn: alice", "cnn: alice").into_bytes(),
            &["two:3:", "fly", "two:4:", "cnn"],
        ),
    ];
    for (name, content, words) in cases {
        let path = files.path(name);
        std::fs::write(&path, content).unwrap();
        refuses(&files, &["--policy", path.to_str().unwrap()], 78, words).await;
    }
}

#[tokio::test]
async fn usage_errors_exit_64_and_configuration_errors_exit_78() {
    let files = files("").await;
    refuses(&files, &["--no-such-flag"], 64, &["--no-such-flag"]).await;
    refuses(
        &files,
        &["--drain-timeout=soon", "--workers=0", "--mode=maybe"],
        78,
        &["soon", "--workers", "maybe"],
    )
    .await;
    write_private(files.folder.path(), "config.yaml", "listen-adr: x\nworkers: [1, 2]\n").unwrap();
    refuses(&files, &[], 78, &["config.yaml:1:1", "listen-adr", "config.yaml:2:"]).await;
}

#[tokio::test]
async fn flag_beats_environment_beats_file_beats_default() {
    let files = files("drain-timeout: 11s\nidle-timeout: 12s\nmode: shadow").await;
    let mut command = files.serve(&["--print-config", "--drain-timeout=31s"]);
    command.env("ETCD_WARDEN_DRAIN_TIMEOUT", "21s").env("ETCD_WARDEN_IDLE_TIMEOUT", "22s");
    let output = output(command.spawn().unwrap()).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    for (setting, origin) in [
        ("drain-timeout: 31s", "--drain-timeout"),
        ("idle-timeout: 22s", "ETCD_WARDEN_IDLE_TIMEOUT"),
        ("mode: shadow", "config.yaml:"),
        ("handshake-timeout: 10s", "default"),
    ] {
        assert!(
            said.lines().any(|line| line.starts_with(setting) && line.contains(origin)),
            "{setting} # {origin}: {said}"
        );
    }
}

#[tokio::test]
async fn sighup_reloads_the_policy_and_reopens_the_audit_log() {
    let serving = files("audit-allowed: all").await.start(&[]).await;
    let mut client = client(&serving.files).await;
    let (audit, rotated) = (serving.files.path("audit.jsonl"), serving.files.path("audit.1"));
    let lines =
        |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    for _ in 0..10 {
        client.put("/proc/a", "1", None).await.unwrap();
    }
    std::fs::rename(&audit, &rotated).unwrap();
    let wider = POLICY.replace("/proc/*", "/*");
    write_private(serving.files.folder.path(), "policy.yaml", &wider).unwrap();
    serving.signal("HUP");
    soon("a new file", || async { audit.exists().then_some(()) }).await;
    soon("a new policy", || async {
        serving.page("/policy").await.contains("\"generation\": 2").then_some(())
    })
    .await;
    for _ in 0..10 {
        client.put("/elsewhere/a", "1", None).await.unwrap();
    }
    soon("all lines", || async { (lines(&audit) + lines(&rotated) == 20).then_some(()) }).await;
    assert!(
        lines(&audit) >= 10 && !std::fs::read_to_string(&rotated).unwrap().contains("/elsewhere/")
    );

    // An error changes nothing and is reported in every output.
    write_private(serving.files.folder.path(), "policy.yaml", &wider.replace("rw", "fly")).unwrap();
    serving.signal("HUP");
    let place_of_it = "policy.yaml:3:";
    soon("the error", || async {
        serving.page("/policy").await.contains(place_of_it).then_some(())
    })
    .await;
    let metrics = serving.page("/metrics").await;
    assert!(
        metrics.contains("reloads_total{what=\"policy\",result=\"failed\"} 1\n")
            && metrics.contains("policy_generation 2\n"),
        "{metrics}"
    );
    client.put("/elsewhere/a", "1", None).await.unwrap();
    serving.signal("TERM");
    let (output, _) = serving.end().await;
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text(&output.stderr)
            .lines()
            .any(|line| line.contains("ERROR") && line.contains(place_of_it)),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn a_second_signal_ends_a_waiting_drain() {
    let serving = files("drain-timeout: 1h").await.start(&[]).await;
    // An unfinished handshake holds up the drain.
    let held = tokio::net::TcpStream::connect(serving.files.listen).await.unwrap();
    serving.signal("TERM");
    let listen = serving.files.listen;
    soon("a listener that is closed", || async move {
        tokio::net::TcpStream::connect(listen).await.is_err().then_some(())
    })
    .await;
    serving.signal("TERM");
    let (output, _) = serving.end().await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    drop(held);
}

/// Names, keys and paths that would begin a new line or control a terminal.
#[tokio::test]
async fn logs_a_hint_for_a_client_that_speaks_another_protocol() {
    let serving = files("").await.start(&[]).await;
    let (address, issued) = (serving.files.listen, authorities().clients.client("alice").unwrap());
    let refused = tls(address, Some(&issued), &[b"http/1.1"], rustls::ALL_VERSIONS).await;
    assert!(refused.is_err(), "etcd's gRPC port as a web server");
    let mut plain = tokio::net::TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: etcd\r\n\r\n").await.unwrap();
    let _ = plain.read_to_end(&mut Vec::new()).await;
    let counted = |page: &str| {
        ["no_common_alpn", "not_tls"]
            .iter()
            .all(|reason| page.contains(&format!("reason=\"{reason}\"}} 1\n")))
    };
    soon("the refusal of both", || async {
        counted(&serving.page("/metrics").await).then_some(())
    })
    .await;
    serving.signal("TERM");
    let (ended, _) = serving.end().await;
    let log = text(&ended.stderr);
    for words in [
        "the client uses HTTP/1.1, or did not offer `h2` by ALPN",
        "`admin-addr`",
        "the client does not use TLS: write its endpoints with `https://`",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

#[tokio::test]
async fn no_client_can_forge_a_line_of_the_log_or_the_audit_log() {
    const FORGED: &str = "\n{\"decision\":\"allow\"}\r\n2026-01-01T00:00:00Z  INFO forged\u{1b}[2K";
    let serving =
        files("audit-stdout: true\nlog-filter: debug\naudit-allowed: all").await.start(&[]).await;
    let listen = format!("https://{}", serving.files.listen);
    let refused = authorities().clients.issue(&Leaf::client(&format!("eve{FORGED}"))).unwrap();
    let mut eve = connect(std::slice::from_ref(&listen), &authorities().clients, &refused).await;
    assert!(eve.get(format!("/proc/{FORGED}"), None).await.is_err());
    let mut alice = client(&serving.files).await;
    alice.put(format!("/proc/{FORGED}"), "1", None).await.unwrap();
    assert!(alice.put(format!("/other/{FORGED}"), "1", None).await.is_err());
    serving.signal("TERM");
    let (output, files) = serving.end().await;
    let file = std::fs::read_to_string(files.path("audit.jsonl")).unwrap();
    // The audit file and standard output have the same lines.
    assert_eq!(text(&output.stdout), file);
    assert_eq!(file.lines().count(), 3, "{file}");
    for line in file.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["time"].is_string() && line["request_id"].is_u64(), "{line}");
    }
    for said in [text(&output.stderr), &file] {
        assert!(!said.contains(['\u{1b}', '\r']), "{said}");
        assert!(!said.lines().any(|line| line.starts_with("{\"decision\"")
            || line.contains("Z  INFO forged") && line.starts_with("2026-01-01T00")));
    }
}

async fn command(arguments: &[&str]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_etcd-warden"))
        .args(arguments)
        .output()
        .await
        .unwrap()
}

#[tokio::test]
async fn policy_commands_exit_with_the_documented_codes() {
    let files = files("").await;
    let policy = files.path("policy.yaml").display().to_string();
    let broken = write_private(files.folder.path(), "broken.yaml", &POLICY.replace("rw", "fly"))
        .unwrap()
        .display()
        .to_string();
    for (arguments, code, word) in [
        (vec!["policy", "check", &policy], 0, ""),
        (vec!["policy", "check", &broken], 78, "broken.yaml:3:"),
        (vec!["policy", "check", "/nowhere"], 78, "/nowhere"),
        (vec!["policy", "check"], 64, "Usage"),
        (vec!["policy", "show", "no-such-set"], 64, "no-such-set"),
    ] {
        let output = command(&arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        assert!(
            text(&output.stderr).contains(word) || text(&output.stdout).contains(word),
            "{arguments:?}"
        );
    }
}
