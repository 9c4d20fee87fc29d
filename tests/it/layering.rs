//! The rules of the house that a compiler does not know: what the pure core may name, where a permit is made, in which order
//! the modules stand.

use std::fs;
use std::path::{Path, PathBuf};

/// lib.rs, read from top to bottom, is the life of a request.
#[rustfmt::skip]
const MODULES_IN_ORDER: &[&str] = &[
    "cli", "terminal", "config", "files", "app",
    // who is calling
    "crowd", "proxy_protocol", "tls", "identity",
    // what is asked for
    "method", "printable", "keyspace", "access", "wire", "lease_id",
    // the decision
    "policy", "authorize",
    // the path of a request
    "watch_ledger", "http2", "proxy", "upstream",
    // what happened
    "audit", "metrics", "telemetry",
    // how it is operated
    "admin", "doctor", "bench", "systemd",
    // what is made for clients: their certificates, and Calico's own files
    "certs", "calico",
    // a real etcd and throwaway certificates, and what stands on them
    "etcd", "pki", "demo",
    // generated
    "pb",
    // what the fuzz targets do
    "fuzzing",
];

/// What decides, and is fuzzed and proved: the same bytes always give the same answer.
const PURE: &[&str] = &[
    "access",
    "authorize",
    "calico",
    "http2",
    "identity",
    "keyspace",
    "lease_id",
    "method",
    "policy",
    "printable",
    "watch_ledger",
    "wire",
];
/// Within those, the files whose very job is the outside world: one reads policies, one bytes of a connection, one is a test that writes a page.
const EXCEPT: &[&str] = &["policy/load.rs", "http2/io.rs", "policy/builtin/access_page.rs"];
/// What the pure core may not name: the runtime, the network, clocks, files, and what tells about it.
const OUTSIDE: &[&str] =
    &["tokio", "hyper", "h2", "metrics", "tracing", "std::time", "std::fs", "std::net", "std::env", "std::process", "std::thread"];

#[test]
fn the_pure_core_names_nothing_of_the_outside_world() {
    let mut found = Vec::new();
    for module in PURE {
        let files = files_of(module);
        assert!(!files.is_empty(), "src/{module}.rs is not there: correct the list in this test");
        for file in files.iter().filter(|file| !EXCEPT.iter().any(|except| file.ends_with(except))) {
            for (number, line) in code_lines(&fs::read_to_string(file).unwrap()) {
                found.extend(
                    OUTSIDE
                        .iter()
                        .filter(|name| names(line, name))
                        .map(|name| format!("{}:{number} names {name}, which the pure core may not:\n    {}", file.display(), line.trim())),
                );
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_permit_is_made_in_authorize_and_nowhere_else() {
    let mut makers = Vec::new();
    for file in rust_files(&source("")) {
        let text = fs::read_to_string(&file).unwrap();
        if code_lines(&text).any(|(_, line)| makes_a_permit(line)) {
            makers.push(file);
        }
    }
    assert_eq!(makers, [source("authorize.rs")]);
}

#[test]
fn lib_rs_lists_the_modules_in_the_order_of_a_requests_life() {
    let text = fs::read_to_string(source("lib.rs")).unwrap();
    let modules: Vec<&str> = text.lines().filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';')).collect();
    assert_eq!(modules, MODULES_IN_ORDER);
}

/// Where standard output and standard error are named: the door itself and where commands are handed it, a counter that draws only its own figures, whether there is a
/// terminal to ask for a passphrase, the log and the audit, which have escapes of their own.
const DOORS: &[&str] =
    &["terminal.rs", "cli.rs", "cli/certs/progress.rs", "cli/certs/authority.rs", "demo.rs", "telemetry.rs", "audit/writer/sink.rs"];

#[test]
fn commands_reach_a_terminal_through_one_door() {
    let mut found = Vec::new();
    for file in rust_files(&source("")) {
        let text = fs::read_to_string(&file).unwrap();
        let named = code_lines(&text)
            .filter(|(_, line)| ["io::stdout()", "io::stderr()", "print!(", "println!("].iter().any(|door| line.contains(door)));
        if !DOORS.iter().any(|door| file == source(door)) {
            found
                .extend(named.map(|(number, line)| format!("{}:{number}: write through crate::terminal: {}", file.display(), line.trim())));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What several clients, threads or tasks use together. `docs/limits.md` has each file that makes one.
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
/// Programs of their own, which serve no clients, and what only they and tests use.
const SERVES_NONE: &[&str] =
    &["bench", "calico", "certs", "cli", "demo", "doctor", "etcd", "fuzzing", "pki", "tls/any_server.rs", "tls/intruder.rs"];

#[test]
fn every_shared_resource_has_its_row_on_the_page_of_limits() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/limits.md")).unwrap();
    let section = page.split("\n## What is shared\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<Vec<&str>> = section.lines().filter(|line| line.starts_with("| ")).map(|line| line.split(" | ").collect()).collect();
    let listed: Vec<&str> = rows.iter().skip(1).flat_map(|row| row[1].split('`').skip(1).step_by(2)).collect();
    assert!(listed.len() > 20, "{listed:?}");
    let mut missing = Vec::new();
    for file in rust_files(&source("")) {
        let path = file.strip_prefix(source("")).unwrap().to_str().unwrap().to_owned();
        let is_test = path.ends_with("tests.rs") || path.contains("/tests/") || path.ends_with("every_order.rs");
        if is_test
            || SERVES_NONE.iter().any(|other| path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.'])))
        {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let uses = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| SHARED.contains(&word));
        if let Some((number, line)) = code_lines(&text).find(|(_, line)| !line.trim().starts_with("use ") && uses(line))
            && !listed.contains(&&*path)
        {
            missing.push(format!("src/{path}:{number}: {}", line.trim()));
        }
    }
    assert!(missing.is_empty(), "not in the table \"What is shared\" of docs/limits.md:\n{}", missing.join("\n"));
    let gone: Vec<_> = listed.iter().filter(|file| !source(file).is_file()).collect();
    assert!(gone.is_empty(), "there is no {gone:?}");
}

#[test]
fn a_module_stands_beside_its_folder() {
    let strays: Vec<_> = rust_files(&source("")).into_iter().filter(|file| file.ends_with("mod.rs")).collect();
    assert!(strays.is_empty(), "{strays:?}");
}

#[test]
fn these_checks_see_what_they_are_meant_to_see() {
    for (line, name) in [
        ("use tokio::sync::watch;", "tokio"),
        ("let at = std::time::Instant::now();", "std::time"),
        ("use std::{fmt, fs};", "std::fs"),
        ("use std::fs;", "std::fs"),
        ("    metrics::counter!(\"x\");", "metrics"),
        ("fn f(stream: h2::RecvStream) {}", "h2"),
    ] {
        assert!(names(line, name), "{line}");
    }
    for (line, name) in
        [("let metrics = 1;", "metrics"), ("use std::fmt;", "std::fs"), ("use self::sh2::X;", "h2"), ("time::x()", "std::time")]
    {
        assert!(!names(line, name), "{line}");
    }
    let lines: Vec<_> = code_lines("a\n// b\n/// c\nd // e\n#[cfg(test)]\nmod tests {\nf\n}").map(|(_, line)| line).collect();
    assert_eq!(lines, ["a", "d "]);
    assert!(makes_a_permit("Ok(Permit { grant: None })") && makes_a_permit("authorize::Permit{grant}"));
    for other in
        ["pub struct Permit {", "impl Permit {", "impl Drop for Permit {", "fn f() -> Permit {", "fn f(Permit { grant, .. }: &Permit) {"]
    {
        assert!(!makes_a_permit(other), "{other}");
    }
}

/// Whether a line of code names a crate or a module of std, also within a group of imports.
fn names(line: &str, name: &str) -> bool {
    let line = line.trim();
    if let Some(group) = line.strip_prefix("use std::{") {
        let inside = name.strip_prefix("std::").unwrap_or("::");
        return group.split([',', '}', ' ', ':']).any(|word| word == inside);
    }
    line.match_indices(name).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = &line[start + name.len()..];
        let is_whole = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        is_whole && (after.starts_with("::") || (line.starts_with("use ") && after.starts_with([';', ' '])))
    })
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

/// The numbered lines of a file before its tests, without comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap())).filter(|(_, line)| !line.trim().is_empty())
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let mut files = rust_files(&source(module));
    files.extend(Some(source(&format!("{module}.rs"))).filter(|file| file.is_file()));
    files.retain(|file| !file.ends_with("tests.rs"));
    files
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)
}
