//! Tests with the manifests of several releases of Calico.

mod changed;
mod emit;
mod properties;
mod refused;

use super::*;

pub(super) const MANIFESTS: [(&str, &str); 4] = [
    ("v3.20.6", include_str!("../../../tests/manifests/calico-etcd-v3.20.6.yaml")),
    ("v3.24.6", include_str!("../../../tests/manifests/calico-etcd-v3.24.6.yaml")),
    ("v3.28.5", include_str!("../../../tests/manifests/calico-etcd-v3.28.5.yaml")),
    ("v3.31.0", NEWEST),
];
pub(super) const NEWEST: &str = include_str!("../../../tests/manifests/calico-etcd-v3.31.0.yaml");
pub(super) const PROXIES: &str = "https://10.0.0.1:23790,https://10.0.0.2:23790";

pub(super) fn options() -> Options {
    Options { endpoints: Some(Endpoints::parse(PROXIES).unwrap()), ..Options::default() }
}

pub(super) fn per_node() -> Options {
    Options {
        per_node: Some(PerNode::parse("host-path=/etc/calico/etcd-certs/").unwrap()),
        ..options()
    }
}

pub(super) fn named(names: &[(Component, &str)]) -> Options {
    Options {
        secrets: names.iter().map(|(component, name)| (*component, (*name).to_owned())).collect(),
        ..options()
    }
}

pub(super) fn segmented(text: &str, options: &Options) -> Segmented {
    segment("FILE", text, options).unwrap_or_else(|errors| panic!("{errors}"))
}

/// All errors as one text.
pub(super) fn errors(text: &str, options: &Options) -> String {
    segment("FILE", text, options).map(|done| done.text).expect_err("an error").to_string()
}

/// Replaces a text that appears once.
pub(super) fn with(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old}");
    text.replacen(old, new, 1)
}

/// The removed (`-`) and added (`+`) lines in order.
pub(super) fn changes(old: &str, new: &str) -> Vec<String> {
    let diff = similar::TextDiff::from_lines(old, new);
    let lines = diff.iter_all_changes().filter(|change| change.tag() != similar::ChangeTag::Equal);
    lines.map(|change| format!("{}{}", change.tag(), change.value().trim_end())).collect()
}

/// The documents as another YAML reader, serde's, reads them.
pub(super) fn read(text: &str) -> Vec<serde_json::Value> {
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

const CONFIG_MAP: [&str; 8] = [
    "-  etcd_endpoints: \"http://<ETCD_IP>:<ETCD_PORT>\"",
    "+  etcd_endpoints: \"https://10.0.0.1:23790,https://10.0.0.2:23790\"",
    "-  etcd_ca: \"\"   # \"/calico-secrets/etcd-ca\"",
    "-  etcd_cert: \"\" # \"/calico-secrets/etcd-cert\"",
    "-  etcd_key: \"\"  # \"/calico-secrets/etcd-key\"",
    "+  etcd_ca: \"/calico-secrets/etcd-ca\"   # \"/calico-secrets/etcd-ca\"",
    "+  etcd_cert: \"/calico-secrets/etcd-cert\" # \"/calico-secrets/etcd-cert\"",
    "+  etcd_key: \"/calico-secrets/etcd-key\"  # \"/calico-secrets/etcd-key\"",
];

#[test]
fn segmenting_changes_exactly_these_lines() {
    let pods = [
        "-              name: etcd-certs",
        "+              name: etcd-certs-cni",
        "-            secretName: calico-etcd-secrets",
        "+            secretName: calico-etcd-node",
        "+        - name: etcd-certs-cni",
        "+          secret:",
        "+            secretName: calico-etcd-cni",
        "+            defaultMode: 0400",
        "-            secretName: calico-etcd-secrets",
        "+            secretName: calico-etcd-kube-controllers",
    ];
    for (version, text) in MANIFESTS {
        let new = segmented(text, &options()).text;
        assert_eq!(changes(text, &new), [CONFIG_MAP.as_slice(), &pods].concat(), "{version}");
    }
}

#[test]
fn per_node_certificates_change_exactly_these_lines() {
    let pods = [
        "-              name: etcd-certs",
        "+              name: etcd-certs-cni",
        "-          secret:",
        "-            secretName: calico-etcd-secrets",
        "-            defaultMode: 0400",
        "+          hostPath:",
        "+            path: /etc/calico/etcd-certs/calico-node",
        "+            type: Directory",
        "+        - name: etcd-certs-cni",
        "+          hostPath:",
        "+            path: /etc/calico/etcd-certs/cni",
        "+            type: Directory",
        "-            secretName: calico-etcd-secrets",
        "+            secretName: calico-etcd-kube-controllers",
    ];
    for (version, text) in MANIFESTS {
        let new = segmented(text, &per_node()).text;
        assert_eq!(changes(text, &new), [CONFIG_MAP.as_slice(), &pods].concat(), "{version}");
    }
}

/// The expected result, applied to the documents as serde reads them.
fn expected(mut documents: Vec<serde_json::Value>) -> Vec<serde_json::Value> {
    use serde_json::json;
    for document in &mut documents {
        match document["kind"].as_str().unwrap() {
            "ConfigMap" => {
                document["data"]["etcd_endpoints"] = json!(PROXIES);
                for file in ["ca", "cert", "key"] {
                    document["data"][format!("etcd_{file}")] =
                        json!(format!("/calico-secrets/etcd-{file}"));
                }
            }
            "DaemonSet" => {
                let pod = &mut document["spec"]["template"]["spec"];
                let install = &mut pod["initContainers"][0];
                assert_eq!(install["name"], "install-cni");
                let mounts = install["volumeMounts"].as_array_mut().unwrap();
                mounts.iter_mut().find(|mount| mount["mountPath"] == "/calico-secrets").unwrap()
                    ["name"] = json!("etcd-certs-cni");
                let volumes = pod["volumes"].as_array_mut().unwrap();
                let at = volumes.iter().position(|volume| volume["name"] == "etcd-certs").unwrap();
                volumes[at]["secret"]["secretName"] = json!("calico-etcd-node");
                let mut another = volumes[at].clone();
                another["name"] = json!("etcd-certs-cni");
                another["secret"]["secretName"] = json!("calico-etcd-cni");
                volumes.insert(at + 1, another);
            }
            "Deployment" => {
                let volume = &mut document["spec"]["template"]["spec"]["volumes"][0];
                volume["secret"]["secretName"] = json!("calico-etcd-kube-controllers");
            }
            _ => {}
        }
    }
    documents
}

#[test]
fn serde_reads_exactly_the_expected_differences() {
    for (version, text) in MANIFESTS {
        assert_eq!(read(&segmented(text, &options()).text), expected(read(text)), "{version}");
    }
}

#[test]
fn a_segmented_manifest_does_not_change() {
    for (version, text) in MANIFESTS {
        for options in [options(), per_node(), named(&[(Component::Cni, "mine")])] {
            let once = segmented(text, &options).text;
            let twice = segmented(&once, &options);
            assert!(twice.text == once && twice.deviations.is_empty(), "{version}");
            assert!(check("FILE", &once, &Options::default()).unwrap().is_empty(), "{version}");
        }
        // Without the option, certificates of each node are kept.
        let nodes = segmented(text, &per_node()).text;
        assert!(segmented(&nodes, &options()).text == nodes, "{version}");
    }
}

#[test]
fn check_reports_every_deviation_with_its_position() {
    let deviations: Vec<String> = check("FILE", NEWEST, &Options::default())
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        deviations,
        [
            "67:19: ConfigMap kube-system/calico-config, data.etcd_endpoints: `http://<ETCD_IP>:<ETCD_PORT>` is not a URL: write https://HOST:PORT",
            "70:12: ConfigMap kube-system/calico-config, data.etcd_ca: must be /calico-secrets/etcd-ca",
            "71:14: ConfigMap kube-system/calico-config, data.etcd_cert: must be /calico-secrets/etcd-cert",
            "72:13: ConfigMap kube-system/calico-config, data.etcd_key: must be /calico-secrets/etcd-key",
            "610:11: DaemonSet kube-system/calico-node, spec.template.spec.volumes[etcd-certs]: calico-node has its certificate from Secret \
             `calico-etcd-secrets`, as cni and calico-kube-controllers have it",
            "610:11: DaemonSet kube-system/calico-node, spec.template.spec.volumes[etcd-certs]: cni has its certificate from Secret \
             `calico-etcd-secrets`, as calico-node and calico-kube-controllers have it",
            "718:11: Deployment kube-system/calico-kube-controllers, spec.template.spec.volumes[etcd-certs]: calico-kube-controllers has its \
             certificate from Secret `calico-etcd-secrets`, as calico-node and cni have it",
        ]
    );
}

#[test]
fn each_deviation_is_found_on_its_own() {
    let whole = segmented(NEWEST, &options()).text;
    let steps = [
        ("secretName: calico-etcd-cni", "secretName: calico-etcd-node", 1),
        ("secretName: calico-etcd-kube-controllers", "secretName: calico-etcd-node", 1),
        (
            "name: etcd-certs-cni\n          securityContext",
            "name: etcd-certs\n          securityContext",
            1,
        ),
        ("defaultMode: 0440", "defaultMode: 0644", 1),
        ("etcd_key: \"/calico-secrets/etcd-key\"", "etcd_key: \"\"", 1),
        ("https://10.0.0.2:23790", "http://10.0.0.2:23790", 1),
    ];
    for (old, new, count) in steps {
        let text = with(&whole, old, new);
        assert_eq!(check("FILE", &text, &Options::default()).unwrap().len(), count, "{old}");
        assert!(
            check("FILE", &segmented(&text, &options()).text, &options()).unwrap().is_empty(),
            "{old}"
        );
    }
}

#[test]
fn the_policy_is_valid_and_matches_the_manifest() {
    let bindings = |policy: &str| policy.split_once("bindings:\n").unwrap().1.to_owned();
    for (version, text) in MANIFESTS {
        for options in [options(), per_node()] {
            let policy = segmented(text, &options).policy;
            let compiled =
                etcd_warden_core::policy::Policy::parse("policy.yaml", policy.as_bytes(), 0, None);
            assert!(compiled.is_ok(), "{policy}");
            assert!(policy.contains("\nmode: shadow\n"));
            assert_eq!(policy.contains("NOT verified"), version != "v3.31.0", "{policy}");
        }
    }
    let shared = "  - cn: calico-node\n    roles: [calico-node]\n  - cn: calico-cni\n    roles: [calico-cni]\n  - cn: calico-kube-controllers\n    \
                  roles: [calico-kube-controllers, calico-kube-controllers-compaction]\n";
    assert_eq!(bindings(&segmented(NEWEST, &options()).policy), shared);
    let never =
        Options { compaction_period: Some(CompactionPeriod::parse("0").unwrap()), ..per_node() };
    let nodes = "  - cn: \"calico-node:{node}\"\n    roles: [calico-node-per-node]\n  - cn: \"cni:{node}\"\n    roles: [calico-cni-per-node]\n  \
                 - cn: calico-kube-controllers\n    roles: [calico-kube-controllers]       # COMPACTION_PERIOD is 0: another program must compact etcd\n";
    let policy = segmented(NEWEST, &never).policy;
    assert_eq!(bindings(&policy), nodes);
    assert!(policy.contains("include: [calico/v3.31, calico/v3.31-per-node]"));
    let newer = NEWEST.replace(":v3.31.0", ":v3.32.1");
    assert!(segmented(&newer, &options()).policy.contains("include: [calico/v3.32]"));
    let private = NEWEST.replace(":v3.31.0", ":production");
    let told = segmented(&private, &options());
    assert!(
        told.policy.contains("Calico version unknown: no image has a version")
            && told.notes.iter().any(|note| note.contains("no image has a version"))
    );
}

#[test]
fn notes_describe_the_remaining_work() {
    let notes = segmented(NEWEST, &per_node()).notes.join("\n");
    for part in [
        "calico-node: put etcd-ca, etcd-cert, etcd-key for CN `calico-node:NODE` into /etc/calico/etcd-certs/calico-node on every node",
        "cni: put etcd-ca, etcd-cert, etcd-key for CN `cni:NODE` into /etc/calico/etcd-certs/cni on every node",
        "calico-kube-controllers: create Secret `calico-etcd-kube-controllers` in namespace `kube-system`",
    ] {
        assert!(notes.contains(part), "{notes}");
    }
    let filled = with(NEWEST, "  # etcd-key: null\n", "  etcd-key: a2V5\n");
    let notes = segmented(&filled, &options()).notes.join("\n");
    assert!(notes.contains("Secret `calico-etcd-secrets` still contains a private key"), "{notes}");
    let empty = with(NEWEST, "  name: calico-etcd-secrets\n", "  name: calico-etcd-node\n");
    let notes = segmented(&empty, &options()).notes.join("\n");
    assert!(
        notes.contains("Secret `calico-etcd-node` in this manifest has no `etcd-ca`"),
        "{notes}"
    );
}

#[test]
fn versions_are_read_from_images() {
    for (image, version) in [
        ("quay.io/calico/node:v3.31.0", Some("3.31.0")),
        ("registry.example:5000/calico/node:v3.20.6", Some("3.20.6")),
        ("calico/node:v3.28.5-amd64@sha256:00", Some("3.28.5")),
        ("calico/node:3.28", Some("3.28.0")),
        ("registry.example:5000/calico/node", None),
        ("calico/node:latest", None),
        ("calico/node@sha256:00", None),
        ("", None),
    ] {
        assert_eq!(
            Version::of(image).map(|version| version.to_string()).as_deref(),
            version,
            "{image}"
        );
    }
}
