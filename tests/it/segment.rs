//! `etcd-warden calico segment` on the real manifests of `tests/manifests`.

/// The manifests, oldest first.
pub const MANIFESTS: [&str; 4] = ["v3.20.6", "v3.24.6", "v3.28.5", "v3.31.0"];

/// The text of one.
pub fn manifest(version: &str) -> String {
    let path = format!("{}/tests/manifests/calico-etcd-{version}.yaml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

use std::path::Path;
use std::process::{Command, Output};

fn warden(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_etcd-warden")).args(arguments).output().unwrap()
}

#[test]
fn a_user_segments_each_real_manifest_with_one_command_and_the_check_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for version in MANIFESTS {
        let given = format!("{}/tests/manifests/calico-etcd-{version}.yaml", env!("CARGO_MANIFEST_DIR"));
        let (new, policy) = (at(&format!("{version}.yaml")), at(&format!("{version}-policy.yaml")));
        let check = |path: &str| warden(&["calico", "segment", "--manifest", path, "--check"]).status.code();
        assert_eq!(check(&given), Some(1));
        let arguments =
            ["calico", "segment", "--manifest", &given, "--endpoints", "https://192.0.2.1:2379", "--out", &new, "--policy-out", &policy];
        let output = warden(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(check(&new), Some(0));
        assert!(warden(&["policy", "check", &policy]).status.success());
        assert!(Path::new(&given).exists() && std::fs::read_to_string(&given).unwrap() == manifest(version));
    }
}
