//! The host firewall of `deploy/firewall`, loaded into a network namespace of its own, and who comes through.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::inside;
use crate::deploy::{deploy, text};

/// The user of the image, another one, and root.
const USERS: [(u32, bool); 3] = [(65532, true), (65534, false), (0, false)];

fn nft(arguments: &[&str]) {
    let status = Command::new("nft").args(arguments).status();
    assert!(status.unwrap_or_else(|error| panic!("this test needs `nft` (nftables): {error}")).success(), "{arguments:?}");
}

/// Whether a process of this user gets a connection.
fn connects(user: u32, address: &str) -> bool {
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("exec 3<>/dev/tcp/{host}/{port}")]).uid(user).gid(user);
    bash.output().unwrap().status.success()
}

#[test]
#[ignore = "needs root, a network namespace and nft; .ci/run runs it"]
fn on_an_etcd_host_the_proxys_user_alone_reaches_etcds_client_port() {
    if !inside("calico::firewall::on_an_etcd_host_the_proxys_user_alone_reaches_etcds_client_port") {
        return;
    }
    let file = deploy().join("firewall/etcd-host.nft").display().to_string();
    let addresses = ["127.0.0.1:2379", "10.10.0.1:2379", "127.0.0.1:2380", "10.10.0.1:23790"];
    let _listening: Vec<TcpListener> = addresses.iter().map(|address| TcpListener::bind(address).unwrap()).collect();
    for (user, _) in USERS {
        assert!(addresses.iter().all(|address| connects(user, address)), "before the firewall");
    }
    nft(&["-c", "-f", &file]);
    // Once more is the same: an operator changes it and loads it again.
    for _ in 0..2 {
        nft(&["-f", &file]);
    }
    for (user, may) in USERS {
        for address in &addresses[..2] {
            assert_eq!(connects(user, address), may, "user {user} to {address}");
        }
        // Peers and the proxy have doors of their own: certificates alone judge there.
        assert!(connects(user, addresses[2]) && connects(user, addresses[3]), "user {user}");
    }
    let uid = format!("meta skuid != {} ", USERS[0].0);
    assert!(text("firewall/etcd-host.nft").contains(&uid));
}
