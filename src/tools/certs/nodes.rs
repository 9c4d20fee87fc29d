//! The names of nodes: a file with one on each line, or the JSON of `calicoctl get nodes` or
//! `kubectl get nodes`.

mod json;
mod lines;

use std::collections::HashMap;

use etcd_warden_core::diagnostics::{Diagnostic, Diagnostics, Severity, SourcePosition};
use etcd_warden_core::policy::name::is_subdomain;

/// Which name of a Kubernetes node is Calico's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum NameFrom {
    /// `metadata.name`.
    #[default]
    Name,
    /// The host name among `status.addresses`, in lower case: what calico/node takes when
    /// `NODENAME` is not set.
    Hostname,
}

/// Names as etcd has them, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// The names.
    pub names: Vec<String>,
    /// What was taken otherwise than written.
    pub notes: Diagnostics,
}

/// A name where it stands.
struct Written<'a> {
    text: std::borrow::Cow<'a, str>,
    at: Option<usize>,
}

/// Reads names from a file's text. What begins with `{` is JSON.
///
/// # Errors
/// Every line or entry that names no node, or the same node again.
pub fn parse(file: &str, text: &str, from: NameFrom) -> Result<Nodes, Diagnostics> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source { file, text };
    let mut found = Diagnostics::default();
    let written = if text.trim_start().starts_with(['{', '[']) {
        json::names(&source, from, &mut found)
    } else {
        lines::names(&source, &mut found)
    };
    if written.is_empty() && !found.has_errors() {
        found.append(Diagnostics::about(
            file,
            "there is no node in it",
            Some("one name on each line, or the JSON of `calicoctl get nodes -o json`"),
        ));
    }
    check(&source, &written, found)
}

/// Names from the command line.
///
/// # Errors
/// As [`parse`].
pub fn given(names: &[String]) -> Result<Nodes, Diagnostics> {
    let written: Vec<Written<'_>> =
        names.iter().map(|name| Written { text: name.as_str().into(), at: None }).collect();
    check(&Source { file: "--node", text: "" }, &written, Diagnostics::default())
}

fn check(
    source: &Source<'_>,
    written: &[Written<'_>],
    mut found: Diagnostics,
) -> Result<Nodes, Diagnostics> {
    let mut names: Vec<String> = Vec::new();
    let mut seen: HashMap<String, &Written<'_>> = HashMap::new();
    let mut raised: Vec<&Written<'_>> = Vec::new();
    for one in written {
        let name = one.text.to_ascii_lowercase();
        if name != one.text {
            raised.push(one);
        }
        if !is_subdomain(&name) {
            let help = "lower-case letters, digits, `-` and `.`; each part begins and ends with a letter or a digit; at most 253 characters";
            found.push(source.finding(
                Severity::Error,
                one,
                format!("`{}` is no name of a node", shown(&one.text)),
                help,
            ));
        } else if let Some(before) = seen.get(&name) {
            let place = before
                .at
                .map(|at| source.place(at, 0).line)
                .map_or(String::new(), |line| format!(" in line {line}"));
            let cased = if before.text == one.text { "" } else { ": etcd has both in lower case" };
            found.push(source.finding(
                Severity::Error,
                one,
                format!("node `{name}` stands here again, first{place}{cased}"),
                "a node is named once",
            ));
        } else {
            seen.insert(name.clone(), one);
            names.push(name);
        }
    }
    if found.has_errors() {
        found.sort();
        return Err(found);
    }
    if let Some(first) = raised.first() {
        let many = if raised.len() == 1 {
            "a name has".to_owned()
        } else {
            format!("{} names have", raised.len())
        };
        let message = format!(
            "{many} upper-case letters: Calico writes host names in lower case, so that the certificate says `{}`",
            first.text.to_ascii_lowercase()
        );
        found.push(source.finding(
            Severity::Warning,
            first,
            message,
            "`calicoctl get nodes` shows the names as etcd has them",
        ));
    }
    Ok(Nodes { names, notes: found })
}

/// The file's text, to tell where something stands.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn finding(
        &self,
        severity: Severity,
        one: &Written<'_>,
        message: String,
        help: &str,
    ) -> Diagnostic {
        let width = one.text.chars().count();
        self.at(severity, one.at.map(|at| self.place(at, width)), message, help)
    }

    fn at(
        &self,
        severity: Severity,
        place: Option<SourcePosition>,
        message: String,
        help: &str,
    ) -> Diagnostic {
        let diagnostic = Diagnostic::new(severity, self.file, message).help(help);
        match place {
            Some(place) => diagnostic.at(self.text, place),
            None => diagnostic,
        }
    }

    /// The place of the byte `at`.
    fn place(&self, at: usize, width: usize) -> SourcePosition {
        let before = self.text.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        SourcePosition { line: before.matches('\n').count() + 1, column, width }
    }

    /// Where a part of the text begins in it.
    fn offset(&self, part: &str) -> Option<usize> {
        part.as_ptr()
            .addr()
            .checked_sub(self.text.as_ptr().addr())
            .filter(|at| *at <= self.text.len())
    }
}

fn shown(text: &str) -> String {
    let cut: String = text.chars().take(80).collect();
    let more = if cut.len() < text.len() { "..." } else { "" };
    format!("{}{more}", cut.escape_debug())
}

#[cfg(test)]
mod tests;
