//! The glossary of CONTRIBUTING.md, as far as text alone can show it: banned words, the length of
//! test names, and the width of Rust code.

use std::fs;
use std::path::{Path, PathBuf};

/// A banned word or phrase, and the wording to use instead.
const BANNED: &[(&str, &str)] = &[
    ("whoever", "the client, the identity or the attacker that"),
    ("somebody", "another client, another identity"),
    ("nobody", "no client"),
    ("everybody", "every client"),
    ("be it", "whether, or a list of the cases"),
    ("goes on", "continues, is forwarded, stays open"),
    ("once more", "again, a second time"),
    ("anew", "again"),
    ("mistake", "error"),
    ("mistakes", "errors"),
    ("counts now", "is in effect"),
    ("counts no more", "is no longer valid"),
    ("the last good one", "the previous version"),
];

/// Hits that remain from before the glossary, by folder. The numbers may only shrink.
const REMAINING: &[(&str, usize)] =
    &[("src", 559), ("tests", 8), ("docs", 5), ("deploy", 0), ("", 1)];

/// Rust lines wider than 100 characters, mostly string literals. The number may only shrink.
const WIDE_LINES: usize = 565;

/// Tests in `src` whose names are longer than that of a test may be. The number may only shrink.
const LONG_NAMES: usize = 61;

/// Maximum length of a test's name.
const NAME: usize = 60;
/// Maximum width of a line of Rust.
const WIDTH: usize = 100;

/// These files contain the banned words on purpose.
const EXEMPT: [&str; 2] = ["CONTRIBUTING.md", "tests/it/glossary.rs"];

#[test]
fn no_text_uses_a_banned_word() {
    let mut excess = Vec::new();
    for (folder, remaining) in REMAINING {
        let hits: Vec<String> = texts(folder).iter().flat_map(|path| banned_in(path)).collect();
        if hits.len() > *remaining {
            excess.push(format!(
                "`{folder}` may have {remaining} hits and has {}:\n{}",
                hits.len(),
                hits.join("\n")
            ));
        }
    }
    assert!(excess.is_empty(), "{}", excess.join("\n"));
}

#[test]
fn test_names_have_at_most_sixty_characters() {
    let mut long = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        let mut is_test = false;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            if let Some(name) = function_name(line) {
                if is_test && name.len() > NAME {
                    long.push(format!("{}:{}: {name}", shown(&path), index + 1));
                }
                is_test = false;
            }
        }
    }
    assert!(
        long.len() <= LONG_NAMES,
        "{} names of more than {NAME} characters, {LONG_NAMES} are permitted:\n{}",
        long.len(),
        long.join("\n")
    );
}

#[test]
fn rust_lines_have_at_most_a_hundred_characters() {
    let mut wide = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        for (index, line) in text.lines().enumerate() {
            if line.chars().count() > WIDTH {
                wide.push(format!("{}:{}", shown(&path), index + 1));
            }
        }
    }
    assert!(
        wide.len() <= WIDE_LINES,
        "{} lines of more than {WIDTH} characters, {WIDE_LINES} are permitted:\n{}",
        wide.len(),
        wide.join("\n")
    );
}

#[test]
fn banned_words_are_found_as_whole_words() {
    let found = |text: &str| hits(text).map(|(_, word, _)| word).collect::<Vec<_>>();
    assert_eq!(found("It goes on, and Nobody sees a mistake."), ["nobody", "goes on", "mistake"]);
    assert_eq!(found("mistaken, cargoes only, anewline, maybe items"), Vec::<&str>::new());
    assert_eq!(found("Done once\n/// more."), ["once more"]);
}

/// The banned words of a file, each with its line and the wording to use.
fn banned_in(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let found = hits(&text)
        .map(|(line, word, instead)| format!("{}:{line}: `{word}`: write {instead}", shown(path)));
    found.collect()
}

/// Banned words with the number of the line where each begins. A phrase may continue on the next
/// line, also in a comment.
fn hits(text: &str) -> impl Iterator<Item = (usize, &'static str, &'static str)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let of_line = line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '\'');
        words.extend(
            of_line.filter(|word| !word.is_empty()).map(|word| (index + 1, word.to_lowercase())),
        );
    }
    BANNED.iter().flat_map(move |(banned, instead)| {
        let parts: Vec<&str> = banned.split(' ').collect();
        let matching = words
            .windows(parts.len())
            .filter(|window| window.iter().map(|(_, word)| word).eq(&parts))
            .map(|window| (window[0].0, *banned, *instead));
        matching.collect::<Vec<_>>()
    })
}

fn function_name(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("fn ")?;
    (line.starts_with("fn ") || line.starts_with("async fn ") || line.starts_with("pub"))
        .then(|| rest.split('(').next().unwrap_or(rest))
}

fn rust_files() -> Vec<PathBuf> {
    let folders = ["src", "tests", "benches", "fuzz", "proto"];
    let all = folders.iter().flat_map(|folder| below(&root().join(folder)));
    all.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The text files of a folder; of the root, only the files in it.
fn texts(folder: &str) -> Vec<PathBuf> {
    let files = if folder.is_empty() {
        fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).collect()
    } else {
        below(&root().join(folder))
    };
    let is_text = |path: &PathBuf| {
        let name = shown(path);
        path.is_file()
            && [".rs", ".md", ".yaml", ".service", ".nft", ".hcl", ".sh", ".form"]
                .iter()
                .any(|ending| name.ends_with(ending))
            && !EXEMPT.contains(&&*name)
            && !name.starts_with("tests/manifests")
    };
    files.into_iter().filter(is_text).collect()
}

/// All files below a folder, without build results.
fn below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if !path.is_dir() {
            files.push(path);
        } else if !path.ends_with("target") && !path.ends_with("corpus") {
            files.extend(below(&path));
        }
    }
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
