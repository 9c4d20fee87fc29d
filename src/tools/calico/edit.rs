//! Applies changes to the text. All other bytes stay as they are.

use std::cmp::Reverse;
use std::ops::Range;

use etcd_warden_core::diagnostics::SourcePosition;
use etcd_warden_core::yaml::{Data, Node, Style};

use super::change::{Change, Changes};
use super::cursor::Path;
use super::value::{self, Step, Value};

/// The reason why a change cannot be made in the text.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) path: Path,
    pub(super) position: SourcePosition,
    pub(super) message: String,
    pub(super) help: String,
}

/// Applies all changes.
///
/// # Errors
/// Every change that cannot be made in the text.
pub(super) fn apply(
    text: &str,
    root: &Node<'_>,
    changes: &Changes,
) -> Result<String, Vec<Refusal>> {
    let (mut edits, mut refusals) = (Vec::new(), Vec::new());
    for change in changes.iter() {
        if let Some(refusal) = contradiction(root, change, changes) {
            refusals.push(refusal);
            continue;
        }
        match edit(text, root, change) {
            Ok((range, new)) => edits.push((range, change.path().len(), new)),
            Err(refusal) => refusals.push(refusal),
        }
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    // If two nodes end at the same byte, additions to the inner one come first.
    edits.sort_by_key(|(range, depth, _)| (range.start, range.end, Reverse(*depth)));
    let (mut result, mut at) = (String::with_capacity(text.len() + 1024), 0);
    for (range, _, new) in edits {
        // One plan has no two edits of the same bytes: the check of the result would fail.
        result.push_str(text.get(at..range.start).unwrap_or_default());
        result.push_str(&new);
        at = range.end.max(at);
    }
    result.push_str(text.get(at..).unwrap_or_default());
    Ok(result)
}

type Edit = (Range<usize>, String);

fn edit(text: &str, root: &Node<'_>, change: &Change) -> Result<Edit, Refusal> {
    let node = reach(root, change.path())?;
    let refuse = |node: &Node<'_>, message: &str, help: &str| Refusal {
        path: change.path().clone(),
        position: node.position,
        message: message.to_owned(),
        help: help.to_owned(),
    };
    let in_flow = |node: &Node<'_>| {
        refuse(
            node,
            "this is in flow style, to which nothing can be added",
            "write each entry or item on its own line",
        )
    };
    let no_line = |node: &Node<'_>| {
        refuse(
            node,
            "a new line cannot be added here",
            "write each entry and item on its own line, indented with spaces",
        )
    };
    match change {
        Change::Set { value, .. } => {
            scalar(text, root, change.path(), node, value).ok_or_else(|| {
                refuse(
                    node,
                    "this is not a scalar on the line of its key",
                    "write it in quotes after its key",
                )
            })
        }
        Change::AddEntries { after, entries, .. } => {
            let Data::Map { flow: false, .. } = node.data else { return Err(in_flow(node)) };
            let (name, before) = node.entry(after).ok_or_else(|| no_line(node))?;
            if before.aliased || before.anchored {
                return Err(shared(change.path(), before));
            }
            let indent = column(text, name.span.start, true).ok_or_else(|| no_line(name))?;
            let lines: Vec<String> =
                entries.iter().flat_map(|(key, value)| entry(key, value, indent)).collect();
            insertion(text, before, &lines).ok_or_else(|| no_line(before))
        }
        Change::AddItems { after, values, .. } => {
            let Data::List { items, flow: false } = &node.data else { return Err(in_flow(node)) };
            let before = items.get(*after).ok_or_else(|| no_line(node))?;
            let indent =
                items.iter().find_map(|item| dash(text, item)).ok_or_else(|| no_line(before))?;
            let lines: Vec<String> = values.iter().flat_map(|value| item(value, indent)).collect();
            insertion(text, before, &lines).ok_or_else(|| no_line(before))
        }
        Change::ReplaceEntry { key, by, value, .. } => {
            let Data::Map { flow: false, .. } = node.data else { return Err(in_flow(node)) };
            let (name, old) = node.entry(key).ok_or_else(|| no_line(node))?;
            if old.aliased || old.anchored {
                return Err(shared(change.path(), old));
            }
            if !matches!(old.data, Data::Map { flow: false, .. }) {
                return Err(in_flow(old));
            }
            let indent = column(text, name.span.start, true).ok_or_else(|| no_line(name))?;
            let lines = entry(by, value, indent).join(newline(text, name.span.start));
            Ok((name.span.start..old.span.end, lines.trim_start().to_owned()))
        }
    }
}

/// A contradiction between changes: one node would need two values.
fn contradiction(root: &Node<'_>, change: &Change, changes: &Changes) -> Option<Refusal> {
    let (first, second) = match change {
        Change::Set { path, value } => {
            let other = |other: &Change| {
                if let Change::Set { path: place, value } = other {
                    (place == path).then(|| value.clone())
                } else {
                    None
                }
            };
            (value.clone(), changes.iter().filter_map(other).find(|other| other != value)?)
        }
        Change::AddEntries { entries, .. } => {
            entries.iter().enumerate().find_map(|(at, (key, value))| {
                let again = entries.iter().skip(at + 1).find(|(other, _)| other == key);
                again.map(|(_, other)| (value.clone(), other.clone()))
            })?
        }
        Change::AddItems { .. } | Change::ReplaceEntry { .. } => return None,
    };
    let node =
        change.path().iter().try_fold(root, |node, step| value::step(node, step)).unwrap_or(root);
    Some(Refusal {
        path: change.path().clone(),
        position: node.position,
        message: format!(
            "one value would have to be both {} and {}",
            inline(&first),
            inline(&second)
        ),
        help: "give each variable that uses it its own value".to_owned(),
    })
}

/// The node at a path. A node on the path that an anchor or alias shares is refused.
fn reach<'t>(root: &'t Node<'t>, path: &Path) -> Result<&'t Node<'t>, Refusal> {
    let mut node = root;
    for step in path {
        node = value::step(node, step).ok_or_else(|| Refusal {
            path: path.clone(),
            position: node.position,
            message: "the field to change is not here".to_owned(),
            help: String::new(),
        })?;
        if node.aliased || node.anchored {
            return Err(shared(path, node));
        }
    }
    Ok(node)
}

fn shared(path: &Path, node: &Node) -> Refusal {
    let written = if node.aliased { "an alias (`*NAME`)" } else { "an anchor (`&NAME`)" };
    Refusal {
        path: path.clone(),
        position: node.position,
        message: format!("this has {written}, and a change would affect every use of it"),
        help: "write the value at each use, without anchor and alias".to_owned(),
    }
}

/// Replaces a scalar and keeps its style.
fn scalar(
    text: &str,
    root: &Node<'_>,
    path: &Path,
    node: &Node<'_>,
    value: &Value,
) -> Option<Edit> {
    let Data::Scalar { style, .. } = node.data else { return None };
    // The type that a tag gives would be that of the new scalar too.
    if style == Style::Plain && node.tag.is_some() {
        return None;
    }
    let new = match (value, style) {
        (_, Style::Block) | (Value::List(_) | Value::Map(_), _) => return None,
        (Value::Text(new), Style::SingleQuoted) => format!("'{new}'"),
        (Value::Text(new), Style::DoubleQuoted) => format!("\"{new}\""),
        (Value::Text(_) | Value::Other(_), _) => inline(value),
    };
    if !node.span.is_empty() {
        return Some((node.span.clone(), new));
    }
    // There is no value yet: insert it after the colon.
    let (Step::Key(key), above) = path.split_last()? else { return None };
    let (name, _) = reach(root, &above.to_vec()).ok()?.entry(key)?;
    let gap = text.get(name.span.end..)?.find(':')?;
    let colon = name.span.end + gap;
    text.get(name.span.end..colon)?
        .trim()
        .is_empty()
        .then(|| (colon + 1..colon + 1, format!(" {new}")))
}

/// Inserts lines after the last line of a node.
fn insertion(text: &str, after: &Node<'_>, lines: &[String]) -> Option<Edit> {
    let end = after.span.end;
    let newline = newline(text, end);
    let before = text.get(..end)?;
    if before.ends_with('\n') {
        // A block scalar includes its last line break.
        return Some((end..end, lines.iter().map(|line| format!("{line}{newline}")).collect()));
    }
    let rest = text.get(end..)?;
    let (line, next) = rest
        .find('\n')
        .map_or((rest, None), |at| (rest.get(..at).unwrap_or_default(), Some(end + at + 1)));
    // After an empty value, the colon is left.
    let tail = line.strip_prefix(':').unwrap_or(line).trim();
    if !tail.is_empty() && !tail.starts_with('#') {
        return None;
    }
    Some(match next {
        Some(at) => (at..at, lines.iter().map(|line| format!("{line}{newline}")).collect()),
        None => {
            (text.len()..text.len(), lines.iter().map(|line| format!("{newline}{line}")).collect())
        }
    })
}

/// The line break of the line at `at`.
fn newline(text: &str, at: usize) -> &'static str {
    let rest = text.get(at..).unwrap_or_default();
    let line = rest.split_inclusive('\n').next().unwrap_or_default();
    let line = if line.ends_with('\n') {
        line
    } else {
        text.split_inclusive('\n').next().unwrap_or_default()
    };
    if line.ends_with("\r\n") { "\r\n" } else { "\n" }
}

/// The number of columns before `at` in its line; `None` if they contain anything but spaces and,
/// with `dashes`, dashes of lists.
fn column(text: &str, at: usize, dashes: bool) -> Option<usize> {
    let before = text.get(..at)?;
    let line = before.rsplit('\n').next()?.trim_start_matches('\u{feff}');
    line.chars().all(|c| c == ' ' || (dashes && c == '-')).then_some(line.len())
}

/// The column of the dash of an item; `None` if the item is on another line.
fn dash(text: &str, item: &Node<'_>) -> Option<usize> {
    let before = text.get(..item.span.start)?.trim_end_matches(' ');
    column(text, before.strip_suffix('-')?.len(), true)
}

/// The lines of an entry.
fn entry(key: &str, value: &Value, indent: usize) -> Vec<String> {
    let margin = " ".repeat(indent);
    match value {
        Value::Text(_) | Value::Other(_) => vec![format!("{margin}{key}: {}", inline(value))],
        Value::Map(entries) => {
            let inside = entries.iter().flat_map(|(key, value)| entry(key, value, indent + 2));
            std::iter::once(format!("{margin}{key}:")).chain(inside).collect()
        }
        Value::List(items) => std::iter::once(format!("{margin}{key}:"))
            .chain(items.iter().flat_map(|value| item(value, indent + 2)))
            .collect(),
    }
}

/// The lines of an item of a list.
fn item(value: &Value, indent: usize) -> Vec<String> {
    let margin = " ".repeat(indent);
    let Value::Map(entries) = value else { return vec![format!("{margin}- {}", inline(value))] };
    let mut lines: Vec<String> =
        entries.iter().flat_map(|(key, value)| entry(key, value, indent + 2)).collect();
    if let Some(first) = lines.first_mut() {
        *first = format!("{margin}- {}", first.trim_start());
    }
    lines
}

/// A scalar, in quotes if it could be read as another type.
fn inline(value: &Value) -> String {
    match value {
        Value::Text(text)
            if text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
                && is_plain(text) =>
        {
            text.clone()
        }
        Value::Text(text) => format!("\"{text}\""),
        Value::Other(text) => text.clone(),
        Value::List(_) | Value::Map(_) => String::new(),
    }
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 8] = ["null", "true", "false", "yes", "no", "on", "off", "y"];
    let safe = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    safe && text != "n" && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}
