//! What is not understood: which object, which field, which line, and what to do; and nothing is
//! changed.

use super::*;

/// The manifest with one place changed is refused, in these words.
fn refused(old: &str, new: &str, expected: &[&str]) {
    refused_text(&with(NEWEST, old, new), &wish(), expected);
}

fn refused_text(text: &str, wish: &Wish, expected: &[&str]) {
    let found = mistakes(text, wish);
    for part in expected {
        assert!(found.contains(part), "{part}\n{found}");
    }
}

const DAEMON_SET: &str = "DaemonSet kube-system/calico-node, spec.template.spec.";
const VOLUME: &str = "        - name: etcd-certs\n          secret:\n            secretName: calico-etcd-secrets\n            defaultMode: 0400\n";

#[test]
fn brackets_anchors_and_aliases_are_named_with_their_place() {
    let flow = "        - {name: etcd-certs, secret: {secretName: calico-etcd-secrets, defaultMode: 0400}}\n";
    // A scalar in brackets can be changed.
    let text = with(NEWEST, VOLUME, flow);
    assert!(done(&text, &wish()).text.contains(
        "        - {name: etcd-certs, secret: {secretName: calico-etcd-node, defaultMode: 0400}}\n        - name: etcd-certs-cni\n"
    ));
    refused_text(
        &text,
        &per_node(),
        &[
            "error: DaemonSet kube-system/calico-node, spec.template.spec.volumes[etcd-certs]: this is written in brackets",
            "--> FILE:610:11",
            "help: write it in lines of its own",
        ],
    );
    refused(
        VOLUME,
        "        - name: etcd-certs\n          secret: {secretName: calico-etcd-secrets}\n",
        &[
            &format!("{DAEMON_SET}volumes[etcd-certs].secret: this is written in brackets"),
            "--> FILE:611:19",
        ],
    );
    refused(
        VOLUME,
        "        - name: etcd-certs\n          secret: &certs\n            secretName: calico-etcd-secrets\n            defaultMode: 0400\n        - name: more\n          secret: *certs\n",
        &[
            &format!(
                "{DAEMON_SET}volumes[etcd-certs].secret.secretName: an anchor (`&NAME`) stands here"
            ),
            "help: write it out in each place",
        ],
    );
    refused("etcd_ca: \"\" ", "etcd_ca: *nothing", &["FILE:70:12", "unknown anchor"]);
    let alias = with(NEWEST, "  typha_service_name: \"none\"", "  etcd_none: &none \"\"");
    refused_text(
        &with(&alias, "etcd_ca: \"\" ", "etcd_ca: *none"),
        &wish(),
        &["while parsing", "FILE:70:12"],
    );
}

#[test]
fn a_template_that_is_not_filled_in_is_named_as_such() {
    let help = "help: this is a template, and not a manifest yet";
    refused(
        "typha_service_name: \"none\"",
        "typha_service_name: {{ typha }}",
        &["error: `{{ typha }}` is not filled in", "--> FILE:", help],
    );
    refused(
        "typha_service_name: \"none\"",
        "typha_service_name: \"{{ .Values.typha }}\"",
        &["`{{ .Values.typha }}` is not filled in", help],
    );
    refused(
        "typha_service_name: \"none\"",
        "typha_service_name: \"${TYPHA}\"",
        &["`${TYPHA}` is not filled in", help],
    );
    refused(
        "  typha_service_name",
        "{% if typha %}\n  typha_service_name",
        &["`{% if typha %}` is not filled in", help],
    );
    refused(
        "  typha_service_name",
        "{{- if .Values.typha }}\n  typha_service_name",
        &["`{{- if .Values.typha }}` is not filled in", help],
    );
    // Comments, and what a shell fills in.
    done(&with(NEWEST, "  typha_service_name", "  # {{ typha }}\n  typha_service_name"), &wish());
    let image = "          image: quay.io/calico/kube-controllers:v3.31.0\n";
    let script = format!("{image}          command: [\"sh\", \"-c\", \"exec ${{PROGRAM}}\"]\n");
    done(&with(NEWEST, image, &script), &wish());
}

#[test]
fn json_is_refused_only_where_something_would_be_added() {
    let json = |text: &str| {
        read(text).iter().map(|document| format!("{document}\n---\n")).collect::<String>()
    };
    // serde has no octal numbers as YAML 1.1 has them.
    refused_text(
        &json(&NEWEST.replace(": 0400", ": 256").replace(": 0440", ": 288")),
        &wish(),
        &[&format!("{DAEMON_SET}volumes: this is written in brackets")],
    );
    let segmented =
        done(NEWEST, &wish()).text.replace(": 0400", ": 256").replace(": 0440", ": 288");
    let other =
        Wish { endpoints: Some(Endpoints::parse("https://other:1").unwrap()), ..Wish::default() };
    let text = json(&segmented);
    assert_eq!(done(&text, &other).text, text.replace(PROXIES, "https://other:1"));
}

#[test]
fn sources_that_are_not_understood_are_named() {
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
            "calico-node has its certificate from the node's folder `/etc/calico`, which cannot be told from others",
            "cni has its certificate from the node's folder `/etc/calico`",
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
            "Deployment kube-system/calico-kube-controllers, spec.template.spec.volumes[etcd-certs].secret.defaultMode: this is no mode",
        ],
    );
    refused(
        "              name: etcd-certs\n          securityContext",
        "              name: etcd-certs\n              subPath: cni\n          securityContext",
        &["volumeMounts[etcd-certs]: a part of a volume is mounted"],
    );
    refused(
        "            - mountPath: /calico-secrets\n              name: etcd-certs\n          securityContext",
        "            - mountPath: /calico-secrets/etcd-ca\n              name: etcd-certs\n          securityContext",
        &["files are mounted into /calico-secrets one by one"],
    );
    refused(
        "              name: etcd-certs\n          securityContext",
        "              name: nowhere\n          securityContext",
        &["there is no volume `nowhere`"],
    );
}

#[test]
fn a_stranger_with_the_same_certificate_is_named() {
    let sidecar = "      containers:\n        - name: sidecar\n          volumeMounts:\n            - {mountPath: /tls, name: etcd-certs}\n        # Runs calico-node";
    refused(
        "      containers:\n        # Runs calico-node",
        sidecar,
        &[&format!(
            "{DAEMON_SET}containers[sidecar].volumeMounts[etcd-certs]: this container is given the certificate of calico-node"
        )],
    );
}

#[test]
fn settings_that_come_from_elsewhere_are_named() {
    let secret =
        "                secretKeyRef:\n                  name: x\n                  key: y\n";
    let text = NEWEST
        .replace("                configMapKeyRef:\n                  name: calico-config\n                  key: etcd_key\n", secret);
    refused_text(
        &text,
        &wish(),
        &[
            "containers[calico-node].env[ETCD_KEY_FILE]: `ETCD_KEY_FILE` comes from elsewhere",
            "containers[calico-kube-controllers].env[ETCD_KEY_FILE]",
        ],
    );
    refused(
        "etcd_key: \"\" ",
        "etcd_key: /tls/key.pem",
        &[
            "ConfigMap kube-system/calico-config, data.etcd_key: `ETCD_KEY_FILE` is another file than /calico-secrets/etcd-key",
        ],
    );
    refused_text(
        &NEWEST.replace("kind: ConfigMap\n", "kind: Something\n"),
        &wish(),
        &["ConfigMap `calico-config` is not in this manifest"],
    );
    refused(
        "            - name: CLUSTER_TYPE\n",
        "            - name: FELIX_ETCDKEYFILE\n              value: x\n            - name: CLUSTER_TYPE\n",
        &["env[FELIX_ETCDKEYFILE]: `FELIX_ETCDKEYFILE` says where etcd is"],
    );
    let (before, after) = NEWEST.split_once("kind: ConfigMap\n").unwrap();
    let elsewhere = format!(
        "{before}kind: ConfigMap\n{}",
        after.replacen("namespace: kube-system", "namespace: default", 1)
    );
    refused_text(&elsewhere, &wish(), &["ConfigMap `calico-config` is not in this manifest"]);
    refused(
        "etcd_ca: \"\" ",
        "etcd_ca: !!str",
        &[
            "data.etcd_ca: this is not written as one scalar in its line",
            "help: write it in quotes",
        ],
    );
    let variable = "            - name: SLEEP\n              value: \"false\"\n";
    let together =
        "            - name: TLS_ASSETS_DIR\n              value: $(HOME)/calico-secrets\n";
    refused(
        variable,
        together,
        &["env[TLS_ASSETS_DIR].value: `TLS_ASSETS_DIR` is put together from other variables"],
    );
    refused(
        "            - name: SLEEP\n",
        "            - name: TLS_ASSETS_DIR\n              value: /tls\n            - name: SLEEP\n",
        &["the certificate is taken from `/tls`"],
    );
    refused(
        "            - name: SLEEP\n",
        "            - name: ETCD_ENDPOINTS\n              value: x\n            - name: SLEEP\n",
        &["`ETCD_ENDPOINTS` is set a second time"],
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

/// What `install-cni` takes its variables from, in the newest manifest.
fn from(new: &str) -> String {
    let old = "            - configMapRef:\n                # Allow KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT to be overridden for eBPF mode.\n                name: kubernetes-services-endpoint\n                optional: true\n";
    assert_eq!(NEWEST.matches(old).count(), 2);
    NEWEST.replacen(old, new, 1)
}

#[test]
fn variables_from_whole_objects_are_known_or_refused() {
    const INSTALL: &str = "DaemonSet kube-system/calico-node, spec.template.spec.initContainers[install-cni].envFrom[0]: ";
    let config = |name: &str, namespace: &str, data: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  namespace: {namespace}\ndata:\n  {data}\n"
        )
    };
    let mine = "            - configMapRef:\n                name: mine\n";
    refused_text(
        &from("            - secretRef:\n                name: mine\n"),
        &wish(),
        &[
            &format!("{INSTALL}`secretRef` brings variables that are not in this manifest"),
            "help: write them as `value`",
        ],
    );
    refused_text(
        &from(mine),
        &wish(),
        &[&format!("{INSTALL}ConfigMap `mine` is not in this manifest")],
    );
    let elsewhere = format!("{}{}", from(mine), config("mine", "default", "A: b"));
    refused_text(
        &elsewhere,
        &wish(),
        &[&format!("{INSTALL}ConfigMap `mine` is not in this manifest")],
    );
    let surprise = "`CALICO_ETCD_KEY_FILE` says where etcd is";
    let whole =
        format!("{}{}", from(mine), config("mine", "kube-system", "CALICO_ETCD_KEY_FILE: /key"));
    refused_text(
        &whole,
        &wish(),
        &[&format!("ConfigMap kube-system/mine, data.CALICO_ETCD_KEY_FILE: {surprise}")],
    );
    let prefixed = format!("            - prefix: CALICO_\n{}", mine.replacen('-', " ", 1));
    let whole =
        format!("{}{}", from(&prefixed), config("mine", "kube-system", "ETCD_KEY_FILE: /key"));
    refused_text(
        &whole,
        &wish(),
        &[&format!("ConfigMap kube-system/mine, data.ETCD_KEY_FILE: {surprise}")],
    );
    let assets = format!("{}{}", from(mine), config("mine", "kube-system", "TLS_ASSETS_DIR: /tls"));
    refused_text(
        &assets,
        &wish(),
        &["ConfigMap kube-system/mine, data.TLS_ASSETS_DIR: the certificate is taken from `/tls`"],
    );
    // Calico's own, which speaks of kube-apiserver, may be missing; but not turned into something
    // else.
    let own = "            - prefix: CALICO_\n              configMapRef:\n                name: kubernetes-services-endpoint\n";
    refused_text(
        &from(own),
        &wish(),
        &[&format!("{INSTALL}ConfigMap `kubernetes-services-endpoint` is not in this manifest")],
    );
    let harmless = format!("{}{}", from(mine), config("mine", "kube-system", "A: b"));
    assert!(check("FILE", &done(&harmless, &wish()).text, &wish()).unwrap().is_empty());
}

#[test]
fn variables_of_felix_are_known_in_capitals_or_not() {
    refused(
        "            - name: CLUSTER_TYPE\n",
        "            - name: felix_EtcdKeyFile\n              value: x\n            - name: CLUSTER_TYPE\n",
        &["env[felix_EtcdKeyFile]: `felix_EtcdKeyFile` says where etcd is"],
    );
}

#[test]
fn one_object_twice_is_named_for_the_last_one_would_count() {
    let segmented = done(NEWEST, &wish()).text;
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: calico-config\n  namespace: kube-system\ndata:\n  etcd_key: \"\"\n";
    let found = check("FILE", &format!("{segmented}---\n{config}"), &Wish::default())
        .unwrap_err()
        .to_string();
    let expected =
        "ConfigMap kube-system/calico-config: this object stands a second time in this manifest";
    assert!(found.contains(expected) && found.contains("help: leave one of them"), "{found}");
    // An object of another namespace, or of another group with a kind of this name, is another one.
    let others = [config.replace("kube-system", "default"), config.replace("v1", "example.org/v1")];
    for other in others {
        assert!(
            check("FILE", &format!("{other}---\n{segmented}"), &Wish::default())
                .unwrap()
                .is_empty(),
            "{other}"
        );
    }
}

#[test]
fn one_value_that_would_have_to_be_two_is_named() {
    let shared = |text: &str| {
        text.replace("                  key: etcd_key\n", "                  key: etcd_cert\n")
    };
    let expected =
        "one value would have to be /calico-secrets/etcd-cert and /calico-secrets/etcd-key";
    refused_text(
        &shared(NEWEST),
        &wish(),
        &[
            &format!("ConfigMap kube-system/calico-config, data.etcd_cert: {expected}"),
            "--> FILE:71:14",
        ],
    );
    let gone = with(NEWEST, "  etcd_cert: \"\" # \"/calico-secrets/etcd-cert\"\n", "");
    refused_text(
        &shared(&gone),
        &wish(),
        &[&format!("ConfigMap kube-system/calico-config, data: {expected}")],
    );
}

#[test]
fn merge_keys_double_keys_and_broken_yaml_are_named() {
    refused(
        "            secretName: calico-etcd-secrets\n            defaultMode: 0400\n",
        "            <<: {secretName: calico-etcd-secrets}\n",
        &["volumes[etcd-certs].secret.<<: a merge key (`<<`) stands here"],
    );
    refused(
        "etcd_ca: \"\" ",
        "etcd_endpoints: \"\" ",
        &["error: `etcd_endpoints` stands twice in this mapping", "--> FILE:70:3"],
    );
    refused("etcd_ca: \"\" ", "etcd_ca: \"", &["--> FILE:"]);
    refused("  etcd_ca: \"\" ", "\tetcd_ca: \"\" ", &["tabs disallowed", "--> FILE:70:2"]);
    refused_text(
        "",
        &wish(),
        &[
            "there is no DaemonSet with a container `calico-node`",
            "there is no Deployment with a container `calico-kube-controllers`",
        ],
    );
    refused_text("a: 1\n", &wish(), &["a mapping without a `kind` is no object of Kubernetes"]);
}

#[test]
fn a_small_file_cannot_become_a_large_tree() {
    let line =
        |at: usize| format!("b{at}: &a{at} [{}]\n", vec![format!("*a{}", at - 1); 9].join(", "));
    let aliases: String = (1..9).map(line).collect();
    let nested: String = (0..200).map(|at| format!("{}- &a{at}\n", " ".repeat(at))).collect();
    let leaves: String = (0..9_000).map(|_| format!("{}- x\n", " ".repeat(200))).collect();
    for text in [
        format!("a: &a0 [x]\n{aliases}"),
        format!("{nested}{leaves}"),
        format!("a: {}", "[".repeat(1_000)),
    ] {
        let found = mistakes(&text, &wish());
        assert!(
            found.contains("larger than any manifest") || found.contains("recursion limit"),
            "{found}"
        );
    }
}

#[test]
fn what_is_no_hosted_manifest_of_calico_with_etcd_is_named() {
    let twice = format!(
        "{NEWEST}---\n{}",
        NEWEST.split("---\n").find(|document| document.contains("kind: DaemonSet")).unwrap()
    );
    refused_text(&twice, &wish(), &["a second DaemonSet with a container `calico-node`"]);
    refused(
        "        - name: install-cni\n",
        "        - name: other\n",
        &["DaemonSet kube-system/calico-node: there is no container `install-cni`"],
    );
    let kubernetes = "            - name: DATASTORE_TYPE\n              value: kubernetes\n            - name: CLUSTER_TYPE\n";
    refused(
        "            - name: CLUSTER_TYPE\n",
        kubernetes,
        &["this Calico has its data in Kubernetes, not in etcd"],
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = with(NEWEST, "etcd_key: \"\" ", "etcd_key: /tls/key.pem");
    let text = with(&text, "defaultMode: 0440", "defaultMode: none");
    let text = with(&text, "        - name: install-cni\n", "        - name: other\n");
    let found = mistakes(&text, &wish());
    assert!(
        ["is another file", "this is no mode", "no container `install-cni`"]
            .iter()
            .all(|part| found.contains(part)),
        "{found}"
    );
}

#[test]
fn two_components_are_never_given_one_secret() {
    for names in [
        [(Component::Node, "one"), (Component::Cni, "one")],
        [(Component::Node, "calico-etcd-cni"), (Component::KubeControllers, "x")],
    ] {
        refused_text(NEWEST, &named(&names), &["would both have their certificate from Secret"]);
    }
}

#[test]
fn flags_are_read_strictly() {
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
    assert_eq!(PerNode::parse("host-path=/a/b/").unwrap().folder(), "/a/b");
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
