//! Manifests with changes by an operator: they are segmented correctly, with minimal changes.

use super::*;

/// The lines of pods that `segment` removes (`-`) and adds (`+`).
fn pods(text: &str, options: &Options) -> Vec<String> {
    let done = segmented(text, options);
    assert_eq!(super::segmented(&done.text, options).text, done.text);
    changes(text, &done.text).into_iter().filter(|line| !line[1..].starts_with("  etcd_")).collect()
}

const NODE: [&str; 2] =
    ["-            secretName: calico-etcd-secrets", "+            secretName: calico-etcd-node"];
const CNI: [&str; 4] = [
    "+        - name: etcd-certs-cni",
    "+          secret:",
    "+            secretName: calico-etcd-cni",
    "+            defaultMode: 0400",
];
const CONTROLLERS: [&str; 2] = [
    "-            secretName: calico-etcd-secrets",
    "+            secretName: calico-etcd-kube-controllers",
];
const MOUNT: [&str; 2] = ["-              name: etcd-certs", "+              name: etcd-certs-cni"];

#[test]
fn comments_and_additions_do_not_matter() {
    let text = with(
        NEWEST,
        "            secretName: calico-etcd-secrets\n            defaultMode: 0400\n",
        "            # ours\n            secretName: calico-etcd-secrets # the old one\n\n            defaultMode: 0400\n            # end\n",
    );
    let new = pods(&text, &options());
    assert!(
        new.contains(&"+            secretName: calico-etcd-node # the old one".to_owned()),
        "{new:#?}"
    );
    // Another image, variable, container and order of keys.
    let text = NEWEST.replace("quay.io/calico/", "registry.example:5000/mirror/");
    let text = with(
        &text,
        "            - name: CLUSTER_TYPE\n",
        "            - name: MINE\n              value: \"1\"\n            - name: CLUSTER_TYPE\n",
    );
    let text = with(
        &text,
        "      containers:\n        # Runs calico-node",
        "      containers:\n        - name: sidecar\n          image: x\n        # Runs calico-node",
    );
    let text = with(
        &text,
        "              name: etcd-certs\n          securityContext",
        "              name: etcd-certs\n              readOnly: true\n          securityContext",
    );
    assert_eq!(pods(&text, &options()), [&MOUNT[..], &NODE, &CNI, &CONTROLLERS].concat());
}

#[test]
fn volumes_may_have_any_name_and_may_be_separate() {
    let text = NEWEST.replace("name: etcd-certs", "name: tls");
    let new = pods(&text, &options());
    assert_eq!(new[..2], ["-              name: tls", "+              name: tls-cni"]);
    let taken = with(
        &text,
        "        - name: lib-modules\n          hostPath:",
        "        - name: tls-cni\n          emptyDir: {}\n        - name: lib-modules\n          hostPath:",
    );
    assert_eq!(pods(&taken, &options())[1], "+              name: tls-cni-2");
    // Two volumes with the same Secret.
    let two = with(
        &text,
        "              name: tls\n          securityContext",
        "              name: tls2\n          securityContext",
    );
    let two = with(
        &two,
        "        # Used to create per-pod",
        "        - name: tls2\n          secret:\n            secretName: calico-etcd-secrets\n            defaultMode: 256\n        # Used to create per-pod",
    );
    let lines = [
        &NODE[..],
        &[
            "-            secretName: calico-etcd-secrets",
            "+            secretName: calico-etcd-cni",
        ],
        &CONTROLLERS,
    ]
    .concat();
    assert_eq!(pods(&two, &options()), lines);
}

#[test]
fn secrets_that_are_not_shared_keep_their_names() {
    let text = segmented(
        NEWEST,
        &named(&[
            (Component::Node, "a"),
            (Component::Cni, "b.c"),
            (Component::KubeControllers, "d"),
        ]),
    )
    .text;
    for name in ["secretName: a\n", "secretName: b.c\n", "secretName: d\n"] {
        assert_eq!(text.matches(name).count(), 1, "{name}");
    }
    assert_eq!(segmented(&text, &options()).text, text);
    let renamed = named(&[(Component::Node, "e")]);
    assert_eq!(pods(&text, &renamed), ["-            secretName: a", "+            secretName: e"]);
    // A component can keep the shared Secret if its name is requested.
    let kept = named(&[(Component::Node, "calico-etcd-secrets")]);
    assert_eq!(pods(NEWEST, &kept), [&MOUNT[..], &CNI, &CONTROLLERS].concat());
    let kept = named(&[(Component::Cni, "calico-etcd-secrets")]);
    let lines = pods(NEWEST, &kept);
    assert!(
        lines.contains(&"+              name: etcd-certs-calico-node".to_owned())
            && !lines.contains(&MOUNT[1].to_owned()),
        "{lines:#?}"
    );
    // An existing volume is used.
    let unused = with(
        &segmented(NEWEST, &options()).text,
        "name: etcd-certs-cni\n          securityContext",
        "name: etcd-certs\n          securityContext",
    );
    assert_eq!(pods(&unused, &options()), MOUNT);
}

#[test]
fn secrets_and_host_paths_convert_into_each_other() {
    let (secrets, nodes) =
        (segmented(NEWEST, &options()).text, segmented(NEWEST, &per_node()).text);
    assert_eq!(segmented(&secrets, &per_node()).text, nodes);
    let back = named(&[(Component::Node, "calico-etcd-node"), (Component::Cni, "calico-etcd-cni")]);
    assert_eq!(segmented(&nodes, &back).text, secrets);
}

#[test]
fn file_modes_that_are_too_open_are_corrected() {
    for same in ["0400", "0o400", "256"] {
        assert_eq!(
            pods(&with(NEWEST, "defaultMode: 0400", &format!("defaultMode: {same}")), &options())
                .len(),
            10,
            "{same}"
        );
    }
    for open in ["0444", "0440", "400", "0600"] {
        let new = pods(
            &with(NEWEST, "defaultMode: 0400", &format!("defaultMode: {open} # here")),
            &options(),
        );
        assert!(
            new.contains(&"+            defaultMode: 0400 # here".to_owned()),
            "{open}: {new:#?}"
        );
    }
    let new = pods(&with(NEWEST, "\n            defaultMode: 0400", ""), &options());
    assert_eq!(new.iter().filter(|line| *line == "+            defaultMode: 0400").count(), 2);
    assert_eq!(pods(&with(NEWEST, "defaultMode: 0440", "defaultMode: 0400"), &options()).len(), 10);
    assert!(
        pods(&with(NEWEST, "defaultMode: 0440", "defaultMode: 0404"), &options())
            .contains(&"+            defaultMode: 0440".to_owned())
    );
    let folder = segmented(NEWEST, &per_node()).text;
    let open = with(
        &folder,
        "            path: /etc/calico/etcd-certs/cni\n            type: Directory\n",
        "            path: /etc/calico/etcd-certs/cni\n",
    );
    assert_eq!(pods(&open, &options()), ["+            type: Directory"]);
    let open = with(
        &folder,
        "            path: /etc/calico/etcd-certs/cni\n            type: Directory\n",
        "            path: /etc/calico/etcd-certs/cni/\n            type: \"\"\n",
    );
    assert_eq!(
        pods(&open, &options()),
        ["-            type: \"\"", "+            type: \"Directory\""]
    );
}

#[test]
fn modes_of_single_files_are_corrected_too() {
    let items = |mode: &str| {
        let item =
            |file: &str| format!("              - key: {file}\n                path: {file}\n");
        let items = ["etcd-ca", "etcd-cert", "etcd-key"].map(item).concat();
        format!(
            "            defaultMode: 0400\n            items:\n{items}                mode: {mode}\n"
        )
    };
    let whole = segmented(NEWEST, &options()).text;
    let with_mode = |mode: &str| {
        let at = whole.find("            defaultMode: 0400\n").unwrap();
        let (before, after) = whole.split_at(at);
        format!("{before}{}", after.replacen("            defaultMode: 0400\n", &items(mode), 1))
    };
    for open in ["0444", "292", "0440"] {
        let text = with_mode(open);
        let deviations = check("FILE", &text, &Options::default()).unwrap();
        assert_eq!(deviations.len(), 1, "{open}");
        assert_eq!(
            deviations[0].field,
            "spec.template.spec.volumes[etcd-certs].secret.items[2].mode"
        );
        assert_eq!(
            pods(&text, &options()),
            [format!("-                mode: {open}"), "+                mode: 0400".to_owned()]
        );
    }
    assert!(check("FILE", &with_mode("0400"), &Options::default()).unwrap().is_empty());
    assert!(
        errors(&with_mode("none"), &options()).contains("items[2].mode: this is not a file mode")
    );
}

#[test]
fn env_takes_precedence_over_env_from() {
    let variables = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: mine\n  namespace: kube-system\ndata:\n  PERIOD: \"0\"\n";
    let from = "          envFrom:\n            - prefix: COMPACTION_\n              configMapRef:\n                name: mine\n";
    let (before, after) = NEWEST.rsplit_once("          env:\n").unwrap();
    let text = format!(
        "{before}{from}          env:\n{}---\n{variables}",
        after.trim_end().to_owned() + "\n"
    );
    assert!(segmented(&text, &options()).policy.contains("COMPACTION_PERIOD is 0"));
    let own = with(
        &text,
        &format!("{from}          env:\n"),
        &format!(
            "{from}          env:\n            - name: COMPACTION_PERIOD\n              value: 5m\n"
        ),
    );
    assert!(!segmented(&own, &options()).policy.contains("COMPACTION_PERIOD is 0"));
}

#[test]
fn removed_mounts_and_variables_are_added_again() {
    // Without TLS: no mounts, volumes and variables.
    let mount = "            - mountPath: /calico-secrets\n              name: etcd-certs\n";
    let text = NEWEST.replace(mount, "");
    let text = text.replace(
        "        - name: etcd-certs\n          secret:\n            secretName: calico-etcd-secrets\n            defaultMode: 0400\n",
        "",
    );
    let text =
        with(&text, "          volumeMounts:\n            # Mount in the etcd TLS secrets.\n", "");
    let text = with(
        &text,
        "      volumes:\n        # Mount in the etcd TLS secrets with mode 400.\n        # See https://kubernetes.io/docs/concepts/configuration/secret/\n        - name: etcd-certs\n          secret:\n            secretName: calico-etcd-secrets\n            defaultMode: 0440\n",
        "",
    );
    let variable = |name: &str, key: &str| {
        format!(
            "            - name: {name}\n              valueFrom:\n                configMapKeyRef:\n                  name: calico-config\n                  key: {key}\n"
        )
    };
    let text = text
        .replace(&variable("ETCD_KEY_FILE", "etcd_key"), "")
        .replace(&variable("ETCD_CA_CERT_FILE", "etcd_ca"), "");
    let text = with(&text, "  etcd_cert: \"\" # \"/calico-secrets/etcd-cert\"\n", "");
    let new = segmented(&text, &options()).text;
    assert!(check("FILE", &new, &options()).unwrap().is_empty());
    let lines = changes(&text, &new);
    assert!(
        lines.iter().filter(|line| line.starts_with('-')).all(|line| line.contains("etcd_")),
        "{lines:#?}"
    );
    for line in [
        "+            - name: ETCD_KEY_FILE",
        "+              value: /calico-secrets/etcd-key",
        "+            - mountPath: /calico-secrets",
        "+          volumeMounts:",
        "+      volumes:",
        "+  etcd_cert: /calico-secrets/etcd-cert",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line}\n{lines:#?}");
    }
}

/// The text without these keys of `calico-config`.
fn without(text: &str, keys: &[&str]) -> String {
    let is_key = |line: &str| keys.iter().any(|key| line.starts_with(&format!("  {key}: ")));
    text.split_inclusive('\n').filter(|line| !is_key(line)).collect()
}

#[test]
fn removed_keys_of_the_config_map_are_added_again() {
    const KEYS: [&str; 4] = ["etcd_endpoints", "etcd_ca", "etcd_cert", "etcd_key"];
    for (version, text) in MANIFESTS {
        for chosen in 1..1_u32 << KEYS.len() {
            let keys: Vec<&str> = KEYS
                .into_iter()
                .enumerate()
                .filter(|(at, _)| chosen >> at & 1 == 1)
                .map(|(_, key)| key)
                .collect();
            let text = without(text, &keys);
            let new = segmented(&text, &options()).text;
            let came: Vec<String> = changes(&text, &new)
                .into_iter()
                .filter(|line| line.starts_with("+  etcd_"))
                .collect();
            for key in keys {
                let value = if key == "etcd_endpoints" {
                    PROXIES.to_owned()
                } else {
                    format!("/calico-secrets/{}", key.replace('_', "-"))
                };
                assert_eq!(
                    came.iter()
                        .filter(|line| **line == format!("+  {key}: {value}")
                            || **line == format!("+  {key}: \"{value}\""))
                        .count(),
                    1,
                    "{version}: {came:#?}"
                );
            }
        }
    }
}

#[test]
fn additions_at_the_same_byte_are_nested_correctly() {
    // The container of kube-controllers ends with `env`, and its pods have no volumes.
    let (before, _) = NEWEST.rsplit_once("          env:\n").unwrap();
    let text = format!(
        "{before}          env:\n            - name: ETCD_ENDPOINTS\n              value: https://x:1\n"
    );
    let new = segmented(&text, &options()).text;
    let tail = new
        .split_once(
            "            - name: ETCD_CA_CERT_FILE\n              value: /calico-secrets/etcd-ca\n",
        )
        .unwrap()
        .1;
    assert!(tail.contains("\n      volumes:\n        - name: etcd-certs\n"), "{tail}");
    // The same after a key without a value, and at the end of a file without a line break.
    for text in [text.replace("value: https://x:1", "value:"), text.trim_end().to_owned()] {
        assert!(check("FILE", &segmented(&text, &options()).text, &options()).unwrap().is_empty());
    }
}

#[test]
fn values_may_be_set_in_the_pods_directly() {
    let reference = |key: &str| {
        format!(
            "              valueFrom:\n                configMapKeyRef:\n                  name: calico-config\n                  key: {key}\n"
        )
    };
    let text = NEWEST
        .replace(&reference("etcd_endpoints"), "              value: http://old:2379\n")
        .replace(&reference("etcd_ca"), "              value: ''\n");
    let new = segmented(&text, &options()).text;
    assert_eq!(new.matches(&format!("              value: \"{PROXIES}\"\n")).count(), 3);
    assert_eq!(new.matches("              value: '/calico-secrets/etcd-ca'\n").count(), 2);
    // No value is the same as an empty text.
    let text = with(&with(NEWEST, "etcd_ca: \"\" ", "etcd_ca: "), "etcd_key: \"\" ", "etcd_key:");
    let new = segmented(&text, &options()).text;
    assert!(
        new.contains("  etcd_ca: /calico-secrets/etcd-ca   #")
            && new.contains("  etcd_key: /calico-secrets/etcd-key #"),
        "{new}"
    );
}

#[test]
fn compaction_is_left_alone_or_set() {
    let period = |text: &str| Options {
        compaction_period: Some(CompactionPeriod::parse(text).unwrap()),
        ..options()
    };
    let compacts = |done: &Segmented| done.policy.contains("calico-kube-controllers-compaction");
    assert!(compacts(&segmented(NEWEST, &options())));
    let never = segmented(NEWEST, &period("0"));
    assert!(
        !compacts(&never)
            && never
                .text
                .contains("            - name: COMPACTION_PERIOD\n              value: \"0\"\n")
    );
    assert!(
        !compacts(&segmented(&never.text, &options()))
            && segmented(&never.text, &options()).text == never.text
    );
    let often = segmented(&never.text, &period("1h30m"));
    assert!(compacts(&often) && often.text.contains("              value: \"1h30m\"\n"));
    assert_eq!(changes(&never.text, &often.text).len(), 2);
}

#[test]
fn line_breaks_marks_and_ends_stay_as_they_are() {
    let windows = NEWEST.replace('\n', "\r\n");
    assert_eq!(
        segmented(&windows, &options()).text,
        segmented(NEWEST, &options()).text.replace('\n', "\r\n")
    );
    for (before, after) in [
        ("\u{feff}", ""),
        ("# ours\n\n---\n", "---\n# nothing\n"),
        ("", "...\n"),
        ("%YAML 1.2\n", ""),
    ] {
        let text = format!("{before}{NEWEST}{after}");
        assert_eq!(
            segmented(&text, &per_node()).text,
            format!("{before}{}{after}", segmented(NEWEST, &per_node()).text),
            "{before:?} {after:?}"
        );
    }
    let cut = NEWEST.trim_end();
    assert_eq!(segmented(cut, &options()).text, segmented(NEWEST, &options()).text.trim_end());
    let open = with(cut, "\n            defaultMode: 0440", "").replace('\n', "\r\n");
    assert_eq!(
        segmented(&open, &options()).text,
        segmented(NEWEST, &options()).text.trim_end().replace('\n', "\r\n")
    );
    // The addition comes after the last line of the file.
    let open = with(cut, "\n            defaultMode: 0440", "");
    assert_eq!(segmented(&open, &options()).text, segmented(NEWEST, &options()).text.trim_end());
}

#[test]
fn objects_may_stand_in_a_list() {
    let items: String = NEWEST
        .split("---\n")
        .filter(|document| !document.trim().is_empty())
        .map(|document| {
            let lines: String = document.lines().map(|line| format!("    {line}\n")).collect();
            format!("  -\n{lines}")
        })
        .collect();
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{items}");
    let new = segmented(&text, &options()).text;
    assert_eq!(
        changes(&text, &new).len(),
        changes(NEWEST, &segmented(NEWEST, &options()).text).len()
    );
    let deviations = check("FILE", &text, &Options::default()).unwrap();
    assert!(
        deviations[0]
            .to_string()
            .contains("ConfigMap kube-system/calico-config, data.etcd_endpoints"),
        "{}",
        deviations[0]
    );
}

#[test]
fn names_and_namespace_are_the_operators() {
    let text = NEWEST
        .replace("calico-config\n", "calico-config-7f2k\n")
        .replace("namespace: kube-system", "namespace: calico");
    let text = with(
        &text,
        "kind: DaemonSet\napiVersion: apps/v1\nmetadata:\n  name: calico-node\n",
        "kind: DaemonSet\napiVersion: apps/v1\nmetadata:\n  name: prod-calico\n",
    );
    let done = segmented(&text, &options());
    assert!(
        done.notes.iter().any(|note| note.contains("in namespace `calico`")),
        "{:?}",
        done.notes
    );
    assert!(
        done.deviations.iter().any(|deviation| deviation.object == "DaemonSet calico/prod-calico")
    );
}
