//! `etcd-warden certs`: its certificates work with a real etcd and are read the same by OpenSSL and
//! Go. It refuses unusable input.

mod fixture;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use etcd_warden_gateway::config::ClientCa;
use etcd_warden_testbed::pki::write_private;
use serde_json::Value;

use crate::world::etcdctl::Etcdctl;
use crate::world::{World, authorities, connect, is_permission_denied};
use fixture::{Fixture, P256};

const POLICY: &str = "
version: 1
mode: enforce
include: [calico/v3.31, calico/v3.31-per-node]
bindings:
  - { cn: \"calico-node:{node}\", roles: [calico-node-per-node] }
  - { uri: \"spiffe://cluster.local/calico-node/{node}\", roles: [calico-node-per-node] }
  - { cn: \"cni:{node}\", roles: [calico-cni-per-node] }
  - { uri: \"spiffe://cluster.local/cni/{node}\", roles: [calico-cni-per-node] }
  - { cn: calico-node, roles: [calico-node] }
  - { cn: calico-kube-controllers, roles: [calico-kube-controllers] }
";
const R: &str = "/calico/resources/v3/projectcalico.org";

/// A proxy that trusts the fixture's CA, in front of a private etcd with Calico's keys.
async fn world(fixture: &Fixture) -> World {
    let file = fixture.path("ca.crt");
    write_private(fixture.0.path(), "server-ca.crt", &authorities().clients.pem()).unwrap();
    let trust = move |config: &mut etcd_warden_gateway::config::Config| {
        config.downstream.client_cas = vec![ClientCa { name: "default".into(), file }];
    };
    World::with(POLICY).own_etcd().config(trust).start().await
}

/// 63 and 253 characters.
fn long_names() -> [String; 2] {
    let label = "n".repeat(63);
    [label.clone(), format!("{label}.{label}.{label}.{}", "m".repeat(61))]
}

#[tokio::test]
async fn an_issued_certificate_grants_each_node_its_own_keys() {
    let fixture = Fixture::usual();
    let world = world(&fixture).await;
    let [label, longest] = long_names();
    fixture.write(
        "nodes",
        &format!("n1\nn10\nWorker-1\nn1.example.org\n10\na-b\na\n{label}\n{longest}\n"),
    );
    let ran = fixture.issue(&[
        "--all",
        "--nodes-from",
        "nodes",
        "--server-ca",
        "server-ca.crt",
        "--out",
        "out",
    ]);
    assert!(ran.err.contains("the certificate is for `worker-1`"), "{}", ran.err);
    assert!(ran.err.contains("the URI `spiffe://cluster.local/"), "{}", ran.err);
    assert!(
        ran.ended(0).contains(
            "{ uri: \"spiffe://cluster.local/cni/{node}\", roles: [calico-cni-per-node] }"
        )
    );
    let nodes = ["n1", "n10", "worker-1", "n1.example.org", "10", "a-b", "a", &label, &longest];
    for node in nodes {
        let set = |component: &str| fixture.set(&format!("out/nodes/{node}/{component}"));
        let mut calico =
            connect(&[world.endpoint()], &authorities().clients, &set("calico-node")).await;
        let mut cni = connect(&[world.endpoint()], &authorities().clients, &set("cni")).await;
        for other in nodes {
            let answer = calico.put(format!("{R}/nodes/{other}"), node, None).await;
            let doubled = other.replace('-', "--");
            let endpoint = cni
                .put(format!("{R}/workloadendpoints/{node}/{doubled}-k8s-web-eth0"), node, None)
                .await;
            if node == other {
                answer.unwrap();
                endpoint.unwrap();
            } else {
                assert!(
                    is_permission_denied(&answer) && is_permission_denied(&endpoint),
                    "{node} on {other}"
                );
            }
        }
    }
    let mut controllers = connect(
        &[world.endpoint()],
        &authorities().clients,
        &fixture.set("out/cluster/calico-kube-controllers"),
    )
    .await;
    controllers.put(format!("{R}/profiles/kns.default"), "", None).await.unwrap();
}

/// etcdctl is written in Go, like all components of Calico.
#[tokio::test]
async fn go_takes_each_kind_of_key_under_each_kind_of_ca() {
    let cas: [(&[&str], &str); 5] = [
        (P256, "ecdsa-p256"),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], "ecdsa-p384"),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-521"], "ed25519"),
        (&["ed25519"], "rsa-2048"),
        (&["rsa:2048"], "rsa-3072"),
    ];
    let stages = cas.map(|(kind, key)| (Fixture::new(kind), key));
    let named = |(fixture, key): &(Fixture, &str)| ClientCa {
        name: (*key).into(),
        file: fixture.path("ca.crt"),
    };
    let client_cas: Vec<ClientCa> = stages.iter().map(named).collect();
    let world = World::with(POLICY)
        .own_etcd()
        .config(|config| config.downstream.client_cas = client_cas)
        .start()
        .await;
    for (fixture, key) in &stages {
        write_private(fixture.0.path(), "server-ca.crt", &authorities().clients.pem()).unwrap();
        let arguments = [
            "--component",
            "calico-node",
            "--node",
            "n1",
            "--key-type",
            key,
            "--server-ca",
            "server-ca.crt",
            "--out",
            "out",
        ];
        fixture.issue(&arguments).ended(0);
        fixture.openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            "sslclient",
            "-CAfile",
            "ca.crt",
            "out/etcd-cert",
        ]);
        let etcdctl = Etcdctl::new(
            world.etcd(),
            &world.endpoint(),
            &fixture.text("out/etcd-ca"),
            &fixture.set("out"),
        );
        etcdctl.run(&["put", &format!("{R}/nodes/n1"), "x"], "").await.ok();
        let refused = etcdctl.run(&["put", &format!("{R}/nodes/n2"), "x"], "").await.failed();
        assert!(refused.contains("permission denied"), "{key}: {refused}");
    }
}

#[test]
fn openssl_reads_what_was_asked_for() {
    let fixture = Fixture::usual();
    // A name with two values of one attribute, which must be unchanged as issuer's name.
    fixture.ca("/DC=example/DC=org/OU=a/OU=b/CN=x", P256);
    let ran = fixture.issue(&[
        "--component",
        "cni",
        "--node",
        "n1",
        "--san",
        "dns:{node}.example.org",
        "--san",
        "ip:10.0.0.1",
        "--uri-format",
        "spiffe://a.example/{component}/{node}",
        "--organization",
        "one",
        "--organization",
        "two",
        "--lifetime",
        "30d",
        "--out",
        "out",
    ]);
    ran.ended(0);
    let said = |what: &[&str]| {
        fixture.openssl(&[&["x509", "-in", "out/etcd-cert", "-noout"], what].concat())
    };
    assert_eq!(said(&["-subject"]).trim(), "subject=O = one, O = two, CN = cni:n1");
    assert_eq!(said(&["-issuer"]).trim(), "issuer=DC = example, DC = org, OU = a, OU = b, CN = x");
    let text = said(&["-ext", "subjectAltName,keyUsage,extendedKeyUsage"]);
    for words in [
        "URI:spiffe://a.example/cni/n1, DNS:n1.example.org, IP Address:10.0.0.1",
        "Digital Signature",
        "TLS Web Client Authentication",
    ] {
        assert!(text.contains(words), "{text}");
    }
    assert!(!text.contains("Server"), "{text}");
    fixture.openssl(&[
        "verify",
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-CAfile",
        "ca.crt",
        "out/etcd-cert",
    ]);
    let mode = |name: &str| fixture.path(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("out/etcd-key"), mode("out/etcd-cert"), mode("out")), (0o600, 0o644, 0o700));
}

#[test]
fn encrypted_keys_open_with_their_passphrase() {
    let fixture = Fixture::usual();
    fixture.openssl(&[
        "req", "-x509", "-nodes", "-days", "400", "-subj", "/CN=rsa", "-keyout", "rsa.key", "-out",
        "rsa.crt", "-newkey", "rsa:2048",
    ]);
    fixture.write("pass", "a secret\n");
    let forms: [(&str, &[&str]); 7] = [
        ("ca", &["pkcs8", "-topk8", "-v2", "aes-256-cbc"]),
        ("ca", &["pkcs8", "-topk8", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512"]),
        ("ca", &["pkcs8", "-topk8", "-v2", "des3", "-v2prf", "hmacWithSHA1"]),
        ("ca", &["pkcs8", "-topk8", "-scrypt", "-scrypt_N", "1024"]),
        ("ca", &["ec", "-aes256"]),
        ("rsa", &["rsa", "-aes128", "-traditional"]),
        ("rsa", &["rsa", "-aes192", "-traditional"]),
    ];
    for (number, (name, form)) in forms.into_iter().enumerate() {
        let (key, certificate, out) =
            (format!("{name}.key"), format!("{name}.crt"), format!("out{number}"));
        fixture.openssl(
            &[form, &["-in", &key, "-out", "encrypted.key", "-passout", "file:pass"]].concat(),
        );
        assert!(fixture.text("encrypted.key").contains("ENCRYPTED"), "{form:?}");
        let arguments = [
            "issue",
            "--ca-cert",
            &certificate,
            "--ca-key",
            "encrypted.key",
            "--component",
            "kube-apiserver",
            "--out",
            &out,
        ];
        fixture.certs(&arguments).refused(&[
            "the key is encrypted, and no passphrase is given",
            "--ca-key-passphrase-file",
        ]);
        let with = |passphrase: &str| {
            fixture
                .command(&arguments)
                .env("ETCD_WARDEN_CA_KEY_PASSPHRASE", passphrase)
                .output()
                .unwrap()
        };
        let wrong = with("another secret");
        assert_eq!(wrong.status.code(), Some(78), "{form:?}");
        assert!(
            String::from_utf8(wrong.stderr)
                .unwrap()
                .contains("the passphrase does not decrypt the key"),
            "{form:?}"
        );
        assert!(!fixture.path(&out).exists());
        fixture.certs(&[&arguments[..], &["--ca-key-passphrase-file", "pass"]].concat()).ended(0);
        fixture.openssl(&["verify", "-CAfile", &certificate, &format!("{out}/etcd-cert")]);
        assert_eq!(with("a secret").status.code(), Some(78), "the files are there already");
    }
    fixture.openssl(&[
        "rsa",
        "-des3",
        "-traditional",
        "-in",
        "rsa.key",
        "-out",
        "encrypted.key",
        "-passout",
        "file:pass",
    ]);
    let arguments = [
        "issue",
        "--ca-cert",
        "rsa.crt",
        "--ca-key",
        "encrypted.key",
        "--component",
        "kube-apiserver",
        "--out",
        "x",
    ];
    let ran = fixture.certs(&[&arguments[..], &["--ca-key-passphrase-file", "pass"]].concat());
    ran.refused(&["the key's encryption `DES-EDE3-CBC` is not supported", "openssl pkcs8 -topk8"]);
}

#[test]
fn issues_for_a_thousand_nodes_and_one_more() {
    let fixture = Fixture::usual();
    let names: Vec<String> = (0..1000).map(|number| format!("node-{number}")).collect();
    fixture.write("nodes", &names.join("\n"));
    fixture.issue(&["--all", "--nodes-from", "nodes", "--out", "out"]).ended(0);
    assert_eq!(fixture.files("out").len(), 2001 * 3);
    let listed: Value =
        serde_json::from_str(&fixture.certs(&["list", "out", "-o", "json"]).ended(0)).unwrap();
    let of = |key: &str| {
        listed["certificates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one[key].to_string())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!((of("serial").len(), of("common_name").len()), (2002, 2002), "one is the CA's");
    fixture.openssl(&["verify", "-CAfile", "ca.crt", "out/nodes/node-999/cni/etcd-cert"]);

    let before = fixture.text("out/nodes/node-7/cni/etcd-key");
    fixture
        .issue(&["--all", "--nodes-from", "nodes", "--out", "out"])
        .refused(&["the file exists already", "--missing"]);
    fixture.write("nodes", &format!("{}\nnode-1000\n", names.join("\n")));
    let said =
        fixture.issue(&["--all", "--nodes-from", "nodes", "--out", "out", "--missing"]).ended(0);
    assert!(said.contains(": 1 calico-node, 1 cni,"), "{said}");
    assert_eq!(fixture.files("out").len(), 2003 * 3);
    assert_eq!(fixture.text("out/nodes/node-7/cni/etcd-key"), before);
    let said =
        fixture.issue(&["--all", "--nodes-from", "nodes", "--out", "out", "--missing"]).ended(0);
    assert!(said.contains("nothing, all files exist"), "{said}");
    let one = ["--component", "cni", "--node", "node-7", "-o", "directories", "--out", "out"];
    fixture.issue(&one).refused(&["the file exists already"]);
    fixture.issue(&[&one[..], &["--force"]].concat()).ended(0);
    assert_ne!(fixture.text("out/nodes/node-7/cni/etcd-key"), before);
}

/// Killed at many points, while it writes and while it renames: no file is ever incomplete, and the
/// next run completes every pair.
#[test]
fn a_run_that_is_killed_leaves_no_half_file() {
    let fixture = Fixture::usual();
    let names: Vec<String> = (0..40).map(|number| format!("n{number}")).collect();
    fixture.write("nodes", &names.join("\n"));
    let all = ["--all", "--nodes-from", "nodes", "--out", "out"];
    fixture.issue(&all).ended(0);
    let mut cut = 0;
    for turn in 0..10 {
        let arguments =
            [&["issue", "--ca-cert", "ca.crt", "--ca-key", "ca.key", "--force"], &all[..]].concat();
        let mut child = fixture
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = if turn % 2 == 0 { ".etcd-warden-staged" } else { ".etcd-warden-complete" };
        while !fixture.path("out").join(begun).exists() && child.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        cut += usize::from(
            fixture.path("out/.etcd-warden-staged").exists()
                || fixture.path("out/.etcd-warden-complete").exists(),
        );
        for file in fixture.files("out/nodes") {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(
                text.starts_with("-----BEGIN ") && text.ends_with("-----\n"),
                "{}: {text}",
                file.display()
            );
        }
        fixture.renew(&["out"]).ended(0);
        fixture.certs(&["list", "out"]).ended(0);
        assert_eq!(fixture.files("out").len(), 81 * 3);
    }
    assert!(cut > 0, "no run was interrupted while it wrote");
}

#[test]
fn a_request_gives_its_key_and_no_names() {
    let fixture = Fixture::usual();
    fixture.openssl(
        &[
            &[
                "req",
                "-new",
                "-nodes",
                "-subj",
                "/O=system:masters/CN=kube-apiserver",
                "-addext",
                "subjectAltName=DNS:root,URI:spiffe://cluster.local/cni/n2",
                "-addext",
                "basicConstraints=critical,CA:TRUE",
                "-addext",
                "extendedKeyUsage=serverAuth",
                "-keyout",
                "own.key",
                "-out",
                "own.csr",
                "-newkey",
            ],
            P256,
        ]
        .concat(),
    );
    let arguments = ["--component", "cni", "--node", "n1", "--csr", "own.csr", "--out"];
    fixture.issue(&[&arguments[..], &["out"]].concat()).ended(0);
    let names: Vec<_> =
        fixture.files("out").iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["etcd-ca", "etcd-cert"]);
    let text = fixture.openssl(&["x509", "-in", "out/etcd-cert", "-noout", "-text"]);
    assert!(text.contains("Subject: CN = cni:n1\n"), "{text}");
    for hostile in ["masters", "kube-apiserver", "root", "n2", "CA:TRUE", "Server"] {
        assert!(!text.contains(hostile), "{hostile}: {text}");
    }
    let key = |arguments: &[&str]| fixture.openssl(arguments);
    assert_eq!(
        key(&["x509", "-in", "out/etcd-cert", "-noout", "-pubkey"]),
        key(&["pkey", "-in", "own.key", "-pubout"])
    );

    let shown = fixture.issue(&[&arguments[..], &["-"]].concat()).ended(0);
    assert!(
        shown.starts_with("-----BEGIN CERTIFICATE-----")
            && shown.matches("-----BEGIN").count() == 1,
        "{shown}"
    );
    let bent = fixture.text("own.csr");
    let middle = bent.len() / 2;
    fixture.write(
        "own.csr",
        &format!(
            "{}{}{}",
            &bent[..middle],
            if &bent[middle..=middle] == "A" { "B" } else { "A" },
            &bent[middle + 1..]
        ),
    );
    assert_eq!(fixture.issue(&[&arguments[..], &["x"]].concat()).code, Some(78));
    fixture.openssl(&[
        "req", "-new", "-nodes", "-subj", "/CN=x", "-keyout", "weak.key", "-out", "own.csr",
        "-newkey", "rsa:1024",
    ]);
    fixture
        .issue(&[&arguments[..], &["x"]].concat())
        .refused(&["the request's RSA key has 1024 bits"]);
    assert!(!fixture.path("x").exists());
}

/// A certificate for a request must not be written beside another certificate's key.
#[test]
fn a_request_in_a_folder_with_a_key_is_refused() {
    let fixture = Fixture::usual();
    fixture.openssl(
        &[
            &[
                "req", "-new", "-nodes", "-subj", "/CN=x", "-keyout", "own.key", "-out", "own.csr",
                "-newkey",
            ],
            P256,
        ]
        .concat(),
    );
    fixture.issue(&["--component", "cni", "--node", "n1", "--out", "out"]).ended(0);
    let ran = fixture.issue(&[
        "--component",
        "cni",
        "--node",
        "n1",
        "--csr",
        "own.csr",
        "--out",
        "out",
        "--force",
    ]);
    ran.refused(&["this key would not match"]);
}

#[test]
fn reports_all_errors_at_once_and_writes_nothing() {
    let fixture = Fixture::usual();
    fixture.write("nodes", "n1\nn_2\nn1\n");
    fixture.write("other.key", "nothing");
    let ran = fixture.certs(&[
        "issue",
        "--ca-cert",
        "nodes",
        "--ca-key",
        "other.key",
        "--component",
        "cni",
        "--component",
        "nni",
        "--nodes-from",
        "nodes",
        "--san",
        "mail:x",
        "--cn-format",
        "{x}",
        "--namespace",
        "A",
        "--server-ca",
        "nowhere",
        "--csr",
        "nowhere",
        "--out",
        "out",
    ]);
    ran.refused(&[
        "the file holds no certificate",
        "the file holds no private key",
        "there is no component `nni`",
        "nodes:2:1",
        "nodes:3:1",
        "`mail:x` is not a name",
        "`{x}` is not a format",
        "`A` is not a namespace",
        "nowhere",
    ]);
    assert!(!fixture.path("out").exists());

    let refused = |arguments: &[&str], words: &[&str]| {
        fixture.issue(&[arguments, &["--out", "out"]].concat()).refused(words);
        assert!(!fixture.path("out").exists());
    };
    refused(&["--component", "cni"], &["each node has its own cni", "--cluster-wide"]);
    refused(
        &["--component", "kube-apiserver", "--node", "n1"],
        &["one certificate for the cluster, but nodes are named"],
    );
    refused(
        &["--all", "--node", "n1", "--cn-format", "calico:{node}"],
        &["`calico:n1` would be the name of calico-node of node `n1` and of cni of node `n1`"],
    );
    refused(&["--all", "--node", "n1", "-o", "files"], &["`files` is for one certificate"]);
    let long = format!("{0}.{0}.{0}.{1}", "n".repeat(63), "m".repeat(61));
    refused(
        &["--component", "cni", "--node", &long, "-o", "secret"],
        &["the limit is 253", "--output directories"],
    );
    assert_eq!(fixture.issue(&["--out", "out"]).code, Some(64));
}

#[test]
fn a_ca_that_cannot_issue_is_refused() {
    let fixture = Fixture::usual();
    let arguments = ["--component", "kube-apiserver", "--out", "out"];
    fixture.issue(&["--component", "kube-apiserver", "--out", "leaf"]).ended(0);
    let with = |certificate: &str, key: &str| {
        fixture.certs(
            &[&["issue", "--ca-cert", certificate, "--ca-key", key], &arguments[..]].concat(),
        )
    };
    with("leaf/etcd-cert", "leaf/etcd-key").refused(&["is not a CA certificate"]);
    with("ca.crt", "leaf/etcd-key")
        .refused(&["the key does not belong to the certificate in `ca.crt`"]);
    let ca = |more: &[&str]| {
        fixture.openssl(
            &[
                &[
                    "req", "-x509", "-nodes", "-subj", "/CN=x", "-keyout", "x.key", "-out",
                    "x.crt", "-newkey",
                ],
                P256,
                more,
            ]
            .concat(),
        );
    };
    ca(&["-days", "9", "-addext", "keyUsage=critical,digitalSignature"]);
    with("x.crt", "x.key").refused(&["keyCertSign"]);
    ca(&["-days", "9", "-addext", "nameConstraints=critical,permitted;DNS:example.org"]);
    let ran = fixture.certs(
        &[
            &["issue", "--ca-cert", "x.crt", "--ca-key", "x.key", "--san", "dns:n1.example.com"],
            &arguments[..],
        ]
        .concat(),
    );
    ran.refused(&["the CA's name constraints do not permit its names"]);
    let ran = fixture.certs(
        &[
            &["issue", "--ca-cert", "x.crt", "--ca-key", "x.key", "--san", "dns:n1.example.org"],
            &arguments[..],
        ]
        .concat(),
    );
    assert!(ran.err.contains("the certificates end with their CA"), "{}", ran.err);
    ran.ended(0);
    let end = |file: &str| fixture.openssl(&["x509", "-in", file, "-noout", "-enddate"]);
    assert_eq!(end("x.crt"), end("out/etcd-cert"));
}

#[test]
fn below_an_intermediate_ca_the_chain_is_in_the_file() {
    let fixture = Fixture::usual();
    fixture.openssl(
        &[
            &[
                "req",
                "-new",
                "-nodes",
                "-subj",
                "/CN=between",
                "-keyout",
                "mid.key",
                "-out",
                "mid.csr",
                "-newkey",
            ],
            P256,
        ]
        .concat(),
    );
    fixture.write("ext", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n");
    fixture.openssl(&[
        "x509",
        "-req",
        "-in",
        "mid.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "30",
        "-extfile",
        "ext",
        "-out",
        "mid.crt",
    ]);
    fixture.write("chain.crt", &format!("{}{}", fixture.text("mid.crt"), fixture.text("ca.crt")));
    fixture
        .certs(&[
            "issue",
            "--ca-cert",
            "chain.crt",
            "--ca-key",
            "mid.key",
            "--component",
            "cni",
            "--node",
            "n1",
            "--out",
            "out",
        ])
        .ended(0);
    assert_eq!(
        fixture.text("out/etcd-cert").matches("BEGIN CERTIFICATE").count(),
        2,
        "the root is not sent"
    );
    assert_eq!(fixture.text("out/etcd-ca"), fixture.text("chain.crt"));
    fixture.openssl(&[
        "verify",
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-CAfile",
        "ca.crt",
        "-untrusted",
        "out/etcd-cert",
        "out/etcd-cert",
    ]);
}

// The proxy accepts on its own thread while this one waits for the program.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn list_reports_roles_and_problems_of_each_certificate() {
    let fixture = Fixture::usual();
    let world = world(&fixture).await;
    fixture.write("policy.yaml", POLICY);
    fixture.issue(&["--all", "--node", "n1", "--node", &long_names()[0], "--out", "out"]).ended(0);
    let listed = |arguments: &[&str], code: i32| -> Value {
        serde_json::from_str(
            &fixture
                .certs(&[&["list", "--policy", "policy.yaml", "-o", "json"], arguments].concat())
                .ended(code),
        )
        .unwrap()
    };
    let all = listed(&["out"], 0);
    let find = |all: &Value, place: &str| {
        all["certificates"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["place"] == place)
            .unwrap_or_else(|| panic!("{place}: {all}"))
            .clone()
    };
    let one = find(&all, "out/nodes/n1/cni/etcd-cert");
    assert_eq!(
        (&one["component"], &one["node"], &one["roles"]),
        (&"cni".into(), &"n1".into(), &serde_json::json!(["calico-cni-per-node"]))
    );
    assert!((364..=365).contains(&one["days_left"].as_i64().unwrap()), "{one}");
    let long = find(&all, &format!("out/nodes/{}/calico-node/etcd-cert", long_names()[0]));
    assert_eq!(
        (&long["component"], &long["node"], &long["common_name"]),
        (&"calico-node".into(), &long_names()[0].clone().into(), &Value::Null)
    );

    std::fs::set_permissions(
        fixture.path("out/nodes/n1/cni/etcd-key"),
        std::fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    fixture.write("out/nodes/n1/calico-node/etcd-key", &fixture.text("ca.key"));
    fixture.write("out/note.txt", "hello");
    fixture
        .issue(&["--component", "felix", "--node", "n1", "--out", "out/nodes/n1/felix"])
        .ended(0);
    let all = listed(&["out"], 1);
    for (place, problem) in [
        ("out/nodes/n1/cni/etcd-cert", "mode 0644"),
        ("out/nodes/n1/calico-node/etcd-cert", "the key belongs to another certificate"),
        ("out/nodes/n1/felix/etcd-cert", "no binding of the policy matches it"),
    ] {
        assert!(find(&all, place)["problems"][0].as_str().unwrap().contains(problem), "{all}");
    }
    assert_eq!(all["others"][0]["file"], "out/note.txt");
    let text = fixture.certs(&["list", "out", "--policy", "policy.yaml"]).ended(1);
    assert!(text.contains("skipped: out/note.txt: no certificate in it"), "{text}");

    let endpoint = world.endpoint();
    let all = listed(&[&endpoint], 0);
    let server = find(&all, &endpoint);
    assert_eq!((&server["kind"], &server["common_name"]), (&"server".into(), &"127.0.0.1".into()));
    fixture
        .certs(&["list", "https://127.0.0.1:1", "nowhere"])
        .refused(&["cannot be reached", "nowhere"]);
}

#[tokio::test]
async fn what_is_renewed_works_and_what_is_not_due_stays() {
    let fixture = Fixture::usual();
    let world = world(&fixture).await;
    let server_ca = ["--server-ca", "server-ca.crt"];
    fixture
        .issue(
            &[
                &["--all", "--node", "n1", "--lifetime", "10d", "-o", "secret", "--out", "out"],
                &server_ca[..],
            ]
            .concat(),
        )
        .ended(0);
    fixture
        .issue(
            &[&["--all", "--node", "n1", "--lifetime", "10d", "--out", "out"], &server_ca[..]]
                .concat(),
        )
        .ended(0);
    let said = fixture.renew(&["out"]).ended(0);
    assert!(said.starts_with("renewed: 0, not due yet: 6 (the first on "), "{said}");
    let before = (fixture.text("out/secrets.yaml"), fixture.set("out/nodes/n1/cni"));
    let due = fixture.renew(&["out", "--before", "11d", "--lifetime", "60d", "--dry-run"]).ended(0);
    assert_eq!(
        (due.matches("due: out").count(), fixture.text("out/secrets.yaml")),
        (6, before.0.clone()),
        "{due}"
    );
    fixture.renew(&["out", "--before", "11d", "--lifetime", "60d"]).ended(0);
    let all: Value =
        serde_json::from_str(&fixture.certs(&["list", "out", "-o", "json"]).ended(0)).unwrap();
    let clients =
        all["certificates"].as_array().unwrap().iter().filter(|one| one["kind"] == "client");
    let days: Vec<i64> = clients.map(|one| one["days_left"].as_i64().unwrap()).collect();
    assert!(days.len() == 6 && days.iter().all(|days| (59..=60).contains(days)), "{days:?}");
    assert_ne!(fixture.text("out/nodes/n1/cni/etcd-key"), before.1.key);
    let lines = |text: &str| {
        text.lines().filter(|line| !line.starts_with("    ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&fixture.text("out/secrets.yaml")), lines(&before.0));
    let mut client = connect(
        &[world.endpoint()],
        &authorities().clients,
        &fixture.set("out/nodes/n1/calico-node"),
    )
    .await;
    client.put(format!("{R}/nodes/n1"), "x", None).await.unwrap();

    let key = fixture.text("out/nodes/n1/cni/etcd-key");
    fixture
        .renew(&[
            "out/nodes/n1/cni/etcd-cert",
            "--keep-key",
            "--before",
            "90d",
            "--lifetime",
            "100d",
        ])
        .ended(0);
    assert_eq!(fixture.text("out/nodes/n1/cni/etcd-key"), key);
    fixture.openssl(&["verify", "-CAfile", "ca.crt", "out/nodes/n1/cni/etcd-cert"]);

    std::fs::remove_file(fixture.path("out/nodes/n1/cni/etcd-key")).unwrap();
    let said = fixture.renew(&["out", "--before", "300d"]).ended(1);
    assert!(
        said.contains("failed: out/nodes/n1/cni/etcd-cert: its key was not found")
            && said.contains("failed: 1"),
        "{said}"
    );
}

#[test]
fn renew_exits_1_for_an_unreadable_certificate_renews_the_rest() {
    let fixture = Fixture::usual();
    fixture.issue(&["--all", "--node", "n1", "--lifetime", "10d", "--out", "out"]).ended(0);
    fixture.write("out/nodes/n1/cni/etcd-cert", "junk");
    fixture.write("out/broken.yaml", "kind: Secret\ndata: [x\n");
    fixture.write("out/note.txt", "hello");
    let said = fixture.renew(&["out", "--before", "11d"]).ended(1);
    for words in [
        "failed: out/nodes/n1/cni/etcd-cert: no certificate in it",
        "failed: out/broken.yaml: cannot read document 1 of the manifest",
        "skipped: out/note.txt: no certificate in it",
        "renewed: 2, not due yet: 0, failed: 2",
    ] {
        assert!(said.contains(words), "`{words}` is not in:\n{said}");
    }
}

#[test]
fn finishes_an_interrupted_run_before_it_looks_for_gaps() {
    let fixture = Fixture::usual();
    let all = ["--all", "--node", "n1", "--out", "out"];
    fixture.issue(&all).ended(0);
    let before = fixture.files("out");
    // The state after an interrupted run that had made its first renames.
    let staged = fixture.path("out/.etcd-warden-complete");
    for folder in [staged.clone(), staged.join("nodes"), staged.join("nodes/n1")] {
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    std::fs::write(staged.join(".etcd-warden"), "").unwrap();
    std::fs::rename(fixture.path("out/nodes/n1/cni"), staged.join("nodes/n1/cni")).unwrap();
    let missing = [&all[..], &["--missing"]].concat();
    let dry = fixture.issue(&[&missing[..], &["--dry-run"]].concat());
    assert!(staged.exists() && dry.ended(0).contains("would be issued: 1 cni"));
    let ran = fixture.issue(&missing);
    assert!(ran.err.contains("an earlier run was interrupted"), "{}", ran.err);
    assert!(ran.ended(0).contains("nothing, all files exist"));
    assert_eq!(fixture.files("out"), before);
}

/// Names of files and issuers are untrusted, and some contain terminal escapes.
#[test]
fn no_name_reaches_the_terminal_as_an_escape_sequence() {
    let fixture = Fixture::usual();
    fixture
        .issue(&["--all", "--node", "n1", "--lifetime", "10d", "--out", "out\u{1b}[2J"])
        .ended(0);
    let folder = "out\u{1b}[2J";
    fixture.openssl(
        &[
            &[
                "req",
                "-x509",
                "-nodes",
                "-subj",
                "/CN=x\u{1b}[2J",
                "-addext",
                "basicConstraints=CA:FALSE",
                "-keyout",
            ][..],
            &["other.key", "-out", &format!("{folder}/other.crt"), "-newkey"],
            P256,
        ]
        .concat(),
    );
    fixture.write(&format!("{folder}/a\u{1b}]0;x.txt"), "x");
    fixture.write(&format!("{folder}/bad.crt"), "x");
    for ran in [
        fixture.certs(&["list", folder]),
        fixture.renew(&[folder, "--before", "11d"]),
        fixture.issue(&["--all", "--node", "n1", "--out", folder]),
        fixture.issue(&["--all", "--node", "n1", "--out", folder, "--force"]),
        fixture.certs(&["list", "no\u{1b}where"]),
    ] {
        assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "{ran:?}");
        assert!(ran.out.len() + ran.err.len() > 10, "{ran:?}");
    }
}

#[test]
fn printed_bindings_are_valid_in_a_policy() {
    let fixture = Fixture::usual();
    let format = "a\"b\\*{component}:{node}";
    let said = fixture
        .issue(&["--component", "cni", "--node", "n1", "--cn-format", format, "--out", "out"])
        .ended(0);
    let bindings = said.split_once("bindings for the policy:\n").unwrap().1;
    fixture.write(
        "policy.yaml",
        &format!(
            "version: 1\nmode: enforce\ninclude: [calico/v3.31-per-node]\nbindings:\n{bindings}"
        ),
    );
    let listed: Value = serde_json::from_str(
        &fixture
            .certs(&["list", "out/etcd-cert", "--policy", "policy.yaml", "-o", "json"])
            .ended(0),
    )
    .unwrap();
    assert_eq!(
        listed["certificates"][0]["roles"],
        serde_json::json!(["calico-cni-per-node"]),
        "{said}"
    );
}
