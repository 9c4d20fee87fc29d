//! A mistake, where it stands, and what to write instead.

use std::fmt;
use std::sync::Arc;

use etcd_warden_core::printable::{Printable, is_unfit};

/// A text that was read, kept so that mistakes can show their line.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceText {
    /// Its path, as the operator wrote it.
    pub name: String,
    /// What was read.
    pub text: String,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag, with its dashes.
    Flag(String),
    /// An environment variable.
    Variable(String),
    /// A place in the file.
    File {
        /// The file.
        source: Arc<SourceText>,
        /// Counted from 1; 0 means the file as a whole.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
    },
    /// Nobody set it.
    Default,
}

impl Origin {
    /// Without the column: what `--print-config` shows.
    #[must_use]
    pub fn short(&self) -> String {
        match self {
            Origin::Flag(flag) => format!("flag {flag}"),
            Origin::Variable(name) => format!("env {name}"),
            Origin::File { source, line, .. } => format!("{}:{line}", Printable(&source.name)),
            Origin::Default => "default".to_owned(),
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = Printable(&self.message);
        match &self.origin {
            Origin::Default => write!(f, "{message}"),
            Origin::Flag(name) | Origin::Variable(name) => write!(f, "{name}: {message}"),
            Origin::File { source, line: 0, .. } => {
                write!(f, "{}: {message}", Printable(&source.name))
            }
            Origin::File { source, line, column } => {
                write!(f, "{}:{line}:{column}: {message}", Printable(&source.name))?;
                let Some(text) = source.text.lines().nth(line - 1) else { return Ok(()) };
                let shown: String =
                    text.chars().take(SHOWN).map(|c| if is_unfit(c) { ' ' } else { c }).collect();
                write!(f, "\n{line:>5} | {}", shown.trim_end())?;
                if *column <= SHOWN { write!(f, "\n      | {:>column$}", '^') } else { Ok(()) }
            }
        }
    }
}

/// Characters of a source line that are shown.
const SHOWN: usize = 160;

/// All mistakes: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// `, did you mean ...`, if any of the known names is close to the unknown one; else nothing.
pub(super) fn suggestion<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known.map(|name| (distance(unknown, name), name)).min();
    match near {
        Some((distance, name)) if distance <= unknown.len().max(name.len()) / 3 => {
            format!(", did you mean `{name}`")
        }
        _ => String::new(),
    }
}

/// Letters to insert, remove or replace to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            // On entry `cell` is the value above; `diagonal` the one before it.
            left = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, left);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("abc", "", 3),
            ("", "ab", 2),
            ("pin", "pin", 0),
            ("listen_addr", "listen-addr", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["listen-addr", "policy", "pin"];
        assert_eq!(suggestion("listen_adr", known.into_iter()), ", did you mean `listen-addr`");
        assert_eq!(suggestion("frobnicate", known.into_iter()), "");
    }

    #[test]
    fn a_mistake_in_a_file_shows_its_line_and_a_caret() {
        let source = Arc::new(SourceText {
            name: "w.yaml".into(),
            text: "pin: false\nmode: sahdow\n".into(),
        });
        let mistake = Diagnostic {
            origin: Origin::File { source, line: 2, column: 7 },
            message: "no".into(),
        };
        assert_eq!(mistake.to_string(), "w.yaml:2:7: no\n    2 | mode: sahdow\n      |       ^");
    }

    #[test]
    fn control_characters_of_a_file_do_not_reach_the_terminal() {
        let source =
            Arc::new(SourceText { name: "w.yaml".into(), text: "pin: \u{1b}[2J\n".into() });
        let shown = Diagnostic {
            origin: Origin::File { source, line: 1, column: 1 },
            message: "no".into(),
        }
        .to_string();
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
}
