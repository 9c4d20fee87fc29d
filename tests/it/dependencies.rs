//! `docs/dependencies.md` names every direct dependency with its locked version, maintainer,
//! purpose and place, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The external packages that the crates of the workspace depend on, under their own names.
fn direct(manifest: &str) -> BTreeSet<String> {
    let mut packages = BTreeSet::new();
    let mut counts = false;
    for line in manifest.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with('[') {
            counts = line == "[workspace.dependencies]";
        } else if let Some((name, value)) =
            line.split_once(" = ").filter(|(name, _)| counts && !name.starts_with("etcd-warden-"))
        {
            let renamed =
                value.split_once("package = \"").and_then(|(_, package)| package.split('"').next());
            packages.insert(renamed.unwrap_or(name).to_owned());
        }
    }
    packages
}

/// Every locked version of each package.
fn locked(lock: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line =
                package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.unwrap().trim_matches('"').to_owned()
        };
        versions.entry(field("name")).or_default().insert(field("version"));
    }
    versions
}

/// The packages in the tables with that header, each with its version.
fn documented(page: &str) -> BTreeMap<String, String> {
    let mut packages = BTreeMap::new();
    for table in page
        .split("| crate | version | maintainer | purpose | where |\n|---|---|---|---|---|\n")
        .skip(1)
    {
        for row in table.lines().take_while(|line| line.starts_with('|')) {
            add_row(row, &mut packages);
        }
    }
    packages
}

fn add_row(row: &str, packages: &mut BTreeMap<String, String>) {
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [names, versions, keeper, purpose, place] = cells[..] else {
        panic!("wrong number of cells: {row}")
    };
    assert!(![keeper, purpose, place].contains(&""), "a cell is empty: {row}");
    let (names, versions): (Vec<&str>, Vec<&str>) =
        (names.split(", ").collect(), versions.split(", ").collect());
    assert_eq!(names.len(), versions.len(), "{row}");
    for (name, version) in names.iter().zip(versions) {
        let before = packages.insert(name.trim_matches('`').to_owned(), version.to_owned());
        assert_eq!(before, None, "{name} is listed twice");
    }
}

#[test]
fn the_page_names_each_direct_dependency_in_its_locked_version() {
    let (direct, locked, documented) = (
        direct(&read("Cargo.toml")),
        locked(&read("Cargo.lock")),
        documented(&read("docs/dependencies.md")),
    );
    assert!(direct.len() > 30, "Cargo.toml was parsed wrongly: {direct:?}");
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), direct);
    for (name, version) in &documented {
        assert!(
            locked[name].contains(version),
            "docs/dependencies.md has {name} {version}, Cargo.lock has {:?}",
            locked[name]
        );
    }
}

#[test]
fn the_page_counts_the_locked_packages() {
    let count = read("Cargo.lock").matches("[[package]]").count();
    assert!(
        read("docs/dependencies.md").contains(&format!("{count} packages are locked")),
        "Cargo.lock has {count}"
    );
}

#[test]
fn dependencies_are_read_as_they_are_written() {
    let manifest = "[package]\nname = \"x\"\n[workspace.dependencies]\netcd-warden-core = { path = \"src/core\" }\na = \"1\"\nb = { package = \"c\", version = \"1\" }\n\n# x = y\n[dependencies]\nd = \"1\"";
    assert_eq!(direct(manifest), ["a", "c"].map(str::to_owned).into());
    let page = "| crate | version | maintainer | purpose | where |\n|---|---|---|---|---|\n| `a`, `c` | 1, 2 | k | p | w |\n\n| `base64` | 0.22 | x |";
    assert_eq!(
        documented(page),
        [("a", "1"), ("c", "2")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into()
    );
}
