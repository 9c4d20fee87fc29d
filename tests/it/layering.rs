//! Rules of the structure that the compiler does not check: which crate may depend on which, that
//! no module depends on one above it, where a permit is created, and where standard output is
//! named.

mod graph;
mod source;

use std::collections::BTreeSet;
use std::fs;

use graph::Graph;
use source::{code_lines, crates, names, root, rust_files};

/// Each crate with the crates of this workspace that it may depend on (tests excluded).
const CRATES: &[(&str, &[&str])] = &[
    ("etcd-warden-proto", &[]),
    ("etcd-warden-core", &["etcd-warden-proto"]),
    ("etcd-warden-gateway", &["etcd-warden-core", "etcd-warden-proto"]),
    ("etcd-warden-tools", &["etcd-warden-core", "etcd-warden-gateway", "etcd-warden-proto"]),
    ("etcd-warden-testbed", &["etcd-warden-core", "etcd-warden-gateway", "etcd-warden-tools"]),
    (
        "etcd-warden",
        &[
            "etcd-warden-core",
            "etcd-warden-gateway",
            "etcd-warden-proto",
            "etcd-warden-testbed",
            "etcd-warden-tools",
        ],
    ),
];

#[test]
fn each_crate_depends_on_lower_crates_only() {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), CRATES.len(), "list each crate of the workspace in `CRATES`");
    for (name, allowed) in CRATES {
        let package = packages.iter().find(|package| package["name"] == *name).unwrap();
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let found: BTreeSet<&str> = dependencies
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|dependency| dependency.starts_with("etcd-warden"))
            .collect();
        assert_eq!(found, allowed.iter().copied().collect(), "{name}");
    }
}

/// Not allowed in the core: runtimes, sockets, logs, metrics.
const NOT_IN_CORE: &[&str] = &[
    "tokio", "h2", "hyper", "mio", "socket2", "rustls", "rustix", "metrics", "tracing", "log",
    "tonic", "clap",
];
/// Not allowed in the gateway: certificate generation, load generation, weak ciphers, and an etcd
/// client with its own TLS library.
const NOT_IN_GATEWAY: &[&str] = &[
    "rcgen",
    "hdrhistogram",
    "md-5",
    "des",
    "sha1",
    "pkcs5",
    "etcd-client",
    "similar",
    "etcd-warden-tools",
    "etcd-warden-testbed",
];

#[test]
fn the_core_has_no_runtime_and_the_gateway_no_tools() {
    for (package, without) in
        [("etcd-warden-core", NOT_IN_CORE), ("etcd-warden-gateway", NOT_IN_GATEWAY)]
    {
        let packages = linked(package);
        assert!(packages.len() > 50 && packages.contains("x509-parser"), "{packages:?}");
        let found: Vec<_> = without.iter().filter(|name| packages.contains(**name)).collect();
        assert!(found.is_empty(), "{package} links {found:?}");
    }
}

#[test]
fn the_page_of_dependencies_lists_what_the_gateway_links() {
    let page = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let block =
        page.split("\n## What the gateway links\n").nth(1).unwrap().split("```").nth(1).unwrap();
    let listed: BTreeSet<String> = block.split_whitespace().map(str::to_owned).collect();
    let linked = linked("etcd-warden-gateway");
    let text = linked.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    assert_eq!(listed, linked, "docs/dependencies.md must list:\n{text}");
}

/// The packages that are linked into a program that uses this one, on Linux.
fn linked(package: &str) -> BTreeSet<String> {
    let args = [
        "tree",
        "--locked",
        "-p",
        package,
        "-e",
        "normal",
        "--prefix",
        "none",
        "--target",
        "x86_64-unknown-linux-gnu",
    ];
    cargo(&args)
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn cargo(args: &[&str]) -> String {
    let output =
        std::process::Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn no_module_depends_on_one_above_it() {
    for (name, folder) in crates() {
        let graph = Graph::of(&folder);
        let circle = graph.circle();
        assert!(
            circle.is_empty(),
            "modules of {name} depend on each other:\n{}",
            circle.join("\n")
        );
    }
}

/// The gateway's lib.rs lists the modules in the order of a request's life.
#[rustfmt::skip]
const MODULES_IN_ORDER: &[&str] = &[
    "terminal", "config", "files", "policy_file", "app",
    // identity of the client
    "origin_table", "proxy_protocol", "tls",
    // path of a request
    "http2", "proxy", "limiter", "upstream", "member_health",
    // records of what happened
    "audit", "metrics", "telemetry",
    // operation
    "admin", "systemd", "http_client",
    // fuzz targets
    "fuzzing",
];

#[test]
fn lib_rs_lists_the_modules_in_the_order_of_a_requests_life() {
    let text = fs::read_to_string(root().join("src/gateway/lib.rs")).unwrap();
    let modules: Vec<&str> =
        text.lines().filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';')).collect();
    assert_eq!(modules, MODULES_IN_ORDER);
}

/// Pure code: the same arguments always give the same result. Cargo.toml keeps libraries out of the
/// core, but not std.
const PURE: &[&str] =
    &["core", "tools/calico", "tools/calico.rs", "gateway/http2", "gateway/http2.rs"];
/// The only one of these files that reads bytes of a connection.
const READS: &str = "gateway/http2/io.rs";
const OUTSIDE: &[&str] = &[
    "tokio",
    "hyper",
    "h2",
    "metrics",
    "tracing",
    "std::time",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
];

#[test]
fn what_is_pure_names_nothing_of_the_outside_world() {
    let mut found = Vec::new();
    for place in PURE {
        let place = root().join("src").join(place);
        let files = if place.is_dir() { rust_files(&place) } else { vec![place.clone()] };
        assert!(
            !files.is_empty(),
            "there is no {}: correct the list in this test",
            place.display()
        );
        for file in files.iter().filter(|file| !file.ends_with(READS) && !source::is_test(file)) {
            for (number, line) in code_lines(&fs::read_to_string(file).unwrap()) {
                found.extend(OUTSIDE.iter().filter(|name| names(line, name)).map(|name| {
                    format!(
                        "{}:{number} names {name}, which pure code must not use:\n    {}",
                        file.display(),
                        line.trim()
                    )
                }));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_permit_is_made_in_authorize_and_nowhere_else() {
    let mut makers = Vec::new();
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        if code_lines(&text).any(|(_, line)| makes_a_permit(line)) {
            makers.push(file);
        }
    }
    assert_eq!(makers, [root().join("src/core/authorize.rs")]);
}

fn makes_a_permit(line: &str) -> bool {
    let line = line.replace("Permit{", "Permit {");
    line.match_indices("Permit {").any(|(start, _)| {
        let before = line[..start].trim_end();
        let declares = ["struct", "impl", "for", "->"].iter().any(|word| before.ends_with(word));
        let takes_apart = line[start..].contains(", .. }") || line[start..].contains("{ .. }");
        !declares && !takes_apart
    })
}

/// Files that name standard output or standard error: the writer itself and where commands are
/// given it, a progress counter that prints only its own numbers, the check whether a terminal can
/// be asked for a passphrase, and the log and the audit log, which escape their own text.
const WRITERS: &[&str] = &[
    "gateway/terminal.rs",
    "cli.rs",
    "cli/certs/progress.rs",
    "cli/certs/authority.rs",
    "testbed/demo.rs",
    "gateway/telemetry.rs",
    "gateway/audit/writer/sink.rs",
];

#[test]
fn commands_write_to_a_terminal_through_one_writer() {
    let mut found = Vec::new();
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let named = code_lines(&text).filter(|(_, line)| {
            ["io::stdout()", "io::stderr()", "print!(", "println!("]
                .iter()
                .any(|writer| line.contains(writer))
        });
        if !WRITERS.iter().any(|writer| file == root().join("src").join(writer)) {
            found.extend(named.map(|(number, line)| {
                format!("{}:{number}: write through `terminal`: {}", file.display(), line.trim())
            }));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Types that several clients, threads or tasks use together. `docs/limits.md` must list each file
/// of the gateway and the core that creates one.
const SHARED: &[&str] = &[
    "Mutex",
    "RwLock",
    "Condvar",
    "OnceLock",
    "Semaphore",
    "Notify",
    "mpsc",
    "oneshot",
    "broadcast",
    "sync_channel",
    "JoinSet",
    "TaskTracker",
    "FuturesUnordered",
    "spawn",
    "spawn_local",
    "spawn_blocking",
    "lookup_host",
];

#[test]
fn every_shared_resource_has_its_row_on_the_page_of_limits() {
    let page = fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let section =
        page.split("\n## What is shared\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.split(" | ").collect())
        .collect();
    let listed: Vec<&str> =
        rows.iter().skip(1).flat_map(|row| row[1].split('`').skip(1).step_by(2)).collect();
    assert!(listed.len() > 20, "{listed:?}");
    let (mut missing, mut there) = (Vec::new(), BTreeSet::new());
    for folder in ["src/core", "src/gateway"].map(|folder| root().join(folder)) {
        for file in rust_files(&folder) {
            let path = file.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
            if source::is_test(&file)
                || path.ends_with("every_order.rs")
                || path.starts_with("fuzzing")
            {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let uses = |line: &str| {
                line.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .any(|word| SHARED.contains(&word))
            };
            if let Some((number, line)) =
                code_lines(&text).find(|(_, line)| !line.trim().starts_with("use ") && uses(line))
                && !listed.contains(&&*path)
            {
                missing.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
            there.insert(path);
        }
    }
    assert!(
        missing.is_empty(),
        "not in the table \"What is shared\" of docs/limits.md:\n{}",
        missing.join("\n")
    );
    let gone: Vec<_> = listed.iter().filter(|file| !there.contains(**file)).collect();
    assert!(gone.is_empty(), "there is no {gone:?}");
}

#[test]
fn a_module_file_is_beside_its_folder() {
    let strays: Vec<_> = rust_files(&root().join("src"))
        .into_iter()
        .filter(|file| file.ends_with("mod.rs"))
        .collect();
    assert!(strays.is_empty(), "{strays:?}");
}

#[test]
fn a_line_that_makes_a_permit_is_found() {
    assert!(
        makes_a_permit("Ok(Permit { grant: None })") && makes_a_permit("authorize::Permit{grant}")
    );
    for other in [
        "pub struct Permit {",
        "impl Permit {",
        "impl Drop for Permit {",
        "fn f() -> Permit {",
        "fn f(Permit { grant, .. }: &Permit) {",
    ] {
        assert!(!makes_a_permit(other), "{other}");
    }
}
