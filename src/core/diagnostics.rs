//! Errors and warnings about text that an operator wrote: policies, configuration, manifests and
//! the arguments of commands. Each has its source position, an excerpt and a hint.

mod nearest;

use std::fmt;
use std::sync::Arc;

pub use nearest::nearest;

use crate::printable::{Printable, is_unfit};

/// Characters of a source line that an excerpt shows.
const EXCERPT_WIDTH: usize = 120;

/// Diagnostics of one severity that [`Findings`] lists. One cause usually explains all of a flood.
const LISTED: usize = 200;

/// A range of characters in one line of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourcePosition {
    /// Line, from 1; 0 means the text as a whole.
    pub line: usize,
    /// Column of the first character, from 1, in characters.
    pub column: usize,
    /// Number of characters.
    pub width: usize,
}

/// Whether a diagnostic prevents the use of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The text is refused.
    Error,
    /// The text is accepted, but probably does not mean what its author wanted.
    Warning,
}

impl Severity {
    /// The name in output, which is stable.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// The part of a source line around a position.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: Box<str>,
    /// Characters of `text` before the position.
    caret: usize,
}

impl Excerpt {
    fn of(line: &str, position: SourcePosition) -> Self {
        let length = line.chars().count();
        let before = position.column.saturating_sub(1).min(length);
        let skipped = before.saturating_sub(EXCERPT_WIDTH / 2);
        let shown = line.chars().skip(skipped).take(EXCERPT_WIDTH).map(fit);
        Self { text: shown.collect(), caret: before - skipped }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, position: SourcePosition) -> fmt::Result {
        let number = position.line.to_string();
        let margin = " ".repeat(number.len());
        let caret = " ".repeat(self.caret);
        let room = self.text.chars().count().saturating_sub(self.caret).max(1);
        writeln!(f, " {margin} |")?;
        writeln!(f, " {number} | {}", self.text.trim_end())?;
        writeln!(f, " {margin} | {caret}{}", "^".repeat(position.width.clamp(1, room)))
    }
}

/// Replaces a character that a terminal would obey by one of the same width, so that the caret
/// stays below its position.
fn fit(c: char) -> char {
    match c {
        '\t' => ' ',
        c if is_unfit(c) => '\u{fffd}',
        c => c,
    }
}

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The file, flag or environment variable; `None` for a setting that no source sets.
    pub origin: Option<Arc<str>>,
    /// The position in the file; `None` for a flag, a variable or a file as a whole.
    pub position: Option<SourcePosition>,
    excerpt: Option<Excerpt>,
    /// The problem: lower case, no final period, user input in backticks.
    pub message: String,
    /// How to correct it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A diagnostic about `origin` as a whole.
    #[must_use]
    pub fn new(severity: Severity, origin: &str, message: impl Into<String>) -> Self {
        Self {
            severity,
            origin: Some(origin.into()),
            position: None,
            excerpt: None,
            message: message.into(),
            help: None,
        }
    }

    /// An error about something that is missing from every source.
    #[must_use]
    pub fn without_origin(message: impl Into<String>) -> Self {
        Self { origin: None, ..Self::new(Severity::Error, "", message) }
    }

    /// Adds a hint; an empty one is left out.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()).filter(|help| !help.is_empty()), ..self }
    }

    /// Adds a position in `text`, with an excerpt. Line 0 means the text as a whole.
    #[must_use]
    pub fn at(self, text: &str, position: SourcePosition) -> Self {
        let index = position.line.checked_sub(1);
        let line = index.and_then(|index| text.lines().nth(index));
        Self {
            position: index.map(|_| position),
            excerpt: line.map(|line| Excerpt::of(line, position)),
            ..self
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.severity.name(), Printable(&self.message))?;
        if let Some(origin) = &self.origin {
            write!(f, "  --> {}", Printable(origin))?;
            match self.position {
                None => writeln!(f)?,
                Some(position) => writeln!(f, ":{}:{}", position.line, position.column)?,
            }
        }
        if let (Some(position), Some(excerpt)) = (self.position, &self.excerpt) {
            excerpt.write(f, position)?;
        }
        match &self.help {
            None => Ok(()),
            Some(help) => writeln!(f, "  = help: {}", Printable(help)),
        }
    }
}

/// A list of errors and warnings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// A single error about a file, a flag or a variable as a whole.
    pub fn about(origin: &str, message: impl Into<String>, help: Option<&str>) -> Self {
        let error = Diagnostic::new(Severity::Error, origin, message);
        Self { list: vec![error.help(help.unwrap_or_default())] }
    }

    /// Adds a diagnostic.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Adds all diagnostics of `other`.
    pub fn append(&mut self, mut other: Diagnostics) {
        self.list.append(&mut other.list);
    }

    /// All diagnostics, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// True if there is neither an error nor a warning.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The number of errors and warnings.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The number of diagnostics of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    /// True if the text must be refused.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Sorts by source position; diagnostics about a file as a whole come first.
    pub fn sort(&mut self) {
        self.list.sort_by_key(|diagnostic| diagnostic.position);
    }

    /// A JSON list of objects with `severity`, `file`, `line`, `column`, `message` and `help`.
    pub fn to_json(&self) -> serde_json::Value {
        let one = |diagnostic: &Diagnostic| {
            serde_json::json!({
                "severity": diagnostic.severity.name(),
                "file": diagnostic.origin.as_deref(),
                "line": diagnostic.position.map(|position| position.line),
                "column": diagnostic.position.map(|position| position.column),
                "message": diagnostic.message,
                "help": diagnostic.help,
            })
        };
        self.list.iter().map(one).collect()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Collects the diagnostics of one text. A flood is cut: see [`Findings::finish`].
pub struct Findings<'t> {
    file: Arc<str>,
    text: &'t str,
    found: Diagnostics,
    errors: usize,
    warnings: usize,
}

impl<'t> Findings<'t> {
    /// `file` is the name of `text` in messages.
    pub fn new(file: &str, text: &'t str) -> Self {
        Self { file: file.into(), text, found: Diagnostics::default(), errors: 0, warnings: 0 }
    }

    /// True if there is an error so far.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// `FILE:LINE`, the source of a grant.
    pub fn source(&self, position: SourcePosition) -> Arc<str> {
        format!("{}:{}", self.file, position.line).into()
    }

    /// Adds an error; `help` may be empty.
    pub fn error(
        &mut self,
        position: SourcePosition,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.errors += 1;
        // Each severity has its own limit: a flood of warnings must not hide an error.
        if self.errors <= LISTED {
            self.add(Severity::Error, position, message, help);
        }
    }

    /// Adds a warning; `help` may be empty.
    pub fn warning(
        &mut self,
        position: SourcePosition,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.warnings += 1;
        if self.warnings <= LISTED {
            self.add(Severity::Warning, position, message, help);
        }
    }

    /// All diagnostics by position: the first 200 of each severity, then the number of the others.
    #[must_use]
    pub fn finish(mut self) -> Diagnostics {
        self.found.sort();
        for (severity, count) in
            [(Severity::Error, self.errors), (Severity::Warning, self.warnings)]
        {
            if let Some(more @ 1..) = count.checked_sub(LISTED) {
                let message = format!("{more} more {}s are not listed", severity.name());
                self.found.push(Diagnostic::new(severity, &self.file, message));
            }
        }
        self.found
    }

    fn add(
        &mut self,
        severity: Severity,
        position: SourcePosition,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let diagnostic = Diagnostic::new(severity, &self.file, message).help(help);
        self.found.push(diagnostic.at(self.text, position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_a_file_shows_its_line_and_a_caret() {
        let position = SourcePosition { line: 2, column: 7, width: 6 };
        let error = Diagnostic::new(Severity::Error, "w.yaml", "no mode `sahdow`")
            .at("pin: false\nmode: sahdow\n", position)
            .help("did you mean `shadow`?");
        insta::assert_snapshot!(error.to_string(), @r"
        error: no mode `sahdow`
          --> w.yaml:2:7
           |
         2 | mode: sahdow
           |       ^^^^^^
          = help: did you mean `shadow`?
        ");
    }

    #[test]
    fn control_characters_of_a_file_do_not_reach_the_terminal() {
        let position = SourcePosition { line: 1, column: 1, width: 3 };
        let shown = Diagnostic::new(Severity::Error, "w\u{1b}.yaml", "bad \u{1b}[2J")
            .at("pin: \u{1b}[2J\n", position)
            .to_string();
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }

    #[test]
    fn an_error_without_an_origin_is_shown_without_an_arrow() {
        assert_eq!(Diagnostic::without_origin("not set").to_string(), "error: not set\n");
    }
}
