//! A data plane for Felix that accepts everything, does nothing, and reports what a real one would:
//! that it is alive, the state of its endpoints, and the keys of WireGuard. Felix writes all of
//! that to etcd.
//!
//! Messages are `FromDataplane` of Felix' protocol (felix/proto/felixbackend.proto), each with its
//! length in eight bytes before it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Felix writes its messages to file descriptor 3 and reads from 4. Endpoints are reported at most
/// once a second.
const DRIVER: &str = r#"#!/bin/sh
cat <&3 >/dev/null &
for step in up down gone keys; do
    cat "$0.$step" >&4
    sleep 2
done
wait
"#;

/// Any 32 bytes are a public key.
pub const PUBLIC_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Writes the driver for one node and returns its path.
pub fn driver(folder: &Path, node: &str) -> PathBuf {
    let path = folder.join(format!("dataplane-{node}"));
    let endpoint = || [text(2, "k8s"), text(3, "prod/web-0"), text(4, "eth0")].concat();
    let host_endpoint = || text(2, "eth0");
    let status = |status: &str| {
        let of = |message, endpoint: &[u8]| {
            framed(&within(message, &[within(1, endpoint), within(2, &text(1, status))].concat()))
        };
        [of(6, &endpoint()), of(4, &host_endpoint())].concat()
    };
    // The uptime is a double: fixed, eight bytes.
    let alive = framed(&within(
        3,
        &[text(1, "2026-01-01T00:00:00Z"), [&[0x11][..], &7.5_f64.to_le_bytes()].concat()].concat(),
    ));
    let key = |ip_version: u8| {
        framed(&within(9, &[text(1, PUBLIC_KEY), vec![0x10, ip_version]].concat()))
    };
    for (step, messages) in [
        ("up", [alive.clone(), status("up")].concat()),
        ("down", [alive, status("down")].concat()),
        (
            "gone",
            [
                framed(&within(7, &within(1, &endpoint()))),
                framed(&within(5, &within(1, &host_endpoint()))),
            ]
            .concat(),
        ),
        ("keys", [key(4), key(6)].concat()),
    ] {
        std::fs::write(folder.join(format!("dataplane-{node}.{step}")), messages).unwrap();
    }
    std::fs::write(&path, DRIVER).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn text(number: u8, text: &str) -> Vec<u8> {
    within(number, text.as_bytes())
}

/// A field with bytes; all of them are short.
fn within(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).ok().filter(|length| *length < 0x80).unwrap();
    [&[number << 3 | 2, length], bytes].concat()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u64).to_le_bytes(), message].concat()
}
