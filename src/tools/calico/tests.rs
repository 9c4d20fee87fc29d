//! The real manifests, as they are and as operators have changed them.

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

pub(super) fn wish() -> Wish {
    Wish { endpoints: Some(Endpoints::parse(PROXIES).unwrap()), ..Wish::default() }
}

pub(super) fn per_node() -> Wish {
    Wish { per_node: Some(PerNode::parse("host-path=/etc/calico/etcd-certs/").unwrap()), ..wish() }
}

pub(super) fn named(names: &[(Component, &str)]) -> Wish {
    Wish {
        secrets: names.iter().map(|(component, name)| (*component, (*name).to_owned())).collect(),
        ..wish()
    }
}

pub(super) fn done(text: &str, wish: &Wish) -> Segmented {
    segment("FILE", text, wish).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// What is not understood, as one text.
pub(super) fn mistakes(text: &str, wish: &Wish) -> String {
    segment("FILE", text, wish)
        .map(|done| done.text)
        .expect_err("this was to be refused")
        .to_string()
}

/// The text with one place replaced, which there is just once.
pub(super) fn with(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old}");
    text.replacen(old, new, 1)
}

/// The lines that went and came, in order, with `-` and `+` before.
pub(super) fn changes(old: &str, new: &str) -> Vec<String> {
    let diff = similar::TextDiff::from_lines(old, new);
    let lines = diff.iter_all_changes().filter(|change| change.tag() != similar::ChangeTag::Equal);
    lines.map(|change| format!("{}{}", change.tag(), change.value().trim_end())).collect()
}

/// The documents, by the reader that policies do not use: serde's.
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
fn of_a_real_manifest_these_lines_change_and_no_other() {
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
        let new = done(text, &wish()).text;
        assert_eq!(changes(text, &new), [CONFIG_MAP.as_slice(), &pods].concat(), "{version}");
    }
}

#[test]
fn of_certificates_of_single_nodes_these_lines_change_and_no_other() {
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
        let new = done(text, &per_node()).text;
        assert_eq!(changes(text, &new), [CONFIG_MAP.as_slice(), &pods].concat(), "{version}");
    }
}

/// What is to be different, done a second time on the documents as serde reads them.
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
fn another_reader_finds_just_the_wanted_differences() {
    for (version, text) in MANIFESTS {
        assert_eq!(read(&done(text, &wish()).text), expected(read(text)), "{version}");
    }
}

#[test]
fn a_segmented_manifest_stays_as_it_is_to_the_byte() {
    for (version, text) in MANIFESTS {
        for wish in [wish(), per_node(), named(&[(Component::Cni, "mine")])] {
            let once = done(text, &wish).text;
            let twice = done(&once, &wish);
            assert!(twice.text == once && twice.lacks.is_empty(), "{version}");
            assert!(check("FILE", &once, &Wish::default()).unwrap().is_empty(), "{version}");
        }
        // Certificates of single nodes are kept by whoever does not ask for another form.
        let nodes = done(text, &per_node()).text;
        assert!(done(&nodes, &wish()).text == nodes, "{version}");
    }
}

#[test]
fn a_check_names_everything_that_is_missing_with_its_place() {
    let lacks: Vec<String> =
        check("FILE", NEWEST, &Wish::default()).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(
        lacks,
        [
            "67:19: ConfigMap kube-system/calico-config, data.etcd_endpoints: `http://<ETCD_IP>:<ETCD_PORT>` is no URL: write https://HOST:PORT",
            "70:12: ConfigMap kube-system/calico-config, data.etcd_ca: has to be /calico-secrets/etcd-ca",
            "71:14: ConfigMap kube-system/calico-config, data.etcd_cert: has to be /calico-secrets/etcd-cert",
            "72:13: ConfigMap kube-system/calico-config, data.etcd_key: has to be /calico-secrets/etcd-key",
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
fn each_missing_thing_alone_is_found() {
    let whole = done(NEWEST, &wish()).text;
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
        assert_eq!(check("FILE", &text, &Wish::default()).unwrap().len(), count, "{old}");
        assert!(check("FILE", &done(&text, &wish()).text, &wish()).unwrap().is_empty(), "{old}");
    }
}

#[test]
fn the_policy_that_goes_with_it_has_no_mistake_and_follows_the_manifest() {
    let bindings = |policy: &str| policy.split_once("bindings:\n").unwrap().1.to_owned();
    for (version, text) in MANIFESTS {
        for wish in [wish(), per_node()] {
            let policy = done(text, &wish).policy;
            let compiled =
                etcd_warden_core::policy::Policy::parse("policy.yaml", policy.as_bytes(), 0, None);
            assert!(compiled.is_ok(), "{policy}");
            assert!(policy.contains("\nmode: shadow\n"));
            assert_eq!(policy.contains("NOT verified"), version != "v3.31.0", "{policy}");
        }
    }
    let shared = "  - cn: calico-node\n    roles: [calico-node]\n  - cn: calico-cni\n    roles: [calico-cni]\n  - cn: calico-kube-controllers\n    \
                  roles: [calico-kube-controllers, calico-kube-controllers-compaction]\n";
    assert_eq!(bindings(&done(NEWEST, &wish()).policy), shared);
    let never =
        Wish { compaction_period: Some(CompactionPeriod::parse("0").unwrap()), ..per_node() };
    let nodes = "  - cn: \"calico-node:{node}\"\n    roles: [calico-node-per-node]\n  - cn: \"cni:{node}\"\n    roles: [calico-cni-per-node]\n  \
                 - cn: calico-kube-controllers\n    roles: [calico-kube-controllers]       # COMPACTION_PERIOD is 0: somebody else compacts etcd\n";
    let policy = done(NEWEST, &never).policy;
    assert_eq!(bindings(&policy), nodes);
    assert!(policy.contains("include: [calico/v3.31, calico/v3.31-per-node]"));
    let newer = NEWEST.replace(":v3.31.0", ":v3.32.1");
    assert!(done(&newer, &wish()).policy.contains("include: [calico/v3.32]"));
    let private = NEWEST.replace(":v3.31.0", ":production");
    let told = done(&private, &wish());
    assert!(
        told.policy.contains("of a version that its images do not tell")
            && told.notes.iter().any(|note| note.contains("do not tell"))
    );
}

#[test]
fn what_is_left_to_do_is_said() {
    let notes = done(NEWEST, &per_node()).notes.join("\n");
    for part in [
        "calico-node: put etcd-ca, etcd-cert, etcd-key for CN `calico-node:NODE` into /etc/calico/etcd-certs/calico-node on every node",
        "cni: put etcd-ca, etcd-cert, etcd-key for CN `cni:NODE` into /etc/calico/etcd-certs/cni on every node",
        "calico-kube-controllers: make Secret `calico-etcd-kube-controllers` in namespace `kube-system`",
    ] {
        assert!(notes.contains(part), "{notes}");
    }
    let filled = with(NEWEST, "  # etcd-key: null\n", "  etcd-key: a2V5\n");
    let notes = done(&filled, &wish()).notes.join("\n");
    assert!(notes.contains("Secret `calico-etcd-secrets` still holds a key"), "{notes}");
    let empty = with(NEWEST, "  name: calico-etcd-secrets\n", "  name: calico-etcd-node\n");
    let notes = done(&empty, &wish()).notes.join("\n");
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
