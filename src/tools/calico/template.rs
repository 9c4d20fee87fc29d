//! Detects a manifest that is still a template of Helm, Ansible or envsubst.

use etcd_warden_core::diagnostics::SourcePosition;

use etcd_warden_core::yaml::{Data, Node, Style};

pub(super) const HELP: &str = "this is a template: use the rendered manifest (the output of \
                               `helm template` or `envsubst`, or the file that Ansible writes)";

/// A placeholder: position and text.
pub(super) type Placeholder = (SourcePosition, String);

/// Finds placeholders in a text that is no YAML: `{{` and `{%` often make it invalid.
pub(super) fn in_text(text: &str) -> Vec<Placeholder> {
    let placeholder = |(number, line): (usize, &str)| {
        let content = if line.trim_start().starts_with('#') {
            ""
        } else {
            line.split(" #").next().unwrap_or_default()
        };
        let (at, written) = ["{{", "{%"]
            .into_iter()
            .filter_map(|mark| placeholder_in(content, mark))
            .min_by_key(|(at, _)| *at)?;
        let position = SourcePosition {
            line: number + 1,
            column: content.get(..at)?.chars().count() + 1,
            width: written.chars().count(),
        };
        Some((position, written.to_owned()))
    };
    text.lines().enumerate().filter_map(placeholder).collect()
}

/// Finds scalars with placeholders in a tree. `${` in `command`, in `args` and in block scalars is
/// for a shell.
pub(super) fn in_tree(root: &Node<'_>) -> Vec<Placeholder> {
    let (mut found, mut open) = (Vec::new(), vec![root]);
    while let Some(node) = open.pop() {
        match &node.data {
            Data::Scalar { text, style } => {
                let is_tagged = *style == Style::Plain && node.tag.is_some();
                let marks: &[&str] = if *style == Style::Block || is_tagged {
                    &["{{", "{%"]
                } else {
                    &["{{", "{%", "${"]
                };
                let first = marks
                    .iter()
                    .filter_map(|mark| placeholder_in(text, mark))
                    .min_by_key(|(at, _)| *at);
                found.extend(first.map(|(_, written)| (node.position, written.to_owned())));
            }
            Data::List { items, .. } => open.extend(items.iter()),
            Data::Map { entries, .. } => {
                let is_for_shell =
                    |key: &Node<'_>| matches!(key.scalar(), Some("command" | "args"));
                open.extend(
                    entries
                        .iter()
                        .filter(|(key, _)| !is_for_shell(key))
                        .flat_map(|(key, value)| [key, value]),
                );
            }
        }
    }
    found.sort_by_key(|(position, _)| *position);
    found
}

/// The text from the mark to its closing mark, and its byte offset.
fn placeholder_in<'t>(text: &'t str, mark: &str) -> Option<(usize, &'t str)> {
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
