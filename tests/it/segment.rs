//! `etcd-warden calico segment` on the real manifests of `tests/manifests`.

/// The manifests, oldest first.
pub const MANIFESTS: [&str; 4] = ["v3.20.6", "v3.24.6", "v3.28.5", "v3.31.0"];

/// The text of one.
pub fn manifest(version: &str) -> String {
    let path = format!("{}/tests/manifests/calico-etcd-{version}.yaml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
