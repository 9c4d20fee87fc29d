//! `calico segment`: output, files and exit codes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Parser;
use etcd_warden_gateway::terminal::Plain;
use serde_json::Value;
use tempfile::TempDir;

use super::files::{self, Target};
use super::{CalicoCommand, run};
use crate::cli::exit;

const MANIFEST: &str = include_str!("../../../tests/manifests/calico-etcd-v3.31.0.yaml");
const PROXY: &str = "https://10.0.0.1:23790";

#[derive(Debug, Parser)]
struct Program {
    #[command(subcommand)]
    command: CalicoCommand,
}

/// A directory with the manifest.
struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        fs::write(directory.at("calico.yaml"), MANIFEST).unwrap();
        directory
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Exit code, standard output, standard error. Words that end in `.yaml` are
    /// files here.
    fn segment(&self, arguments: &str) -> (u8, String, String) {
        self.segment_from(arguments, "")
    }

    fn segment_from(&self, arguments: &str, input: &str) -> (u8, String, String) {
        let words = arguments.split_whitespace().map(|word| {
            if word.ends_with(".yaml") {
                self.at(word).display().to_string()
            } else {
                word.to_owned()
            }
        });
        let program = Program::try_parse_from(
            ["calico".to_owned(), "segment".to_owned()].into_iter().chain(words),
        );
        let program = program.unwrap_or_else(|error| panic!("{error}"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(program.command, &mut input.as_bytes(), &mut Plain::new(&mut out), &mut err);
        let code = (0..=u8::MAX)
            .find(|number| {
                format!("{:?}", std::process::ExitCode::from(*number)) == format!("{code:?}")
            })
            .unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_manifest_goes_to_stdout_and_the_policy_to_stderr() {
    let directory = Directory::new();
    let (code, out, err) =
        directory.segment(&format!("--manifest calico.yaml --endpoints {PROXY}"));
    assert_eq!(code, 0);
    assert!(
        out.starts_with("---\n# Source: calico/templates")
            && out.contains(PROXY)
            && !out.contains("bindings:")
    );
    assert!(
        err.contains("\nmode: shadow\n")
            && err.contains("note: cni: create Secret `calico-etcd-cni`"),
        "{err}"
    );
    let (_, from_input, _) =
        directory.segment_from(&format!("--manifest - --endpoints {PROXY}"), MANIFEST);
    assert_eq!(from_input, out);
    assert_eq!(directory.files(), ["calico.yaml"]);
}

#[test]
fn both_files_are_written_or_neither() {
    let directory = Directory::new();
    let arguments = format!(
        "--manifest calico.yaml --endpoints {PROXY} --out new.yaml --policy-out policy.yaml"
    );
    let (code, out, err) = directory.segment(&arguments);
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(err.lines().all(|line| line.starts_with("note: ")), "{err}");
    assert!(
        read(&directory.at("new.yaml")).contains(PROXY)
            && read(&directory.at("policy.yaml")).contains("mode: shadow")
    );
    fs::remove_file(directory.at("policy.yaml")).unwrap();
    fs::write(directory.at("new.yaml"), "mine").unwrap();
    let (code, _, err) = directory.segment(&arguments);
    assert_eq!(code, exit::USAGE);
    assert!(err.contains("new.yaml exists already: name another file, or use --force"), "{err}");
    assert_eq!(read(&directory.at("new.yaml")), "mine");
    assert_eq!(directory.files(), ["calico.yaml", "new.yaml"]);
    fs::set_permissions(directory.at("new.yaml"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(directory.segment(&format!("{arguments} --force")).0, 0);
    assert!(read(&directory.at("new.yaml")).contains(PROXY));
    assert_eq!(fs::metadata(directory.at("new.yaml")).unwrap().permissions().mode() & 0o777, 0o640);
    // With the manifest in a file, the policy goes to standard output.
    let (_, out, _) =
        directory.segment(&format!("--manifest calico.yaml --endpoints {PROXY} --out other.yaml"));
    assert!(out.starts_with("# The policy for") && out.contains("bindings:"), "{out}");
}

#[test]
fn two_names_of_one_file_are_refused() {
    let directory = Directory::new();
    fs::create_dir(directory.at("folder")).unwrap();
    std::os::unix::fs::symlink(directory.at("folder"), directory.at("link")).unwrap();
    fs::write(directory.at("x.yaml"), "mine").unwrap();
    for (out, policy_out) in [
        ("x.yaml", "x.yaml"),
        ("x.yaml", "./x.yaml"),
        ("x.yaml", "folder/../x.yaml"),
        ("folder/y.yaml", "link/y.yaml"),
    ] {
        for force in ["", "--force"] {
            let (code, _, err) =
                directory.segment(&format!("--manifest calico.yaml --endpoints {PROXY} --out {out} --policy-out {policy_out} {force}"));
            assert_eq!(
                (code, err.as_str()),
                (exit::USAGE, "error: `--out` and `--policy-out` name the same file\n"),
                "{out} {policy_out}"
            );
        }
    }
    assert_eq!(read(&directory.at("x.yaml")), "mine");
    assert_eq!(fs::read_dir(directory.at("folder")).unwrap().count(), 0);
    assert!(files::are_one(Path::new("x.yaml"), Path::new("./x.yaml")));
    // One name in two folders is two files.
    let arguments = format!(
        "--manifest calico.yaml --endpoints {PROXY} --out folder/x.yaml --policy-out x.yaml --force"
    );
    assert_eq!(directory.segment(&arguments).0, 0);
    assert!(
        read(&directory.at("folder/x.yaml")).contains(PROXY)
            && read(&directory.at("x.yaml")).contains("bindings:")
    );
}

#[test]
fn a_second_file_that_fails_removes_the_first() {
    let directory = Directory::new();
    let (first, second) = (directory.at("first.yaml"), directory.at("second.yaml"));
    let prepared =
        |force| [&first, &second].map(|path| Target::prepare(path, "text", None, force).unwrap());
    let targets = prepared(false);
    fs::write(&second, "theirs").unwrap();
    let errors = files::finish(targets).unwrap_err();
    assert!(
        errors.len() == 1 && errors[0].contains("second.yaml: cannot be written"),
        "{errors:?}"
    );
    assert_eq!(
        (directory.files(), read(&second)),
        (vec!["calico.yaml".to_owned(), "second.yaml".to_owned()], "theirs".to_owned())
    );
    // A replaced file cannot be restored, which is reported.
    fs::write(&first, "old").unwrap();
    let targets = prepared(true);
    fs::remove_file(&second).unwrap();
    fs::create_dir(&second).unwrap();
    let errors = files::finish(targets).unwrap_err();
    assert!(
        errors.len() == 2 && errors[1].ends_with("first.yaml has already been replaced"),
        "{errors:?}"
    );
    assert_eq!((read(&first), directory.files().len()), ("text".to_owned(), 3));
}

#[test]
fn links_are_not_replaced_and_permissions_are_kept() {
    let directory = Directory::new();
    std::os::unix::fs::symlink(directory.at("calico.yaml"), directory.at("link.yaml")).unwrap();
    let (code, _, err) = directory
        .segment(&format!("--manifest calico.yaml --endpoints {PROXY} --force --out link.yaml"));
    assert!(code == exit::USAGE && err.contains("is not a regular file"), "{err}");
    assert_eq!(read(&directory.at("calico.yaml")), MANIFEST);
    let (code, _, err) = directory
        .segment(&format!("--manifest calico.yaml --endpoints {PROXY} --out no/such.yaml"));
    assert!(code == exit::USAGE && err.contains("cannot be written"), "{err}");
    fs::set_permissions(directory.at("calico.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    directory.segment(&format!("--manifest calico.yaml --endpoints {PROXY} --out new.yaml"));
    assert_eq!(fs::metadata(directory.at("new.yaml")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_diff_shows_what_would_change() {
    let directory = Directory::new();
    let (code, out, _) =
        directory.segment(&format!("--manifest calico.yaml --endpoints {PROXY} --diff"));
    assert_eq!(code, 0);
    let name = directory.at("calico.yaml").display().to_string();
    assert!(
        out.starts_with(&format!("--- {name}\n+++ {name} (segmented)\n@@ -64,12 +64,12 @@\n")),
        "{out}"
    );
    assert_eq!(out.lines().filter(|line| line.starts_with('+')).count(), 12);
    assert_eq!(directory.files(), ["calico.yaml"]);
}

#[test]
fn check_reports_what_is_missing() {
    let directory = Directory::new();
    let (code, out, _) = directory.segment("--manifest calico.yaml --check");
    assert_eq!(code, 1);
    assert!(out.ends_with("calico.yaml: not segmented, missing: 7\n"), "{out}");
    let (code, out, _) = directory.segment("--manifest calico.yaml --check --output json");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &report["segmented"], report["missing"].as_array().unwrap().len()),
        (1, &Value::Bool(false), 7)
    );
    assert_eq!(report["missing"][0]["field"], "data.etcd_endpoints");
    assert_eq!(report["missing"][0]["line"], 67);
    directory.segment(&format!("--manifest calico.yaml --endpoints {PROXY} --out new.yaml"));
    let (code, out, _) = directory.segment("--manifest new.yaml --check");
    assert!(code == 0 && out.ends_with("new.yaml: segmented\n"), "{out}");
    // Options are checked, too.
    assert_eq!(directory.segment("--manifest new.yaml --check --endpoints https://other:1").0, 1);
    assert_eq!(directory.segment("--manifest new.yaml --check --per-node host-path=/x").0, 1);
}

#[test]
fn an_unknown_manifest_exits_with_78_and_writes_nothing() {
    let directory = Directory::new();
    fs::write(directory.at("bad.yaml"), MANIFEST.replace("kind: Deployment", "kind: Job")).unwrap();
    for arguments in ["--out new.yaml --policy-out policy.yaml", "--diff", ""] {
        let (code, out, err) =
            directory.segment(&format!("--manifest bad.yaml --endpoints {PROXY} {arguments}"));
        assert_eq!((code, out.as_str()), (exit::CONFIG, ""));
        assert!(
            err.contains("there is no Deployment with a container `calico-kube-controllers`")
                && err.ends_with("nothing was written\n"),
            "{err}"
        );
    }
    let (code, out, _) = directory.segment("--manifest bad.yaml --check -o json");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(
        code == exit::CONFIG
            && report["segmented"].is_null()
            && report["diagnostics"].as_array().unwrap().len() == 1,
        "{report}"
    );
    fs::write(directory.at("bytes.yaml"), b"a: \xff").unwrap();
    for (name, message) in
        [("bytes.yaml", "is not UTF-8, from byte 3 on"), ("none.yaml", "does not exist")]
    {
        let (code, _, err) = directory.segment(&format!("--manifest {name} --check"));
        assert!(code == exit::CONFIG && err.contains(message), "{err}");
    }
    assert_eq!(directory.files(), ["bad.yaml", "bytes.yaml", "calico.yaml"]);
}

#[test]
fn contradicting_flags_are_refused() {
    let directory = Directory::new();
    for arguments in [
        "--secret calico-node=a --secret calico-node=b",
        "--secret calico-node=a --per-node host-path=/x",
    ] {
        let (code, _, err) =
            directory.segment(&format!("--manifest calico.yaml --endpoints {PROXY} {arguments}"));
        assert!(
            code == exit::USAGE && err.starts_with("error: `--secret calico-node=...`"),
            "{err}"
        );
    }
    for arguments in [
        "--manifest m",
        "--manifest m --endpoints http://a:1",
        "--manifest m --endpoints https://a:1 --diff --out x",
        "--manifest m --check --diff",
        "--manifest m --endpoints https://a:1 -o json",
    ] {
        assert!(
            Program::try_parse_from(["calico", "segment"].into_iter().chain(arguments.split(' ')))
                .is_err(),
            "{arguments}"
        );
    }
}
