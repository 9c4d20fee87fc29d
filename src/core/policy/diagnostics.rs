//! What is wrong with a policy, each mistake with its place, its line and what to write instead.

use std::fmt;
use std::sync::Arc;

pub use crate::printable::Printable;
use crate::printable::is_unfit;

/// Characters of a source line that a message shows.
const SHOWN: usize = 120;

/// Findings of one severity that are listed; a file with more has one cause for most of them.
const LISTED: usize = 200;

/// A stretch of one line. Lines and columns count from 1, columns and widths in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column of the first character.
    pub column: usize,
    /// Characters.
    pub width: usize,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The policy is refused.
    Mistake,
    /// The policy is taken, but somebody should look.
    Warning,
}

impl Severity {
    /// The stable name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Mistake => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file's name, or `builtin:ROLE-SET`.
    pub file: Arc<str>,
    /// Where; `None` when it is about the file as a whole.
    pub place: Option<Place>,
    /// The source line at that place.
    pub line: Option<Box<str>>,
    /// What is wrong: lower case, no period, user input in backticks.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.severity.name(), Printable(&self.message))?;
        let file = Printable(&self.file);
        match self.place {
            None => writeln!(f, "  --> {file}")?,
            Some(place) => {
                writeln!(f, "  --> {file}:{}:{}", place.line, place.column)?;
                if let Some(line) = &self.line {
                    excerpt(f, place, line)?;
                }
            }
        }
        match &self.help {
            None => Ok(()),
            Some(help) => writeln!(f, "  = help: {}", Printable(help)),
        }
    }
}

/// Everything that was found, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// One mistake about a file as a whole.
    #[must_use]
    pub fn about(file: &str, message: impl Into<String>, help: Option<&str>) -> Self {
        let mut all = Self::default();
        all.push(Diagnostic {
            severity: Severity::Mistake,
            file: file.into(),
            place: None,
            line: None,
            message: message.into(),
            help: help.map(str::to_owned),
        });
        all
    }

    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Adds all findings of `other`.
    pub fn append(&mut self, mut other: Diagnostics) {
        self.list.append(&mut other.list);
    }

    /// The findings.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// Whether nothing was found at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many findings of this severity there are.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    /// Whether the policy must be refused.
    #[must_use]
    pub fn has_mistakes(&self) -> bool {
        self.count(Severity::Mistake) > 0
    }

    /// Sorts by place; findings about the file as a whole come first.
    pub fn sort(&mut self) {
        self.list.sort_by_key(|diagnostic| diagnostic.place);
    }

    /// The findings for machines: a list of objects with `severity`, `file`, `line`, `column`,
    /// `message`, `help`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let one = |diagnostic: &Diagnostic| {
            serde_json::json!({
                "severity": diagnostic.severity.name(),
                "file": &*diagnostic.file,
                "line": diagnostic.place.map(|place| place.line),
                "column": diagnostic.place.map(|place| place.column),
                "message": diagnostic.message,
                "help": diagnostic.help,
            })
        };
        self.list.iter().map(one).collect()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, diagnostic) in self.list.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Collects what is found in one text, and fetches the lines.
pub struct Findings<'t> {
    file: Arc<str>,
    text: &'t str,
    found: Diagnostics,
    unlisted_mistakes: usize,
    unlisted_warnings: usize,
}

impl<'t> Findings<'t> {
    /// Of a file that has this name and this text.
    #[must_use]
    pub fn new(file: &str, text: &'t str) -> Self {
        Self {
            file: file.into(),
            text,
            found: Diagnostics::default(),
            unlisted_mistakes: 0,
            unlisted_warnings: 0,
        }
    }

    /// Whether there is an error so far.
    #[must_use]
    pub fn has_mistakes(&self) -> bool {
        self.found.has_mistakes()
    }

    /// `FILE:LINE`, as a grant's source.
    #[must_use]
    pub fn source(&self, place: Place) -> Arc<str> {
        format!("{}:{}", self.file, place.line).into()
    }

    /// Adds an error.
    pub fn mistake(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Mistake, place, message.into(), help.into());
    }

    /// Adds a warning.
    pub fn warning(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Warning, place, message.into(), help.into());
    }

    /// All that was found, by place.
    #[must_use]
    pub fn finish(mut self) -> Diagnostics {
        self.found.sort();
        for (severity, count) in [
            (Severity::Mistake, self.unlisted_mistakes),
            (Severity::Warning, self.unlisted_warnings),
        ] {
            if count > 0 {
                let message = format!("{count} more are not listed");
                self.found.push(Diagnostic {
                    severity,
                    file: Arc::clone(&self.file),
                    place: None,
                    line: None,
                    message,
                    help: None,
                });
            }
        }
        self.found
    }

    fn add(&mut self, severity: Severity, place: Place, message: String, help: String) {
        // Each severity has its own share: a flood of warnings must not hide a mistake.
        if self.found.count(severity) >= LISTED {
            match severity {
                Severity::Mistake => self.unlisted_mistakes += 1,
                Severity::Warning => self.unlisted_warnings += 1,
            }
            return;
        }
        let line = place.line.checked_sub(1).and_then(|at| self.text.lines().nth(at));
        self.found.push(Diagnostic {
            severity,
            file: Arc::clone(&self.file),
            place: (place.line > 0).then_some(place),
            line: line.map(Into::into),
            message,
            help: (!help.is_empty()).then_some(help),
        });
    }
}

/// The known name that a misspelt one most likely means: at most a third of its letters differ.
pub(super) fn nearest<'n>(
    written: &str,
    known: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let limit = (written.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (distance(written, name), name))
        .filter(|(far, _)| *far <= limit)
        .min_by_key(|(far, _)| *far)
        .map(|(_, name)| name)
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(80).collect(), b.chars().take(80).collect());
    let mut two_ago: Vec<usize> = Vec::new();
    let mut before: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let at =
                |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&before, j) + usize::from(from != to))
                .min(at(&before, j + 1) + 1)
                .min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(to) && b.get(j - 1) == Some(from);
            if swapped {
                best = best.min(at(&two_ago, j - 1) + 1);
            }
            row.push(best);
        }
        two_ago = std::mem::replace(&mut before, row);
    }
    before.last().copied().unwrap_or(0)
}

/// The line with a caret under the place; of a long line, what is around the place.
fn excerpt(f: &mut fmt::Formatter<'_>, place: Place, line: &str) -> fmt::Result {
    let number = place.line.to_string();
    let margin = " ".repeat(number.len());
    let before = place.column.saturating_sub(1);
    let skipped = before.saturating_sub(SHOWN / 2);
    let shown: String = line.chars().skip(skipped).take(SHOWN).map(printable).collect();
    let caret = before.min(line.chars().count()) - skipped.min(before.min(line.chars().count()));
    let room = shown.chars().count().saturating_sub(caret).max(1);
    writeln!(f, " {margin} |")?;
    writeln!(f, " {number} | {}", shown.trim_end())?;
    writeln!(f, " {margin} | {}{}", " ".repeat(caret), "^".repeat(place.width.clamp(1, room)))
}

fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        // One character for one, so that the caret is under its place.
        c if is_unfit(c) => '\u{fffd}',
        c => c,
    }
}
