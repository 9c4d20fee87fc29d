//! Changes as edits of the text: every byte outside of them stays.

use std::cmp::Reverse;
use std::ops::Range;

use etcd_warden_core::policy::diagnostics::Place;

use super::change::{Change, Changes};
use super::cursor::Path;
use super::yaml::{Data, Node, Step, Style, Value};

/// Why a change cannot be made in the text.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) path: Path,
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) help: String,
}

/// The text with all changes.
///
/// # Errors
/// Every change that the text leaves no safe place for.
pub(super) fn edited(text: &str, root: &Node, changes: &Changes) -> Result<String, Vec<Refusal>> {
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
    // Where two nodes end at one place, what is added inside the inner one stands before what is
    // added behind it.
    edits.sort_by_key(|(range, depth, _)| (range.start, range.end, Reverse(*depth)));
    let (mut result, mut at) = (String::with_capacity(text.len() + 1024), 0);
    for (range, _, new) in edits {
        // Two edits of one stretch do not come from one plan; the check of the result would find
        // what came of them.
        result.push_str(text.get(at..range.start).unwrap_or_default());
        result.push_str(&new);
        at = range.end.max(at);
    }
    result.push_str(text.get(at..).unwrap_or_default());
    Ok(result)
}

type Edit = (Range<usize>, String);

fn edit(text: &str, root: &Node, change: &Change) -> Result<Edit, Refusal> {
    let node = reach(root, change.path())?;
    let refuse = |node: &Node, message: &str, help: &str| Refusal {
        path: change.path().clone(),
        place: node.place,
        message: message.to_owned(),
        help: help.to_owned(),
    };
    let in_flow = |node: &Node| {
        refuse(
            node,
            "this is written in brackets, where nothing is added",
            "write it in lines of its own, one for each entry or item",
        )
    };
    let no_place = |node: &Node| {
        refuse(
            node,
            "there is no line of its own for what is to be added here",
            "write each entry and item in lines of its own, indented by spaces",
        )
    };
    match change {
        Change::Set { value, .. } => {
            scalar(text, root, change.path(), node, value).ok_or_else(|| {
                refuse(
                    node,
                    "this is not written as one scalar in its line",
                    "write it in quotes, behind its key",
                )
            })
        }
        Change::Put { after, entries, .. } => {
            let Data::Map { flow: false, .. } = node.data else { return Err(in_flow(node)) };
            let (name, before) = node.entry(after).ok_or_else(|| no_place(node))?;
            if before.aliased || before.anchored {
                return Err(shared(change.path(), before));
            }
            let indent = column(text, name.span.start, true).ok_or_else(|| no_place(name))?;
            let lines: Vec<String> =
                entries.iter().flat_map(|(key, value)| entry(key, value, indent)).collect();
            insertion(text, before, &lines).ok_or_else(|| no_place(before))
        }
        Change::Push { after, values, .. } => {
            let Data::List { items, flow: false } = &node.data else { return Err(in_flow(node)) };
            let before = items.get(*after).ok_or_else(|| no_place(node))?;
            let indent =
                items.iter().find_map(|item| dash(text, item)).ok_or_else(|| no_place(before))?;
            let lines: Vec<String> = values.iter().flat_map(|value| item(value, indent)).collect();
            insertion(text, before, &lines).ok_or_else(|| no_place(before))
        }
        Change::Swap { key, by, value, .. } => {
            let Data::Map { flow: false, .. } = node.data else { return Err(in_flow(node)) };
            let (name, old) = node.entry(key).ok_or_else(|| no_place(node))?;
            if old.aliased || old.anchored {
                return Err(shared(change.path(), old));
            }
            if !matches!(old.data, Data::Map { flow: false, .. }) {
                return Err(in_flow(old));
            }
            let indent = column(text, name.span.start, true).ok_or_else(|| no_place(name))?;
            let lines = entry(by, value, indent).join(newline(text, name.span.start));
            Ok((name.span.start..old.span.end, lines.trim_start().to_owned()))
        }
    }
}

/// Why a change cannot be made beside the others: one value would have to be two things.
fn contradiction(root: &Node, change: &Change, changes: &Changes) -> Option<Refusal> {
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
        Change::Put { entries, .. } => {
            entries.iter().enumerate().find_map(|(at, (key, value))| {
                let again = entries.iter().skip(at + 1).find(|(other, _)| other == key);
                again.map(|(_, other)| (value.clone(), other.clone()))
            })?
        }
        Change::Push { .. } | Change::Swap { .. } => return None,
    };
    let node = change.path().iter().try_fold(root, |node, step| node.at(step)).unwrap_or(root);
    Some(Refusal {
        path: change.path().clone(),
        place: node.place,
        message: format!("one value would have to be {} and {}", inline(&first), inline(&second)),
        help: "write each of the variables that use it as a value of its own".to_owned(),
    })
}

/// The node at a path, where nothing on the way is shared with another place.
fn reach<'t>(root: &'t Node, path: &Path) -> Result<&'t Node, Refusal> {
    let mut node = root;
    for step in path {
        node = node.at(step).ok_or_else(|| Refusal {
            path: path.clone(),
            place: node.place,
            message: "what is to be changed is not here".to_owned(),
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
        place: node.place,
        message: format!(
            "{written} stands here, and a change would be one of every place that shares it"
        ),
        help: "write it out in each place, without anchor and alias".to_owned(),
    }
}

/// A scalar in place of another, in its own style.
fn scalar(text: &str, root: &Node, path: &Path, node: &Node, value: &Value) -> Option<Edit> {
    let Data::Scalar { style, .. } = node.data else { return None };
    let new = match (value, style) {
        (_, Style::Block) | (Value::List(_) | Value::Map(_), _) => return None,
        (Value::Text(new), Style::Single) => format!("'{new}'"),
        (Value::Text(new), Style::Double) => format!("\"{new}\""),
        (Value::Text(_) | Value::Other(_), _) => inline(value),
    };
    if !node.span.is_empty() {
        return Some((node.span.clone(), new));
    }
    // Nothing stands there: behind the colon.
    let (Step::Key(key), above) = path.split_last()? else { return None };
    let (name, _) = reach(root, &above.to_vec()).ok()?.entry(key)?;
    let gap = text.get(name.span.end..)?.find(':')?;
    let colon = name.span.end + gap;
    text.get(name.span.end..colon)?
        .trim()
        .is_empty()
        .then(|| (colon + 1..colon + 1, format!(" {new}")))
}

/// Lines behind the last line of a node.
fn insertion(text: &str, behind: &Node, lines: &[String]) -> Option<Edit> {
    let end = behind.span.end;
    let newline = newline(text, end);
    let before = text.get(..end)?;
    if before.ends_with('\n') {
        // A block of text took its last line break with it.
        return Some((end..end, lines.iter().map(|line| format!("{line}{newline}")).collect()));
    }
    let rest = text.get(end..)?;
    let (line, next) = rest
        .find('\n')
        .map_or((rest, None), |at| (rest.get(..at).unwrap_or_default(), Some(end + at + 1)));
    // Behind an empty value, or what ends with one, its colon is left over.
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

/// How many columns stand before `at` in its line, where these are spaces and, with `dashes`, the
/// dashes of lists.
fn column(text: &str, at: usize, dashes: bool) -> Option<usize> {
    let before = text.get(..at)?;
    let line = before.rsplit('\n').next()?.trim_start_matches('\u{feff}');
    line.chars().all(|c| c == ' ' || (dashes && c == '-')).then_some(line.len())
}

/// The column of the dash before an item, where the item begins in the dash's line.
fn dash(text: &str, item: &Node) -> Option<usize> {
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

/// A scalar, in quotes where it could be read as something else.
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
