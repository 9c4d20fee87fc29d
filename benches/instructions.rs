//! Counts the instructions of a decision and of a whole request, and the allocations of a request,
//! with valgrind. Unlike times, the counts do not depend on the load of the machine. Fails if a
//! count is more than 3 % above `benches/instructions.txt` (5 % for the instructions of a request).
//! After an improvement, update that file with `--write`.
//!
//! `cargo bench --bench instructions [-- --write]`
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark that meets the unexpected must fail at once, at that line"
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

/// Percent that a count may grow. The number of pieces in which etcd's response arrives varies,
/// which changes the instructions of a whole request by 1 or 2 %.
fn tolerance(name: &str) -> u64 {
    if name.starts_with("request/") && !name.contains("allocations") { 5 } else { 3 }
}

/// Repetitions of each measured operation.
const TIMES: u64 = 500;

/// Names of all measurements: a scan alone, and with authorization under a number of grants.
fn names() -> Vec<String> {
    let messages = messages();
    let scans = messages.iter().map(|(name, ..)| format!("scan/{name}"));
    let decisions = [1_000, 10_000].into_iter().flat_map(|grants| {
        messages.iter().map(move |(name, ..)| format!("decide/{name}/{grants} grants"))
    });
    scans.chain(decisions).collect()
}

/// Runs one measurement, under valgrind.
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

/// Valgrind counts only while this function runs, which it finds by its name.
#[inline(never)]
fn measured(work: impl Fn()) {
    (0..TIMES).for_each(|_| work());
}

/// The instructions of one repetition.
fn count(name: &str) -> u64 {
    let mut valgrind = Command::new("valgrind");
    valgrind.args([
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--toggle-collect=*instructions*measured*",
    ]);
    let output = valgrind.arg(std::env::current_exe().unwrap()).args(["run", name]).output();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run valgrind: {error}; on Debian: apt-get install valgrind")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .unwrap_or_else(|| panic!("{said}"));
    let collected: u64 = collected.1.trim().parse().unwrap();
    assert!(collected > TIMES, "valgrind has not found the function `measured` of {name}");
    collected / TIMES
}

/// The compiler's version. Counts of different compilers cannot be compared.
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
        _ => panic!("unknown arguments: use `--write` or none"),
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
        let comparison = match known.get(&**name) {
            None => "new".to_owned(),
            Some(before) if now * 100 > before * (100 + tolerance(name)) => {
                grown = true;
                format!("was {before}: OVER {} % MORE", tolerance(name))
            }
            Some(before) => format!("was {before}"),
        };
        println!("{name:<48} {now:>9}  {comparison}");
        writeln!(written, "{name} {now}").unwrap();
    }
    if write {
        std::fs::write(FILE, written).unwrap();
        return ExitCode::SUCCESS;
    }
    if compiler != with {
        println!(
            "benches/instructions.txt is from rustc {with}, but this is {compiler}: not comparable"
        );
        return ExitCode::SUCCESS;
    }
    if grown || counts.iter().any(|(name, _)| !known.contains_key(&**name)) {
        println!(
            "a count is above benches/instructions.txt: find the reason, or accept it with `-- --write`"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
