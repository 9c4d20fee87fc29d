//! Errors: each has its object, field, line and a hint.

use super::*;

/// The manifest with one change is refused with these texts.
fn refused(old: &str, new: &str, expected: &[&str]) {
    refused_text(&with(NEWEST, old, new), &options(), expected);
}

fn refused_text(text: &str, options: &Options, expected: &[&str]) {
    let found = errors(text, options);
    for part in expected {
        assert!(found.contains(part), "{part}\n{found}");
    }
}

const DAEMON_SET: &str = "DaemonSet kube-system/calico-node, spec.template.spec.";
const VOLUME: &str = "        - name: etcd-certs\n          secret:\n            secretName: calico-etcd-secrets\n            defaultMode: 0400\n";

#[test]
fn flow_style_anchors_and_aliases_are_refused_with_positions() {
    let flow = "        - {name: etcd-certs, secret: {secretName: calico-etcd-secrets, defaultMode: 0400}}\n";
    // A scalar in flow style can be changed.
    let text = with(NEWEST, VOLUME, flow);
    assert!(segmented(&text, &options()).text.contains(
        "        - {name: etcd-certs, secret: {secretName: calico-etcd-node, defaultMode: 0400}}\n        - name: etcd-certs-cni\n"
    ));
    refused_text(
        &text,
        &per_node(),
        &[
            "error: DaemonSet kube-system/calico-node, spec.template.spec.volumes[etcd-certs]: this is in flow style",
            "--> FILE:610:11",
            "help: write each entry or item on its own line",
        ],
    );
    refused(
        VOLUME,
        "        - name: etcd-certs\n          secret: {secretName: calico-etcd-secrets}\n",
        &[
            &format!("{DAEMON_SET}volumes[etcd-certs].secret: this is in flow style"),
            "--> FILE:611:19",
        ],
    );
    refused(
        VOLUME,
        "        - name: etcd-certs\n          secret: &certs\n            secretName: calico-etcd-secrets\n            defaultMode: 0400\n        - name: more\n          secret: *certs\n",
        &[
            &format!(
                "{DAEMON_SET}volumes[etcd-certs].secret.secretName: this has an anchor (`&NAME`)"
            ),
            "help: write the value at each use",
        ],
    );
    refused("etcd_ca: \"\" ", "etcd_ca: *nothing", &["FILE:70:12", "unknown anchor"]);
    let alias = with(NEWEST, "  typha_service_name: \"none\"", "  etcd_none: &none \"\"");
    refused_text(
        &with(&alias, "etcd_ca: \"\" ", "etcd_ca: *none"),
        &options(),
        &["while parsing", "FILE:70:12"],
    );
}

#[test]
fn a_template_is_refused() {
    let help = "help: this is a template: use the rendered manifest";
    refused(
        "typha_service_name: \"none\"",
        "typha_service_name: {{ typha }}",
        &["error: `{{ typha }}` is a placeholder", "--> FILE:", help],
    );
    refused(
        "typha_service_name: \"none\"",
        "typha_service_name: \"{{ .Values.typha }}\"",
        &["`{{ .Values.typha }}` is a placeholder", help],
    );
    refused(
        "typha_service_name: \"none\"",
        "typha_service_name: \"${TYPHA}\"",
        &["`${TYPHA}` is a placeholder", help],
    );
    refused(
        "  typha_service_name",
        "{% if typha %}\n  typha_service_name",
        &["`{% if typha %}` is a placeholder", help],
    );
    refused(
        "  typha_service_name",
        "{{- if .Values.typha }}\n  typha_service_name",
        &["`{{- if .Values.typha }}` is a placeholder", help],
    );
    // Comments and shell scripts are no templates.
    segmented(
        &with(NEWEST, "  typha_service_name", "  # {{ typha }}\n  typha_service_name"),
        &options(),
    );
    let image = "          image: quay.io/calico/kube-controllers:v3.31.0\n";
    let script = format!("{image}          command: [\"sh\", \"-c\", \"exec ${{PROGRAM}}\"]\n");
    segmented(&with(NEWEST, image, &script), &options());
}

#[test]
fn json_is_refused_only_if_an_addition_is_needed() {
    let json = |text: &str| {
        read(text).iter().map(|document| format!("{document}\n---\n")).collect::<String>()
    };
    // serde does not read the octal numbers of YAML 1.1.
    refused_text(
        &json(&NEWEST.replace(": 0400", ": 256").replace(": 0440", ": 288")),
        &options(),
        &[&format!("{DAEMON_SET}volumes: this is in flow style")],
    );
    let whole =
        segmented(NEWEST, &options()).text.replace(": 0400", ": 256").replace(": 0440", ": 288");
    let other = Options {
        endpoints: Some(Endpoints::parse("https://other:1").unwrap()),
        ..Options::default()
    };
    let text = json(&whole);
    assert_eq!(segmented(&text, &other).text, text.replace(PROXIES, "https://other:1"));
}

#[test]
fn unknown_sources_are_refused() {
    refused(
        VOLUME,
        "        - name: etcd-certs\n          projected:\n            sources: []\n",
        &[
            &format!(
                "{DAEMON_SET}volumes[etcd-certs]: calico-node has its certificate from a volume of the kind `projected`"
            ),
            "--> FILE:610:11",
            "--per-node host-path=DIRECTORY",
        ],
    );
    refused(
        VOLUME,
        "        - name: etcd-certs\n          hostPath:\n            path: /etc/calico\n",
        &[
            "calico-node has its certificate from the node's directory `/etc/calico`, which other components may use too",
            "cni has its certificate from the node's directory `/etc/calico`",
        ],
    );
    refused(
        "            defaultMode: 0400\n",
        "            defaultMode: 0400\n            items:\n              - key: tls.crt\n                path: etcd-cert\n",
        &[&format!(
            "{DAEMON_SET}volumes[etcd-certs].secret.items[0]: a key of the Secret is mounted under another name"
        )],
    );
    refused(
        "            defaultMode: 0400\n",
        "            defaultMode: 0400\n            items:\n              - key: etcd-ca\n                path: etcd-ca\n",
        &[&format!(
            "{DAEMON_SET}volumes[etcd-certs].secret.items: etcd-cert and etcd-key are left out"
        )],
    );
    refused(
        "defaultMode: 0440",
        "defaultMode: \"0440\"",
        &[
            "Deployment kube-system/calico-kube-controllers, spec.template.spec.volumes[etcd-certs].secret.defaultMode: this is not a file mode",
        ],
    );
    refused(
        "              name: etcd-certs\n          securityContext",
        "              name: etcd-certs\n              subPath: cni\n          securityContext",
        &["volumeMounts[etcd-certs]: only a part of a volume is mounted"],
    );
    refused(
        "            - mountPath: /calico-secrets\n              name: etcd-certs\n          securityContext",
        "            - mountPath: /calico-secrets/etcd-ca\n              name: etcd-certs\n          securityContext",
        &["files are mounted into /calico-secrets individually"],
    );
    refused(
        "              name: etcd-certs\n          securityContext",
        "              name: nowhere\n          securityContext",
        &["there is no volume `nowhere`"],
    );
}

#[test]
fn another_container_with_the_certificate_is_refused() {
    let sidecar = "      containers:\n        - name: sidecar\n          volumeMounts:\n            - {mountPath: /tls, name: etcd-certs}\n        # Runs calico-node";
    refused(
        "      containers:\n        # Runs calico-node",
        sidecar,
        &[&format!(
            "{DAEMON_SET}containers[sidecar].volumeMounts[etcd-certs]: this container mounts the certificate of calico-node"
        )],
    );
}

#[test]
fn variables_set_outside_of_the_manifest_are_refused() {
    let secret =
        "                secretKeyRef:\n                  name: x\n                  key: y\n";
    let text = NEWEST
        .replace("                configMapKeyRef:\n                  name: calico-config\n                  key: etcd_key\n", secret);
    refused_text(
        &text,
        &options(),
        &[
            "containers[calico-node].env[ETCD_KEY_FILE]: the value of `ETCD_KEY_FILE` is not in this manifest",
            "containers[calico-kube-controllers].env[ETCD_KEY_FILE]",
        ],
    );
    refused(
        "etcd_key: \"\" ",
        "etcd_key: /tls/key.pem",
        &[
            "ConfigMap kube-system/calico-config, data.etcd_key: `ETCD_KEY_FILE` is not /calico-secrets/etcd-key",
        ],
    );
    refused_text(
        &NEWEST.replace("kind: ConfigMap\n", "kind: Something\n"),
        &options(),
        &["ConfigMap `calico-config` is not in this manifest"],
    );
    refused(
        "            - name: CLUSTER_TYPE\n",
        "            - name: FELIX_ETCDKEYFILE\n              value: x\n            - name: CLUSTER_TYPE\n",
        &["env[FELIX_ETCDKEYFILE]: `FELIX_ETCDKEYFILE` overrides the address of etcd"],
    );
    let (before, after) = NEWEST.split_once("kind: ConfigMap\n").unwrap();
    let elsewhere = format!(
        "{before}kind: ConfigMap\n{}",
        after.replacen("namespace: kube-system", "namespace: default", 1)
    );
    refused_text(&elsewhere, &options(), &["ConfigMap `calico-config` is not in this manifest"]);
    refused(
        "etcd_ca: \"\" ",
        "etcd_ca: !!str",
        &["data.etcd_ca: this is not a scalar on the line of its key", "help: write it in quotes"],
    );
    let variable = "            - name: SLEEP\n              value: \"false\"\n";
    let together =
        "            - name: TLS_ASSETS_DIR\n              value: $(HOME)/calico-secrets\n";
    refused(
        variable,
        together,
        &["env[TLS_ASSETS_DIR].value: `TLS_ASSETS_DIR` refers to other variables"],
    );
    refused(
        "            - name: SLEEP\n",
        "            - name: TLS_ASSETS_DIR\n              value: /tls\n            - name: SLEEP\n",
        &["the certificate is taken from `/tls`"],
    );
    refused(
        "            - name: SLEEP\n",
        "            - name: ETCD_ENDPOINTS\n              value: x\n            - name: SLEEP\n",
        &["`ETCD_ENDPOINTS` is set twice"],
    );
    refused(
        "\"etcd_key_file\": \"__ETCD_KEY_FILE__\"",
        "\"etcd_key_file\": \"/opt/keys/etcd-key\"",
        &[
            "data.cni_network_config: `etcd_key_file` of the CNI configuration is `/opt/keys/etcd-key`",
        ],
    );
    refused(
        "          \"etcd_key_file\": \"__ETCD_KEY_FILE__\",\n",
        "",
        &["the CNI configuration has no `etcd_key_file`"],
    );
}

/// The newest manifest with another `envFrom` of `install-cni`.
fn from(new: &str) -> String {
    let old = "            - configMapRef:\n                # Allow KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT to be overridden for eBPF mode.\n                name: kubernetes-services-endpoint\n                optional: true\n";
    assert_eq!(NEWEST.matches(old).count(), 2);
    NEWEST.replacen(old, new, 1)
}

#[test]
fn variables_of_env_from_are_read_or_refused() {
    const INSTALL: &str = "DaemonSet kube-system/calico-node, spec.template.spec.initContainers[install-cni].envFrom[0]: ";
    let config = |name: &str, namespace: &str, data: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  namespace: {namespace}\ndata:\n  {data}\n"
        )
    };
    let mine = "            - configMapRef:\n                name: mine\n";
    refused_text(
        &from("            - secretRef:\n                name: mine\n"),
        &options(),
        &[
            &format!("{INSTALL}the variables of `secretRef` are not in this manifest"),
            "help: set them with `value`",
        ],
    );
    refused_text(
        &from(mine),
        &options(),
        &[&format!("{INSTALL}ConfigMap `mine` is not in this manifest")],
    );
    let elsewhere = format!("{}{}", from(mine), config("mine", "default", "A: b"));
    refused_text(
        &elsewhere,
        &options(),
        &[&format!("{INSTALL}ConfigMap `mine` is not in this manifest")],
    );
    let surprise = "`CALICO_ETCD_KEY_FILE` overrides the address of etcd";
    let whole =
        format!("{}{}", from(mine), config("mine", "kube-system", "CALICO_ETCD_KEY_FILE: /key"));
    refused_text(
        &whole,
        &options(),
        &[&format!("ConfigMap kube-system/mine, data.CALICO_ETCD_KEY_FILE: {surprise}")],
    );
    let prefixed = format!("            - prefix: CALICO_\n{}", mine.replacen('-', " ", 1));
    let whole =
        format!("{}{}", from(&prefixed), config("mine", "kube-system", "ETCD_KEY_FILE: /key"));
    refused_text(
        &whole,
        &options(),
        &[&format!("ConfigMap kube-system/mine, data.ETCD_KEY_FILE: {surprise}")],
    );
    let assets = format!("{}{}", from(mine), config("mine", "kube-system", "TLS_ASSETS_DIR: /tls"));
    refused_text(
        &assets,
        &options(),
        &["ConfigMap kube-system/mine, data.TLS_ASSETS_DIR: the certificate is taken from `/tls`"],
    );
    // The ConfigMap with the address of kube-apiserver may be missing, but not with a prefix.
    let own = "            - prefix: CALICO_\n              configMapRef:\n                name: kubernetes-services-endpoint\n";
    refused_text(
        &from(own),
        &options(),
        &[&format!("{INSTALL}ConfigMap `kubernetes-services-endpoint` is not in this manifest")],
    );
    let harmless = format!("{}{}", from(mine), config("mine", "kube-system", "A: b"));
    assert!(check("FILE", &segmented(&harmless, &options()).text, &options()).unwrap().is_empty());
}

#[test]
fn the_case_of_felix_variables_is_ignored() {
    refused(
        "            - name: CLUSTER_TYPE\n",
        "            - name: felix_EtcdKeyFile\n              value: x\n            - name: CLUSTER_TYPE\n",
        &["env[felix_EtcdKeyFile]: `felix_EtcdKeyFile` overrides the address of etcd"],
    );
}

#[test]
fn an_object_that_appears_twice_is_refused() {
    let whole = segmented(NEWEST, &options()).text;
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: calico-config\n  namespace: kube-system\ndata:\n  etcd_key: \"\"\n";
    let found = check("FILE", &format!("{whole}---\n{config}"), &Options::default())
        .unwrap_err()
        .to_string();
    let expected = "ConfigMap kube-system/calico-config: this object appears twice in the manifest";
    assert!(found.contains(expected) && found.contains("help: remove one of them"), "{found}");
    // Another namespace or API group makes it another object.
    let others = [config.replace("kube-system", "default"), config.replace("v1", "example.org/v1")];
    for other in others {
        assert!(
            check("FILE", &format!("{other}---\n{whole}"), &Options::default()).unwrap().is_empty(),
            "{other}"
        );
    }
}

#[test]
fn contradicting_changes_are_refused() {
    let shared = |text: &str| {
        text.replace("                  key: etcd_key\n", "                  key: etcd_cert\n")
    };
    let expected =
        "one value would have to be both /calico-secrets/etcd-cert and /calico-secrets/etcd-key";
    refused_text(
        &shared(NEWEST),
        &options(),
        &[
            &format!("ConfigMap kube-system/calico-config, data.etcd_cert: {expected}"),
            "--> FILE:71:14",
        ],
    );
    let gone = with(NEWEST, "  etcd_cert: \"\" # \"/calico-secrets/etcd-cert\"\n", "");
    refused_text(
        &shared(&gone),
        &options(),
        &[&format!("ConfigMap kube-system/calico-config, data: {expected}")],
    );
}

#[test]
fn merge_keys_repeated_keys_and_invalid_yaml_are_refused() {
    refused(
        "            secretName: calico-etcd-secrets\n            defaultMode: 0400\n",
        "            <<: {secretName: calico-etcd-secrets}\n",
        &["volumes[etcd-certs].secret.<<: merge keys (`<<`) are not supported"],
    );
    refused(
        "etcd_ca: \"\" ",
        "etcd_endpoints: \"\" ",
        &["error: `etcd_endpoints` appears twice in this mapping", "--> FILE:70:3"],
    );
    refused("etcd_ca: \"\" ", "etcd_ca: \"", &["--> FILE:"]);
    refused("  etcd_ca: \"\" ", "\tetcd_ca: \"\" ", &["tabs disallowed", "--> FILE:70:2"]);
    refused_text(
        "",
        &options(),
        &[
            "there is no DaemonSet with a container `calico-node`",
            "there is no Deployment with a container `calico-kube-controllers`",
        ],
    );
    refused_text("a: 1\n", &options(), &["a mapping without a `kind` is not a Kubernetes object"]);
}

#[test]
fn a_small_file_cannot_become_a_large_tree() {
    let line =
        |at: usize| format!("b{at}: &a{at} [{}]\n", vec![format!("*a{}", at - 1); 9].join(", "));
    let aliases: String = (1..9).map(line).collect();
    let nested: String = (0..200).map(|at| format!("{}- &a{at}\n", " ".repeat(at))).collect();
    let leaves: String = (0..9_000).map(|_| format!("{}- x\n", " ".repeat(200))).collect();
    for (text, message) in [
        (format!("a: &a0 [x]\n{aliases}"), "aliases repeat more than 500000 values"),
        // An anchor without an alias repeats nothing.
        (format!("{nested}{leaves}"), "a list without a `kind` is not a Kubernetes object"),
        (format!("a: {}", "[".repeat(1_000)), "recursion limit"),
    ] {
        let found = errors(&text, &options());
        assert!(found.contains(message), "{found}");
    }
}

#[test]
fn other_manifests_are_refused() {
    let twice = format!(
        "{NEWEST}---\n{}",
        NEWEST.split("---\n").find(|document| document.contains("kind: DaemonSet")).unwrap()
    );
    refused_text(&twice, &options(), &["a second DaemonSet with a container `calico-node`"]);
    refused(
        "        - name: install-cni\n",
        "        - name: other\n",
        &["DaemonSet kube-system/calico-node: there is no container `install-cni`"],
    );
    let kubernetes = "            - name: DATASTORE_TYPE\n              value: kubernetes\n            - name: CLUSTER_TYPE\n";
    refused(
        "            - name: CLUSTER_TYPE\n",
        kubernetes,
        &["this Calico stores its data in Kubernetes, not in etcd"],
    );
}

#[test]
fn all_errors_are_reported_together() {
    let text = with(NEWEST, "etcd_key: \"\" ", "etcd_key: /tls/key.pem");
    let text = with(&text, "defaultMode: 0440", "defaultMode: none");
    let text = with(&text, "        - name: install-cni\n", "        - name: other\n");
    let found = errors(&text, &options());
    assert!(
        ["`ETCD_KEY_FILE` is not", "this is not a file mode", "no container `install-cni`"]
            .iter()
            .all(|part| found.contains(part)),
        "{found}"
    );
}

#[test]
fn two_components_never_get_the_same_secret() {
    for names in [
        [(Component::Node, "one"), (Component::Cni, "one")],
        [(Component::Node, "calico-etcd-cni"), (Component::KubeControllers, "x")],
    ] {
        refused_text(NEWEST, &named(&names), &["would both use the certificate from Secret"]);
    }
}

#[test]
fn flags_are_parsed_strictly() {
    for good in [
        "https://a:1",
        "https://10.0.0.1:23790,https://[::1]:2379",
        "https://proxy.example.org:2379/",
    ] {
        assert!(Endpoints::parse(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "a:1",
        "http://a:1",
        "https://a",
        "https://:1",
        "https://a:1,",
        "https://a:1/x",
        "https://u@a:1",
        "https://a:1?x",
        "https://a\"b:1",
    ] {
        assert!(Endpoints::parse(bad).is_err(), "{bad}");
    }
    for bad in [
        "",
        "host-path",
        "host-path=",
        "host-path=a",
        "host-path=/",
        "host-path=/a/../b",
        "host-path=/a b",
        "csi=x",
        "host-path=//",
    ] {
        assert!(PerNode::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(PerNode::parse("host-path=/a/b/").unwrap().directory(), "/a/b");
    assert!(
        secret(&format!("cni={}", "a".repeat(253))).is_ok()
            && secret(&format!("cni={}", "a".repeat(254))).is_err()
    );
    assert_eq!(secret("cni=a.b-1"), Ok((Component::Cni, "a.b-1".to_owned())));
    for bad in [
        "",
        "calico-node",
        "calico-node=",
        "node=x",
        "calico-node=A",
        "calico-node=-a",
        "calico-node=a..b",
        "cni=a/b",
    ] {
        assert!(secret(bad).is_err(), "{bad}");
    }
    for (text, good) in [
        ("0", true),
        ("10m", true),
        ("1h30m", true),
        ("1.5h", true),
        ("0s", true),
        ("", false),
        ("10", false),
        ("10 m", false),
        ("-1m", false),
        ("m", false),
    ] {
        assert_eq!(CompactionPeriod::parse(text).is_ok(), good, "{text}");
    }
}
