//! The host firewall of `deploy/firewall`, loaded into its own network namespace: which connections
//! it lets through.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::inside;
use crate::deploy::{deploy, text};

/// The user of the image, another one, and root; the flag says whether it may connect.
const USERS: [(u32, bool); 3] = [(65532, true), (65534, false), (0, false)];

fn nft(arguments: &[&str]) {
    let status = Command::new("nft").args(arguments).status();
    assert!(
        status
            .unwrap_or_else(|error| panic!("this test needs `nft` (nftables): {error}"))
            .success(),
        "{arguments:?}"
    );
}

/// True if a process of this user gets a connection.
fn connects(user: u32, address: &str) -> bool {
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("exec 3<>/dev/tcp/{host}/{port}")]).uid(user).gid(user);
    bash.output().unwrap().status.success()
}

#[test]
#[ignore = "needs root, a network namespace and nft; .ci/run runs it"]
fn only_the_proxys_user_reaches_etcds_client_port() {
    if !inside("calico::firewall::only_the_proxys_user_reaches_etcds_client_port") {
        return;
    }
    let file = deploy().join("firewall/etcd-host.nft").display().to_string();
    let addresses = ["127.0.0.1:2379", "10.10.0.1:2379", "127.0.0.1:2380", "10.10.0.1:23790"];
    let _listening: Vec<TcpListener> =
        addresses.iter().map(|address| TcpListener::bind(address).unwrap()).collect();
    for (user, _) in USERS {
        assert!(addresses.iter().all(|address| connects(user, address)), "before the firewall");
    }
    nft(&["-c", "-f", &file]);
    // Loading it twice has the same effect: an operator changes it and loads it again.
    for _ in 0..2 {
        nft(&["-f", &file]);
    }
    for (user, may) in USERS {
        for address in &addresses[..2] {
            assert_eq!(connects(user, address), may, "user {user} to {address}");
        }
        // Peers and the proxy have their own ports: only certificates decide there.
        assert!(connects(user, addresses[2]) && connects(user, addresses[3]), "user {user}");
    }
    let uid = format!("meta skuid != {} ", USERS[0].0);
    assert!(text("firewall/etcd-host.nft").contains(&uid));
}

/// Another host behind this one, with these addresses on either side.
fn host(name: &str, ours: &[&str], theirs: &[&str]) {
    let ip = |arguments: &str| {
        assert!(
            Command::new("ip").args(arguments.split(' ')).status().unwrap().success(),
            "ip {arguments}"
        );
    };
    ip(&format!("netns add {name}"));
    ip(&format!("link add {name}0 type veth peer name {name}1"));
    ip(&format!("link set {name}1 netns {name}"));
    for (address, at) in
        ours.iter().map(|address| (address, "")).chain(theirs.iter().map(|address| (address, name)))
    {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        match at {
            "" => ip(&format!("address add {address} dev {name}0{nodad}")),
            name => ip(&format!("-n {name} address add {address} dev {name}1{nodad}")),
        }
    }
    ip(&format!("link set {name}0 up"));
    ip(&format!("-n {name} link set {name}1 up"));
    ip(&format!("-n {name} route add default via {}", ours[0].split('/').next().unwrap()));
}

/// True if a process on that host gets a connection.
fn reaches(host: &str, address: &str) -> bool {
    let (to, port) = address.rsplit_once(':').unwrap();
    let connect = format!("exec 3<>/dev/tcp/{to}/{port}");
    let status = Command::new("ip")
        .args(["netns", "exec", host, "timeout", "2", "bash", "-c", &connect])
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

/// A listener on that host.
struct Listening(Child);

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

fn listening(host: &str, address: &str) -> Listening {
    let mut server = Command::new("ip");
    server.args([
        "netns", "exec", host, "openssl", "s_server", "-nocert", "-quiet", "-accept", address,
    ]);
    Listening(
        server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(),
    )
}

#[test]
#[ignore = "needs root, network namespaces and nft; .ci/run runs it"]
fn no_other_host_reaches_etcd_nor_through_its_host() {
    if !inside("calico::firewall::no_other_host_reaches_etcd_nor_through_its_host") {
        return;
    }
    // This host is in the set, `member` is another one, and `pod` has its own network.
    host("member", &["10.0.0.1/24"], &["10.0.0.2/24"]);
    host("pod", &["10.20.0.1/24", "fd00:20::1/64"], &["10.20.0.2/24", "fd00:20::2/64"]);
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    let here = [
        "10.0.0.1:2379",
        "10.20.0.1:2379",
        "10.20.0.1:2380",
        "[fd00:20::1]:2379",
        "10.20.0.1:23790",
    ];
    let _here: Vec<TcpListener> =
        here.iter().map(|address| TcpListener::bind(address).unwrap()).collect();
    let there = ["10.0.0.2:2379", "10.0.0.2:23790"];
    let _there: Vec<Listening> = there.iter().map(|address| listening("member", address)).collect();
    let of_pod = ["10.20.0.1:2379", "10.20.0.1:2380", "fd00:20::1:2379", "10.0.0.2:2379"];
    let open = ["10.20.0.1:23790", "10.0.0.2:23790"];
    for address in of_pod.iter().chain(&open) {
        let begun = std::time::Instant::now();
        while !reaches("pod", address) {
            assert!(begun.elapsed() < crate::world::SOON, "before the firewall: {address}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    nft(&["-f", &deploy().join("firewall/etcd-host.nft").display().to_string()]);
    for address in of_pod {
        assert!(!reaches("pod", address), "{address}");
    }
    assert!(
        open.iter().all(|address| reaches("pod", address)),
        "every host reaches the proxy's port"
    );
    assert!(reaches("member", "10.0.0.1:2379"), "hosts of the set may connect");
}
