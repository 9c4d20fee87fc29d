//! Dependencies between the modules of a crate, by the paths that begin with `crate::`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::source::{code_lines, is_test, rust_files};

/// The top-level modules of one crate. Each edge holds the first line that creates it.
pub struct Graph {
    edges: BTreeMap<(String, String), String>,
}

impl Graph {
    /// The graph of the crate in a folder. Tests are excluded.
    pub fn of(folder: &Path) -> Self {
        let mut edges = BTreeMap::new();
        for file in rust_files(folder)
            .into_iter()
            .filter(|file| !is_test(file) && !file.ends_with("lib.rs"))
        {
            let path = file.strip_prefix(folder).unwrap();
            let from =
                path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
            for (number, line) in code_lines(&fs::read_to_string(&file).unwrap()) {
                for to in named(line).filter(|to| *to != from) {
                    let edge =
                        format!("{from} -> {to}: {}:{number}: {}", path.display(), line.trim());
                    edges.entry((from.clone(), to.to_owned())).or_insert(edge);
                }
            }
        }
        assert!(edges.len() > 1, "{}", folder.display());
        Self { edges }
    }

    /// The lines of a dependency cycle, direct or indirect; empty if there is none.
    pub fn circle(&self) -> Vec<String> {
        let mut left: BTreeSet<&(String, String)> = self.edges.keys().collect();
        loop {
            // A module that needs no other one, or that no other one needs, is not part of a cycle.
            let needing: BTreeSet<&str> = left.iter().map(|(from, _)| from.as_str()).collect();
            let needed: BTreeSet<&str> = left.iter().map(|(_, to)| to.as_str()).collect();
            let before = left.len();
            left.retain(|(from, to)| {
                needing.contains(to.as_str()) && needed.contains(from.as_str())
            });
            if left.len() == before {
                return left.into_iter().map(|edge| self.edges[edge].clone()).collect();
            }
        }
    }
}

/// The modules that a line names after `crate::`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").flat_map(|(start, path)| {
        let rest = &line[start + path.len()..];
        let names = rest.strip_prefix('{').map_or(rest, |group| group.split('}').next().unwrap());
        let count = if rest.starts_with('{') { usize::MAX } else { 1 };
        names.split(',').take(count).map(|name| {
            name.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()
        })
    })
}

#[test]
fn a_circle_is_found_and_an_order_is_none() {
    let graph = |edges: &[(&str, &str)]| Graph {
        edges: edges
            .iter()
            .map(|(from, to)| (((*from).to_owned(), (*to).to_owned()), format!("{from}-{to}")))
            .collect(),
    };
    assert!(graph(&[("a", "b"), ("b", "c"), ("a", "c")]).circle().is_empty());
    assert_eq!(
        graph(&[("x", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]).circle(),
        ["a-b", "b-c", "c-a"]
    );
    assert_eq!(
        named("use crate::{files, tls::Tls}; crate::proxy::x()").collect::<Vec<_>>(),
        ["files", "tls", "proxy"]
    );
}
