//! The real install-cni with the network configurations of `deploy/kubernetes/per-node`: what it
//! leaves on the host for the CNI plugin.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::cluster::install_cni;
use crate::deploy::text;

/// The plugin's configuration when the container has these files in `/calico-secrets`.
fn installed(form: &str, secrets: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for at in ["opt/cni/bin", "host/opt/cni/bin", "host/etc/cni/net.d", "calico-secrets"] {
        fs::create_dir_all(root.join(at)).unwrap();
    }
    fs::copy(install_cni(), root.join("opt/cni/bin/install")).unwrap();
    for file in secrets {
        fs::write(root.join("calico-secrets").join(file), file).unwrap();
    }
    let mut install = Command::new("/usr/sbin/chroot");
    install.arg(root).arg("/opt/cni/bin/install").env_clear();
    install.env(
        "CNI_NETWORK_CONFIG",
        text(&format!("kubernetes/per-node/{form}/cni-network-config.json")),
    );
    install.envs([
        ("CNI_CONF_NAME", "10-calico.conflist"),
        ("ETCD_ENDPOINTS", "https://192.0.2.1:23790"),
        ("CNI_MTU", "0"),
        ("SLEEP", "false"),
    ]);
    let output = install.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let written = fs::read_to_string(root.join("host/etc/cni/net.d/10-calico.conflist")).unwrap();
    assert!(!written.contains("__"), "{written}");
    let plugin = serde_json::from_str::<Value>(&written).unwrap()["plugins"][0].take();
    // A file that is named and was copied exists.
    for copied in plugin
        .as_object()
        .unwrap()
        .values()
        .filter_map(|value| value.as_str()?.strip_prefix("/etc/cni/net.d/calico-tls/"))
    {
        assert!(root.join("host/etc/cni/net.d/calico-tls").join(copied).is_file(), "{copied}");
    }
    plugin
}

#[test]
#[ignore = "needs root, and builds install-cni, a minute the first time; .ci/run runs it"]
fn install_cni_leaves_the_paths_of_the_files_that_are_renewed() {
    let all = ["etcd-ca", "etcd-cert", "etcd-key"];
    // With Vault and SPIRE the container sees the CA only: it is the file that install-cni still
    // copies.
    for (form, secrets, key_and_certificate, ca) in [
        (
            "host-files",
            &all[..],
            "/etc/calico/etcd-certs/cni",
            "/etc/calico/etcd-certs/cni/etcd-ca",
        ),
        ("vault", &all[..1], "/run/calico-etcd/cni", "/etc/cni/net.d/calico-tls/etcd-ca"),
        ("spire", &all[..1], "/run/calico-etcd/cni", "/etc/cni/net.d/calico-tls/etcd-ca"),
    ] {
        let plugin = installed(form, secrets);
        assert_eq!(plugin["etcd_endpoints"], "https://192.0.2.1:23790", "{form}");
        assert_eq!(plugin["etcd_key_file"], format!("{key_and_certificate}/etcd-key"), "{form}");
        assert_eq!(plugin["etcd_cert_file"], format!("{key_and_certificate}/etcd-cert"), "{form}");
        assert_eq!(plugin["etcd_ca_cert_file"], ca, "{form}");
    }
}
