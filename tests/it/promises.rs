//! Pages with promises name the tests that show them. Each name in a column "shown by" must be a
//! test or a module with tests, each file in a column "where" must exist, and each test of a
//! published hole must be in the threat model.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders of crates, and the prefix that the pages write for them; crate names are omitted
/// there.
const CRATES: [(&str, &str); 7] = [
    ("proto", "proto"),
    ("src/core", ""),
    ("src/gateway", ""),
    ("src/tools", ""),
    ("src/testbed", ""),
    ("src/cli", "cli"),
    ("tests/it", "it"),
];

/// The pages and the minimum number of promises of each, so that a table that is not recognized is
/// an error.
const PAGES: [(&str, usize); 3] =
    [("tests/README.md", 40), ("docs/threat-model.md", 40), ("docs/compared-with-etcd-auth.md", 4)];
const THREATS: &str = "docs/threat-model.md";
/// The module of names without a path: the threat model has a table of them.
const HOLES: &str = "it::published_holes::";

#[test]
fn every_test_that_a_page_names_exists() {
    let tests = all_tests();
    let mut wrong = Vec::new();
    for (page, least) in PAGES {
        let cells = column(&read(page), "shown by");
        assert!(cells.len() >= least, "{page} has {} promises", cells.len());
        for cell in cells {
            let names: Vec<&str> = quoted(&cell).filter(|name| !is_path(name)).collect();
            if names.is_empty() {
                wrong.push(format!("{page}: no test is named: {cell}"));
            }
            wrong.extend(
                names
                    .into_iter()
                    .filter(|name| !is_shown(name, &tests))
                    .map(|name| format!("{page}: there is no test `{name}`")),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_in_the_threat_model_exists() {
    let cells = column(&read(THREATS), "where");
    assert!(cells.len() > 30, "{} mechanisms", cells.len());
    for cell in cells {
        assert!(quoted(&cell).next().is_some(), "no file: {cell}");
        for file in quoted(&cell) {
            let folders = CRATES.iter().map(|(folder, _)| *folder).chain(["src"]);
            assert!(
                folders.into_iter().any(|folder| root().join(folder).join(file).is_file()),
                "no crate has {file}"
            );
        }
    }
}

#[test]
fn every_published_hole_is_in_the_threat_model() {
    let shown: BTreeSet<String> = column(&read(THREATS), "shown by")
        .iter()
        .flat_map(|cell| quoted(cell).map(str::to_owned))
        .collect();
    let holes = all_tests().into_iter().filter(|test| test.starts_with(HOLES));
    let names: Vec<String> =
        holes.map(|test| test.rsplit("::").next().unwrap().to_owned()).collect();
    assert!(names.len() >= 19, "{names:?}");
    let missing: Vec<&String> = names.iter().filter(|name| !shown.contains(*name)).collect();
    assert!(missing.is_empty(), "{THREATS} does not name {missing:?}");
}

#[test]
fn the_checks_of_this_module_find_errors() {
    let page = "| promise | shown by |\n|---|---|\n| a `b` | `it::x`, `y::tests` |\n| c \\| d | `z` |\n\n| x | y |\n|---|---|\n| 1 | `q` |\n";
    assert_eq!(column(page, "shown by"), ["`it::x`, `y::tests`", "`z`"]);
    assert_eq!(quoted("`it::x`, and `y::tests`").collect::<Vec<_>>(), ["it::x", "y::tests"]);
    let tests = tests_of(
        "#[test]\nfn one() {}\n#[cfg(test)]\nmod tests {\n    #[tokio::test]\n    async fn two() {}\n    fn three() {}\n}\n",
        "a",
    );
    assert_eq!(tests, ["a::one", "a::tests::two"]);
    let tests: BTreeSet<String> = tests.into_iter().collect();
    for (name, there) in [
        ("a", true),
        ("a::tests", true),
        ("a::tests::two", true),
        ("a::te", false),
        ("two", false),
        ("a::three", false),
    ] {
        assert_eq!(is_shown(name, &tests), there, "{name}");
    }
    let all = all_tests();
    for known in [
        "it::promises::the_checks_of_this_module_find_errors",
        "etcd::find::tests::versions_compare_as_numbers",
    ] {
        assert!(all.contains(known), "{known}");
    }
}

/// The cells of a column, by its heading, of all tables that have it. Lines that only head a group
/// have no such cell.
fn column(page: &str, heading: &str) -> Vec<String> {
    let mut place = None;
    let mut inside = false;
    let mut found = Vec::new();
    for line in page.lines() {
        let Some(row) = line.strip_prefix('|') else {
            inside = false;
            continue;
        };
        let cells: Vec<String> = row
            .replace("\\|", "\0")
            .split('|')
            .map(|cell| cell.trim().replace('\0', "|"))
            .collect();
        if !inside {
            (inside, place) = (true, cells.iter().position(|cell| cell == heading));
            continue;
        }
        let Some(cell) = place.and_then(|place| cells.get(place)) else { continue };
        if !cell.is_empty() && !cell.starts_with("---") {
            found.push(cell.clone());
        }
    }
    found
}

/// The text in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_path(name: &str) -> bool {
    name.contains(['/', ' ', '.'])
}

/// True for a test or a module with tests; a name without a path is a test of a published hole.
fn is_shown(name: &str, tests: &BTreeSet<String>) -> bool {
    let within = |test: &String| {
        test == name || test.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"))
    };
    let is_hole = |test: &String| test.starts_with(HOLES) && test.rsplit("::").next() == Some(name);
    tests.iter().any(|test| within(test) || is_hole(test))
}

/// Every test of the crates and of this binary (`it::`), found in the source.
fn all_tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for (folder, prefix) in CRATES {
        let base = root().join(folder);
        for file in rust_files(&base) {
            let path = file.strip_prefix(&base).unwrap().with_extension("");
            let parts = path
                .components()
                .map(|part| part.as_os_str().to_str().unwrap())
                .filter(|part| *part != "main" && *part != "lib");
            let module: Vec<&str> =
                Some(prefix).into_iter().filter(|prefix| !prefix.is_empty()).chain(parts).collect();
            tests.extend(tests_of(&read_file(&file), &module.join("::")));
        }
    }
    tests
}

/// The tests in a file, under its module and its inline modules.
fn tests_of(text: &str, module: &str) -> Vec<String> {
    let mut inner = None;
    let mut marked = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            inner = Some(name);
        } else if line == "}" {
            inner = None;
        }
        let line = line.trim_start();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(rest) =
            line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "))
        {
            let name = rest.split(['(', '<']).next().unwrap();
            if std::mem::take(&mut marked) {
                found.push(
                    [Some(module), inner, Some(name)]
                        .into_iter()
                        .flatten()
                        .collect::<Vec<_>>()
                        .join("::"),
                );
            }
        }
    }
    found
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    read_file(&root().join(page))
}

fn read_file(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
