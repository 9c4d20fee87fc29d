//! A manifest that is still a template: its program (Helm, Ansible, envsubst) has to fill it in
//! before it can be read.

use etcd_warden_core::policy::diagnostics::Place;

use super::yaml::{Data, Node, Style};

/// What is done about it.
pub(super) const HELP: &str = "this is a template, and not a manifest yet: give what comes of it (`helm template`, the file that Ansible \
                               writes, the output of `envsubst`)";

/// A place that is not filled in, as it is written.
pub(super) type Gap = (Place, String);

/// In a text that is no YAML: with `{{` or `{%` it often is none.
pub(super) fn in_text(text: &str) -> Vec<Gap> {
    let gap = |(number, line): (usize, &str)| {
        let content = if line.trim_start().starts_with('#') {
            ""
        } else {
            line.split(" #").next().unwrap_or_default()
        };
        let (at, written) = ["{{", "{%"]
            .into_iter()
            .filter_map(|mark| found(content, mark))
            .min_by_key(|(at, _)| *at)?;
        let place = Place {
            line: number + 1,
            column: content.get(..at)?.chars().count() + 1,
            width: written.chars().count(),
        };
        Some((place, written.to_owned()))
    };
    text.lines().enumerate().filter_map(gap).collect()
}

/// In a tree: a scalar with a mark in it. What a shell fills in, in `command` and `args` and in
/// scripts, is none.
pub(super) fn in_tree(root: &Node) -> Vec<Gap> {
    let (mut gaps, mut open) = (Vec::new(), vec![root]);
    while let Some(node) = open.pop() {
        match &node.data {
            Data::Scalar { text, style } => {
                let marks: &[&str] =
                    if *style == Style::Block { &["{{", "{%"] } else { &["{{", "{%", "${"] };
                let first =
                    marks.iter().filter_map(|mark| found(text, mark)).min_by_key(|(at, _)| *at);
                gaps.extend(first.map(|(_, written)| (node.place, written.to_owned())));
            }
            Data::List { items, .. } => open.extend(items),
            Data::Map { entries, .. } => {
                let is_shells = |key: &Node| matches!(key.scalar(), Some("command" | "args"));
                open.extend(
                    entries
                        .iter()
                        .filter(|(key, _)| !is_shells(key))
                        .flat_map(|(key, value)| [key, value]),
                );
            }
        }
    }
    gaps.sort_by_key(|(place, _)| *place);
    gaps
}

/// From the mark to what closes it.
fn found<'t>(text: &'t str, mark: &str) -> Option<(usize, &'t str)> {
    let close = match mark {
        "{{" => "}}",
        "{%" => "%}",
        _ => "}",
    };
    let at = text.find(mark)?;
    let rest = text.get(at..)?;
    let end = rest.find(close).map_or(rest.len(), |end| end + close.len());
    Some((at, rest.get(..end)?.lines().next()?))
}
