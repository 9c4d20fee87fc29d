//! How many instructions a decision takes, and a whole request, and how often that asks for memory,
//! which is the same on a busy machine: counted by valgrind, compared with
//! `benches/instructions.txt`, and an error where it is over 3 % more (5 % for the instructions of
//! a request). Less is to be written down too, with `--write`.
//!
//! `cargo bench --bench instructions [-- --write]`
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark that meets the unexpected is to end at once, and at that place"
)]

#[path = "peers/client_tls.rs"]
mod client_tls;
#[path = "instructions/request.rs"]
mod request;
#[path = "decide/subjects.rs"]
mod subjects;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use etcd_warden_core::authorize::authorize;
use etcd_warden_core::wire;
use subjects::{messages, principal};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

/// Percent that a count may grow. In how many pieces etcd's answer comes is not ours: that moves
/// the instructions of a whole request by 1 or 2.
fn growth(name: &str) -> u64 {
    if name.starts_with("request/") && !name.contains("allocations") { 5 } else { 3 }
}

/// How often a subject's work is done.
const TIMES: u64 = 500;

/// Names of all subjects: a scan alone, and with the verdict on it under so many grants.
fn names() -> Vec<String> {
    let messages = messages();
    let scans = messages.iter().map(|(name, ..)| format!("scan/{name}"));
    let decisions = [1_000, 10_000].into_iter().flat_map(|grants| {
        messages.iter().map(move |(name, ..)| format!("decide/{name}/{grants} grants"))
    });
    scans.chain(decisions).collect()
}

/// Does one subject's work.
fn run(name: &str) {
    let parts: Vec<&str> = name.split('/').collect();
    let (_, method, message) = messages().into_iter().find(|(name, ..)| *name == parts[1]).unwrap();
    if parts[0] == "scan" {
        return measured(|| drop(black_box(wire::inspect(method, black_box(&message)).unwrap())));
    }
    let grants: usize = parts[2].strip_suffix(" grants").unwrap().parse().unwrap();
    let principal = principal(10, grants / 10);
    measured(|| {
        let accesses = wire::inspect(method, black_box(&message)).unwrap();
        drop(black_box(authorize(black_box(&principal), &accesses, &[]).unwrap()));
    });
}

/// valgrind counts while this runs: it is found by its name.
#[inline(never)]
fn measured(work: impl Fn()) {
    (0..TIMES).for_each(|_| work());
}

/// Instructions of one time.
fn count(name: &str) -> u64 {
    let mut valgrind = Command::new("valgrind");
    valgrind.args([
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--toggle-collect=*instructions*measured*",
    ]);
    let output = valgrind.arg(std::env::current_exe().unwrap()).args(["run", name]).output();
    let output = output.unwrap_or_else(|error| {
        panic!("valgrind: {error}; Debian has it: apt-get install valgrind")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .unwrap_or_else(|| panic!("{said}"));
    let collected: u64 = collected.1.trim().parse().unwrap();
    assert!(collected > TIMES, "valgrind has counted nothing of {name}");
    collected / TIMES
}

/// The compiler decides how many it takes.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let write = match arguments[..] {
        ["run", name] => {
            run(name);
            return ExitCode::SUCCESS;
        }
        ["--write"] => true,
        [] => false,
        _ => panic!("`--write`, or nothing"),
    };
    let known = std::fs::read_to_string(FILE).unwrap_or_default();
    let mut lines = known.lines();
    let with = lines.next().and_then(|line| line.strip_prefix("rustc ")).unwrap_or_default();
    let known: BTreeMap<&str, u64> = lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, count)| (name, count.parse().unwrap()))
        .collect();
    let (compiler, mut written, mut grown) = (compiler(), String::new(), false);
    writeln!(written, "rustc {compiler}").unwrap();
    let decisions = names().into_iter().map(|name| {
        let count = count(&name);
        (name, count)
    });
    let counts: Vec<(String, u64)> = decisions.chain(request::counts()).collect();
    for (name, now) in &counts {
        let verdict = match known.get(&**name) {
            None => "is new".to_owned(),
            Some(before) if now * 100 > before * (100 + growth(name)) => {
                grown = true;
                format!("was {before}: OVER {} % MORE", growth(name))
            }
            Some(before) => format!("was {before}"),
        };
        println!("{name:<48} {now:>9}  {verdict}");
        writeln!(written, "{name} {now}").unwrap();
    }
    if write {
        std::fs::write(FILE, written).unwrap();
        return ExitCode::SUCCESS;
    }
    if compiler != with {
        println!(
            "benches/instructions.txt is of rustc {with}, this is {compiler}: nothing follows from the difference"
        );
        return ExitCode::SUCCESS;
    }
    if grown || counts.iter().any(|(name, _)| !known.contains_key(&**name)) {
        println!(
            "something takes more than benches/instructions.txt says: find out why, or accept it with `-- --write`"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
