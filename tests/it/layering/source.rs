//! Source files and their lines of code.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The crates with several modules, each with its folder.
pub fn crates() -> [(&'static str, PathBuf); 4] {
    ["core", "gateway", "tools", "testbed"].map(|name| (name, root().join("src").join(name)))
}

/// All files below a folder, sorted.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
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

/// True if a file is compiled for tests only: with `cfg(test)`, or with the feature `model`.
pub fn is_test(file: &Path) -> bool {
    let words = [
        "tests",
        "properties",
        "reference",
        "fuzzing",
        "access_page",
        "docs_test",
        "unknown_fields",
        "enum_values",
        "spell",
    ];
    // Relative, so that a checkout in a folder called `tests` makes no difference.
    let file = file.strip_prefix(root()).unwrap_or(file);
    file.iter().any(|part| words.contains(&part.to_str().unwrap().trim_end_matches(".rs")))
}

/// The numbered lines of a file before its tests, without comments.
pub fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap()))
        .filter(|(_, line)| !line.trim().is_empty())
}

/// True if a line of code names a crate or a module of std, also within a group of imports.
pub fn names(line: &str, name: &str) -> bool {
    let line = line.trim();
    if let Some(group) = line.strip_prefix("use std::{") {
        let inside = name.strip_prefix("std::").unwrap_or("::");
        return group.split([',', '}', ' ', ':']).any(|word| word == inside);
    }
    line.match_indices(name).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = &line[start + name.len()..];
        let is_whole = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        is_whole
            && (after.starts_with("::")
                || (line.starts_with("use ") && after.starts_with([';', ' '])))
    })
}

#[test]
fn lines_and_names_are_found() {
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
    for (line, name) in [
        ("let metrics = 1;", "metrics"),
        ("use std::fmt;", "std::fs"),
        ("use self::sh2::X;", "h2"),
        ("time::x()", "std::time"),
    ] {
        assert!(!names(line, name), "{line}");
    }
    let lines: Vec<_> = code_lines("a\n// b\n/// c\nd // e\n#[cfg(test)]\nmod tests {\nf\n}")
        .map(|(_, line)| line)
        .collect();
    assert_eq!(lines, ["a", "d "]);
}
