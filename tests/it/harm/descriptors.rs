//! Open files: too many client sockets use none that probes, reloads and connections to etcd need.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::process::{ServerFiles, Serving, text};
use crate::world::raw::{Raw, tls};
use crate::world::{World, authorities, soon};

const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: /t/*, verbs: [rw]}]}}\nbindings: [{cn: alice, roles: [r]}]\n";

/// A proxy that starts with these limits on open files, as `ulimit` sets them.
async fn with_open_files(limits: &str) -> Serving {
    let files = ServerFiles::new(&World::start(POLICY).await, POLICY, "");
    let serve = files.serve(&[]);
    let serve = serve.as_std();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")])
        .arg(serve.get_program())
        .args(serve.get_args())
        .env_clear();
    command
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    Serving { child: command.spawn().unwrap(), files }.ready().await
}

/// The soft and the hard limit of a process.
fn open_files(serving: &Serving) -> [String; 2] {
    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", serving.child.id().unwrap())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut words = line.split_whitespace().skip(3).map(str::to_owned);
    [words.next().unwrap(), words.next().unwrap()]
}

#[tokio::test]
async fn the_soft_limit_on_open_files_is_raised_to_the_hard_one() {
    let serving = with_open_files("ulimit -Sn 300 && ulimit -Hn 1500").await;
    assert_eq!(open_files(&serving), ["1500", "1500"]);
}

#[tokio::test]
async fn too_many_sockets_stop_no_probe_and_no_reload() {
    let serving = with_open_files("ulimit -n 600").await;
    let issued = authorities().clients.client("alice").unwrap();
    let mut alice = Raw::over(
        tls(serving.files.listen, Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap(),
    )
    .await;
    let range = pb::RangeRequest { key: b"/t/a".into(), ..Default::default() }.encode_to_vec();
    assert_eq!(alice.call(Method::Range.path(), &range).await.grpc_status(), Some(0));
    let mut held = Vec::new();
    for number in 0..1200 {
        let mut stream = TcpStream::connect(serving.files.listen).await.unwrap();
        if number % 2 == 0 {
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).await;
        }
        held.push(stream);
    }
    assert_eq!(serving.page("/livez").await, "ok\n");
    std::fs::write(serving.files.path("policy.yaml"), POLICY.replace("/t/*", "/elsewhere/*"))
        .unwrap();
    serving.signal("HUP");
    soon("the new policy", || async {
        serving.page("/policy").await.contains("\"generation\": 2").then_some(())
    })
    .await;
    assert_eq!(alice.call(Method::Range.path(), &range).await.grpc_status(), Some(7));
    drop(held);
    serving.signal("TERM");
    let (output, _) = serving.end().await;
    let said = text(&output.stderr);
    assert!(
        said.contains(
            "the limit on open files is too low for `max-connections` and `max-handshakes`"
        ),
        "{said}"
    );
    assert!(!said.contains("cannot accept"), "{said}");
}
