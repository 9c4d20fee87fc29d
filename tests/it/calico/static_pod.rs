//! The static pod without a kubelet: in a root with the content of the image and nothing else,
//! read-only as in the pod, as the user of the image, with the files that the manifest names. Its
//! configuration is unchanged except for the addresses of etcd.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use etcd_warden_gateway::http_client as http;
use etcd_warden_testbed::etcd::Options;
use etcd_warden_testbed::pki::Issued;
use serde_json::Value;

use super::{inside, runtime};
use crate::deploy::{text, yaml};
use crate::process::output;
use crate::world::{authorities, connect, root, soon, start_etcd};

/// In the `/run` of the namespaces, which is removed with them.
const IMAGE: &str = "/run/image";
const ENTRYPOINT: &str = "/usr/bin/etcd-warden";

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .unwrap_or_else(|error| panic!("this test needs `{program}`: {error}"));
    assert!(status.success(), "{program} {arguments:?}");
}

/// Writes a file of the image.
fn put(path: &str, content: &[u8]) {
    let at = Path::new(IMAGE).join(path.trim_start_matches('/'));
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(&at, content).unwrap();
}

/// The program and the libraries that it is linked with.
fn image() {
    run("mount", &["-t", "tmpfs", "none", IMAGE]);
    let program = env!("CARGO_BIN_EXE_etcd-warden");
    put(ENTRYPOINT, &fs::read(program).unwrap());
    let linked = Command::new("ldd").arg(program).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        put(library, &fs::read(library).unwrap());
    }
    run(
        "chmod",
        &[
            "-R",
            "a+rX,a+x",
            &format!("{IMAGE}/usr"),
            &format!("{IMAGE}/lib"),
            &format!("{IMAGE}/lib64"),
        ],
    );
}

/// The files that the first lines of the manifest put on the host.
fn files(endpoint: &SocketAddr) {
    let config = text("kubernetes/proxy/static-pod/config.yaml");
    let of_etcd = config.lines().find(|line| line.starts_with("endpoints: ")).unwrap();
    put(
        "/etc/etcd-warden/config.yaml",
        config.replace(of_etcd, &format!("endpoints: [https://{endpoint}]")).as_bytes(),
    );
    put("/etc/etcd-warden/policy.yaml", text("kubernetes/proxy/static-pod/policy.yaml").as_bytes());
    put("/etc/etcd-warden/lease.key", &[7; 32]);
    let server = authorities().clients.server(&["127.0.0.1"]).unwrap();
    let pairs = [("server", &server), ("client", root())];
    for (name, Issued { certificate, key }) in pairs {
        put(&format!("/etc/etcd-warden/tls/{name}.crt"), certificate.as_bytes());
        put(&format!("/etc/etcd-warden/tls/{name}.key"), key.as_bytes());
    }
    put("/etc/etcd-warden/tls/components-ca.crt", authorities().clients.pem().as_bytes());
    put("/etc/etcd-warden/tls/etcd-ca.crt", authorities().upstream.pem().as_bytes());
    let etc = format!("{IMAGE}/etc/etcd-warden");
    run("chown", &["-R", "65532:65532", &etc]);
    run("chmod", &["-R", "u=rX,go=", &etc]);
    let state = format!("{IMAGE}/var/lib/etcd-warden");
    fs::create_dir_all(&state).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "uid=65532,gid=65532,mode=0700", "none", &state]);
}

#[test]
#[ignore = "needs root and namespaces; .ci/run runs it"]
fn the_static_pods_files_serve_in_the_images_root_as_its_user() {
    if inside("calico::static_pod::the_static_pods_files_serve_in_the_images_root_as_its_user") {
        runtime().block_on(serves());
    }
}

async fn serves() {
    let etcd = start_etcd(Options::default()).await;
    fs::create_dir(IMAGE).unwrap();
    image();
    files(&etcd.addresses()[0]);
    run("mount", &["-o", "remount,ro", IMAGE]);

    let pod = yaml("kubernetes/proxy/static-pod/etcd-warden.yaml");
    let container = &pod["spec"]["containers"][0];
    let arguments =
        container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
    let mut chroot = tokio::process::Command::new("/usr/sbin/chroot");
    chroot.args(["--userspec=65532:65532", IMAGE, ENTRYPOINT]).args(arguments).env_clear();
    chroot.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = chroot.spawn().unwrap();
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        let address = format!("{}:{}", get["host"].as_str().unwrap(), get["port"]).parse().unwrap();
        let path = get["path"].as_str().unwrap();
        soon(probe, async || (http::get(address, path).await.ok()?.0 == 200).then_some(())).await;
    }
    // As kube-apiserver connects, with the flag of deploy/README.md. In shadow mode a call beyond
    // its role passes and is recorded.
    let servers = text("README.md")
        .lines()
        .find_map(|line| line.trim().strip_prefix("--etcd-servers=").map(str::to_owned))
        .unwrap();
    let mut client = connect(
        &[servers],
        &authorities().clients,
        &authorities().clients.client("kube-apiserver").unwrap(),
    )
    .await;
    client.put("/registry/pods/default/a", "1", None).await.unwrap();
    client.get("/calico/x", None).await.unwrap();
    // The state folder is the only path that it may write.
    let kept = fs::read_dir(format!("{IMAGE}/var/lib/etcd-warden")).unwrap().count();
    assert!(kept > 0, "the accepted policy is kept");
    let id = child.id().unwrap().to_string();
    drop(client);
    run("kill", &["-s", "TERM", &id]);
    let grace = Duration::from_secs(pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap());
    let ended = tokio::time::timeout(grace, output(child))
        .await
        .expect("it ends before a kubelet would kill it");
    assert!(ended.status.success(), "{ended:?}");
    let audit: Vec<Value> = String::from_utf8(ended.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        audit
            .iter()
            .any(|line| line["decision"] == "would_deny" && line.to_string().contains("/calico/x")),
        "{audit:?}"
    );
}
