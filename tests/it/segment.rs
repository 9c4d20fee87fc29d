//! `etcd-warden calico segment` on the real manifests of `tests/manifests`.

/// The manifests, oldest first.
pub const MANIFESTS: [&str; 4] = ["v3.20.6", "v3.24.6", "v3.28.5", "v3.31.0"];

/// The text of one manifest.
pub fn manifest(version: &str) -> String {
    let path = format!("{}/tests/manifests/calico-etcd-{version}.yaml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn warden(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_etcd-warden")).args(arguments).output().unwrap()
}

#[test]
fn segments_each_real_manifest_and_the_check_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for version in MANIFESTS {
        let given =
            format!("{}/tests/manifests/calico-etcd-{version}.yaml", env!("CARGO_MANIFEST_DIR"));
        let (new, policy) = (at(&format!("{version}.yaml")), at(&format!("{version}-policy.yaml")));
        let check = |path: &str| {
            warden(&["calico", "segment", "--manifest", path, "--check"]).status.code()
        };
        assert_eq!(check(&given), Some(1));
        let arguments = [
            "calico",
            "segment",
            "--manifest",
            &given,
            "--endpoints",
            "https://192.0.2.1:23790",
            "--out",
            &new,
            "--policy-out",
            &policy,
        ];
        let output = warden(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(check(&new), Some(0));
        assert!(warden(&["policy", "check", &policy]).status.success());
        assert!(
            Path::new(&given).exists()
                && std::fs::read_to_string(&given).unwrap() == manifest(version)
        );
    }
}

/// README.md and the pages below docs/ and deploy/.
fn pages() -> Vec<PathBuf> {
    fn look(folder: &Path, found: &mut Vec<PathBuf>) {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                look(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md")];
    look(&root.join("docs"), &mut found);
    look(&root.join("deploy"), &mut found);
    found
}

/// On an etcd host, port 2379 is etcd itself: a copied line with it would point Calico past the
/// proxy.
#[test]
fn no_page_points_calico_at_etcd_itself() {
    let mut seen = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap().replace("\\\n", " ");
        for line in text.lines().filter(|line| line.contains("calico segment ")) {
            let Some((_, behind)) = line.split_once("--endpoints") else { continue };
            let urls =
                behind.trim_start_matches([' ', '=']).split_whitespace().next().unwrap_or_default();
            for url in urls.split(',') {
                assert!(
                    !url.trim_end_matches(['/', '`', '"', '\'']).ends_with(":2379"),
                    "{}: {url}",
                    page.display()
                );
                seen += 1;
            }
        }
    }
    assert!(seen >= 6, "{seen}: this test found too few commands in the pages");
}
