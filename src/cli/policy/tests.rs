//! The commands of `policy`, on the example policy in `deploy/`.

use clap::Parser;

use super::{PolicyCommand, run};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/policy.example.yaml");

#[derive(Debug, Parser)]
struct Program {
    #[command(subcommand)]
    command: PolicyCommand,
}

/// Exit code, what was written to out, what was written to err.
fn policy(arguments: &[&str]) -> (String, String, String) {
    let program = Program::try_parse_from(std::iter::once(&"policy").chain(arguments))
        .unwrap_or_else(|error| panic!("{error}"));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(program.command, &mut out, &mut err);
    (format!("{code:?}"), String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// `explain` on the example for one CN: whether it is allowed, and the output without the lines
/// about the identity.
fn explain(cn: &str, call: &[&str]) -> (bool, String) {
    let (code, out, err) =
        policy(&[["explain", "--policy", EXAMPLE, "--cn", cn].as_slice(), call].concat());
    assert_eq!(err, "");
    let allowed = code == format!("{:?}", std::process::ExitCode::SUCCESS);
    (
        allowed,
        out.split_once("\n\n").map(|(_, rest)| rest.replace(EXAMPLE, "FILE")).unwrap_or_default(),
    )
}

fn allowed(cn: &str, call: &[&str]) -> bool {
    explain(cn, call).0
}

#[test]
fn the_example_policy_has_no_error_and_no_warning() {
    let (code, out, err) = policy(&["check", EXAMPLE]);
    assert_eq!(code, format!("{:?}", std::process::ExitCode::SUCCESS));
    assert_eq!(err, "");
    assert!(
        out.starts_with(EXAMPLE) && out.contains("no errors") && !out.contains("warning"),
        "{out}"
    );
}

#[test]
fn check_exits_with_78_and_lists_every_error_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.yaml");
    std::fs::write(&file, "version: 1\nmode: enforced\nbindings: []\n").unwrap();
    let path = file.to_str().unwrap();
    let (code, out, _) = policy(&["check", path, "--output", "json"]);
    assert_eq!(code, format!("{:?}", std::process::ExitCode::from(78)));
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["ok"], false);
    assert_eq!(found["diagnostics"][0]["line"], 2);
    assert_eq!(found["diagnostics"][0]["help"], "did you mean `enforce`?");
    assert_eq!(found["diagnostics"][1]["message"], "`bindings` is an empty list");
}

#[test]
fn an_unreadable_file_is_reported_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.yaml");
    let (code, out, _) =
        policy(&["check", missing.to_str().unwrap(), folder.path().to_str().unwrap()]);
    assert_eq!(code, format!("{:?}", std::process::ExitCode::from(78)));
    assert!(
        out.contains("the file does not exist")
            && out.contains("this is a directory: a policy must be a file"),
        "{out}"
    );
}

#[test]
fn a_pipe_is_reported_without_reading_it() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("policy.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (_, out, _) = policy(&["check", pipe.to_str().unwrap()]);
    assert!(out.contains("is a pipe, not a regular file"), "{out}");
}

#[test]
fn show_lists_the_role_sets_and_prints_one_with_its_comments() {
    let (_, out, _) = policy(&["show"]);
    assert!(
        ["calico/documented", "calico/v3.31-per-node", "kubernetes", "etcd-ops"]
            .iter()
            .all(|name| out.contains(name)),
        "{out}"
    );
    let (_, out, _) = policy(&["show", "kubernetes"]);
    assert!(out.starts_with("# kubernetes:") && out.contains("keys: /registry/*"), "{out}");
    let (code, _, err) = policy(&["show", "calico"]);
    assert_eq!(code, format!("{:?}", std::process::ExitCode::from(64)));
    assert!(err.contains("there is no role set `calico`"), "{err}");
}

#[test]
fn explain_shows_the_grant_of_each_access_or_what_is_missing() {
    let key = "/calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0";
    insta::assert_snapshot!(explain("cni:n-1", &["put", key, "v"]).1, @r#"
    /etcdserverpb.KV/Put  allowed
      create /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
          by calico-cni-per-node: /calico/resources/v3/projectcalico.org/workloadendpoints/*/{node|dash-doubled}-k8s-* (builtin:calico/v3.31-per-node:108)
      update /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
          by calico-cni-per-node: /calico/resources/v3/projectcalico.org/workloadendpoints/*/{node|dash-doubled}-k8s-* (builtin:calico/v3.31-per-node:108)
    "#);
    insta::assert_snapshot!(explain("calicoctl-read-only", &["del", key, "--prev-kv"]).1, @r#"
    /etcdserverpb.KV/DeleteRange  denied: key_not_granted: delete /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
      read /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
          by calicoctl-read-only: /calico/resources/v3/projectcalico.org/* (builtin:calico/v3.31:236)
      delete /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
          no grant covers /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
    "#);
    insta::assert_snapshot!(explain("cni:n-2", &["put", key, "v"]).1, @r#"
    /etcdserverpb.KV/Put  forwarded in shadow mode, would be denied: key_not_granted: create /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
      create /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
          no grant covers /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
      update /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
          no grant covers /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
    "#);
    insta::assert_snapshot!(explain("nobody", &["get", "a"]).1, @r#"
    /etcdserverpb.KV/Range  forwarded in shadow mode, would be denied: no_binding
      read a
          no grant covers a
    "#);
    insta::assert_snapshot!(explain("kube-apiserver", &["compact", "5"]).1, @r#"
    /etcdserverpb.KV/Compact  allowed
      capability compact
          by kube-apiserver: capability compact (builtin:kubernetes:18)
    "#);
}

#[test]
fn a_guarded_txn_creates_and_a_plain_put_also_updates() {
    let tier = "/calico/resources/v3/projectcalico.org/tiers/default";
    let create = format!("ver(\"{tier}\") = \"0\"");
    let update = format!("mod(\"{tier}\") = \"7\"");
    let (put, get) = (format!("put {tier} v"), format!("get {tier}"));
    assert!(allowed("calico-node", &["txn", &create, "then", &put, "else", &get]));
    assert!(!allowed("calico-node", &["txn", &update, "then", &put, "else", &get]));
    assert!(!allowed("calico-node", &["put", tier, "v"]));
}

#[test]
fn calls_have_the_syntax_of_etcdctl() {
    for call in [
        &["get", "/registry/", "--prefix", "--keys-only", "--limit=5"][..],
        &["get", "/registry/a", "/registry/b", "-w", "json"],
        &["put", "/registry/a", "v", "--lease=1f", "--prev-kv"],
        &["del", "/registry/", "--prefix"],
        &["watch", "/registry/", "--prefix", "--rev", "4"],
        &["lease", "grant", "60"],
        &["lease", "keep-alive", "1f", "--once"],
        &["endpoint", "status"],
        &["compact", "7", "--physical"],
        &["alarm", "list"],
    ] {
        assert!(allowed("kube-apiserver", call), "{call:?}: {}", explain("kube-apiserver", call).1);
    }
    for call in [
        &["get", "", "--prefix"][..],
        &["get", "/registry/", "--from-key"],
        &["get", "/registry/a", "/registry0a"],
        &["watch", "a", "--prefix"],
        &["snapshot", "save", "f"],
        &["member", "add", "x", "--peer-urls=http://x"],
        &["user", "add", "root"],
        &["lock", "/other"],
        &["elect", "/other", "me"],
        &["alarm", "disarm"],
        &["defrag"],
        &["move-leader", "1"],
    ] {
        assert!(
            !allowed("kube-apiserver", call),
            "{call:?}: {}",
            explain("kube-apiserver", call).1
        );
    }
    assert!(allowed("kube-apiserver", &["lock", "/registry/x"]));
}

/// The methods and needs of a call, without the decisions.
fn needs(call: &[&str]) -> Vec<String> {
    let (_, out) = explain("kube-apiserver", call);
    let relevant =
        |line: &&str| line.starts_with('/') || (line.starts_with("  ") && !line.starts_with("   "));
    let first =
        |line: &str| line.split("  ").find(|part| !part.is_empty()).unwrap_or_default().to_owned();
    out.lines().filter(relevant).map(first).collect()
}

#[test]
fn lock_and_elect_need_what_etcdctl_sends_for_them() {
    let renewed = [
        "/etcdserverpb.Lease/LeaseKeepAlive",
        "lease 1, assumed to be its own",
        "capability lease",
    ];
    let session = [&["/etcdserverpb.Lease/LeaseGrant", "capability lease"][..], &renewed].concat();
    let lock = needs(&["lock", "--ttl=5", "/registry/x", "--", "make", "-j"]);
    assert_eq!(lock[..5], session);
    let services = |call: &[String]| {
        call.iter().any(|line| line.contains("v3lockpb") || line.contains("v3electionpb"))
    };
    for call in [
        &["lock", "a"][..],
        &["elect", "a", "me"],
        &["elect", "-l", "a"],
        &["elect", "a", "--listen"],
    ] {
        assert!(!services(&needs(call)), "{call:?}");
    }
    for need in [
        "create /registry/x/1",
        "read /registry/x/*",
        "read /registry/x/1",
        "delete /registry/x/1",
        "read /registry/x/2",
    ] {
        assert!(lock.iter().any(|line| line == need), "{need}: {lock:?}");
    }
    let listen = needs(&["elect", "-l", "a"]);
    assert_eq!(
        listen[5..],
        [
            "/etcdserverpb.KV/Range",
            "read a/*",
            "/etcdserverpb.Watch/Watch",
            "read a/*",
            "/etcdserverpb.Watch/Watch",
            "read a/2"
        ]
    );
    let campaign = needs(&["elect", "a", "me"]);
    for need in ["create a/1", "read a/*", "delete a/1"] {
        assert!(campaign.iter().any(|line| line == need), "{need}: {campaign:?}");
    }
}

#[test]
fn the_flag_cluster_lists_members_first() {
    for call in [
        &["endpoint", "status", "--cluster"][..],
        &["endpoint", "health", "--cluster"],
        &["endpoint", "hashkv", "--cluster"],
        &["defrag", "--cluster=t"],
    ] {
        assert_eq!(
            needs(call)[..2],
            ["/etcdserverpb.Cluster/MemberList", "capability member-list"],
            "{call:?}"
        );
    }
    assert_eq!(
        needs(&["endpoint", "status", "--cluster", "--cluster=false"])[0],
        "/etcdserverpb.Maintenance/Status"
    );
    assert_eq!(
        needs(&["move-leader", "1"])[0],
        "/etcdserverpb.Maintenance/Status",
        "etcdctl looks for the leader first"
    );
    assert_eq!(needs(&["get", "a", "--stream"])[0], "/etcdserverpb.KV/RangeStream");
}

#[test]
fn flags_are_parsed_as_pflag_parses_them() {
    for call in [
        &["get", "-w", "json", "a"][..],
        &["get", "-wjson", "a"],
        &["get", "-w=json", "--endpoints", "h:1", "a"],
        &["get", "--prefix=false", "a", "b"],
        &["get", "--", "-p"],
        &["put", "k", "--", "-v"],
        &["watch", "a", "--prefix", "--", "echo", "-n", "x", "y"],
    ] {
        assert!(!needs(call).is_empty(), "{call:?}");
    }
    assert_eq!(needs(&["get", "--", "-p"])[1], "read -p");
    assert_eq!(needs(&["get", "a", "--prefix", "--prefix=0"])[1], "read a");
    for (call, expected) in [
        (&["get", "/app/a", "-p"][..], "`-p` is not a flag of this call"),
        (&["watch", "-i"], "`watch -i` reads its watches later"),
        (&["watch", "--", "echo"], "a key is missing"),
        (&["watch", "a", "-i"], "`watch -i` reads its watches later"),
        (&["get", "a", "-l"], "`-l` is not a flag of this call"),
        (&["get", "a", "--lease=1"], "`--lease` is not a flag of this call"),
        (&["put", "a", "v", "--prefix"], "`--prefix` is not a flag of this call"),
        (&["del", "a", "--prefix=maybe"], "neither `true` nor `false`"),
        (&["get", "a", "b", "c"], "`c` is an unexpected argument"),
        (&["elect", "a"], "a proposal is missing"),
        (&["elect", "a", "p", "-l"], "not both"),
        (&["get", "a", "--user", "root:x"], "decisions are about certificates"),
        (&["get", "a", "-h"], "prints help"),
        (&["get", "a", "-w"], "`-w` needs a value"),
        (&["endpoint"], "has the commands health, status, hashkv"),
        (&["endpoint", "stats"], "`stats` is none of them"),
        (&["snapshot", "restore", "f"], "`restore` is none of them"),
        (&["lease", "revoke"], "an argument is missing"),
        (&["txn", "-x"], "`-x` is not a flag"),
    ] {
        let (code, _, err) =
            policy(&[["explain", "--policy", EXAMPLE, "--cn", "x"].as_slice(), call].concat());
        assert_eq!(code, format!("{:?}", std::process::ExitCode::from(64)), "{call:?}");
        assert!(err.starts_with("error: ") && err.contains(expected), "{call:?}: {err}");
    }
}

#[test]
fn an_invalid_call_exits_with_64() {
    for call in [
        &["frobnicate"][..],
        &["get"],
        &["get", "a", "--prefx"],
        &["put", "a", "v", "--lease", "xyz"],
        &["compact", "x"],
        &["txn", "mod(k"],
    ] {
        let (code, _, err) =
            policy(&[["explain", "--policy", EXAMPLE, "--cn", "x"].as_slice(), call].concat());
        assert_eq!(code, format!("{:?}", std::process::ExitCode::from(64)), "{call:?}");
        assert!(err.starts_with("error: "), "{call:?}: {err}");
    }
    let (code, _, err) = policy(&["explain", "--policy", EXAMPLE, "get", "a"]);
    assert_eq!(code, format!("{:?}", std::process::ExitCode::from(64)));
    assert!(err.contains("no identity"), "{err}");
}

#[test]
fn explain_writes_json() {
    let (_, out, _) = policy(&[
        "explain",
        "--policy",
        EXAMPLE,
        "--cn",
        "calicoctl-read-only",
        "-o",
        "json",
        "put",
        r"\x00a",
        "v",
    ]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["identity"], "default/cn:calicoctl-read-only");
    assert_eq!(report["calls"][0]["decision"], "deny");
    assert_eq!(report["calls"][0]["reason"], "key_not_granted");
    assert_eq!(report["calls"][0]["needs"][0]["key"], r"\x00a");
    let (_, out, _) = policy(&[
        "explain",
        "--policy",
        EXAMPLE,
        "--cn",
        "kube-apiserver",
        "-o",
        "json",
        "put",
        "a",
        "v",
    ]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["calls"][0]["decision"],
        "would_deny"
    );
}

#[test]
fn a_key_shows_the_bindings_that_have_rights_on_it() {
    let key = "/calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0";
    let (_, out, _) = policy(&["explain", "--policy", EXAMPLE, "--key", key]);
    insta::assert_snapshot!(out.replace(EXAMPLE, "FILE"), @r#"
    /calico/resources/v3/projectcalico.org/workloadendpoints/prod/n--1-k8s-web-eth0
      cn calico-node (shadow, line 13)
          read    by calico-node: /calico/resources/v3/projectcalico.org/* (builtin:calico/v3.31:14)
      cn cni:{node} with node=n-1 (shadow, line 16)
          read    by calico-cni-per-node: /calico/resources/v3/projectcalico.org/workloadendpoints/*/{node|dash-doubled}-k8s-* (builtin:calico/v3.31-per-node:108)
          create  by calico-cni-per-node: /calico/resources/v3/projectcalico.org/workloadendpoints/*/{node|dash-doubled}-k8s-* (builtin:calico/v3.31-per-node:108)
          update  by calico-cni-per-node: /calico/resources/v3/projectcalico.org/workloadendpoints/*/{node|dash-doubled}-k8s-* (builtin:calico/v3.31-per-node:108)
          delete  by calico-cni-per-node: /calico/resources/v3/projectcalico.org/workloadendpoints/*/{node|dash-doubled}-k8s-* (builtin:calico/v3.31-per-node:108)
      cn calico-kube-controllers (shadow, line 18)
          read    by calico-kube-controllers: /calico/resources/v3/projectcalico.org/* (builtin:calico/v3.31:122)
          update  by calico-kube-controllers: /calico/resources/v3/projectcalico.org/workloadendpoints/* (builtin:calico/v3.31:136)
          delete  by calico-kube-controllers: /calico/resources/v3/projectcalico.org/workloadendpoints/* (builtin:calico/v3.31:136)
      cn calicoctl-read-only (enforce, line 20)
          read    by calicoctl-read-only: /calico/resources/v3/projectcalico.org/* (builtin:calico/v3.31:236)
      cn etcd-backup (shadow, line 25)
          reads it in a snapshot of the whole database, by etcd-backup: capability snapshot (builtin:etcd-ops:6)
    "#);
    let (_, out, _) =
        policy(&["explain", "--policy", EXAMPLE, "--key", "/elsewhere", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        report["holders"].as_array().map(Vec::len),
        Some(1),
        "a snapshot reads everything: {report}"
    );
}
