//! Runs every file of the corpora through the function of its target, so that a failure found by
//! fuzzing cannot come back.

use std::fs;
use std::path::{Path, PathBuf};

use super::TARGETS;

fn folder(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz")).join(name)
}

fn names(folder: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn each_target_has_a_corpus_and_each_corpus_a_target() {
    // `metadata` is in the gateway crate, which has its own test for it.
    let mut targets: Vec<&str> =
        TARGETS.iter().map(|(name, _)| *name).chain(["metadata"]).collect();
    targets.sort_unstable();
    assert_eq!(names(&folder("corpus")), targets);
    assert_eq!(
        names(&folder("fuzz_targets")),
        targets.iter().map(|name| format!("{name}.rs")).collect::<Vec<_>>()
    );
}

#[test]
fn every_input_of_the_corpora_passes() {
    for (target, run) in TARGETS {
        let corpus = folder("corpus").join(target);
        let inputs = names(&corpus);
        assert!(!inputs.is_empty(), "{} is empty", corpus.display());
        let mut bytes = 0;
        for input in inputs {
            let input = fs::read(corpus.join(&input)).unwrap();
            bytes += input.len();
            run(&input);
        }
        assert!(bytes < 200_000, "{target}: {bytes} bytes; minimise it as fuzz/README.md says");
    }
}
