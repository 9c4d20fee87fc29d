//! Reads names of nodes: from a file with one name per line, or from the JSON of `calicoctl get
//! nodes` or `kubectl get nodes`.

mod json;
mod lines;

use std::collections::HashMap;

use etcd_warden_core::diagnostics::{Diagnostic, Diagnostics, Severity, SourcePosition};
use etcd_warden_core::policy::name::is_subdomain;

/// Which name of a Kubernetes node is the name that Calico uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum NameFrom {
    /// `metadata.name`.
    #[default]
    Name,
    /// The address of type `Hostname` in `status.addresses`, in lower case: the name that
    /// calico/node uses if `NODENAME` is not set.
    Hostname,
}

/// Names of nodes as in etcd, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// The names, in lower case.
    pub names: Vec<String>,
    /// Notes about names that were changed.
    pub notes: Diagnostics,
}

/// A name in the input.
struct NodeName<'a> {
    text: std::borrow::Cow<'a, str>,
    /// Byte offset in the file; `None` for the command line.
    at: Option<usize>,
}

/// Reads names from the text of a file. JSON begins with `{` or `[`.
///
/// # Errors
/// Each line or entry that is not a valid name, or repeats one.
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
            "the list contains no node",
            Some("write one name per line, or use the JSON of `calicoctl get nodes -o json`"),
        ));
    }
    check(&source, &written, found)
}

/// Checks names given on the command line.
///
/// # Errors
/// As [`parse`].
pub fn from_arguments(names: &[String]) -> Result<Nodes, Diagnostics> {
    let written: Vec<NodeName<'_>> =
        names.iter().map(|name| NodeName { text: name.as_str().into(), at: None }).collect();
    check(&Source { file: "--node", text: "" }, &written, Diagnostics::default())
}

fn check(
    source: &Source<'_>,
    written: &[NodeName<'_>],
    mut found: Diagnostics,
) -> Result<Nodes, Diagnostics> {
    let mut names: Vec<String> = Vec::new();
    let mut seen: HashMap<String, &NodeName<'_>> = HashMap::new();
    let mut raised: Vec<&NodeName<'_>> = Vec::new();
    for one in written {
        let name = one.text.to_ascii_lowercase();
        if name != one.text {
            raised.push(one);
        }
        if !is_subdomain(&name) {
            let help = "use lower-case letters, digits, `-` and `.`; each part begins and ends \
                        with a letter or a digit; at most 253 characters";
            found.push(source.finding(
                Severity::Error,
                one,
                format!("`{}` is not a valid name of a node", shown(&one.text)),
                help,
            ));
        } else if let Some(before) = seen.get(&name) {
            let place = before
                .at
                .map(|at| source.place(at, 0).line)
                .map_or(String::new(), |line| format!(" on line {line}"));
            let cased = if before.text == one.text { "" } else { ": etcd has both in lower case" };
            found.push(source.finding(
                Severity::Error,
                one,
                format!("node `{name}` is listed again, first{place}{cased}"),
                "list each node once",
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
            "{many} upper-case letters: Calico writes host names in lower case, so the certificate \
             is for `{}`",
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

/// The input, to report source positions.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn finding(
        &self,
        severity: Severity,
        one: &NodeName<'_>,
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

    /// The byte offset of a slice of the text.
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
